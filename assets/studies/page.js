"use strict";
// one engine for the game and the study: trials that show two pictures and take an answer, and a result to save
const $ = (selector, root = document) => root.querySelector(selector);
const data = JSON.parse($("#data").textContent), buttons = [...document.querySelectorAll(".pic")];

function seeded(text) {  // mulberry32 over a hash (FNV-1a) of the text
  let h = 2166136261;
  for (const c of text) h = Math.imul(h ^ c.charCodeAt(0), 16777619);
  return () => {
    h = (h + 0x6d2b79f5) | 0;
    let t = Math.imul(h ^ (h >>> 15), 1 | h);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
function shuffled(list) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [out[i], out[j]] = [out[j], out[i]];
  }
  return out;
}
function* dealt(list) { for (;;) yield* shuffled(list); }

// #participant=NAME gives a participant the name that a researcher chose, and with it the same order again
const asked = new URLSearchParams(location.hash.slice(1)).get("participant") ?? "";
const valid = /^[a-z0-9-]{4,40}$/.test(asked), letters = "abcdefghjkmnpqrstuvwxyz23456789";
const drawn = Array.from(crypto.getRandomValues(new Uint8Array(10)), (b) => letters[b % letters.length]).join("");
const participant = valid ? asked : `p-${drawn}`;
const random = seeded(`${data.study} ${data.seed} ${participant}`);

// of each round `take` pairs (null: all), each once before any comes again; catch trials lie between them, never one after
// another while there are pairs enough
function order() {
  const pairs = (round) => round.trials.filter((t) => t.kind !== "catch");
  const deck = dealt([...pairs(data.rounds[0]).keys()]);
  return data.rounds.flatMap((round, level) => {
    const own = pairs(round), take = Math.min(data.take ?? own.length, own.length), chosen = new Set();
    while (chosen.size < take) chosen.add(deck.next().value);
    const out = [...chosen].map((i) => own[i]), catches = shuffled(round.trials.filter((t) => t.kind === "catch"));
    catches.forEach((trial, i) => {
      const at = Math.floor(((i + 0.25 + 0.5 * random()) * take) / catches.length) + i;
      out.splice(Math.min(out.length, at), 0, trial);
    });
    return out.map((trial) => ({ ...trial, level, flipped: random() < 0.5 }));
  });
}

let trials = order(), answers = [], place = 0, looks = 0, streak = 0, score = 0, shown = 0, open = false, peeking = false;
const number = (value) => value.toLocaleString("en");
const steps = (n) => (n ? `${number(n)} practice step${n === 1 ? "" : "s"}` : "no practice yet");
const unsaved = (event) => event.preventDefault();

function show(screen) {
  for (const section of document.querySelectorAll("section")) section.hidden = section.dataset.screen !== screen;
  document.body.dataset.screen = screen;
  scrollTo(0, 0);
}
// the pair as it lies; while peeking, the study's original in both places, the game's two in each other's
function lay() {
  const trial = trials[place], told = data.game && !open;
  buttons.forEach((button, i) => {
    const which = trial.flipped !== (peeking && data.game) ? 1 - i : i, tag = $(".tag", button), image = $("img", button);
    image.src = data.pictures[peeking && !data.game ? trial.original : trial.pictures[which]];
    image.alt = told ? trial.names[which] : data.labels[i];
    button.className = told ? `pic ${which ? "fake" : "real"}` : "pic";
    button.disabled = !open;
    tag.hidden = !told;
    tag.textContent = (which ? "✎ " : "✓ ") + trial.names[which];
  });
  $("#peek").setAttribute("aria-pressed", String(peeking));
}
function peek(on) {
  if (on === peeking || $("#peek").hidden || document.body.dataset.screen !== "trial") return;
  peeking = on;
  looks += on;
  lay();
}
function ask() {
  const trial = trials[place], share = Math.round((100 * place) / trials.length);
  [looks, open, peeking, shown] = [0, true, false, performance.now()];
  if (!data.game) $("#reference").src = data.pictures[trial.original];
  $("#progress").setAttribute("aria-valuenow", share);
  $("#progress i").style.width = `${share}%`;
  $("#round").textContent = `Level ${trial.level + 1} of ${data.rounds.length}: ${steps(data.rounds[trial.level].step)}`;
  $("#ask").textContent = data.question;
  $("#say").textContent = data.game ? "" : `Picture ${place + 1} of ${trials.length}`;
  $("#next").hidden = true;
  $("#peek").hidden = data.game;
  lay();
  $("#ask").focus({ preventScroll: true });
}
function choose(i) {
  if (!open) return;
  const trial = trials[place], names = trial.flipped ? [...trial.names].reverse() : trial.names, image = $("img", buttons[i]);
  peek(false);
  open = false;
  answers.push({
    trial: place + 1, pair: trial.pair, kind: trial.kind, image: trial.image, left: names[0], right: names[1],
    choice: ["left", "right"][i], chosen: names[i], seconds: Math.round(performance.now() - shown) / 1000, looks,
    shown_pixels: Math.round(image.clientWidth * devicePixelRatio), picture_pixels: image.naturalWidth,
  });
  if (data.game) tell(trial, names[i] === trial.names[0]); else next();
}
function tell(trial, right) {
  streak = right ? streak + 1 : 0;
  const gain = right ? 10 * (trial.level + 1) + 5 * Math.min(Math.max(streak - 2, 0), 6) : 0, after = trials[place + 1];
  score += gain;
  lay();
  $("#score").textContent = `${number(score)} points, ${streak} in a row`;
  $("#ask").textContent = right ? "Well spotted!" : "Fooled!";
  $("#say").textContent = (right ? `+${gain} points.` : "That was the forgery.") + ` Its note: ${number(trial.note)} bytes.`;
  if (after && after.level > trial.level) {
    const more = data.rounds[after.level].step - data.rounds[trial.level].step;
    $("#say").textContent += ` The forger goes back to practise: ${steps(more)}.`;
  }
  $("#next").hidden = $("#peek").hidden = false;
  $("#next").focus({ preventScroll: true });
}
function next() {
  place += 1;
  if (place < trials.length) ask(); else finish();
}

