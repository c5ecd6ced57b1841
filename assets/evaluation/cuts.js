"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const slider = $("bytes");
let item = 0, held = null;

function figure(label, address, original, numbers) {
  const node = document.createElement("figure"), image = new Image(), caption = document.createElement("figcaption");
  image.src = held === label ? original : address;
  image.alt = label;
  const button = document.createElement("button");
  button.className = "frame";
  button.append(image);
  const hold = on => () => { held = on ? label : null; image.src = on ? original : address; };
  button.addEventListener("pointerdown", hold(true));
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, hold(false));
  const title = document.createElement("b"), small = document.createElement("small");
  title.textContent = label;
  small.textContent = numbers;
  caption.append(title, small);
  node.append(button, caption);
  return node;
}

function show() {
  const { original, looked, lookedLabel, shots } = data.pictures[item], step = +slider.value;
  const size = Math.max(...shots.map(s => s.sizes[step]));
  $("said").textContent = `${size.toLocaleString("en")} (${(8 * size / data.pictures[item].pixels).toFixed(3)} bpp)`;
  const numbers = q => Object.entries(q).map(([name, value]) => `${data.labels[name]} ${value.toFixed(2)} dB`).join(" · ");
  $("panels").replaceChildren(
    ...shots.map(s => figure(`${s.order} order`, s.addresses[step], original, `${s.sizes[step].toLocaleString("en")} bytes${s.sizes[step] === s.sizes.at(-1) ? ", all" : ""} · ${numbers(s.qualities[step])}`)),
    figure(lookedLabel, looked, original, ""));
}

function choose(number) {
  item = number;
  slider.max = data.pictures[item].shots[0].sizes.length - 1;
  [...$("pick").children].forEach((b, i) => b.setAttribute("aria-pressed", String(i === item)));
  show();
}

data.pictures.forEach((picture, i) => {
  const button = document.createElement("button"), image = new Image();
  image.src = picture.original;
  image.alt = picture.image;
  button.append(image);
  button.addEventListener("click", () => choose(i));
  $("pick").append(button);
});
slider.addEventListener("input", show);
$("theme").addEventListener("click", () => {
  const root = document.documentElement, dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});
slider.value = 8;
choose(0);
