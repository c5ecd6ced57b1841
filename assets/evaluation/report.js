"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const state = { place: data.curves.length ? data.curves[0].place : "", metric: Object.keys(data.metrics)[0], mode: "absolute",
  bands: true, controls: true, classical: true, hidden: new Set(), focus: null, view: "crop", item: 0, rate: 0 };

function pressed(name) {
  const button = document.querySelector(`[data-choose="${name}"] [aria-pressed="true"]`);
  return button ? button.value : null;
}
// the question is arm against arm: conventional codecs are a click away, and there from the start where nothing else is
state.classical = !data.curves.some(c => !c.classical);
document.querySelector('[data-choose="classical"]')?.setAttribute("aria-pressed", String(state.classical));
// many arms at once are a thicket: start without the controls, one click brings them
if (new Set(data.curves.filter(c => !c.classical).map(c => c.label)).size > 8) {
  state.controls = false;
  document.querySelector('[data-choose="controls"]')?.setAttribute("aria-pressed", "false");
}
for (const name of ["place", "metric", "bdMetric", "bdMethod"]) state[name] = pressed(name) ?? state[name];

/* inside another page, as MLflow shows it, links lead nowhere and nothing can be saved */
const framed = window.self !== window.top;
if (framed) {
  document.querySelectorAll(".framed-only").forEach(node => { node.hidden = false; });
  document.querySelectorAll(".saves").forEach(node => { node.hidden = true; });
  document.querySelectorAll('a[href^="http"]').forEach(a => { a.removeAttribute("href"); });
}

/* ---- small things --------------------------------------------------------------------------------------------- */

const NS = "http:" + "//www.w3.org/2000/svg"; // a name, not an address
function svg(tag, attributes = {}, parent = null) {
  const node = document.createElementNS(NS, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (parent) parent.append(node);
  return node;
}
function html(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) key === "on" ? Object.entries(value).forEach(e => node.addEventListener(...e)) : node.setAttribute(key, value);
  node.append(...children);
  return node;
}
const fixed = (value, digits = 2) => value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");
const signed = (value, digits = 1) => (value > 0 ? "+" : "") + fixed(value, digits);
const extent = values => [Math.min(...values), Math.max(...values)];

function niceTicks(low, high, count) {
  const step0 = (high - low) / Math.max(1, count), power = 10 ** Math.floor(Math.log10(step0));
  const step = [1, 2, 2.5, 5, 10].map(m => m * power).find(s => s >= step0) || step0;
  const ticks = [];
  for (let i = Math.ceil(low / step); i * step <= high + 1e-9; i++) ticks.push(+(i * step).toFixed(10));
  return ticks;
}
function logTicks(low, high, most) {
  const among = steps => Array.from({ length: 8 }, (_, e) => steps.map(m => +(m * 10 ** (e - 5)).toPrecision(2))).flat().filter(v => v >= low && v <= high);
  const finest = [[1, 1.5, 2, 3, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1]].map(among);
  return finest.find(ticks => ticks.length <= most) ?? finest.at(-1);
}
function marker(kind, x, y, r, parent, extra = "") {
  const shapes = {
    circle: () => svg("circle", { cx: x, cy: y, r }, parent),
    square: () => svg("rect", { x: x - r * .9, y: y - r * .9, width: r * 1.8, height: r * 1.8 }, parent),
    diamond: () => svg("path", { d: `M${x} ${y - r * 1.25}L${x + r * 1.25} ${y}L${x} ${y + r * 1.25}L${x - r * 1.25} ${y}Z` }, parent),
    triangle: () => svg("path", { d: `M${x} ${y - r * 1.2}L${x + r * 1.15} ${y + r * .9}L${x - r * 1.15} ${y + r * .9}Z` }, parent),
    cross: () => svg("path", { d: `M${x - r * .8} ${y - r * .8}l${r * 1.6} ${r * 1.6}m0 ${-r * 1.6}l${-r * 1.6} ${r * 1.6}` }, parent),
  };
  const node = (shapes[kind] || shapes.circle)();
  node.setAttribute("class", `mark ${kind} ${extra}`);
  return node;
}

