// Polls the runs, draws their curves over each other. Texts of runs are only ever set as text, never as HTML.
const SVG = "http://www.w3.org/2000/svg", WIDTH = 320, HEIGHT = 140, LEFT = 44, BOTTOM = 16, COLOURS = 8, FINE = 10; // paths have whole numbers, a FINEth of a unit
const FIRST = ["reward", "gold_reward", "kl", "entropy", "length", "clip_fraction", "value_loss", "watch/reward_gap"];
const BANDS = [[5, 95], [25, 75]], PERCENTILE = /_p(5|25|50|75|95)$/; // of responses, logged beside their mean
const chosen = new Set(), loaded = new Map();
const colours = new Map(); // numbers of the colours of the ticked runs, so that the first eight are all different
const known = new Map(); // the texts of a run's alarms, by its name, so that only new ones open a window
const rows = new Map(); // of the list, by the run's name: kept, so that the focus is not lost when numbers change
let runs = [], asked = false; // whether somebody has ticked runs

const by = (id) => document.getElementById(id);
const make = (name, text = "", attributes = {}) => {
  const element = Object.assign(document.createElement(name), attributes);
  element.textContent = text;
  return element;
};
const draw = (name, attributes, text = "") => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
};
const short = (value) => (value === null ? "not finite" : Number(value.toPrecision(4)).toString());
const gib = (bytes) => short(bytes / 2 ** 30);
const colour = (name) => `var(--c${colours.get(name) % COLOURS})`;
const get = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
};

function going({ pace = null, left = null, memory = null, gpu_memory: gpu = null }) {
  const parts = [];
  if (pace !== null) parts.push(`${short(pace)} steps/s`);
  if (memory !== null) parts.push(`${gib(memory)} GiB`);
  if (gpu !== null) parts.push(`GPU ${gib(gpu.reserved)} GiB, peak ${gib(gpu.peak)} GiB`);
  if (left !== null) parts.push(left < 90 ? `${Math.round(left)} s left` : `${Math.round(left / 60)} min left`);
  return parts.map((part) => `, ${part}`).join("");
}

function giveColours() {
  for (const name of [...colours.keys()]) if (!chosen.has(name)) colours.delete(name);
  for (const name of chosen) {
    if (colours.has(name)) continue;
    const taken = new Set(colours.values());
    let number = 0;
    while (taken.has(number)) number++;
    colours.set(name, number);
  }
}

function rowOf(run) {
  if (!rows.has(run.name)) {
    const item = make("li"), label = make("label"), words = make("span");
    const box = make("input", "", { type: "checkbox" }), swatch = make("span", "", { className: "swatch" });
    box.addEventListener("change", () => { asked = true; chosen[box.checked ? "add" : "delete"](run.name); refresh(); });
    label.append(box, " ", swatch, words);
    item.append(label);
    rows.set(run.name, { item, box, swatch, words });
  }
  return rows.get(run.name);
}

function showRuns() {
  const items = runs.map((run) => {
    const { item, box, swatch, words } = rowOf(run);
    box.checked = chosen.has(run.name);
    swatch.style.background = chosen.has(run.name) ? colour(run.name) : "transparent";
    const at = run.stage ? `, ${run.stage} step ${run.step}${going(run)}` : "";
    words.textContent = ` ${run.name}: ${run.status}${at} ${run.message}`;
    words.className = run.status === "failed" ? "failed" : "";
    return item;
  });
  const list = by("runs");
  if (items.length !== list.children.length || items.some((item, place) => item !== list.children[place])) list.replaceChildren(...items);
}

function withSpread(run, name, curve) {
  const of = (rank) => run.curves[`${name}_p${rank}`]?.points || [];
  const bands = BANDS.map(([low, high]) => [of(low), of(high)]).filter((both) => both.every((points) => points.length));
  return { run: run.name, curve, bands, median: of(50) };
}

// Of each point [step, mean, smallest, largest], what a curve is drawn with: its means, and how far they spread.
const spreads = ({ curve, bands }) => (bands.length ? [[curve.points, 1, 1], ...bands.flat().map((points) => [points, 1, 1])] : [[curve.points, 2, 3]]);

function extent(spread) {
  let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
  for (const [points, low, high] of spread) for (const p of points) {
    if (p[0] < x0) x0 = p[0];
    if (p[0] > x1) x1 = p[0];
    if (p[low] < y0) y0 = p[low];
    if (p[high] > y1) y1 = p[high];
  }
  if (y0 === y1) { y0 -= 0.5; y1 += 0.5; }
  const across = (WIDTH - LEFT - 4) / (x1 - x0 || 1), down = (HEIGHT - BOTTOM - 8) / (y1 - y0);
  return { x: (v) => Math.round(FINE * (LEFT + (v - x0) * across)), y: (v) => Math.round(FINE * (6 + (y1 - v) * down)), x0, x1, y0, y1 };
}

function along(points, i, { x, y }, first = "M") {
  let d = "";
  for (const p of points) d += `${d ? "L" : first}${x(p[0])} ${y(p[i])}`;
  return d;
}

function drawCurve({ run, curve, bands, median }, scale) {
  const g = draw("g", { transform: `scale(${1 / FINE})` });
  const fill = (above, i, below, j) =>
    g.append(draw("path", { class: "band", fill: colour(run), d: `${along(above, i, scale)}${along([...below].reverse(), j, scale, "L")}Z` }));
  const line = (name, points) => g.append(draw("path", { class: name, stroke: colour(run), d: along(points, 1, scale) + (points.length > 1 ? "" : `h${2 * FINE}`) }));
  for (const [low, high] of bands) fill(high, 1, low, 1);
  if (!bands.length && curve.points.some((p) => p[2] !== p[3])) fill(curve.points, 3, curve.points, 2);
  if (median.length) line("median", median);
  line("line", curve.points);
  return g;
}

