// What is shown, and how keys, pointer and controls change it. Text from the data becomes a node's
// textContent and never markup.

(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const state = {
    image: 0, detector: 0, module: 0, head: 0, // head 0 is the mean, 1 + h is head h
    pinned: null, pointed: null, lit: null, class: "", score: data.minScore,
  };
  const NO_FEWER = 1e-9; // of the score: the slider's steps are not exact

  function make(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  const image = () => data.images[state.image];
  const found = () => image().found[state.detector];
  const modules = () => found().relations;
  const module = () => modules()[Math.min(state.module, modules().length - 1)];
  const asked = () => (state.pointed === null ? state.pinned : state.pointed);
  const percent = (share) => `${((100 * share) / data.units).toFixed(1)}%`;
  const about = (share) => (share * 100 < data.units ? "<1%" : `${Math.round((100 * share) / data.units)}%`);
  const score = (d, from = found()) => from.scores[d].toFixed(2);
  const name = (d, from = found()) => data.names[from.classes[d]];
  const short = (title) => title.replace(/^roi_heads\.(box_head|mechanism)\./, "");

  function visible(d) {
    const kind = state.class === "" || name(d) === state.class;
    return kind && found().scores[d] >= state.score - NO_FEWER;
  }
  const shown = () => found().boxes.map((_, d) => d).filter(visible);

  // What a detection listened to: {self, rest, objects: [{name, box, share}]}; null without relations.
  function heard(d) {
    const from = module();
    if (!from) return null;
    const row = from.rows[d][from.heads > 1 ? state.head : 0];
    const objects = [];
    for (let i = 2; i < row.length; i += 2) {
      objects.push({ name: data.names[from.classes[row[i]]], box: from.boxes[row[i]], share: row[i + 1] });
    }
    return { self: row[0], rest: row[1], objects };
  }

  function iou(a, b) {
    const side = (i) => Math.max(0, Math.min(a[i + 2], b[i + 2]) - Math.max(a[i], b[i]));
    const area = (c) => (c[2] - c[0]) * (c[3] - c[1]);
    const both = side(0) * side(1);
    return both > 0 ? both / (area(a) + area(b) - both) : 0;
  }

  // The surest detection of another detector at the same place; null if there is none.
  function twin(box, other) {
    let best = null;
    other.boxes.forEach((one, d) => {
      if (iou(one, box) >= 0.5 && (best === null || other.scores[d] > other.scores[best])) best = d;
    });
    return best;
  }

  // ---- drawing

  function drawPicture() {
    const figure = byId("picture");
    const [width, height] = [figure.clientWidth, figure.clientHeight];
    const scale = width / image().width;
    const onScreen = (box) => box.map((v) => v * scale);
    const d = asked();
    const listened = d === null ? null : heard(d);
    const names = width >= 500; // on a phone the names are in the table alone
    const objects = (listened ? listened.objects : []).map((one, key) => ({
      box: onScreen(one.box),
      text: names ? `${one.name} ${about(one.share)}` : about(one.share),
      share: one.share,
      key,
    }));
    picture.draw(byId("drawing"), {
      width,
      height,
      boxes: shown().map((id) => ({
        id,
        box: onScreen(found().boxes[id]),
        class: found().classes[id],
        text: names ? `${name(id)} ${score(id)}` : name(id),
      })),
      asked: d === null ? null : {
        box: onScreen(found().boxes[d]),
        text: `${name(d)} ${score(d)}`,
      },
      objects,
      lit: state.lit,
    });
  }

  function bar(share, most) {
    const fill = make("span");
    fill.style.width = `${(100 * share) / Math.max(most, 1)}%`;
    return make("span", { className: "meter", ariaHidden: "true" }, fill);
  }

  function tableRow(first, share, most, className) {
    return make(
      "tr", { className },
      make("th", { scope: "row" }, first),
      make("td", {}, bar(share, most)),
      make("td", { className: "number" }, percent(share)),
    );
  }

  function answerTable(listened) {
    const most = Math.max(listened.self, listened.rest, ...listened.objects.map((one) => one.share));
    const body = make("tbody");
    listened.objects.forEach((one, key) => {
      const button = make("button", { type: "button", ariaLabel: `${one.name}, ${percent(one.share)}` }, one.name);
      const row = tableRow(button, one.share, most, "object");
      row.dataset.key = key;
      const light = (on) => {
        state.lit = on ? key : null;
        picture.light(byId("drawing"), state.lit);
      };
      row.addEventListener("pointerenter", () => light(true));
      row.addEventListener("pointerleave", () => light(false));
      button.addEventListener("focus", () => light(true));
      button.addEventListener("blur", () => light(false));
      body.append(row);
    });
    body.append(tableRow("itself", listened.self, most, "self"));
    body.append(tableRow("all else", listened.rest, most, "rest"));
    return make("table", {}, make("caption", { className: "unseen" }, "Shares, the largest first"), body);
  }

  function attentionTable(d) {
    const { names, rows } = found().attention;
    if (!names.length) return [];
    const body = make("tbody");
    names.forEach((title, i) => body.append(tableRow(title, rows[d][i], Math.max(...rows[d]), "prediction")));
    const table = make("table", { className: "attention" }, make("caption", {}, "Attention over the predictions"), body);
    return [table];
  }

  function others(d) {
    if (data.detectors.length < 2) return [];
    const list = make("dl", { className: "others" });
    data.detectors.forEach((title, i) => {
      const other = image().found[i];
      const same = i === state.detector ? d : twin(found().boxes[d], other);
      const text = same === null ? `nothing from ${data.minScore}` : `${name(same, other)} ${score(same, other)}`;
      const className = i === state.detector ? "this" : "";
      list.append(make("dt", { className }, title), make("dd", { className }, text));
    });
    return [make("h3", {}, "The same place in every detector"), list];
  }

  function which() {
    const { module: title, heads, kind } = module();
    if (kind === "SGRN") return `in its graph, ${short(title)}`;
    const head = state.head === 0 ? `mean of ${heads} heads` : `head ${state.head} of ${heads}`;
    return `${short(title)}, ${heads > 1 ? head : "one head"}`;
  }

  function drawAnswer() {
    const d = asked();
    if (d === null) {
      const text = found().boxes.length
        ? "Point at a detection, or tap it, to see what it listened to."
        : `No detection has a score of ${data.minScore} or more.`;
      byId("answer").replaceChildren(make("p", { className: "hint" }, text));
      byId("said").textContent = "";
      return;
    }
    const title = make("h2", {}, `${name(d)} `, make("small", {}, score(d)));
    const parts = [title];
    const listened = heard(d);
    let said = `${name(d)} ${score(d)}`;
    if (!listened) {
      parts.push(make("p", { className: "hint" }, "This detector names each box without the others."));
    } else {
      parts.push(make("p", { className: "which" }, `listened to · ${which()}`));
      if (listened.self || listened.rest || listened.objects.length) parts.push(answerTable(listened));
      else parts.push(make("p", { className: "hint" }, "Nothing: it has no neighbours."));
      const three = listened.objects.slice(0, 3).map((one) => `${one.name} ${percent(one.share)}`);
      said += ` listened to ${[...three, `itself ${percent(listened.self)}`].join(", ")}`;
    }
    byId("answer").replaceChildren(...parts, ...attentionTable(d), ...others(d));
    byId("said").textContent = said;
  }

  function drawFound() {
    const list = shown();
    byId("found-title").replaceChildren("Detections ", make("small", {}, `${list.length} of ${found().boxes.length}`));
    const items = list.map((d) => {
      const dot = make("span", { className: "dot", ariaHidden: "true" });
      dot.style.background = picture.color(found().classes[d]);
      const button = make(
        "button", { type: "button", ariaLabel: `${name(d)}, score ${score(d)}` },
        dot, make("span", { className: "name" }, name(d)), make("span", { className: "number" }, score(d)),
      );
      button.dataset.id = d;
      button.addEventListener("click", () => pin(state.pinned === d ? null : d));
      button.addEventListener("focus", () => point(d));
      button.addEventListener("blur", () => point(null));
      button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && point(d));
      button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && point(null));
      return make("li", {}, button);
    });
    byId("found").replaceChildren(...items);
  }

  function mark() {
    for (const button of byId("found").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.id) === state.pinned));
      button.classList.toggle("asked", Number(button.dataset.id) === asked());
    }
  }

  function drawAsked() {
    state.lit = null;
    drawPicture();
    drawAnswer();
    mark();
  }

  function options(select, texts, chosen) {
    select.replaceChildren(...texts.map((text, value) => make("option", { value }, text)));
    select.selectedIndex = chosen;
  }

  function drawControls() {
    byId("detectors").querySelectorAll("input").forEach((one, i) => { one.checked = i === state.detector; });
    const from = module();
    byId("module-field").hidden = modules().length < 2;
    byId("head-field").hidden = !from || from.heads < 2;
    byId("kernels-open").hidden = !data.kernels[state.detector].length;
    if (from) {
      options(byId("module"), modules().map((one) => short(one.module)), modules().indexOf(from));
      const heads = Array.from({ length: from.heads }, (_, h) => `${h + 1}`);
      options(byId("head"), [`mean of ${from.heads}`, ...heads], state.head);
    }
    byId("score-text").textContent = state.score.toFixed(2);
    byId("score").value = state.score;
    byId("class").value = state.class;
  }

  function drawImage() {
    const one = image();
    const photo = byId("photo");
    photo.src = one.src;
    photo.alt = one.name;
    byId("picture").style.setProperty("--ratio", one.width / one.height);
    byId("drawing").setAttribute("aria-label", `Detections of ${data.detectors[state.detector]} in ${one.name}`);
    byId("where").replaceChildren(make("strong", {}, one.name), ` ${state.image + 1} of ${data.images.length}`);
    byId("strip").querySelectorAll("button").forEach((button, i) => {
      if (i === state.image) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
      const [strip, left] = [byId("strip"), button.offsetLeft - byId("strip").offsetLeft];
      if (i === state.image) strip.scrollLeft = left - (strip.clientWidth - button.clientWidth) / 2;
    });
  }

  function drawAll() {
    drawControls();
    drawImage();
    drawFound();
    drawAsked();
  }

  // ---- changing

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
    const list_ = byId("found");
    list_.scrollTop = button.offsetTop - list_.offsetTop - list_.clientHeight / 2;
  }

  function turnTheme() {
    const dark = getComputedStyle(document.documentElement).colorScheme === "dark"
      || (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "light" : "dark";
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
    t: turnTheme,
    "?": () => byId("help").showModal(),
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
      const button = make("button", { type: "button", ariaLabel: one.name, title: one.name }, thumb);
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
    byId("kernels-open").addEventListener("click", openKernels);
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
    byId("kernels").showModal();
  }

  setUp();
  state.module = Math.max(0, modules().length - 1);
  drawAll();
})();
