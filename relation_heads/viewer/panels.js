// Writes what `state` says into the page.

const EDGES = 12; // in the table of a graph, the strongest

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
    weak: weak(one.share, one.id),
    alone: one.id === null,
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
    edges: state.graph ? edges().map(({ from, to, share }, key) => ({
      from: onScreen(found().boxes[from]), to: onScreen(found().boxes[to]), share, key,
    })) : [],
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
  return make("span", { className: "meter", aria: { hidden: true } }, fill);
}

function tableRow(first, share, most, className) {
  return make(
    "tr", { className },
    make("th", { scope: "row" }, first),
    make("td", {}, bar(share, most)),
    make("td", { className: "number" }, percent(share)),
  );
}

// A row that lights the line of its key.
function lineRow(title, share, most, key, className) {
  const button = make("button", { type: "button", aria: { label: `${title}, ${percent(share)}` } }, title);
  const row = tableRow(button, share, most, className);
  row.dataset.key = key;
  const light = (on) => {
    state.lit = on ? key : null;
    picture.light(byId("drawing"), state.lit);
  };
  row.addEventListener("pointerenter", () => light(true));
  row.addEventListener("pointerleave", () => light(false));
  button.addEventListener("focus", () => light(true));
  button.addEventListener("blur", () => light(false));
  return row;
}

function answerTable(listened) {
  const most = Math.max(listened.self, listened.rest, ...listened.objects.map((one) => one.share));
  const body = make("tbody");
  listened.objects.forEach((one, key) => {
    body.append(lineRow(one.name, one.share, most, key, one.id === null ? "object alone" : "object"));
  });
  body.append(tableRow("itself", listened.self, most, "self"));
  body.append(tableRow("all else", listened.rest, most, "rest"));
  return make("table", {}, make("caption", { className: "unseen" }, "Shares, the largest first"), body);
}

function graphTable() {
  const all = edges();
  const body = make("tbody");
  all.slice(0, EDGES).forEach(({ from, to, share }, key) => {
    body.append(lineRow(`${name(from)} → ${name(to)}`, share, all[0].share, key, "object"));
  });
  const caption = make("caption", {}, `Who listened to whom, ${which()}`);
  return make("table", { className: "edges" }, caption, body);
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
  return [list];
}

function which() {
  const { module: title, heads, kind } = module();
  if (kind === "SGRN") return `over the edges of its graph`;
  const head = state.head === 0 ? `mean of ${heads} heads` : `head ${state.head} of ${heads}`;
  return `${short(title)}, ${heads > 1 ? head : "one head"}`;
}

function drawAnswer() {
  const d = asked();
  if (d === null) {
    const text = found().boxes.length
      ? "Point at a detection, or tap it, to see what it listened to."
      : `No detection has a score of ${data.minScore} or more.`;
    const graph = state.graph && module() ? [graphTable()] : [];
    byId("answer").replaceChildren(make("p", { className: "hint" }, text), ...graph);
    byId("said").textContent = "";
    return;
  }
  const title = make("h2", {}, `${name(d)} `, make("small", {}, score(d)));
  const parts = [title, ...others(d)];
  const listened = heard(d);
  let said = `${name(d)} ${score(d)}`;
  if (!listened) {
    parts.push(make("p", { className: "hint" }, "This detector names each box without the others."));
  } else {
    parts.push(make("h3", {}, "listened to ", make("small", {}, which())));
    if (listened.self || listened.rest || listened.objects.length) parts.push(answerTable(listened));
    else parts.push(make("p", { className: "hint" }, "Nothing: it has no neighbours."));
    const three = listened.objects.slice(0, 3).map((one) => `${one.name} ${percent(one.share)}`);
    said += ` listened to ${[...three, `itself ${percent(listened.self)}`].join(", ")}`;
  }
  byId("answer").replaceChildren(...parts, ...attentionTable(d));
  byId("said").textContent = said;
}

function drawFound() {
  const list = shown();
  byId("found-title").replaceChildren("Detections ", make("small", {}, `${list.length} of ${found().boxes.length}`));
  const items = list.map((d) => {
    const dot = make("span", { className: "dot", aria: { hidden: true } });
    dot.style.background = picture.color(found().classes[d]);
    const button = make(
      "button", { type: "button", aria: { label: `${name(d)}, score ${score(d)}` } },
      dot, make("span", { className: "name" }, name(d)), make("span", { className: "number" }, score(d)),
    );
    button.dataset.id = d;
    button.addEventListener("click", () => {
      pin(state.pinned === d ? null : d);
      byId("picture").scrollIntoView({ block: "nearest" }); // on a phone it is further up
    });
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
  byId("nodes-open").hidden = !found().nodes.length;
  byId("predictions-open").hidden = !found().attention.names.length;
  byId("graph").hidden = !from;
  byId("graph").setAttribute("aria-pressed", String(state.graph));
  if (from) {
    options(byId("module"), modules().map((one) => short(one.module)), modules().indexOf(from));
    const heads = Array.from({ length: from.heads }, (_, h) => `${h + 1}`);
    options(byId("head"), [`mean of ${from.heads}`, ...heads], state.head);
  }
  byId("score-text").textContent = state.score.toFixed(2);
  byId("score").value = state.score;
  byId("class").value = state.class;
}

function drawPredictions() {
  const { names, rows } = found().attention;
  const cells = (d) => names.map((_, i) => {
    const shade = make("span", { aria: { hidden: true } });
    shade.style.opacity = rows[d][i] / data.units;
    return make("td", {}, shade, make("b", {}, percent(rows[d][i])));
  });
  const head = ["", ...names].map((title) => make("th", { scope: "col" }, title));
  const body = shown().map((d) => make("tr", {}, make("th", { scope: "row" }, `${name(d)} ${score(d)}`), ...cells(d)));
  byId("prediction-table").replaceChildren(make("tr", {}, ...head), ...body);
}

function drawNodes() {
  const parts = found().nodes.map(({ unit, nodes, shown: count, src }) => {
    const rows = Math.ceil(count / 4); // of the sheet, which has four columns
    const grid = make("div", { className: "nodes" });
    for (let k = 0; k < count; k += 1) {
      const map = make("div");
      map.style.backgroundImage = `url("${src}")`;
      map.style.backgroundSize = `400% ${100 * rows}%`;
      map.style.backgroundPosition = `${(100 * (k % 4)) / 3}% ${(100 * Math.floor(k / 4)) / Math.max(rows - 1, 1)}%`;
      const cell = make("div", { className: "node" }, make("img", { src: image().src, alt: `node ${k + 1}` }), map);
      cell.style.setProperty("--ratio", image().width / image().height);
      grid.append(make("figure", {}, cell, make("figcaption", {}, String(k + 1))));
    }
    const title = count < nodes ? `the first ${count} of ${nodes} nodes` : `${nodes} nodes`;
    return make("section", {}, make("h3", {}, `${unit}: ${title}`), grid);
  });
  byId("node-maps").replaceChildren(...parts);
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
