// #participant=NAME gives a participant the name that a researcher chose, and with it the same order again
const asked = new URLSearchParams(location.hash.slice(1)).get("participant") ?? "";
const participant = /^[a-z0-9-]{4,40}$/.test(asked) ? asked : `p-${someName(10)}`;
const random = seeded(`${data.study} ${data.seed} ${participant}`);
const answers = [];

// catch trials lie between the pairs, never one after another while there are pairs enough
function order() {
  const pairs = shuffled(data.trials.filter((t) => t.kind === "pair"), random), catches = shuffled(data.trials.filter((t) => t.kind === "catch"), random);
  const out = [...pairs], step = pairs.length / catches.length;
  catches.forEach((c, i) => out.splice(Math.min(out.length, Math.floor((i + 0.25 + 0.5 * random()) * step) + i), 0, c));
  return out.map((t) => ({ ...t, flipped: random() < 0.5 }));
}
const trials = order();
let place = 0, peeks = 0;

function ask() {
  const t = trials[place], sides = t.flipped ? [t.pictures[1], t.pictures[0]] : t.pictures;
  peeks = 0;
  $("#reference").src = picture(t.original);
  $("#progress").setAttribute("aria-valuenow", place);
  $("#progress i").style.width = `${(100 * place) / trials.length}%`;
  pair.put(sides[0], sides[1], { left: "Copy A", right: "Copy B" });
  $("#say").textContent = `Picture ${place + 1} of ${trials.length}`;
  $("#ask").focus({ preventScroll: true });
}
function answered(side, seconds) {
  const t = trials[place], names = t.flipped ? [t.names[1], t.names[0]] : t.names;
  peek(false);
  answers.push({ trial: place + 1, pair: t.pair, kind: t.kind, image: t.image, left: names[0], right: names[1], choice: side, chosen: names[side === "left" ? 0 : 1], seconds: Math.round(seconds * 1000) / 1000, looks: peeks, shown_pixels: Math.round($("img", pair.buttons.left).clientWidth * devicePixelRatio), picture_pixels: $("img", pair.buttons.left).naturalWidth });
  place += 1;
  if (place < trials.length) ask(); else finish();
}
function peek(on) {
  if (on === ($("#peek").getAttribute("aria-pressed") === "true")) return;
  const t = trials[place], sides = t.flipped ? [t.pictures[1], t.pictures[0]] : t.pictures;
  $("#peek").setAttribute("aria-pressed", String(on));
  peeks += on;
  ["left", "right"].forEach((side, i) => { $("img", pair.buttons[side]).src = picture(on ? t.original : sides[i]); });
}
const result = () => ({
  format: "fovea-study-answers/1", study: data.study, participant,
  screen: { width: innerWidth, height: innerHeight, pixel_ratio: devicePixelRatio, touch: matchMedia("(hover: none)").matches },
  answers,
});
const COLUMNS = ["trial", "pair", "kind", "image", "left", "right", "choice", "chosen", "seconds", "looks", "shown_pixels", "picture_pixels"];
function asCsv() {
  const screen = result().screen, names = Object.keys(screen);
  return csv([["study", "participant", ...COLUMNS, ...names.map((n) => `screen_${n}`)], ...answers.map((a) => [data.study, participant, ...COLUMNS.map((c) => a[c]), ...names.map((n) => screen[n])])]);
}
function finish() {
  $("#done").textContent = `${answers.length} of ${trials.length} pictures answered. Your random name is ${participant}.`;
  $("#text").value = JSON.stringify(result());
  show("end");
}
const leaving = (event) => { if (answers.length) event.preventDefault(); };

const pair = new Pair(answered);
$("#participant").textContent = participant + (asked && asked !== participant ? ` (not “${asked}”: a name has 4 to 40 of a–z, 0–9 and -)` : "");
$("#play").addEventListener("click", () => { addEventListener("beforeunload", leaving); show("trial", false); ask(); });
$("#stop").addEventListener("click", () => (answers.length ? finish() : show("start")));
const button = $("#peek");
button.addEventListener("pointerdown", () => peek(true));
for (const kind of ["pointerup", "pointerleave", "pointercancel", "blur"]) button.addEventListener(kind, () => { if (place < trials.length) peek(false); });
button.addEventListener("contextmenu", (event) => event.preventDefault());
addEventListener("keydown", (event) => { if (event.key === " " && document.body.dataset.screen === "trial") { event.preventDefault(); if (!event.repeat) peek(true); } });
addEventListener("keyup", (event) => { if (event.key === " " && document.body.dataset.screen === "trial") { event.preventDefault(); peek(false); } });
for (const [id, name, kind, text] of [["#json", "json", "application/json", () => JSON.stringify(result(), null, 1)], ["#csv", "csv", "text/csv", asCsv]]) {
  $(id).addEventListener("click", () => { hand(`study-${data.study}-${participant}.${name}`, kind, text()); removeEventListener("beforeunload", leaving); });
}
show("start", false);
document.documentElement.dataset.ready = "yes";