const right = (answer) => answer.chosen === trials[answer.trial - 1].names[0];
const share = (some) => some.reduce((sum, [found]) => sum + found, 0) / some.reduce((sum, [, seen]) => sum + seen, 0);
// the first level from which on, all in all, no more than three in four were found: half-way between certainty and guessing
const fooledFrom = (some) => some.findIndex((own, i) => share([own]) <= 0.75 && share(some.slice(i)) <= 0.75);
const since = (level) => (data.rounds[level].step ? `From ${steps(data.rounds[level].step)} on` : "From the very beginning");

function tellLevels() {
  const counts = data.rounds.map((_, level) => answers.filter((a) => trials[a.trial - 1].level === level));
  const found = counts.map((own) => [own.filter(right).length, own.length]), from = fooledFrom(found);
  const all = `You found ${answers.filter(right).length} of ${answers.length} photos: ${number(score)} points.`;
  const you = from < 0 ? "" : ` ${since(from)}, the forger fooled you at least one time in four.`;
  const end = place < trials.length ? "Case closed." : "Nobody fools you!";
  $("#verdict").textContent = from < 0 ? end : `Fooled at level ${from + 1}!`;
  $("#done").textContent = all + you;
  $("#rounds").hidden = false;
  $("#rounds tbody").replaceChildren(...data.rounds.map((round, level) => {
    const row = document.createElement("tr"), image = document.createElement("img"), [caught, seen] = found[level];
    image.src = data.pictures[round.trials[0].pictures[1]];
    image.alt = `the same photo, forged: ${steps(round.step)}`;
    row.insertCell().append(image);
    row.insertCell().textContent = number(round.step);
    row.insertCell().textContent = seen ? `${caught} of ${seen}` : "–";
    return row;
  }));
}
function finish() {
  if (!answers.length) return show("start");
  $("#done").textContent = `${answers.length} of ${trials.length} pictures answered. Your random name is ${participant}.`;
  if (data.game) tellLevels();
  $("#text").value = JSON.stringify(result());
  show("end");
  $("#verdict").focus({ preventScroll: true });
}
const result = () => ({
  format: `fovea-${data.page}-answers/1`, study: data.study, participant, answers,
  screen: { width: innerWidth, height: innerHeight, pixel_ratio: devicePixelRatio, touch: matchMedia("(hover: none)").matches },
});
function save() {
  const link = document.createElement("a");
  link.download = `${data.page}-${data.study}-${participant}.json`;
  link.href = URL.createObjectURL(new Blob([JSON.stringify(result(), null, 1)], { type: "application/json" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 4000);
  removeEventListener("beforeunload", unsaved);
}
function start() {
  if (answers.length) [trials, answers, place, streak, score] = [order(), [], 0, 0, 0];
  $("#score").textContent = "";
  if (!data.game) addEventListener("beforeunload", unsaved);
  show("trial");
  ask();
}

const KEYS = { ArrowLeft: 0, ArrowUp: 0, a: 0, A: 0, 1: 0, ArrowRight: 1, ArrowDown: 1, b: 1, B: 1, 2: 1 };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || document.body.dataset.screen !== "trial") return;
  if (event.key !== " " && !(event.key in KEYS)) return;
  event.preventDefault();
  if (event.repeat) return;
  if (event.key === " ") peek(true); else choose(KEYS[event.key]);
});
addEventListener("keyup", (event) => {
  if (event.key !== " " || document.body.dataset.screen !== "trial") return;
  event.preventDefault();
  peek(false);
});
buttons.forEach((button, i) => button.addEventListener("click", () => choose(i)));
const on = (name, kinds, act) => kinds.split(" ").forEach((kind) => $(name).addEventListener(kind, act));
on("#peek", "pointerdown", () => peek(true));
on("#peek", "pointerup pointerleave pointercancel blur", () => peek(false));
on("#peek", "contextmenu", (event) => event.preventDefault());
on("#play", "click", start);
on("#again", "click", start);
on("#next", "click", next);
on("#stop", "click", finish);
on("#json", "click", save);
$("#participant").textContent = participant + (asked && !valid ? ` (not “${asked}”: a name has 4 to 40 of a–z, 0–9 and -)` : "");
document.documentElement.dataset.ready = "yes";
