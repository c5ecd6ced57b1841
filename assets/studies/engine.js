"use strict";
// what the game and the study share: a seeded order, screens, a pair of pictures that is answered by key or touch, files
const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];
const data = JSON.parse($("#data").textContent);

function seeded(text) {  // mulberry32 over a hash (FNV-1a) of the text
  let h = 2166136261;
  for (const c of String(text)) h = Math.imul(h ^ c.charCodeAt(0), 16777619);
  return () => {
    h = (h + 0x6d2b79f5) | 0;
    let t = Math.imul(h ^ (h >>> 15), 1 | h);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
function shuffled(list, random) {
  const out = [...list];
  for (let i = out.length - 1; i > 0; i--) { const j = Math.floor(random() * (i + 1)); [out[i], out[j]] = [out[j], out[i]]; }
  return out;
}
function someName(length = 8) {
  const bytes = new Uint8Array(length), letters = "abcdefghjkmnpqrstuvwxyz23456789";
  crypto.getRandomValues(bytes);
  return [...bytes].map((b) => letters[b % letters.length]).join("");
}
function make(tag, attributes = {}, text = "") {
  const node = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== "") node.textContent = text;
  return node;
}
const picture = (index) => data.pictures[index];
const format = (value, digits = 0) => value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function show(screen, focus = true) {
  for (const section of $$("section[data-screen]")) section.hidden = section.dataset.screen !== screen;
  document.body.dataset.screen = screen;
  const heading = $(`section[data-screen="${screen}"] [tabindex="-1"]`);
  if (heading && focus) heading.focus({ preventScroll: true });
  scrollTo(0, 0);
}

// the two buttons of #pair; answer(side) is called once for each pair that is shown
class Pair {
  constructor(answer) {
    this.buttons = { left: $('.pic[data-side="left"]'), right: $('.pic[data-side="right"]') };
    this.open = false;
    this.answer = answer;
    for (const side of ["left", "right"]) this.buttons[side].addEventListener("click", () => this.choose(side));
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || !this.open) return;
      const side = { ArrowLeft: "left", a: "left", A: "left", 1: "left", ArrowUp: "left", ArrowRight: "right", b: "right", B: "right", 2: "right", ArrowDown: "right" }[event.key];
      if (side) { event.preventDefault(); this.choose(side); }
    });
  }
  put(left, right, names) {
    for (const [side, index] of [["left", left], ["right", right]]) {
      const button = this.buttons[side];
      button.className = "pic";
      button.disabled = false;
      $("img", button).src = picture(index);
      $("img", button).alt = names[side];
      const tag = $(".tag", button);
      if (tag) tag.hidden = true;
    }
    this.shown = performance.now();
    this.open = true;
  }
  choose(side) {
    if (!this.open) return;
    this.open = false;
    for (const button of Object.values(this.buttons)) button.disabled = true;
    this.answer(side, (performance.now() - this.shown) / 1000);
  }
}

function hand(name, type, text) {
  const link = make("a", { download: name, href: URL.createObjectURL(new Blob([text], { type })) });
  document.body.append(link);
  link.click();
  setTimeout(() => { URL.revokeObjectURL(link.href); link.remove(); }, 4000);
}
const csv = (rows) => rows.map((row) => row.map((v) => (/[",\n]/.test(String(v)) ? `"${String(v).replaceAll('"', '""')}"` : String(v))).join(",")).join("\r\n") + "\r\n";
