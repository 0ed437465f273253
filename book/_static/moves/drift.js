/* Read drift at one gain along two curves. The curves are invented and the page says so. */
(function () {
  "use strict";
  const { driftAt } = window.smfArithmetic;
  const { html, svg, slider, piece, text, said } = window.smfPage;
  const CURVES = {
    A: { kind: "warm", gains: [0, 3, 6, 9, 11], drifts: [0, 0.4, 1.2, 2.6, 4] },
    B: { kind: "cool", gains: [0, 2, 4, 6, 7.5], drifts: [0, 0.05, 0.2, 0.6, 1.4] },
  };

  piece("drift", (place) => {
    const points = (x) => `${text(x, 1)} points`;
    const gain = slider("gain to compare at", { min: 0.5, max: 11, step: 0.5, value: 6, show: points }, draw);
    const chart = html("div", { class: "move-chart" });
    const words = said();
    place.append(html("div", { class: "move-controls" }, gain.row), chart, words);

    function draw() {
      const at = gain.value;
      const x = (value) => 34 + (value / 11.5) * 300;
      const y = (value) => 170 - (value / 4.2) * 150;
      const drift = Object.fromEntries(Object.entries(CURVES).map(([name, curve]) =>
        [name, driftAt(curve.gains, curve.drifts, at)]));
      const marks = Object.entries(CURVES).map(([name, curve]) => {
        const last = curve.gains.length - 1;
        return svg("g", {},
          svg("polyline", { class: `move-line move-${curve.kind}`,
            points: curve.gains.map((g, i) => `${x(g)},${y(curve.drifts[i])}`).join(" ") }),
          curve.gains.map((g, i) => svg("circle", { class: `move-dot move-${curve.kind}`, cx: x(g), cy: y(curve.drifts[i]), r: 3 })),
          svg("text", { x: x(curve.gains[last]) + (name === "A" ? -8 : 8), y: y(curve.drifts[last]) + 4,
            "text-anchor": name === "A" ? "end" : "start" }, `method ${name}`),
          drift[name] === null ? null : svg("line", { class: `move-line move-${curve.kind} move-dash`,
            x1: 34, x2: x(at), y1: y(drift[name]), y2: y(drift[name]) }));
      });
      chart.replaceChildren(svg("svg", { viewBox: "0 0 350 205", role: "img", "aria-label":
        `Two invented curves of drift over gain, and a line at a gain of ${text(at, 1)} points` },
        [0, 1, 2, 3, 4].map((value) => svg("g", {},
          svg("line", { class: "move-rule", x1: 34, x2: 334, y1: y(value), y2: y(value) }),
          svg("text", { x: 30, y: y(value) + 4, "text-anchor": "end" }, `${value} %`))),
        [0, 2, 4, 6, 8, 10].map((value) => svg("text", { x: x(value), y: 186, "text-anchor": "middle" }, String(value))),
        svg("text", { x: 184, y: 202, "text-anchor": "middle" }, "gain, points"),
        svg("text", { x: 4, y: 12 }, "drift of perplexity"),
        svg("line", { class: "move-height", x1: x(at), x2: x(at), y1: 20, y2: 170 }), marks));
      const reached = Object.entries(drift).map(([name, value]) => value === null ?
        `${name} does not reach ${points(at)}, so nothing can be said about it there` : `${name} has drifted ${text(value, 2)} %`);
      words.textContent = `At a gain of ${points(at)}, ${reached.join("; ")}.` + (drift.A === null || !drift.B ? "" :
        ` A drifts ${text(drift.A / drift.B, 1)} times as much as B.`);
    }
    draw();
  });
})();
