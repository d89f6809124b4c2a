"use strict";

// Data of the page: the methods of each comparison with their time, parameters, memory, accuracy, colour and marker.
const data = JSON.parse(document.getElementById("report-data").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

// ---- TPME: min-max over the methods of a comparison (or over a reference table), then the weighted sum.

function scoresOf(comparison, weights) {
  const scored = comparison.methods.filter((method) => method.costs);
  const bounds = (pinned, pick) => pinned ?? [0, 1, 2].map((i) => pick(...scored.map((method) => method.costs[i])));
  const low = bounds(comparison.low, Math.min);
  const high = bounds(comparison.high, Math.max);
  const share = (costs, i) => (costs[i] - low[i]) / (high[i] - low[i]);
  return comparison.methods.map(({ costs }) => costs && weights.reduce((sum, weight, i) => sum + weight * share(costs, i), 0));
}

// ---- Weights: three numbers that sum to 1. When one is moved, the others keep the ratio that they had before the move.

let weights = [...data.weights];
let moved = null;
let before = weights;

function moveWeight(place, value) {
  if (moved !== place) [moved, before] = [place, weights];
  const [first, second] = [0, 1, 2].filter((i) => i !== place);
  const rest = 1 - value;
  const sum = before[first] + before[second];
  const part = Math.round(1000 * rest * (sum > 0 ? before[first] / sum : 0.5)) / 1000;
  weights = [];
  weights[place] = value;
  weights[first] = part;
  weights[second] = Math.max(0, rest - part);
  follow();
}

function resetWeights() {
  [weights, moved] = [[...data.weights], null];
  follow();
}

function showWeights() {
  for (const slider of all("[data-weight]")) {
    const words = weights[slider.dataset.weight].toFixed(3);
    slider.value = weights[slider.dataset.weight];
    slider.setAttribute("aria-valuetext", words);
    slider.nextElementSibling.textContent = words;
  }
}

// ---- Tables: the button in a heading sorts them; empty cells come last in both directions.

const valueOf = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.textContent.trim();
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
};

function sortTable(table, column, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b) : a - b);
  all("thead th", table).forEach((head, i) => head.setAttribute("aria-sort", i === column ? direction : "none"));
  for (const body of all("tbody[data-sorted]", table)) {
    const rows = [...body.rows].map((row) => ({ row, value: valueOf(row, column) }));
    rows.sort((a, b) => (a.value === null) - (b.value === null) || sign * compare(a.value, b.value) || 0);
    body.append(...rows.map(({ row }) => row));
  }
}

function makeSortable(table) {
  all("thead th", table).forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const turned = { ascending: "descending", descending: "ascending" }[head.getAttribute("aria-sort")];
      sortTable(table, column, turned ?? head.dataset.first);
    });
  });
  sortTable(table, table.tHead.rows[0].cells.length - 1, "ascending"); // by TPME
}

function makeFilter(box) {
  const rows = all("tbody[data-sorted] tr", document.getElementById(box.dataset.filter));
  const words = rows.map((row) => all("th, a", row).map((cell) => cell.textContent).join(" ").toLowerCase());
  const count = document.querySelector(`[data-count="${box.dataset.filter}"]`);
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase().split(/\s+/);
    let shown = 0;
    rows.forEach((row, i) => {
      row.hidden = !wanted.every((word) => words[i].includes(word));
      shown += !row.hidden;
    });
    count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
  });
}

// ---- Markers: the shapes of the figures, at most eight units to each side.

const svg = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

const polygon = (corners, turn, radius = 6.5, inner = radius) =>
  Array.from({ length: corners }, (_, i) => {
    const angle = ((turn + (360 * i) / corners) * Math.PI) / 180;
    const reach = i % 2 ? inner : radius;
    return `${(reach * Math.cos(angle)).toFixed(2)},${(reach * Math.sin(angle)).toFixed(2)}`;
  }).join(" ");
const cross = "-2,-6 2,-6 2,-2 6,-2 6,2 2,2 2,6 -2,6 -2,2 -6,2 -6,-2 -2,-2";
const shapes = {
  s: polygon(4, 45), D: polygon(4, 0), d: polygon(4, 0, 4.2, 7), "^": polygon(3, -90), v: polygon(3, 90),
  "<": polygon(3, 180), ">": polygon(3, 0), p: polygon(5, -90), h: polygon(6, -90), 8: polygon(8, 22.5),
  "*": polygon(10, -90, 8, 3.2), P: cross, X: cross,
};

