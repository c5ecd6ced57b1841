const RANKS = ["Curious passer-by", "Junior detective", "Detective", "Inspector", "Chief inspector", "Master detective"];
const HOPE = ["First day of practice", "Scribbler", "Beginner", "Apprentice", "Painter", "Skilled painter", "Expert", "Master forger"];
let forger = data.forgers[0], state = null;

const levelName = (i) => HOPE[forger.levels.length < 2 ? 0 : Math.round((i * (HOPE.length - 1)) / (forger.levels.length - 1))];
const stepText = (step) => (step === 0 ? "no practice yet" : `${format(step)} practice step${step === 1 ? "" : "s"}`);
const fromText = (step) => (step === 0 ? "From the very beginning" : `From ${stepText(step)} on`);
const bytes = (n) => (n >= 10000 ? `${format(n / 1000)} kB` : `${format(n)} bytes`);

function aboutForger() {
  const last = forger.levels.at(-1);
  $("#hero-real").src = picture(forger.originals[0]);
  $("#hero-fake").src = picture(forger.levels[Math.min(forger.levels.length - 1, Math.ceil(forger.levels.length * 0.6))].pictures[0]);
  const raw = 3 * forger.side * forger.side;
  $("#facts").textContent = `${forger.key}: ${forger.codec}, ${forger.rate}, ${format(forger.steps)} steps; crops of ${forger.side}×${forger.side} pixels` +
    ` (${bytes(raw)} uncompressed), at the last step ${last.psnr.length ? format(last.psnr.reduce((a, b) => a + b, 0) / last.psnr.length, 1) : "–"} dB PSNR. ` +
    (forger.heldOut ? "It never trained on these pictures. " : "It trained on these pictures: the dataset holds none out. ") +
    (forger.fromTrunk ? "It started from finished weights, so its first level is already hard. " : "") +
    (data.quality ? `Originals and forgeries are embedded alike as WebP of quality ${data.quality}.` : "Pictures are embedded without loss.");
}
function chooseForger() {
  const field = $("#forgers");
  field.hidden = data.forgers.length < 2;
  data.forgers.forEach((one, i) => {
    const button = make("button", { type: "button", class: "quiet", "aria-pressed": String(i === 0), title: one.key }, one.codec);
    button.addEventListener("click", () => {
      forger = one;
      for (const other of $$("button", field)) other.setAttribute("aria-pressed", String(other === button));
      aboutForger();
    });
    field.append(button);
  });
  aboutForger();
}

// what earlier players on this device found, by forger and level; no names, only counts
const crowdKey = () => `fovea-game ${forger.key} ${forger.levels.map((l) => l.step).join("-")}`;
function crowd() {
  try { const kept = JSON.parse(localStorage.getItem(crowdKey())); if (Array.isArray(kept) && kept.length === forger.levels.length) return kept; } catch { /* no storage for this page */ }
  return forger.levels.map(() => [0, 0]);
}
function remember() {
  const all = crowd();
  state.found.forEach(([right, seen], i) => { all[i][0] += right; all[i][1] += seen; });
  try { localStorage.setItem(crowdKey(), JSON.stringify(all)); } catch { /* no storage for this page */ }
}

