"use strict";
// Filters hide cards and stand in the address, so that a view can be passed on. The viewer goes through what is shown.
const cards = [...document.querySelectorAll(".card")].map((element) => ({
  element,
  text: element.querySelector(".prompt").textContent.toLowerCase(),
}));
const filters = document.getElementById("filters");
const viewer = document.getElementById("viewer");
const large = document.getElementById("large");
let current = null;

function chosen() {
  return Object.fromEntries([...new FormData(filters)].filter(([, value]) => value));
}

function applyFilters() {
  const { q = "", ...groups } = chosen();
  const words = q.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const { element, text } of cards) {
    const fits =
      words.every((word) => text.includes(word)) &&
      Object.entries(groups).every(([name, value]) => element.dataset[name] === value);
    element.hidden = !fits;
    shown += fits;
  }
  const isFiltered = shown < cards.length;
  const all = cards.length.toLocaleString("en");
  document.getElementById("found").value = isFiltered ? `${shown.toLocaleString("en")} of ${all} prompts` : `${all} prompts`;
  document.getElementById("show-all").hidden = !Object.keys(chosen()).length;
  document.getElementById("nothing").hidden = shown > 0;
}

function rememberFilters() {
  history.replaceState(null, "", `#${new URLSearchParams(chosen())}`);
}

function recallFilters() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  filters.reset();
  for (const [name, value] of wanted) {
    const field = filters.elements.namedItem(name);
    if (field) field.value = value;
  }
  for (const select of filters.querySelectorAll("select")) {
    if (select.selectedIndex < 0) select.value = "";
  }
  applyFilters();
}

function shownShots() {
  return cards.flatMap(({ element }) => (element.hidden ? [] : [...element.querySelectorAll(".shot")]));
}

function show(shot) {
  current = shot;
  const card = shot.closest(".card");
  const told = viewer.querySelector(".told");
  large.src = shot.href;
  large.alt = shot.firstElementChild.alt;
  told.querySelector(".prompt").textContent = card.querySelector(".prompt").textContent;
  told.querySelector(".chips").replaceChildren(...[...card.querySelector(".chips").children].map((chip) => chip.cloneNode(true)));
  told.querySelector(".place").textContent = [shot.dataset.model, `sample ${shot.dataset.place}`].filter(Boolean).join(", ");
  if (!viewer.open) viewer.showModal();
}

function move(by) {
  const shots = shownShots();
  const next = shots[shots.indexOf(current) + by];
  if (next) show(next);
}

function movePrompt(by) {
  const shots = shownShots();
  const card = current.closest(".card");
  const others = by > 0 ? shots.slice(shots.indexOf(current)) : shots.slice(0, shots.indexOf(current)).reverse();
  const other = others.find((shot) => shot.closest(".card") !== card)?.closest(".card");
  if (other) show(other.querySelector(".shot"));
}

document.querySelector(".cards").addEventListener("click", (event) => {
  const shot = event.target.closest(".shot");
  if (!shot || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  show(shot);
});
filters.addEventListener("input", () => { applyFilters(); rememberFilters(); });
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(() => { applyFilters(); rememberFilters(); }));
window.addEventListener("hashchange", recallFilters);
viewer.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: () => move(-1), ArrowRight: () => move(1), ArrowUp: () => movePrompt(-1), ArrowDown: () => movePrompt(1) };
  if (!(event.key in steps)) return;
  event.preventDefault();
  steps[event.key]();
});
viewer.addEventListener("close", () => {
  current.scrollIntoView({ block: "nearest" });
  current.focus();
});
viewer.addEventListener("click", (event) => {
  if (event.target.closest(".back")) move(-1);
  else if (event.target.closest(".on")) move(1);
  else if (event.target.closest(".close") || event.target.classList.contains("stage")) viewer.close();
});
recallFilters();
