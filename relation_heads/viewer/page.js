// How keys, pointer and controls change what is shown.

function keepVisible() {
  if (state.pinned !== null && !visible(state.pinned)) state.pinned = null;
  state.pointed = null;
}

function pin(d) {
  state.pinned = d;
  state.pointed = null;
  drawAsked();
}

function point(d) {
  if (state.pointed === d) return;
  state.pointed = d;
  drawAsked();
}

const around = (value, count) => ((value % count) + count) % count;

function goToImage(i) {
  state.image = around(i, data.images.length);
  state.pinned = state.pointed = null;
  checkHead();
  drawAll();
}

function checkHead() {
  state.module = Math.min(state.module, Math.max(0, modules().length - 1));
  if (!module() || module().heads < 2 || state.head > module().heads) state.head = 0;
}

// The detection at the same place stays the one that is asked.
function goToDetector(i) {
  if (i === state.detector || i >= data.detectors.length) return;
  const box = state.pinned === null ? null : found().boxes[state.pinned];
  state.detector = i;
  state.module = modules().length - 1; // its output is what is classified
  checkHead();
  state.pinned = box === null ? null : twin(box, found());
  keepVisible();
  drawAll();
}

function goToHead(h) {
  if (module() && module().heads > 1) state.head = around(h, module().heads + 1);
  drawControls();
  drawAsked();
}

function goToModule(i) {
  if (!module()) return;
  state.module = around(i, modules().length);
  checkHead();
  drawControls();
  drawAsked();
}

function goToDetection(step) {
  const list = shown();
  if (!list.length) return;
  const at = list.indexOf(asked());
  const d = list[at < 0 ? (step > 0 ? 0 : list.length - 1) : around(at + step, list.length)];
  pin(d);
  const button = byId("found").querySelector(`[data-id="${d}"]`);
  if (byId("found").contains(document.activeElement)) button.focus();
  const frame = byId("found");
  frame.scrollTop = button.offsetTop - frame.offsetTop - frame.clientHeight / 2;
}

function open(id) {
  byId(id).showModal();
  byId(id).scrollTop = 0; // its button has the focus and is at the end
}

function turnGraph() {
  if (!module()) return;
  state.graph = !state.graph;
  pin(null);
  drawControls();
}

function turnTheme() {
  const root = document.documentElement;
  root.dataset.theme = getComputedStyle(root).colorScheme === "dark" ? "light" : "dark";
}

// Visible detections under the pointer, the smallest first, of equals the surest.
function under(event) {
  const frame = byId("drawing").getBoundingClientRect();
  const scale = image().width / frame.width;
  const [x, y] = [(event.clientX - frame.left) * scale, (event.clientY - frame.top) * scale];
  const area = ([x1, y1, x2, y2]) => (x2 - x1) * (y2 - y1);
  return shown()
    .filter((d) => {
      const [x1, y1, x2, y2] = found().boxes[d];
      return x1 <= x && x <= x2 && y1 <= y && y <= y2;
    })
    .sort((a, b) => {
      const [one, other] = [area(found().boxes[a]), area(found().boxes[b])];
      const same = Math.min(one, other) > 0.8 * Math.max(one, other);
      return same ? found().scores[b] - found().scores[a] : one - other;
    });
}

// ---- listening

const KEYS = {
  ArrowLeft: () => goToImage(state.image - 1),
  ArrowRight: () => goToImage(state.image + 1),
  ArrowUp: () => goToDetection(-1),
  ArrowDown: () => goToDetection(1),
  h: () => goToHead(state.head + 1),
  H: () => goToHead(state.head - 1),
  m: () => goToModule(state.module + 1),
  M: () => goToModule(state.module - 1),
  g: turnGraph,
  t: turnTheme,
  "?": () => open("help"),
  Escape: () => pin(null),
};

function onKey(event) {
  const typing = event.target instanceof HTMLElement && event.target.matches("select, input");
  const open = document.querySelector("dialog[open]");
  if (event.ctrlKey || event.metaKey || event.altKey || open) return;
  if (typing && event.key.startsWith("Arrow")) return; // they move the control
  const act = /^[1-9]$/.test(event.key) ? () => goToDetector(Number(event.key) - 1) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
}

function setUp() {
  data.detectors.forEach((title, i) => {
    const input = make("input", { type: "radio", name: "detector", value: String(i) });
    input.addEventListener("change", () => goToDetector(i));
    byId("detectors").append(make("label", {}, input, make("span", {}, title)));
  });
  byId("detectors").hidden = data.detectors.length < 2;
  const classes = new Set();
  for (const one of data.images) for (const each of one.found) for (const k of each.classes) classes.add(data.names[k]);
  byId("class").append(make("option", { value: "" }, "all"));
  for (const title of [...classes].sort()) byId("class").append(make("option", { value: title }, title));
  byId("score").min = data.minScore;
  data.images.forEach((one, i) => {
    const thumb = make("img", { src: one.src, alt: "", decoding: "async" });
    const button = make("button", { type: "button", title: one.name, aria: { label: one.name } }, thumb);
    button.addEventListener("click", () => goToImage(i));
    byId("strip").append(button);
  });
  byId("images").hidden = byId("strip").hidden = data.images.length < 2;
  data.kernels.forEach((layers, i) => layers.forEach((sources, layer) => {
    const maps = make("div", { className: "maps" });
    sources.forEach((src, k) => {
      const map = make("img", { src, alt: `kernel ${k + 1} of layer ${layer + 1}` });
      maps.append(make("figure", {}, map, make("figcaption", {}, String(k + 1))));
    });
    const part = make("section", {}, make("h3", {}, `Graph layer ${layer + 1}`), maps);
    part.dataset.detector = i;
    byId("kernel-maps").append(part);
  }));

  byId("module").addEventListener("change", (event) => goToModule(event.target.selectedIndex));
  byId("head").addEventListener("change", (event) => goToHead(event.target.selectedIndex));
  byId("class").addEventListener("change", (event) => filter({ class: event.target.value }));
  byId("score").addEventListener("input", (event) => filter({ score: Number(event.target.value) }));
  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  byId("previous").addEventListener("click", KEYS.ArrowLeft);
  byId("next").addEventListener("click", KEYS.ArrowRight);
  byId("theme").addEventListener("click", turnTheme);
  byId("help-open").addEventListener("click", KEYS["?"]);
  byId("graph").addEventListener("click", turnGraph);
  byId("kernels-open").addEventListener("click", openKernels);
  byId("predictions-open").addEventListener("click", () => {
    drawPredictions();
    open("predictions");
  });
  byId("nodes-open").addEventListener("click", () => {
    drawNodes();
    open("nodes");
  });
  document.addEventListener("keydown", onKey);
  const drawing = byId("drawing");
  drawing.addEventListener("pointermove", (event) => {
    if (event.pointerType === "mouse") point(under(event)[0] ?? null);
  });
  drawing.addEventListener("pointerleave", () => point(null));
  drawing.addEventListener("click", (event) => {
    const list = under(event);
    pin(list.length ? list[around(list.indexOf(state.pinned) + 1, list.length)] : null);
  });
  new ResizeObserver(drawPicture).observe(byId("picture"));
}

function filter(change) {
  Object.assign(state, change);
  keepVisible();
  drawControls();
  drawFound();
  drawAsked();
}

function openKernels() {
  for (const part of byId("kernel-maps").children) part.hidden = Number(part.dataset.detector) !== state.detector;
  open("kernels");
}

setUp();
state.module = Math.max(0, modules().length - 1);
drawAll();