function start() {
  const random = seeded(data.seed === null ? someName() : data.seed);
  state = { random, level: 0, score: 0, streak: 0, best: 0, found: forger.levels.map(() => [0, 0]), log: [], queue: [] };
  level();
}
function level() {
  // each crop once before any comes again
  state.cases = [];
  while (state.cases.length < Math.min(data.cases, forger.originals.length)) {
    if (!state.queue.length) state.queue = shuffled(forger.originals.keys(), state.random);
    const crop = state.queue.find((c) => !state.cases.includes(c)) ?? state.queue[0];
    state.queue.splice(state.queue.indexOf(crop), 1);
    state.cases.push(crop);
  }
  state.case = 0;
  state.marks = [];
  show("case", false);
  ask();
  $("#level-name").focus({ preventScroll: true });
}
function heads() {
  const now = forger.levels[state.level];
  $("#level-name").replaceChildren(`Level ${state.level + 1} of ${forger.levels.length}: ${levelName(state.level)} `, make("span", { class: "small soft" }, stepText(now.step)));
  $("#score").textContent = format(state.score);
  $("#streak").textContent = state.streak;
  $("#dots").replaceChildren(...state.cases.map((_, i) => make("li", { class: state.marks[i] === undefined ? (i === state.case ? "now" : "") : state.marks[i] ? "yes" : "no" })));
}
function ask() {
  const crop = state.cases[state.case];
  state.real = state.random() < 0.5 ? "left" : "right";
  state.swapped = false;
  const real = forger.originals[crop], fake = forger.levels[state.level].pictures[crop];
  heads();
  $("#ask").textContent = "Which one is the real photo?";
  $("#say").replaceChildren();
  $("#next").hidden = $("#compare").hidden = true;
  $("#compare").setAttribute("aria-pressed", "false");
  pair.put(state.real === "left" ? real : fake, state.real === "left" ? fake : real, { left: "Picture A", right: "Picture B" });
}
function answered(side, seconds) {
  const right = side === state.real, now = forger.levels[state.level], crop = state.cases[state.case];
  state.streak = right ? state.streak + 1 : 0;
  state.best = Math.max(state.best, state.streak);
  const gain = right ? 10 * (state.level + 1) + (state.streak >= 3 ? 5 * Math.min(state.streak - 2, 6) : 0) : 0;
  state.score += gain;
  state.found[state.level][0] += right;
  state.found[state.level][1] += 1;
  state.marks.push(right);
  state.log.push({ level: state.level, step: now.step, crop, right, seconds });
  heads();
  tags();
  pair.buttons[side].classList.add("mine", "pop");
  $("#ask").textContent = right ? "Well spotted!" : "Fooled!";
  const note = `Its note: ${bytes(now.note[crop])}. The photo: ${bytes(3 * forger.side * forger.side)}.`;
  $("#say").replaceChildren(make("span", { class: right ? "good" : "bad" }, right ? `✓ +${gain} points${state.streak >= 3 ? `, ${state.streak} in a row!` : "."} ` : "✗ That was the forgery. "), note);
  $("#next").hidden = $("#compare").hidden = false;
  $("#next").focus({ preventScroll: true });
}
function tags() {
  for (const side of ["left", "right"]) {
    const button = pair.buttons[side], real = (side === state.real) !== state.swapped, tag = $(".tag", button);
    button.classList.toggle("real", real);
    button.classList.toggle("fake", !real);
    tag.hidden = false;
    tag.textContent = real ? "✓ real photo" : "✎ forged";
    $("img", button).alt = real ? "The real photo" : "The forgery";
  }
}
function swap() {
  if ($("#compare").hidden) return;
  const [a, b] = [$("img", pair.buttons.left), $("img", pair.buttons.right)];
  [a.src, b.src] = [b.src, a.src];
  state.swapped = !state.swapped;
  $("#compare").setAttribute("aria-pressed", String(state.swapped));
  tags();
}
function next() {
  state.case += 1;
  if (state.case < state.cases.length) { ask(); $("#level-name").focus({ preventScroll: true }); return; }
  if (state.level + 1 >= forger.levels.length) return finish();
  const right = state.marks.filter(Boolean).length, all = state.marks.length, after = forger.levels[state.level + 1];
  $("#won").textContent = right === all ? `You caught all ${all}!` : right ? `You caught ${right} of ${all}.` : `The forger fooled you ${all} times!`;
  $("#won-more").textContent = `The forger goes back to practise: ${format(after.step - forger.levels[state.level].step)} more step${after.step - forger.levels[state.level].step === 1 ? "" : "s"}. Can you still tell?`;
  const crop = state.cases.at(-1);
  $("#strip").replaceChildren(...forger.levels.slice(0, state.level + 1).slice(-3).map((l) => stripItem(l.pictures[crop], stepText(l.step))), stripItem(forger.originals[crop], "the real photo"));
  show("level");
}
function stripItem(index, text) {
  const item = make("li");
  item.append(make("img", { src: picture(index), alt: text }), make("span", {}, text));
  return item;
}

