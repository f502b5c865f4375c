// The data inside the page and what is shown of it. Text from the data becomes the textContent of a
// node and never markup.

const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const state = {
  image: 0, detector: 0, module: 0, head: 0, // head 0 is the mean, 1 + h is head h
  pinned: null, pointed: null, lit: null, graph: false, class: "", score: data.minScore,
};
const NO_FEWER = 1e-9; // of the score: the slider's steps are not exact

function make(tag, { aria = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(aria)) made.setAttribute(`aria-${name}`, value);
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
const weak = (share, id) => share * (id === null ? 20 : 50) < data.units; // has no label
const score = (d, from = found()) => from.scores[d].toFixed(2);
const name = (d, from = found()) => data.names[from.classes[d]];
const short = (title) => title.replace(/^roi_heads\.(box_head|mechanism)\./, "");

function visible(d) {
  const kind = state.class === "" || name(d) === state.class;
  return kind && found().scores[d] >= state.score - NO_FEWER;
}
const shown = () => found().boxes.map((_, d) => d).filter(visible);

// What a detection listened to: {self, rest, objects: [{name, box, share, id}]}; null without
// relations. The id is that of the detection, null for what no detection shows: its name is in
// brackets.
function heard(d) {
  const from = module();
  if (!from) return null;
  const row = from.rows[d][from.heads > 1 ? state.head : 0];
  const objects = [];
  for (let i = 2; i < row.length; i += 2) {
    const [alone, share] = [row[i] < 0, row[i + 1]];
    const [of, at] = alone ? [from, -1 - row[i]] : [found(), row[i]];
    const title = data.names[of.classes[at]];
    objects.push({ name: alone ? `(${title})` : title, box: of.boxes[at], share, id: alone ? null : at });
  }
  return { self: row[0], rest: row[1], objects };
}

// Who listened to whom among the visible detections: [{from, to, share}], the largest share first.
function edges() {
  const from = module() ? shown() : [];
  return from.flatMap((d) => heard(d).objects
    .filter(({ id, share }) => id !== null && visible(id) && !weak(share, id))
    .map(({ id, share }) => ({ from: d, to: id, share })))
    .sort((a, b) => b.share - a.share);
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