function markOf({ color, marker }) {
  if (marker === "o") return svg("circle", { r: 5.5, fill: color });
  return svg("polygon", { points: shapes[marker], fill: color, ...(marker === "X" && { transform: "rotate(45)" }) });
}

// ---- The figure of accuracy against TPME, drawn again for each width and each weighting.

const frame = { left: 52, right: 14, top: 12, bottom: 44 };

function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((base) => base * power >= rough);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) => (first + i) * step);
}

function paretoFront(points) {
  const ranked = [...points].sort((a, b) => a.score - b.score || b.accuracy - a.accuracy);
  let highest = -Infinity;
  return ranked.filter(({ accuracy }) => accuracy > highest && ((highest = accuracy), true));
}

function drawScatter(holder) {
  const comparison = data.comparisons[holder.dataset.scatter];
  const scores = scoresOf(comparison, weights);
  const points = comparison.methods
    .map((method, i) => ({ ...method, score: scores[i] }))
    .filter(({ score, accuracy }) => score !== null && accuracy !== null);
  const width = holder.clientWidth;
  if (!width) return; // folded
  holder.closest("figure").hidden = !points.length;
  const height = Math.round(Math.min(420, Math.max(260, 0.55 * width)));
  const xs = [Math.min(0, ...points.map((p) => p.score)) - 0.04, Math.max(1, ...points.map((p) => p.score)) + 0.04];
  const [low, high] = comparison.range; // as in the figures of the report
  const x = (value) => frame.left + ((value - xs[0]) / (xs[1] - xs[0])) * (width - frame.left - frame.right);
  const y = (value) => height - frame.bottom - ((value - low) / (high - low)) * (height - frame.top - frame.bottom);
  const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, height });
  const taken = points.map((p) => ({ x: x(p.score) - 7, y: y(p.accuracy) - 7, width: 14, height: 14 }));
  drawAxes(picture, comparison, { x, y, xs, width, height }, taken);
  if (!comparison.meaningless) drawFront(picture, paretoFront(points), x, y, taken);
  for (const p of points) picture.append(drawPoint(holder, p, x(p.score), y));
  drawNames(picture, points, { x, y, width, height }, taken);
  const active = holder.contains(document.activeElement) ? document.activeElement.dataset.name : null;
  holder.replaceChildren(picture);
  if (active) all(".point", holder).find((point) => point.dataset.name === active)?.focus();
}

function drawAxes(picture, comparison, { x, y, xs, width, height }, taken) {
  const [low, high] = comparison.range;
  const bottom = height - frame.bottom;
  const text = (words, attributes) => svg("text", { class: "soft", ...attributes }, words);
  for (const value of ticks(...xs, width < 500 ? 4 : 6)) {
    picture.append(svg("line", { class: "grid", x1: x(value), x2: x(value), y1: frame.top, y2: bottom }));
    picture.append(text(String(+value.toFixed(6)), { x: x(value), y: bottom + 17, "text-anchor": "middle" }));
  }
  for (const value of ticks(low, high, 5)) {
    picture.append(svg("line", { class: "grid", x1: frame.left, x2: width - frame.right, y1: y(value), y2: y(value) }));
    picture.append(text(String(+value.toFixed(6)), { x: frame.left - 7, y: y(value) + 4, "text-anchor": "end" }));
  }
  picture.append(svg("path", { class: "axis", fill: "none", d: `M${frame.left},${frame.top}V${bottom}H${width - frame.right}` }));
  picture.append(text("TPME (left is cheaper)", { x: (frame.left + width) / 2, y: height - 8, "text-anchor": "middle" }));
  const notes = [comparison.meaningless && "random backbones: no meaning", low > 0 && "axis not from 0"].filter(Boolean);
  const title = notes.length ? `test HR@10 (${notes.join("; ")})` : "test HR@10";
  picture.append(text(title, { transform: `translate(13 ${bottom / 2 + 6}) rotate(-90)`, "text-anchor": "middle" }));
  for (const { label, value } of comparison.lines) {
    const above = value > high; // out of range: the label stands at the edge
    const line = y(Math.min(high, Math.max(low, value)));
    const size = { y: above ? line : line - 17, width: 6.6 * label.length, height: 16 };
    const room = width - frame.left - frame.right - size.width - 8;
    const places = [1, 0, 0.75, 0.25, 0.5].map((share) => ({ x: frame.left + 4 + share * room, ...size }));
    const place = best(places, (box) => covered(box, taken));
    if (low <= value && value <= high) {
      picture.append(svg("line", { class: "reference-line", x1: frame.left, x2: width - frame.right, y1: line, y2: line }));
    }
    picture.append(text(label, { x: place.x, y: place.y + 12 }));
    taken.push(place);
  }
}