// the first level from which on, all in all, no more than three in four were caught: half-way between certainty and guessing
function fooledFrom(found) {
  for (let i = 0; i < found.length; i++) {
    const rest = found.slice(i).filter(([, n]) => n), here = found[i];
    if (!here[1] || here[0] === here[1]) continue;
    const right = rest.reduce((s, [r]) => s + r, 0), seen = rest.reduce((s, [, n]) => s + n, 0);
    if (right / seen <= 0.75 && here[0] / here[1] <= 0.75) return i;
  }
  return -1;
}
function finish() {
  remember();
  const played = state.found.filter(([, n]) => n).length, seen = state.log.length, right = state.log.filter((l) => l.right).length;
  const from = fooledFrom(state.found), top = state.log.reduce((s, l) => s + 10 * (l.level + 1), 0) || 1;
  // guessing finds half of them: the ranks divide what is above that, later levels counting more
  const share = state.log.reduce((s, l) => s + (l.right ? 10 * (l.level + 1) : 0), 0) / top;
  const rank = RANKS[Math.max(0, Math.min(RANKS.length - 1, Math.floor((2 * share - 1) * RANKS.length)))];
  $("#verdict").textContent = from < 0 ? (played === forger.levels.length ? "Nobody fools you!" : "Case closed.") : `Fooled at level ${from + 1}!`;
  $("#verdict-more").textContent = (from < 0 ? "You could still tell the forgeries at the last level that you played. " : `${fromText(forger.levels[from].step)}, the forger fooled you at least one time in four. `) + `Your rank: ${rank}.`;
  $("#points").textContent = format(state.score);
  $("#best").textContent = state.best;
  $("#caught").textContent = `${right}/${seen}`;
  show("end");
  chart();
}
function chart() {
  const svg = $("#chart"), all = crowd(), n = forger.levels.length, left = 46, top = 14, whole = Math.max(280, svg.clientWidth || 640), width = whole - left - 6, height = 170, slot = width / n;
  const y = (share) => top + height * (1 - share), x = (i) => left + slot * (i + 0.5);
  svg.setAttribute("viewBox", `0 0 ${whole} 250`);
  svg.replaceChildren();
  for (const [share, text] of [[0, "0 %"], [0.5, "50 %"], [1, "100 %"]]) {
    svg.append(make("svg:line", { x1: left, x2: whole - 6, y1: y(share), y2: y(share), class: share === 0.5 ? "half" : "base" }));
    svg.append(make("svg:text", { x: left - 6, y: y(share) + 4, "text-anchor": "end", class: "dim" }, text));
  }
  const said = [];
  forger.levels.forEach((l, i) => {
    const [right, seen] = state.found[i], share = seen ? right / seen : 0;
    if (seen) svg.append(make("svg:rect", { x: x(i) - slot * 0.32, y: y(share), width: slot * 0.64, height: Math.max(2, height * share), rx: 5, class: share > 0.75 ? "col" : "col low" }));
    svg.append(make("svg:text", { x: x(i), y: top + height + 20, "text-anchor": "middle" }, i + 1));
    svg.append(make("svg:text", { x: x(i), y: top + height + 38, "text-anchor": "middle", class: "dim" }, l.step >= 10000 ? `${format(l.step / 1000)}k` : l.step));
    if (seen) said.push(`level ${i + 1}, ${stepText(l.step)}: you ${right} of ${seen}` + (l.caught === null ? "" : `, the robot ${format(100 * l.caught)} %`));
  });
  svg.append(make("svg:text", { x: left + width / 2, y: top + height + 58, "text-anchor": "middle", class: "dim" }, "level, and the forger’s practice steps"));
  const earlier = all.some(([, seen], i) => seen > state.found[i][1]);
  if (earlier) line(all.map(([right, seen], i) => (seen ? [x(i), y(right / seen)] : null)), "crowd");
  const robot = forger.levels.some((l) => l.caught !== null);
  if (robot) {
    const knots = forger.levels.map((l, i) => (l.caught === null ? null : [x(i), y(l.caught)]));
    line(knots, "robot");
    for (const at of knots.filter(Boolean)) svg.append(make("svg:circle", { cx: at[0], cy: at[1], r: 4.5, class: "knot" }));
  }
  const keys = [["var(--accent)", "you"], ["var(--soft)", "you, fooled at least one time in four"]];
  if (earlier) keys.push(["var(--ink)", "everyone who played on this device"]);
  if (robot) keys.push(["var(--good)", "the robot detective, as it is after the last step"]);
  $("#legend").replaceChildren(...keys.map(([colour, text]) => { const one = make("span"); one.append(make("i", { style: `background:${colour}` }), text); return one; }), make("span", {}, "- - - just guessing"));
  const beaten = forger.levels[fooledFrom(forger.levels.map((l) => (l.caught === null ? [0, 0] : [l.caught, 1])))];
  $("#chart-text").textContent = `In words: ${said.join("; ")}.` + (robot ? (beaten ? ` ${fromText(beaten.step)}, the robot detective is fooled.` : " The robot detective is never fooled.") : "");
  $("#forget").hidden = !earlier;
}
function line(points, name) {
  const known = points.filter(Boolean);
  if (known.length) $("#chart").append(make("svg:polyline", { points: known.map((p) => p.join(",")).join(" "), class: name }));
}

const pair = new Pair(answered);
$("#play").addEventListener("click", start);
$("#next").addEventListener("click", next);
$("#compare").addEventListener("click", swap);
$("#up").addEventListener("click", () => { state.level += 1; level(); });
$("#stop").addEventListener("click", finish);
$("#again").addEventListener("click", () => show("start"));
$("#save").addEventListener("click", () => hand("detective-or-forger.csv", "text/csv",
  csv([["forger", "level", "step", "crop", "right", "seconds"], ...state.log.map((l) => [forger.key, l.level + 1, l.step, l.crop, Number(l.right), l.seconds.toFixed(2)])])));
$("#forget").addEventListener("click", () => { try { localStorage.removeItem(crowdKey()); } catch { /* no storage for this page */ } $("#forget").hidden = true; state.found && chart(); });
addEventListener("keydown", (event) => { if ((event.key === "c" || event.key === "C") && !event.ctrlKey && !event.metaKey && document.body.dataset.screen === "case") swap(); });
addEventListener("resize", () => { if (document.body.dataset.screen === "end") chart(); });
chooseForger();
show("start", false);
document.documentElement.dataset.ready = "yes";
