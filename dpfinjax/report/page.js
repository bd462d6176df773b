// Makes the page's tables sortable and replaces its static charts by interactive ones.
"use strict";
(() => {
  const root = document.documentElement;
  const every = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Tables: every header becomes a button; the first press sorts numbers down and words up.

  const rankOf = (row, column) => {
    const cell = row.cells[column];
    return "rank" in cell.dataset ? parseRank(cell.dataset.rank) : cell.textContent.trim();
  };
  const parseRank = (text) => ({ inf: Infinity, "-inf": -Infinity, nan: NaN })[text] ?? Number(text);
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a === b ? 0 : a < b ? -1 : 1;

  function sort(table, column, ascending) {
    const body = table.tBodies[0];
    const ranked = [...body.rows].map((row) => [rankOf(row, column), row]);
    ranked.sort(([a], [b]) => {
      // What is missing stays at the end in both directions.
      const missing = Number.isNaN(a) - Number.isNaN(b);
      return missing || (ascending ? compare(a, b) : compare(b, a));
    });
    body.append(...ranked.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      const state = place !== column ? "none" : ascending ? "ascending" : "descending";
      head.setAttribute("aria-sort", state);
    });
  }

  function makeSortable(table) {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      const numeric = [...table.tBodies[0].rows].some((row) => "rank" in row.cells[column].dataset);
      const first = numeric ? "descending" : "ascending";
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
        sort(table, column, next === "ascending");
      });
    });
  }

  every("table.sortable").forEach(makeSortable);

  // Whatever is folded is printed all the same, and folded again afterwards.

  let unfolded = [];
  addEventListener("beforeprint", () => {
    unfolded = every("main > section details:not([open])");
    unfolded.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => unfolded.forEach((details) => (details.open = false)));

  // Charts.

  if (typeof Plotly === "undefined") return;
  const { charts, colors } = JSON.parse(document.getElementById("charts").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const attack = document.getElementById("attack");
  const bounds = document.getElementById("bounds");
  const boxes = every(".toggles input");
  const hidden = () => new Set(boxes.filter((box) => !box.checked).map((box) => box.value));

  function coloured(value, key = "") {
    if (Array.isArray(value)) return value.map((member) => coloured(member));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, v]) => [name, coloured(v, name)]));
    }
    const named = typeof value === "string" && value.startsWith("@") && key.endsWith("color");
    return named ? colors[dark.matches ? "dark" : "light"][value.slice(1)] : value;
  }

  function shown(trace, hiddenModels) {
    const { model, models, attack: name, strongest, bound } = trace.meta;
    if (models) {
      trace.y = trace.y.map((y, place) => (hiddenModels.has(models[place]) ? null : y));
    }
    const chosen = name === undefined || (attack.value ? name === attack.value : strongest);
    trace.visible = chosen && !hiddenModels.has(model) && !(bound && !bounds.checked);
    return trace;
  }

  function draw(key) {
    const place = document.querySelector(`[data-chart="${key}"] .live`);
    const { data, layout, row_height: rowHeight } = coloured(charts[key]);
    const hiddenModels = hidden();
    const traces = data.map((trace) => shown(trace, hiddenModels));
    if (rowHeight) {
      const models = traces.filter((trace) => trace.visible).map((trace) => trace.meta.model);
      const rows = new Set(models.filter((model) => model !== undefined)).size;
      layout.height += rowHeight * Math.max(1, rows);
      if (!rows) layout.yaxis.visible = false;
    }
    return Plotly.react(place, traces, layout, { displayModeBar: false, responsive: true });
  }

  const drawAll = () => Promise.all(Object.keys(charts).map(draw));

  root.classList.add("scripted");
  every(".toggles, .choice").forEach((control) => (control.hidden = false));
  boxes.forEach((box) => box.addEventListener("change", drawAll));
  every("[data-all]").forEach((button) =>
    button.addEventListener("click", () => {
      boxes.forEach((box) => (box.checked = button.dataset.all === "true"));
      drawAll();
    }),
  );
  for (const choice of [attack, bounds]) choice?.addEventListener("change", () => draw("roc"));
  dark.addEventListener("change", drawAll);
  drawAll().then(() => root.classList.add("drawn"));
})();