function captionOf(name, curves) {
  const caption = make("figcaption"), numbers = make("span");
  const bad = curves.reduce((sum, { curve }) => sum + curve.not_finite, 0);
  for (const { run, curve } of curves) {
    const number = make("span", ` ${short(curve.last)}`);
    number.style.color = colour(run);
    numbers.append(number);
  }
  if (bad) numbers.append(` (${bad} not finite)`);
  caption.append(make("span", name), numbers);
  return caption;
}

function panel(name, curves) {
  const figure = make("figure"), some = curves.filter(({ curve }) => curve.points.length);
  const title = name + (curves.some(({ bands }) => bands.length) ? ", bands of 50% and 90%, dashed the median" : "");
  figure.append(captionOf(title, curves));
  if (!some.length) return figure;
  const scale = extent(some.flatMap(spreads)), { x0, x1, y0, y1 } = scale;
  const lasts = curves.map(({ curve }) => short(curve.last)).join("  ");
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${lasts}` });
  svg.append(draw("path", { class: "frame", d: `M${LEFT} 6V${HEIGHT - BOTTOM - 2}H${WIDTH - 4}` }));
  for (const [value, place] of [[y1, 12], [y0, HEIGHT - BOTTOM - 4]])
    svg.append(draw("text", { class: "axis", x: LEFT - 3, y: place, "text-anchor": "end" }, short(value)));
  for (const [value, place, anchor] of [[x0, LEFT, "start"], [x1, WIDTH - 4, "end"]])
    svg.append(draw("text", { class: "axis", x: place, y: HEIGHT - 3, "text-anchor": anchor }, String(value)));
  svg.append(...some.map((one) => drawCurve(one, scale)));
  figure.append(svg);
  return figure;
}

function rank(name) {
  const place = FIRST.indexOf(name.slice(name.indexOf("/") + 1));
  return place < 0 ? FIRST.length : place;
}

function showCurves() {
  const found = new Map(), wanted = by("filter").value.trim().toLowerCase();
  for (const run of shown())
    for (const [name, curve] of Object.entries(run.curves))
      if (name.toLowerCase().includes(wanted) && !(name.replace(PERCENTILE, "") in run.curves && PERCENTILE.test(name)))
        found.set(name, [...(found.get(name) || []), withSpread(run, name, curve)]);
  const names = [...found.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  by("curves").replaceChildren(...names.slice(0, 60).map((name) => panel(name, found.get(name))));
}

const alarmsOf = (run) => run.alarms.map((row) => `${run.name}, step ${row.step}, ${row.monitor}: ${row.message}`);

function notify(run) {
  const texts = alarmsOf(run), before = known.get(run.name);
  known.set(run.name, new Set(texts));
  if (before && window.Notification?.permission === "granted")
    for (const text of texts) if (!before.has(text)) new Notification("rlhf watch", { body: text });
}

function offerNotices() {
  by("notify").hidden = !window.Notification || Notification.permission !== "default";
}

function showTexts() {
  const alarms = shown().flatMap(alarmsOf);
  by("alarms").replaceChildren(...alarms.slice(0, 20).map((text) => make("li", text)));
  const samples = shown().flatMap((run) => run.samples.slice(0, 6).map((row) => {
    const { prompt = "", response = "", stage = "", ...numbers } = row;
    const article = make("article");
    const values = Object.entries(numbers).map(([name, value]) => `${name} ${typeof value === "number" ? short(value) : value}`);
    article.append(make("p", `${run.name}, ${stage}: ${values.join(", ")}`, { className: "numbers" }), make("p", prompt), make("p", response));
    return article;
  }));
  by("samples").replaceChildren(...samples);
}

function showMade() {
  const picked = shown(), names = [...new Set(picked.flatMap((run) => Object.keys(run.made_with)))];
  const lines = names.map((name) => [name, picked.map((run) => run.made_with[name] ?? "-")])
    .filter(([, values]) => picked.length < 2 || new Set(values).size > 1)
    .map(([name, values]) => `${name}: ${picked.length < 2 ? values[0] : picked.map((run, i) => `${run.name} ${values[i]}`).join("; ")}`);
  by("made").replaceChildren(...(lines.length || !picked.length ? lines : ["no difference"]).map((text) => make("li", text)));
}

const shown = () => runs.filter((run) => chosen.has(run.name) && loaded.has(run.name)).map((run) => loaded.get(run.name));

function show() {
  giveColours(); showRuns(); showCurves(); showTexts(); showMade();
  by("status").textContent = runs.length ? "" : "no run yet";
}

async function refresh() {
  try {
    runs = await get("/api/runs");
    if (!asked && !chosen.size && runs.length) chosen.add((runs.find((run) => run.status === "running") || runs[0]).name);
    for (const name of chosen) loaded.set(name, await get(`/api/run?name=${encodeURIComponent(name)}`));
    shown().forEach(notify);
    show();
  } catch (error) {
    by("status").textContent = `the server does not answer: ${error.message}`;
  }
}

runs = JSON.parse(by("data").textContent);
for (const run of runs) if (run.curves) { loaded.set(run.name, run); chosen.add(run.name); }
shown().forEach(notify);
show();
document.body.dataset.ready = "true";
by("filter").addEventListener("input", showCurves);
if (document.body.dataset.live) {
  offerNotices();
  by("notify").addEventListener("click", async () => { await Notification.requestPermission(); offerNotices(); });
  const wait = () => setTimeout(async () => { await refresh(); wait(); }, document.hidden ? 10000 : 2000);
  wait();
}
