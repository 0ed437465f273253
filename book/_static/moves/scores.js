/* Score six rows by three rules: the example of "Choosing the rows that may change". */
(function () {
  "use strict";
  const { rowScores, selectRows } = window.smfArithmetic;
  const { html, slider, whole, button, piece, text, said } = window.smfPage;
  const N = 9;
  const EXAMPLES = {
    "The chapter's example": { c: [8, 6, 4, 2, 0, 0], d: [9, 9, 4, 0, 2, 9], b: [39, 9, 4, 0, 3, 39] },
    "A batch like the background": { c: [8, 2, 1, 0, 1, 8], d: [9, 9, 4, 0, 2, 9], b: [39, 9, 4, 0, 3, 39] },
    "A topic nobody wrote about": { c: [4, 4, 4, 4, 0, 0], d: [9, 9, 0, 0, 2, 9], b: [39, 9, 0, 0, 3, 39] },
  };
  const RULES = { count: "count", kl: "KL", tfidf: "TF-IDF" };
  const COLUMNS = { c: "c, reads of this step", d: "f, background sequences that read it", b: "b, background reads" };

  piece("scores", (place) => {
    const start = Object.values(EXAMPLES)[0];
    const boxes = start.c.map((_, i) => Object.fromEntries(Object.entries(COLUMNS).map(([name, label]) =>
      [name, whole(`Row ${i}: ${label}`, { max: name === "d" ? N : 99, value: start[name][i] }, draw)])));
    const budget = slider("T, rows that may change", { min: 1, max: 6, step: 1, value: 2 }, draw);
    const cells = boxes.map(() => Object.fromEntries(Object.keys(RULES).map((rule) => [rule, html("td")])));
    const shares = boxes.map(() => html("td", { class: "move-wide" }));
    const words = said();
    const examples = Object.entries(EXAMPLES).map(([name, counts]) => button(name, () => {
      boxes.forEach((row, i) => Object.keys(COLUMNS).forEach((column) => { row[column].value = counts[column][i]; }));
      draw();
    }));
    const head = ["row", "c", "f", "b", "p / q", ...Object.values(RULES)];
    place.append(
      html("div", { class: "move-controls" }, budget.row, html("div", { class: "move-buttons" }, examples)),
      html("div", { class: "move-scroll", tabindex: 0, role: "region", "aria-label": "Six rows" },
        html("table", { class: "move-counts", "aria-label": "Counts and scores of six rows" },
          html("thead", {}, html("tr", {}, head.map((cell) => html("th", { scope: "col", class: cell.includes("/") && "move-wide" }, cell)))),
          html("tbody", {}, boxes.map((row, i) => html("tr", {}, html("th", { scope: "row" }, String(i)),
            Object.keys(COLUMNS).map((column) => html("td", {}, row[column].input)),
            shares[i], Object.values(cells[i])))))),
      words);

    function draw() {
      const [c, b, d] = ["c", "b", "d"].map((name) => boxes.map((row) => row[name].value));
      const scores = rowScores(c, b, d, N);
      const chosen = {};
      for (const rule of Object.keys(RULES)) {
        chosen[rule] = selectRows(scores[rule], budget.value);
        cells.forEach((row, i) => {
          const score = scores[rule][i];
          const taken = chosen[rule].includes(i);
          row[rule].className = taken ? "move-read" : "";
          row[rule].textContent = score === null ? "–" : text(score) + (taken ? "\u00a0✓" : "");
        });
      }
      shares.forEach((cell, i) => { cell.textContent = `${text(scores.p[i], 2)} / ${text(scores.q[i], 2)}`; });
      const impossible = b.findIndex((reads, i) => reads < d[i]);
      const list = (rows) => (rows.length ? rows.join(", ") : "none");
      const unread = c.flatMap((reads, i) => (reads ? [] : [i]));
      words.textContent = (impossible < 0 ? "" :
        `Row ${impossible} cannot be read by ${d[impossible]} sequences with ${b[impossible]} reads: make b at least f. `) +
        Object.entries(RULES).map(([rule, name]) => `${name} picks ${list(chosen[rule])}`).join("; ") + "." +
        (unread.length ? ` Not read in this step, so never a candidate (–): ${list(unread)}.` : "");
    }
    draw();
  });
})();
