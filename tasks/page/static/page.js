// Small comforts. Without this file every view works the same, by links and forms.
"use strict";

document.documentElement.classList.add("scripted");

// Choosing a night or a start shows it at once.
for (const form of document.querySelectorAll("form[data-goes-at-once]")) {
  form.addEventListener("change", () => form.requestSubmit());
}

// What can be moved sideways can be moved by keyboard, too.
for (const part of document.querySelectorAll(".wide, .drawn")) {
  if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
}

// An explanation stays on the screen: below its word where there is no room above, and to the left
// of the word's end where there is none to the right.
for (const word of document.querySelectorAll(".term")) {
  const tip = word.querySelector(".tip");
  const turn = () => {
    word.classList.remove("below", "from-end");
    const seen = tip.getBoundingClientRect();
    const head = document.querySelector(".top").getBoundingClientRect().bottom;
    word.classList.toggle("below", seen.top < head);
    word.classList.toggle("from-end", seen.right > document.documentElement.clientWidth - 8);
  };
  word.addEventListener("mouseenter", turn);
  word.addEventListener("focus", turn);
}

// The table of intents follows what is typed.
const search = document.querySelector("form[data-filters]");
const table = search && document.getElementById(search.dataset.filters);
if (table) {
  const field = search.querySelector("input[type=search]");
  const none = document.getElementById("none-left");
  field.addEventListener("input", () => {
    const words = field.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let left = 0;
    for (const row of table.tBodies[0].rows) {
      const fits = words.every((word) => row.dataset.text.includes(word));
      row.hidden = !fits;
      left += fits;
    }
    if (none) none.hidden = left > 0;
  });

  // A row and its place on the map are lit together.
  const places = new Map();
  for (const place of document.querySelectorAll(".map .place")) {
    places.set(place.getAttribute("href"), place);
  }
  for (const row of table.tBodies[0].rows) {
    const link = row.querySelector("th a");
    const place = link && places.get(link.getAttribute("href"));
    if (!place) continue;
    const lit = (on) => () => place.classList.toggle("lit", on);
    row.addEventListener("mouseenter", lit(true));
    row.addEventListener("mouseleave", lit(false));
    link.addEventListener("focus", lit(true));
    link.addEventListener("blur", lit(false));
  }
}

// Within Airflow's own frame there is nothing to go back to.
const home = document.querySelector(".home");
if (home && window.self === window.top) home.hidden = false;