function drawFront(picture, front, x, y, taken) {
  const steps = front.map((p, i) => `${i ? `H${x(p.score)}V` : `M${x(p.score)},`}${y(p.accuracy)}`);
  picture.append(svg("path", { class: "front", d: steps.join("") }));
  front.slice(1).forEach((p, i) => {
    const from = x(front[i].score);
    taken.push({ x: from, y: y(front[i].accuracy) - 1, width: x(p.score) - from, height: 3 });
  });
}

// The first place with the least cost.
const best = (places, cost) => places.map((place) => [cost(place), place]).reduce((a, b) => (b[0] < a[0] ? b : a))[1];

// Area of a box that other boxes cover, in square units.
const covered = (a, others) =>
  others.reduce((sum, b) => {
    const across = Math.min(a.x + a.width, b.x + b.width) - Math.max(a.x, b.x);
    const down = Math.min(a.y + a.height, b.y + b.height) - Math.max(a.y, b.y);
    return sum + Math.max(0, across) * Math.max(0, down);
  }, 0);

function drawPoint(holder, point, left, y) {
  const label = [point.name, `TPME: ${point.score.toFixed(3)}`, ...point.facts];
  const group = svg("g", { class: "point", tabindex: 0, role: "img", "aria-label": label.join("; ") });
  group.dataset.name = point.name;
  if (point.low !== null) {
    const ends = { x1: left, x2: left, y1: y(point.low), y2: y(point.high) };
    group.append(svg("line", { ...ends, stroke: point.color, "stroke-width": 1.5, "stroke-opacity": 0.45 }));
  }
  const place = svg("g", { transform: `translate(${left} ${y(point.accuracy)})` });
  place.append(svg("circle", { class: "halo", r: 11 }), markOf(point));
  group.append(place);
  for (const event of ["pointerenter", "focus"]) group.addEventListener(event, () => showTip(holder, label, left, y(point.accuracy)));
  for (const event of ["pointerleave", "blur"]) group.addEventListener(event, () => hideTips());
  return group;
}

const MOST_NAMES = 16;
const MOST_COVERED = 0.05; // largest share of a name that other names may cover

function drawNames(picture, points, { x, y, width, height }, taken) {
  const front = new Set(paretoFront(points).map(({ name }) => name));
  const outside = (box) =>
    Math.max(0, frame.left - box.x) + Math.max(0, box.x + box.width - width + 2) +
    Math.max(0, frame.top - 8 - box.y) + Math.max(0, box.y + box.height - (height - frame.bottom));
  const named = [];
  const ordered = [...points].sort((a, b) => front.has(b.name) - front.has(a.name)); // names on the front are placed first
  for (const { name, score, accuracy } of ordered) {
    if (points.length > MOST_NAMES && !front.has(name)) continue;
    const words = name.length > 20 ? `${name.slice(0, 19)}…` : name;
    const size = { width: 7.2 * words.length, height: 15 };
    const left = -size.width;
    const places = [11, 24, 38].flatMap((gap) =>
      [[gap, 0], [left - gap, 0], [left / 2, -gap - 3], [left / 2, gap + 3],
        [gap - 3, -gap], [gap - 3, gap], [left - gap + 3, -gap], [left - gap + 3, gap]].map(([dx, dy]) =>
        ({ gap, x: x(score) + dx, y: y(accuracy) + dy - size.height / 2, ...size })),
    );
    const box = best(places, (place) => place.gap + 50 * outside(place) + covered(place, taken));
    const hidden = covered(box, named) > MOST_COVERED * size.width * size.height;
    if (hidden && !front.has(name)) continue; // no space: pointing at the marker shows its name
    named.push(box);
    taken.push(box);
    if (box.gap > 11) picture.append(leader(x(score), y(accuracy), box));
    picture.append(svg("text", { class: "name", x: box.x, y: box.y + 11.5, fill: "currentColor" }, words));
  }
}

// Line from a marker to the nearest edge of its name.
function leader(left, top, { x, y, width, height }) {
  const near = (value, low, size) => Math.max(low, Math.min(low + size, value));
  return svg("line", { class: "leader", x1: left, y1: top, x2: near(left, x, width), y2: near(top, y + 2, height - 4) });
}