/* Axes in a fresh svg, x logarithmic: returns the group to draw in and the two scales. */
function frame(holder, { x, y, height, xLabel, yLabel, label }) {
  holder.querySelector("svg")?.remove();
  const width = Math.max(280, holder.clientWidth), left = 60, right = 14, top = 14, bottom = 46;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "group", "aria-label": label, tabindex: 0 });
  holder.prepend(root);
  const sx = v => left + Math.log(v / x[0]) / (Math.log(x[1] / x[0]) || 1) * (width - left - right);
  const sy = v => height - bottom - (v - y[0]) / (y[1] - y[0] || 1) * (height - top - bottom);
  const ticks = niceTicks(y[0], y[1], height / 60), digits = Math.max(0, ...ticks.map(v => (String(v).split(".")[1] ?? "").length));
  for (const v of ticks) {
    svg("line", { x1: left, x2: width - right, y1: sy(v), y2: sy(v), class: "grid" }, root);
    svg("text", { x: left - 8, y: sy(v) + 4, "text-anchor": "end" }, root).textContent = fixed(v, digits);
  }
  for (const v of logTicks(x[0], x[1], width / 48)) {
    svg("line", { x1: sx(v), x2: sx(v), y1: top, y2: height - bottom, class: "grid" }, root);
    svg("text", { x: sx(v), y: height - bottom + 18, "text-anchor": "middle" }, root).textContent = String(v).replace("-", "−");
  }
  svg("line", { x1: left, x2: width - right, y1: height - bottom, y2: height - bottom, class: "axis" }, root);
  if (y[0] < 0 && y[1] > 0) svg("line", { x1: left, x2: width - right, y1: sy(0), y2: sy(0), class: "zero" }, root);
  svg("text", { x: (left + width - right) / 2, y: height - 8, "text-anchor": "middle" }, root).textContent = xLabel;
  svg("text", { x: 14, y: (top + height - bottom) / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${(top + height - bottom) / 2})` }, root).textContent = yLabel;
  return { root, sx, sy, width, height };
}

/* ---- rate–distortion chart ------------------------------------------------------------------------------------ */

function interpolate(points, metric, bpp) {
  for (let i = 1; i < points.length; i++) {
    const [a, b] = [points[i - 1], points[i]];
    if (bpp >= a.bpp[0] * (1 - 1e-9) && bpp <= b.bpp[0] * (1 + 1e-9)) {
      const share = (Math.log(bpp) - Math.log(a.bpp[0])) / (Math.log(b.bpp[0]) - Math.log(a.bpp[0]));
      return a.values[metric][0] + share * (b.values[metric][0] - a.values[metric][0]);
    }
  }
  return null;
}

/* What is on the chart now: each curve with its points as {x, y, low, high, point}. */
function seriesNow() {
  const here = data.curves.filter(c => c.place === state.place && c.points.some(p => p.values[state.metric]) && (state.controls || !c.control) && (state.classical || !c.classical));
  const baselines = here.filter(c => c.baseline);
  const series = here.map((curve, index) => {
    const known = curve.points.filter(p => p.values[state.metric]);
    // a curve without a baseline of its own can stand against another's only where there is but one
    const base = baselines.find(b => b.train === curve.train) || (baselines.length === 1 ? baselines[0] : null);
    const reference = base ? base.points.filter(p => p.values[state.metric]) : [];
    const spots = known.map(point => {
      const [y, low, high] = point.values[state.metric];
      if (state.mode === "absolute") return { x: point.bpp[0], y, low, high, point };
      const at = interpolate(reference, state.metric, point.bpp[0]);
      return at === null ? null : { x: point.bpp[0], y: y - at, low: null, high: null, point };
    }).filter(Boolean);
    return { curve, index, spots };
  });
  return series.filter(s => s.spots.length);
}

let drawn = [];
function drawCurves() {
  const holder = $("rd");
  if (!holder || !state.metric) return;
  const all = seriesNow(), visible = all.filter(s => !state.hidden.has(s.curve.label));
  const meta = data.metrics[state.metric], narrow = holder.clientWidth < 560;
  const relative = state.mode === "relative";
  drawLegend(all);
  const spots = visible.flatMap(s => s.spots);
  if (!spots.length) {
    holder.replaceChildren(html("p", { class: "about" }, relative ? `No visible curve shares rates with ${data.against}.` : "No curve is visible: switch one on below."));
    return;
  }
  holder.querySelector("p")?.remove();
  const learned = visible.filter(s => !s.curve.classical).flatMap(s => s.spots);
  const [x0, x1] = extent(spots.map(s => s.x));
  // a classical codec's far end must not press the curves that matter into a corner
  const wide = learned.length ? extent(learned.map(s => s.x)) : [x0, x1];
  const x = [Math.max(x0, wide[0] / 2.5) / 1.1, Math.min(x1, wide[1] * 2.5) * 1.1];
  const inside = spots.filter(s => s.x >= x[0] && s.x <= x[1]);
  const banded = visible.filter(s => state.bands && !s.curve.classical && !s.curve.control && s.spots.every(p => p.low !== null));
  let [y0, y1] = extent([...inside.map(s => s.y), ...banded.flatMap(s => s.spots.flatMap(p => [p.low, p.high]))]);
  if (relative) [y0, y1] = extent([0, y0, y1]);
  const pad = Math.max((y1 - y0) * .08, .05);
  const f = frame(holder, { x, y: [y0 - pad, y1 + pad], height: narrow ? 340 : 460, xLabel: "rate, bits per pixel (logarithmic)",
    yLabel: relative ? `${meta.axis} above ${data.against} at equal rate` : meta.axis, label: "Rate–distortion curves. Arrow keys move between points, Enter pins one." });
  const clip = svg("clipPath", { id: "rd-clip" }, svg("defs", {}, f.root));
  svg("rect", { x: 56, y: 4, width: f.width - 60, height: f.height - 46 }, clip);
  const layer = svg("g", { "clip-path": "url(#rd-clip)" }, f.root);
  drawn = [];
  for (const s of [...visible].reverse()) {
    const c = s.curve, group = svg("g", { class: `s ${c.classical ? "classical" : ""}`, style: `--c:${c.colour}` }, layer);
    if (banded.includes(s)) {
      const upper = s.spots.map(p => `${f.sx(p.x)} ${f.sy(p.high)}`), lower = s.spots.map(p => `${f.sx(p.x)} ${f.sy(p.low)}`).reverse();
      svg("path", { class: "band", d: `M${upper.concat(lower).join("L")}Z` }, group);
    }
    svg("path", { class: "line", "stroke-dasharray": c.dash.join(" "), d: "M" + s.spots.map(p => `${f.sx(p.x)} ${f.sy(p.y)}`).join("L") }, group);
    for (const p of s.spots) {
      marker(c.marker, f.sx(p.x), f.sy(p.y), c.classical ? 3.6 : 4.6, group, c.control ? "open" : "");
      drawn.push({ series: s, spot: p, group, px: f.sx(p.x), py: f.sy(p.y) });
    }
  }
  const halo = svg("circle", { r: 9, class: "halo", visibility: "hidden" }, f.root);
  const tip = holder.querySelector(".tip") || html("div", { class: "tip", hidden: "" });
  holder.append(tip);
  let current = null;
  function show(item) {
    current = item;
    const groups = new Set(drawn.map(d => d.group));
    groups.forEach(g => g.classList.toggle("dim", Boolean(item) && g !== item.group));
    halo.setAttribute("visibility", item ? "visible" : "hidden");
    tip.hidden = !item;
    if (!item) return;
    halo.setAttribute("cx", item.px);
    halo.setAttribute("cy", item.py);
    tip.replaceChildren(...describe(item));
    const scale = holder.clientWidth / f.width, box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(0, Math.min(holder.clientWidth - box.width, item.px * scale + 14))}px`;
    tip.style.top = `${item.py * scale > f.height / 2 ? item.py * scale - box.height - 14 : item.py * scale + 14}px`;
  }
  const nearest = event => {
    const box = f.root.getBoundingClientRect(), scale = f.width / box.width;
    const [mx, my] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    let best = null, reach = 44 ** 2;
    for (const d of drawn) {
      const distance = (d.px - mx) ** 2 + (d.py - my) ** 2;
      if (distance < reach) [best, reach] = [d, distance];
    }
    return best;
  };
  f.root.addEventListener("pointermove", event => show(nearest(event)));
  f.root.addEventListener("pointerleave", () => show(null));
  f.root.addEventListener("click", event => { const item = nearest(event); show(item); if (item) pin(item); });
  f.root.addEventListener("blur", () => show(null));
  f.root.addEventListener("keydown", event => {
    const order = visible.filter(s => s.spots.length), keys = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"];
    if (event.key === "Enter" && current) return pin(current);
    if (event.key === "Escape") return show(null);
    if (!keys.includes(event.key)) return;
    event.preventDefault();
    let [line, point] = current ? [order.indexOf(current.series), current.series.spots.indexOf(current.spot)] : [0, 0];
    if (current && event.key === "ArrowLeft") point--;
    if (current && event.key === "ArrowRight") point++;
    if (current && event.key === "ArrowUp") line--;
    if (current && event.key === "ArrowDown") line++;
    line = (line + order.length) % order.length;
    point = Math.max(0, Math.min(order[line].spots.length - 1, point));
    show(drawn.find(d => d.series === order[line] && d.spot === order[line].spots[point]));
    $("rd-pinned").textContent = [...tip.childNodes].map(n => n.textContent).join(" · ");
  });
}
function describe({ series, spot }) {
  const p = spot.point, meta = data.metrics[state.metric], unit = meta.unit ? ` ${meta.unit}` : "";
  const [value, low, high] = p.values[state.metric];
  const raw = state.metric in p.raw ? ` (${fixed(p.raw[state.metric], 4)})` : "";
  const lines = [`${series.curve.label} · ${p.rate}`, `${fixed(p.bpp[0], 3)} bpp${p.bpp[1] === null ? "" : ` [${fixed(p.bpp[1], 3)}, ${fixed(p.bpp[2], 3)}]`}`,
    `${meta.label} ${fixed(value)}${unit}${raw}${low === null ? "" : ` [${fixed(low)}, ${fixed(high)}]`}`];
  if (state.mode === "relative") lines.push(`${signed(spot.y, 2)}${unit} against ${data.against} at this rate`);
  if (!p.n) lines.push("published: means only, no pictures");
  else lines.push(`${p.n} picture${p.n === 1 ? "" : "s"}${p.seeds > 1 ? `, ${p.seeds} runs` : ""}`);
  return lines.map((text, i) => html(i ? "div" : "b", {}, text));
}
function pin(item) {
  const runs = item.spot.point.runs.map(id => data.runUrl && !framed ? html("a", { href: data.runUrl.replace("{run_id}", id) }, id.slice(0, 8)) : html("code", {}, id.slice(0, 8)));
  const text = describe(item).map(n => n.textContent).join(" · ");
  $("rd-pinned").replaceChildren(text + (runs.length ? " · MLflow: " : ""), ...runs.flatMap((r, i) => i ? [", ", r] : [r]));
}
/* The chart as a file: what is drawn now, with its styles written out; or its points. */
const STYLES = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linejoin", "opacity", "font-size", "font-family", "visibility"];
function drawing() {
  const shown = $("rd").querySelector("svg"), copy = shown.cloneNode(true), box = shown.viewBox.baseVal;
  const [from, to] = [shown, copy].map(root => [...root.querySelectorAll("*")]);
  from.forEach((node, i) => STYLES.forEach(name => to[i].style.setProperty(name, getComputedStyle(node).getPropertyValue(name))));
  copy.setAttribute("width", box.width);
  copy.prepend(svg("rect", { width: box.width, height: box.height, fill: getComputedStyle($("rd").closest(".card")).backgroundColor }));
  let y = 24;
  for (const { curve } of seriesNow().filter(s => !state.hidden.has(s.curve.label))) {
    svg("text", { x: 76, y: y += 16, fill: curve.colour, style: "font: 12px sans-serif" }, copy).textContent = curve.label;
  }
  return new XMLSerializer().serializeToString(copy);
}
function points() {
  const rows = [["curve", "rate", "bpp", "bpp_low", "bpp_high", state.metric, "low", "high", "pictures"]];
  for (const s of seriesNow().filter(s => !state.hidden.has(s.curve.label)))
    for (const { point } of s.spots) rows.push([s.curve.label, point.rate, ...point.bpp, ...point.values[state.metric], point.n]);
  return rows.map(row => row.map(v => /[",]/.test(v) ? `"${String(v).replaceAll('"', '""')}"` : v ?? "").join(",")).join("\n") + "\n";
}
function save(blob, kind) {
  const link = html("a", { href: URL.createObjectURL(blob), download: `${document.title.split(" ")[0]}.${state.metric}.${kind}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1e4);
}
$("rd-save")?.addEventListener("click", event => {
  const kind = event.target.value;
  if (kind === "csv") return save(new Blob([points()], { type: "text/csv" }), kind);
  if (!kind || !$("rd").querySelector("svg")) return;
  const text = new Blob([drawing()], { type: "image/svg+xml" });
  if (kind === "svg") return save(text, kind);
  const image = new Image(), canvas = html("canvas");
  image.onload = () => {
    [canvas.width, canvas.height] = [2 * image.width, 2 * image.height];
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob(blob => save(blob, kind));
    URL.revokeObjectURL(image.src);
  };
  image.src = URL.createObjectURL(text);
});

function drawLegend(all) {
  const names = [...new Map(all.map(s => [s.curve.label, s.curve])).values()];
  $("rd-legend").replaceChildren(...names.map(curve => {
    const sample = svg("svg", { viewBox: "0 0 30 12", "aria-hidden": "true", class: "s", style: `--c:${curve.colour}` });
    svg("line", { x1: 1, x2: 29, y1: 6, y2: 6, "stroke-dasharray": curve.dash.join(" ") }, sample);
    marker(curve.marker, 15, 6, 4, sample, curve.control ? "open" : "");
    const button = html("button", { type: "button", "aria-pressed": String(!state.hidden.has(curve.label)), "data-curve": curve.label }, sample, curve.label);
    button.addEventListener("click", event => {
      if (event.shiftKey || event.altKey) state.hidden = new Set(names.map(c => c.label).filter(l => l !== curve.label));
      else state.hidden.has(curve.label) ? state.hidden.delete(curve.label) : state.hidden.add(curve.label);
      drawCurves();
      document.querySelector(`[data-curve="${CSS.escape(curve.label)}"]`)?.focus();
    });
    return button;
  }));
  const here = data.curves.filter(c => c.place === state.place);
  if (state.mode === "relative" && state.classical && here.some(c => c.classical) && here.filter(c => c.baseline).length > 1)
    $("rd-legend").append(html("span", { class: "about" }, `Others are left out: there is more than one ${data.against} to hold them against.`));
}

/* ---- BD table ------------------------------------------------------------------------------------------------- */

function filterRates() {
  for (const row of document.querySelectorAll("[data-metric][data-method]")) row.hidden = row.dataset.metric !== state.bdMetric || row.dataset.method !== state.bdMethod;
  for (const list of document.querySelectorAll("#bd details")) list.hidden = !list.querySelector("li:not([hidden])");
  for (const table of document.querySelectorAll("table")) drawBars([...table.querySelectorAll("tr:not([hidden]) svg.ci")]);
}
function drawBars(bars) {
  const ends = bars.flatMap(b => [b.dataset.v, b.dataset.l, b.dataset.h].filter(v => v !== undefined).map(Number)).concat(0);
  const [low, high] = extent(ends), width = 170, scale = v => 8 + (v - low) / (high - low || 1) * (width - 16);
  for (const bar of bars) {
    bar.replaceChildren();
    bar.setAttribute("viewBox", `0 0 ${width} 20`);
    svg("line", { class: "z", x1: scale(0), x2: scale(0), y1: 1, y2: 19 }, bar);
    if (bar.dataset.l !== undefined) svg("line", { class: "l", x1: scale(+bar.dataset.l), x2: scale(+bar.dataset.h), y1: 10, y2: 10 }, bar);
    svg("circle", { cx: scale(+bar.dataset.v), cy: 10, r: 4.6 }, bar);
  }
}

/* ---- gallery -------------------------------------------------------------------------------------------------- */

function drawGallery() {
  const holder = $("g-panels"), { items, pictures, lossless } = data.gallery;
  if (!holder || !items.length) return;
  const item = items[state.item];
  state.rate = Math.max(0, Math.min(state.rate, item.rates.length - 1));
  $("g-pick").replaceChildren(...items.map((it, i) => html("button", { type: "button", "aria-pressed": String(i === state.item), "aria-label": it.image, title: it.image,
    on: { click: () => { state.item = i; drawGallery(); $("g-pick").children[i].focus(); } } }, html("img", { src: pictures[it.fixed[0].whole], alt: "" }))));
  $("g-rate").replaceChildren(...item.rates.map((r, i) => html("button", { type: "button", "aria-pressed": String(i === state.rate),
    on: { click: () => { state.rate = i; drawGallery(); $("g-rate").children[i].focus(); } } }, r.rate)));
  const crop = state.view === "crop";
  $("g-note").textContent = `${item.image.replace(/[_/-]/g, "$&\u200b")} · ${item.size[0]}×${item.size[1]} · ` + (crop
    ? `the ${item.crop[0]}×${item.crop[1]} pixels that matter most by ${item.by}, exact, enlarged`
    : `the white frame is the crop · whole pictures ${lossless ? "are exact" : "are compressed again for this file; judge by the crops"}`) + " · beside the first file those nearest in bytes, with the difference";
  const far = item.rates[state.rate]?.far ?? [];
  $("g-far").textContent = far.length ? `Without a file near these bytes, the nearest in bpp: ${far.join(", ")}` : "";
  holder.classList.toggle("whole", !crop);
  const original = item.fixed[0], panels = [...item.fixed, ...(item.rates[state.rate]?.panels || [])];
  holder.replaceChildren(...panels.map(panel => {
    const key = crop ? "crop" : "whole", image = html("img", { src: pictures[panel[key]], alt: `${panel.label}, ${item.image}`, draggable: "false" });
    if (crop && 2 * item.crop[0] <= 330) image.style.imageRendering = "pixelated";
    const held = html("span", { class: "held", hidden: "" }, "original"), button = html("button", { type: "button", class: "frame", "aria-label": `${panel.label}: hold to see the original` }, image, held);
    if (!crop && panel.kind !== "map") {
      const [x, y, w, h] = item.window.map(v => `${100 * v}%`);
      const box = html("span", { class: "box" });
      Object.assign(box.style, { left: x, top: y, width: w, height: h });
      button.append(box);
    }
    const swap = on => { image.src = pictures[(on ? original : panel)[key]]; held.hidden = !on; };
    for (const [type, on] of [["pointerdown", true], ["pointerup", false], ["pointerleave", false], ["pointercancel", false], ["blur", false]]) button.addEventListener(type, () => swap(on));
    button.addEventListener("keydown", event => { if (event.key === " ") { event.preventDefault(); swap(true); } });
    button.addEventListener("keyup", event => { if (event.key === " ") swap(false); });
    button.addEventListener("contextmenu", event => event.preventDefault());
    const caption = html("figcaption", {}, html("b", {}, html("span", {}, panel.colour ? html("span", { class: "swatch s", style: `--c:${panel.colour}` }) : "", panel.label), html("span", {}, panel.bpp || "", panel.apart ? html("i", { title: "bytes more or fewer than the first" }, ` ${panel.apart}`) : "")));
    if (panel.values) caption.append(html("small", {}, `${panel.rate} · ` + panel.values.map(v => v.join(" ").replaceAll(" ", "\u00a0")).join(" · ")));
    return html("figure", {}, button, caption);
  }));
}

/* ---- start ---------------------------------------------------------------------------------------------------- */

function draw(name) {
  if (["place", "metric", "mode", "bands", "controls", "classical"].includes(name)) drawCurves();
  if (["bdMetric", "bdMethod"].includes(name)) filterRates();
  if (name === "view") drawGallery();
}
for (const holder of document.querySelectorAll("[data-choose]")) {
  const name = holder.dataset.choose;
  holder.addEventListener("click", event => {
    const button = event.target.closest("button");
    if (holder.tagName === "BUTTON") {
      state[name] = !state[name];
      holder.setAttribute("aria-pressed", String(state[name]));
    } else if (button) {
      for (const other of holder.children) other.setAttribute("aria-pressed", String(other === button));
      state[name] = button.value;
    }
    draw(name);
  });
}
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
let width = 0;
new ResizeObserver(() => { if (innerWidth !== width) { width = innerWidth; drawCurves(); } }).observe(document.body);
drawCurves();
filterRates();
drawGallery();
document.documentElement.dataset.ready = "yes";
