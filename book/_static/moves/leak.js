/* Adam's leak: a masked gradient beside a row-wise step, for one number of one row. */
(function () {
  "use strict";
  const { adamMoves } = window.smfArithmetic;
  const { html, svg, slider, button, piece, text, said } = window.smfPage;
  const STEPS = 20;

  piece("leak", (place) => {
    const boxes = Array.from({ length: STEPS }, (_, i) => html("input", {
      type: "checkbox", checked: i === 0, "aria-label": `selected in step ${i + 1}`, onchange: draw,
    }));
    const beta1 = slider("β₁", { min: 0, max: 0.98, step: 0.02, value: 0.9, show: (x) => text(x, 2) }, draw);
    const chart = html("div", { class: "move-chart" });
    const words = said();
    const set = (rule) => () => { boxes.forEach((box, i) => { box.checked = rule(i); }); draw(); };
    place.append(
      html("fieldset", { class: "move-steps" }, html("legend", {}, "Steps in which the row is selected, with gradient 1"),
        boxes.map((box, i) => html("label", {}, box, html("span", {}, String(i + 1))))),
      html("div", { class: "move-controls" }, beta1.row, html("div", { class: "move-buttons" },
        button("Only step 1", set((i) => i === 0)), button("Steps 1 and 3", set((i) => i === 0 || i === 2)),
        button("Every fifth", set((i) => i % 5 === 0)), button("Every step", set(() => true)))),
      chart, words);

    function draw() {
      const selected = boxes.map((box) => box.checked);
      const moves = adamMoves(selected, beta1.value, 0.999);
      const path = (list) => list.reduce((sums, move) => [...sums, sums[sums.length - 1] + move], [0]);
      const [masked, rowwise] = [path(moves.masked), path(moves.rowwise)];
      const most = Math.max(1, masked[STEPS], rowwise[STEPS]);
      const x = (step) => 34 + (step / STEPS) * 300;
      const y = (sum) => 170 - (sum / most) * 150;
      const line = (sums, kind) => svg("polyline", {
        class: `move-line move-${kind}`, points: sums.map((sum, i) => `${x(i)},${y(sum)}`).join(" ") });
      const dots = (sums, kind) => sums.slice(1).map((sum, i) => svg("circle", {
        class: `move-dot move-${kind}${selected[i] ? "" : " move-open"}`, cx: x(i + 1), cy: y(sum), r: 3 }));
      const ticks = [0, 0.5, 1].map((share) => svg("g", {},
        svg("line", { class: "move-rule", x1: 34, x2: 334, y1: y(share * most), y2: y(share * most) }),
        svg("text", { x: 30, y: y(share * most) + 4, "text-anchor": "end" }, text(share * most, 1))));
      chart.replaceChildren(svg("svg", { viewBox: "0 0 350 205", role: "img", "aria-label":
        `Path of the number over ${STEPS} steps: ${text(masked[STEPS], 2)} η under a masked gradient, ${text(rowwise[STEPS], 2)} η row-wise` },
        ticks, [1, 5, 10, 15, 20].map((step) => svg("text", { x: x(step), y: 186, "text-anchor": "middle" }, String(step))),
        svg("text", { x: 184, y: 202, "text-anchor": "middle" }, "step"),
        svg("text", { x: 4, y: 12 }, "moved in all, in units of η"),
        line(masked, "warm"), line(rowwise, "cool"), dots(masked, "warm"), dots(rowwise, "cool")),
      html("p", { class: "move-key" },
        html("span", { class: "move-warm" }, "● dense Adam, masked gradient"), " ",
        html("span", { class: "move-cool" }, "● row-wise Adam"), " ○ not selected in this step"));
      const leaked = moves.masked.reduce((sum, move, i) => sum + (selected[i] ? 0 : move), 0);
      const steps = moves.masked.filter((move, i) => !selected[i] && move !== 0).length;
      words.textContent = `Masked: ${text(leaked, 2)} η of ${text(masked[STEPS], 2)} η in ` +
        `${steps} ${steps === 1 ? "step" : "steps"} that did not select the row. Row-wise: 0 of ${text(rowwise[STEPS], 2)} η.`;
    }
    draw();
  });
})();