function showTip(holder, [name, ...facts], left, top) {
  hideTips();
  const tip = document.createElement("div");
  const title = document.createElement("b");
  tip.className = "tip";
  title.textContent = name;
  tip.append(title, ...facts.map((fact) => Object.assign(document.createElement("span"), { textContent: fact })));
  holder.append(tip);
  const room = holder.clientWidth - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(room, left + (left > room / 2 + 60 ? -tip.offsetWidth - 14 : 14)))}px`;
  tip.style.top = `${Math.max(0, top - tip.offsetHeight / 2)}px`;
}

const hideTips = () => all(".tip").forEach((tip) => tip.remove());

// ---- Parts of the page that depend on the weights.

const words = (score) => score.toFixed(3).replace(/^-0\.000$/, "0.000");

// Rows of each comparison in all tables, with their cells of the TPME; looked up once.
const rowsOf = data.comparisons.map(() => []);
for (const row of all("tr[data-comparison]")) {
  const cell = row.querySelector("[data-tpme]");
  rowsOf[row.dataset.comparison].push({ cell, method: Number(row.dataset.method), folded: row.closest("details") });
}
const isFolded = (details) => details !== null && !details.open;

function showScores() {
  data.comparisons.forEach((comparison, place) => {
    if (comparison.reason) return;
    const scores = scoresOf(comparison, weights);
    const least = Math.min(...scores.filter((score) => score !== null));
    for (const { cell, method, folded } of rowsOf[place]) {
      const score = scores[method];
      if (score === null || isFolded(folded)) continue;
      cell.dataset.value = score;
      cell.textContent = words(score);
      cell.classList.toggle("best", score === least);
    }
    const ranked = comparison.methods.map((method, i) => [scores[i], method.name]).filter(([score]) => score !== null);
    const order = ranked.sort(([a], [b]) => a - b).map(([, name]) => name).join(" < ");
    const line = document.querySelector(`[data-order="${place}"]`);
    if (line.textContent !== order) line.textContent = order; // a screen reader reads it only when it changes
  });
}

function sortAgain(table) {
  if (isFolded(table.closest("details"))) return;
  const heads = all("thead th", table);
  const column = heads.findIndex((head) => head.getAttribute("aria-sort") !== "none");
  if (column === heads.length - 1) sortTable(table, column, heads[column].getAttribute("aria-sort"));
}

const drawScatters = () => all("[data-scatter]").forEach(drawScatter);

let awaited = false;

// Update once per frame, however fast a slider moves.
function follow() {
  if (awaited) return;
  awaited = true;
  requestAnimationFrame(() => {
    awaited = false;
    showWeights();
    showScores();
    all("table.main").forEach(sortAgain);
    drawScatters();
  });
}

// ---- Start of the page.

function chooseTheme() {
  const button = document.getElementById("theme");
  const show = (dark) => {
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    button.setAttribute("aria-pressed", String(dark));
  };
  button.hidden = false;
  button.setAttribute("aria-pressed", String(matchMedia("(prefers-color-scheme: dark)").matches));
  button.addEventListener("click", () => show(button.getAttribute("aria-pressed") !== "true"));
}

function unfoldTarget() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const folded = target && target.closest("details");
  if (folded) folded.open = true;
}

chooseTheme();
for (const element of all("fieldset, .order, .filter")) element.hidden = false;
for (const row of all("tr[data-comparison]")) {
  row.querySelector(".mark").append(markOf(data.comparisons[row.dataset.comparison].methods[row.dataset.method]));
}
all("[data-filter]").forEach(makeFilter);
all("[data-weight]").forEach((slider) =>
  slider.addEventListener("input", () => moveWeight(Number(slider.dataset.weight), Number(slider.value))),
);
all("[data-reset]").forEach((button) => button.addEventListener("click", resetWeights));
all("figure.live").forEach((figure) => (figure.hidden = false));
showWeights();
showScores();
all("table.main").forEach(makeSortable);
const watcher = new ResizeObserver((changes) => changes.forEach(({ target }) => drawScatter(target)));
all("[data-scatter]").forEach((holder) => watcher.observe(holder));
document.addEventListener("keydown", ({ key }) => key === "Escape" && hideTips());
all("details").forEach((details) => details.addEventListener("toggle", () => details.open && follow()));
addEventListener("hashchange", unfoldTarget);
unfoldTarget();
