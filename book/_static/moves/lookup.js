/* Look up a row of a product-key memory: the example of "Memory layers and product keys". */
(function () {
  "use strict";
  const { lookup, read } = window.smfArithmetic;
  const { html, slider, button, piece, text, vector, said, table } = window.smfPage;
  const KEYS = [[[1, 0], [0, 1], [1, 1]], [[1, 0], [1, 1], [0, 1]]];
  const VALUES = [[1, 1], [0, 1], [1, 0], [-1, 0], [0, -1], [1, -1], [2, 0], [0, 4], [-1, 1]];
  const NAMES = ["a", "b"];
  const START = [1, 2, 2, -0.5];

  piece("lookup", (place) => {
    const labels = ["q¹, first number", "q¹, second number", "q², first number", "q², second number"];
    const show = (x) => text(x, 1);
    const query = labels.map((label, i) =>
      slider(label, { min: -3, max: 3, step: 0.5, value: START[i], show }, draw));
    const topK = slider("k, rows that are read", { min: 1, max: 3, step: 1, value: 2 }, draw);
    const halves = html("div", { class: "move-columns" });
    const grid = html("div", { class: "move-scroll", tabindex: 0, role: "region", "aria-label": "All sums" });
    const rows = html("div", { class: "move-scroll", tabindex: 0, role: "region", "aria-label": "Rows that are read" });
    const words = said();
    const again = button("The chapter's example", () => {
      query.forEach((control, i) => { control.value = START[i]; });
      topK.value = 2;
    });
    place.append(
      html("div", { class: "move-controls" }, query.map((control) => control.row), topK.row, again),
      halves, grid, rows, words);

    function draw() {
      const q = query.map((control) => control.value);
      const found = lookup([q.slice(0, 2), q.slice(2)], KEYS, topK.value);
      const chosen = new Set(found.rows);
      halves.replaceChildren(...[0, 1].map((half) => table(
        `Scores of the ${half ? "second" : "first"} half`,
        ["sub-key", "is", half ? "s²" : "s¹", ""],
        KEYS[half].map((key, i) => {
          const kept = found.survivors[half].includes(i);
          return {
            cells: [`${NAMES[half]}${i}`, vector(key), text(found.scores[half][i]), kept ? "kept" : ""],
            mark: kept ? "move-candidate" : null,
          };
        }))));
      const body = found.scores[0].map((alpha, i) => html("tr", {},
        html("th", { scope: "row" }, `a${i}`),
        found.scores[1].map((beta, j) => {
          const row = 3 * i + j;
          const candidate = found.survivors[0].includes(i) && found.survivors[1].includes(j);
          const state = chosen.has(row) ? "read" : candidate ? "candidate" : "";
          return html("td", { class: state && `move-${state}` },
            html("span", {}, text(alpha + beta)),
            html("small", {}, ` row ${row}${state ? `, ${state}` : ""}`));
        })));
      grid.replaceChildren(html("table", { class: "move-grid", "aria-label": "Sums of all pairs of sub-keys" },
        html("thead", {}, html("tr", {}, html("td", {}), [0, 1, 2].map((j) => html("th", { scope: "col" }, `b${j}`)))),
        html("tbody", {}, body)));
      rows.replaceChildren(table("Rows that are read", ["row", "sum", "weight", "value"],
        found.rows.map((row, i) => ({
          cells: [`${Math.floor(row / 3)}·3 + ${row % 3} = ${row}`, text(found.rowScores[i]),
            text(found.weights[i]), vector(VALUES[row])],
          mark: "move-read",
        }))));
      const k = topK.value;
      words.textContent = `The lookup made 6 scores and ${k * k} ${k > 1 ? "sums" : "sum"} and read ` +
        `${k > 1 ? "rows" : "row"} ${found.rows.join(", ")}: read(x) = ` +
        `${vector(read(found.rows, found.weights, VALUES))}.`;
    }
    draw();
  });
})();
