"use strict";

// The value of a cell that its column is sorted by; null sorts last, either way.
function value(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.v === undefined) return cell.textContent.trim();
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
}

const text = new Intl.Collator("en", { numeric: true });

function sort(table, column, sign) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [value(row, column), row]);
  rows.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null);
    return sign * (typeof a === "number" ? (a > b) - (a < b) : text.compare(a, b));
  });
  body.append(...rows.map(([, row]) => row));
}

for (const table of document.querySelectorAll("table.sorts")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.ariaSort !== "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      sort(table, column, up ? 1 : -1);
    });
  });
}

const form = document.getElementById("filters");
const rows = [...document.getElementById("all").tBodies[0].rows];
const words = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));

function filter() {
  const asked = Object.fromEntries(new FormData(form));
  const wanted = asked.text.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const row of rows) {
    const fits =
      ["study", "scale", "verdict"].every((k) => !asked[k] || row.dataset[k] === asked[k]) &&
      wanted.every((word) => words.get(row).includes(word));
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("count").value =
    shown === rows.length ? `${shown} claims` : `${shown} of ${rows.length} claims`;
}

form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(filter));
filter(); // a browser may have kept what was chosen before a reload
