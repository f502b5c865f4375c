// Writes what `state` says into the page.

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
    weak: one.share * 50 < data.units,
    alone: one.alone,
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

function answerTable(listened) {
  const most = Math.max(listened.self, listened.rest, ...listened.objects.map((one) => one.share));
  const body = make("tbody");
  listened.objects.forEach((one, key) => {
    const button = make("button", { type: "button", aria: { label: `${one.name}, ${percent(one.share)}` } }, one.name);
    const row = tableRow(button, one.share, most, one.alone ? "object alone" : "object");
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
    byId("answer").replaceChildren(make("p", { className: "hint" }, text));
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
