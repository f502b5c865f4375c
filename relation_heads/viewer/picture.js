// Draws boxes, lines and labels over the image. All lengths are pixels of the screen, so that text
// and lines have the same size on every image.

const picture = (() => {
  // Okabe and Ito's colours, which colour-blind people can tell apart.
  const PALETTE = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#CC79A7", "#D55E00", "#0072B2"];
  const DASHES = ["", "7 3", "2 3"];
  const QUERY = "#56B4E9";
  const KEY = "#E69F00";
  const ALONE = "#b9bdc2"; // labels of what no detection shows
  const FONT = 12;
  const HEIGHT = 19; // of a label
  const measure = document.createElement("canvas").getContext("2d");

  function node(tag, attributes, text) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  const color = (k) => PALETTE[k % PALETTE.length];
  const dash = (k) => DASHES[Math.floor(k / PALETTE.length) % DASHES.length];

  // Dark text on light colours and white text on dark ones.
  function ink(hex) {
    const [r, g, b] = [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
    return 0.299 * r + 0.587 * g + 0.114 * b > 110 ? "#111" : "#fff";
  }

  function outline([x1, y1, x2, y2], stroke, width, extra = {}) {
    const place = { x: x1, y: y1, width: Math.max(x2 - x1, 1), height: Math.max(y2 - y1, 1) };
    const group = node("g", { class: "box", fill: "none", ...extra });
    group.append(
      node("rect", { ...place, rx: 2, stroke: "#000", "stroke-opacity": 0.55, "stroke-width": width + 2 }),
      node("rect", { ...place, rx: 2, stroke, "stroke-width": width, "stroke-dasharray": extra.dash || "none" }),
    );
    return group;
  }

  const centre = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];

  // Where the way from the centre of a box to a point leaves the box.
  function edge(box, [px, py]) {
    const [cx, cy] = centre(box);
    const across = Math.abs(px - cx) / Math.max((box[2] - box[0]) / 2, 1);
    const down = Math.abs(py - cy) / Math.max((box[3] - box[1]) / 2, 1);
    const far = Math.max(across, down);
    return far <= 1 ? null : [cx + (px - cx) / far, cy + (py - cy) / far];
  }

  // From the border of one box to that of the other; between the centres where the boxes meet.
  function ends(from, to) {
    const [start, end] = [edge(from, centre(to)), edge(to, centre(from))];
    if (!start || !end) return [centre(from), centre(to)];
    const [a, b] = [centre(from), centre(to)];
    const along = (p) => (p[0] - a[0]) * (b[0] - a[0]) + (p[1] - a[1]) * (b[1] - a[1]);
    return along(start) < along(end) ? [start, end] : [a, b];
  }

  // Lines there and back lie beside each other, each to the right of its way.
  function beside([[x1, y1], [x2, y2]], shift) {
    const far = Math.max(Math.hypot(x2 - x1, y2 - y1), 1);
    const [dx, dy] = [(-shift * (y2 - y1)) / far, (shift * (x2 - x1)) / far];
    return [[x1 + dx, y1 + dy], [x2 + dx, y2 + dy]];
  }

  function line(from, { box: to, share, key, alone }, most, shift = 0) {
    const relative = share / most;
    const width = 1.5 + 6.5 * relative;
    const [[x1, y1], [x2, y2]] = beside(ends(from, to), shift);
    const opacity = (0.35 + 0.65 * relative) * (alone ? 0.5 : 1);
    const group = node("g", { class: "line", "data-key": key, "data-share": share, opacity });
    for (const [stroke, more] of [["#000", 2], [KEY, 0]]) {
      group.append(
        node("line", { x1, y1, x2, y2, stroke, "stroke-width": width + more, "stroke-linecap": "round" }),
        node("circle", { cx: x2, cy: y2, r: width / 2 + 2.5 + more / 2, fill: stroke }),
      );
    }
    return group;
  }

  const shared = (a, b) =>
    Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) *
    Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));

  // Labels one after the other, each where it hides least of earlier labels and of boxes.
  function labels(jobs, boxes, width, height) {
    const used = [];
    const group = node("g", { class: "labels" });
    measure.font = `600 ${FONT}px system-ui, sans-serif`;
    for (const { text, fill, box, key, weak } of jobs) {
      const w = Math.min(measure.measureText(text).width + 12, width);
      const h = HEIGHT;
      const [x1, y1, x2, y2] = box;
      const spots = [
        [x1, y1 - h], [x2 - w, y1 - h], [x1, y2], [x2 - w, y2], [x2, y1], [x1 - w, y1],
        [x2, y2 - h], [x1 - w, y2 - h], [x1, y1 - 2 * h - 2], [x1, y2 + h + 2],
        [x1 - w, y1 - h], [x2, y1 - h], [x1 - w, y2], [x2, y2], [x1, y2 - h], [x1, y1],
      ];
      let best = null;
      let least = Infinity;
      for (const [x, y] of spots) {
        const left = Math.max(0, Math.min(x, width - w));
        const up = Math.max(0, Math.min(y, height - h));
        const place = [left, up, left + w, up + h];
        let hidden = 0.5 * Math.hypot(left - x, up - y);
        for (const other of used) hidden += 20 * shared(place, other);
        for (const other of boxes) hidden += shared(place, other);
        if (hidden < least) [best, least] = [place, hidden];
      }
      used.push(best);
      const label = node("g", { class: weak ? "label weak" : "label" });
      if (key !== undefined) label.dataset.key = key;
      label.append(
        node("rect", { x: best[0], y: best[1], width: w, height: h, rx: 3, fill }),
        node("text", { x: best[0] + 6, y: best[1] + 14, "font-size": FONT, fill: ink(fill) }, text),
      );
      group.append(label);
    }
    return group;
  }

  // The image but for some boxes, darker.
  function shade(boxes, width, height) {
    const mask = node("mask", { id: "holes" });
    mask.append(node("rect", { width, height, fill: "#fff" }));
    for (const [x1, y1, x2, y2] of boxes) {
      mask.append(node("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: "#000" }));
    }
    return [mask, node("rect", { width, height, fill: "#0b0d10", opacity: 0.55, mask: "url(#holes)" })];
  }

  // boxes: [{box, class, text, id}]; edges: [{from, to, share, key}] between boxes, drawn if none is
  // asked, the strongest first; asked: null or {box, text}; objects: [{box, text, share, weak,
  // alone, key}]. The label of a weak object is seen only while its row of the table is. The box of
  // what no detection shows is faint.
  function draw(svg, { width, height, boxes, edges, asked, objects, lit }) {
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const parts = [];
    if (!asked) {
      for (const { box, class: k, id } of [...boxes].reverse()) {
        parts.push(outline(box, color(k), 2, { dash: dash(k), "data-id": id }));
      }
      for (const { from, to, share, key } of edges) {
        parts.push(line(from, { box: to, share, key }, edges[0].share, 4));
      }
      const jobs = boxes.map((one) => ({ text: one.text, fill: color(one.class), box: one.box }));
      parts.push(labels(jobs, boxes.map((one) => one.box), width, height));
    } else {
      const all = [asked.box, ...objects.map((one) => one.box)];
      const most = Math.max(...objects.map((one) => one.share));
      const seen = objects.filter((one) => !one.alone).map((one) => one.box);
      parts.push(...shade([asked.box, ...seen], width, height));
      for (const { box, key, weak, alone } of objects) {
        const look = alone ? { class: "box alone", dash: "4 3" } : {};
        parts.push(outline(box, KEY, alone ? 1 : 1.5, { "data-key": key, opacity: weak || alone ? 0.5 : 1, ...look }));
      }
      parts.push(outline(asked.box, QUERY, 3, { "data-asked": "" }));
      // Thin lines over thick ones, where they would vanish.
      for (const one of objects) parts.push(line(asked.box, one, most));
      const jobs = [{ text: asked.text, fill: QUERY, box: asked.box }];
      for (const one of objects) jobs.push({ ...one, fill: one.alone ? ALONE : KEY });
      parts.push(labels(jobs, all, width, height));
    }
    svg.replaceChildren(...parts);
    light(svg, lit);
  }

  // One line alone at full strength; null for all as they are.
  function light(svg, key) {
    for (const part of svg.querySelectorAll("[data-key]")) {
      part.classList.toggle("lit", key !== null && part.dataset.key === String(key));
      part.classList.toggle("faint", key !== null && part.dataset.key !== String(key));
    }
  }

  return { draw, light, color };
})();
