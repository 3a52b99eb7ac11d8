// Draws the figures, sorts tables by a click on a heading, and switches between dark and light.
const root = document.documentElement;

for (const figure of document.querySelectorAll("figure")) {
  const place = figure.querySelector(".drawing");
  const spec = JSON.parse(figure.querySelector("script").textContent);
  try {
    await vegaEmbed(place, spec, {renderer: "svg", actions: false, mode: "vega-lite"});
  } catch (error) {
    place.textContent = `This figure could not be drawn (${error.message}); its numbers are in the tables.`;
  }
}

const valueOf = (row, column) => {
  const cell = row.cells[column];
  const data = cell.querySelector("data");
  return data === null ? cell.textContent.trim() : Number(data.value);
};

const compare = (a, b) => {
  if (typeof a === typeof b) {
    return typeof a === "number" ? a - b : a.localeCompare(b);
  }
  return typeof a === "number" ? -1 : 1;
};

for (const table of document.querySelectorAll("table.sortable")) {
  if (table.tBodies[0].rows.length < 2) {
    continue;
  }
  for (const heading of table.tHead.rows[0].cells) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const sign = heading.ariaSort === "ascending" ? -1 : 1;
      for (const other of table.tHead.rows[0].cells) {
        other.removeAttribute("aria-sort");
      }
      heading.ariaSort = sign === 1 ? "ascending" : "descending";
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => sign * compare(valueOf(a, heading.cellIndex), valueOf(b, heading.cellIndex)));
      table.tBodies[0].append(...rows);
    });
  }
}

document.getElementById("theme").addEventListener("click", () => {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.style.colorScheme || (dark ? "dark" : "light");
  root.style.colorScheme = now === "dark" ? "light" : "dark";
});

let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  closed.forEach((each) => (each.open = true));
});
addEventListener("afterprint", () => closed.forEach((each) => (each.open = false)));

root.dataset.drawn = "";
