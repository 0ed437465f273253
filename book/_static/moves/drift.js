/* Read drift at one gain along recorded curves, which the page holds as JSON. */
(function () {
  "use strict";
  const { driftAt } = window.smfArithmetic;
  const { html, svg, slider, piece, text, said } = window.smfPage;
  const KINDS = ["cool", "warm", "third"];

  piece("drift", (place) => {
    const held = document.getElementById("recorded-curves");
    if (!held) {
      place.textContent = "No study of whole curves is on record, so there is nothing to read here.";
      return;
    }
    const recorded = JSON.parse(held.textContent);
    const curves = recorded.curves.map((curve, i) => ({ ...curve, kind: KINDS[i % KINDS.length] }));
    const all = (field) => curves.flatMap((curve) => curve[field]);
    const top = Math.ceil(Math.max(...all("gains")));
    const decades = [Math.floor(Math.log10(Math.min(...all("drifts")))), Math.ceil(Math.log10(Math.max(...all("drifts"))))];
    const x = (gain) => 40 + (Math.max(gain, 0) / top) * 294;
    const y = (drift) => 190 - ((Math.log10(drift) - decades[0]) / (decades[1] - decades[0])) * 170;
    const points = (number) => `${text(number, 1)} points`;
    const nats = (number) => String(Number(number.toPrecision(2)));
    const gain = slider("gain to compare at", { min: 0.5, max: top, step: 0.5, value: Math.round(top / 2), show: points }, draw);
    const chart = html("div", { class: "move-chart" });
    const key = html("p", { class: "move-key" }, curves.map((curve) =>
      html("span", { class: `move-${curve.kind}` }, `● ${curve.label}`)));
    const words = said();
    place.append(html("div", { class: "move-controls" }, gain.row), key, chart, words);

    function draw() {
      const at = gain.value;
      const found = curves.map((curve) => {
        const log = driftAt(curve.gains, curve.drifts.map(Math.log), at);
        return { ...curve, drift: log === null ? null : Math.exp(log) };
      });
      const ticks = [];
      for (let power = decades[0]; power <= decades[1]; power++) ticks.push(10 ** power);
      chart.replaceChildren(svg("svg", { viewBox: "0 0 350 225", role: "img", "aria-label":
        `Curves of drift over gain of study ${recorded.study}, and a line at a gain of ${points(at)}` },
        ticks.map((value) => svg("g", {},
          svg("line", { class: "move-rule", x1: 40, x2: 334, y1: y(value), y2: y(value) }),
          svg("text", { x: 36, y: y(value) + 4, "text-anchor": "end" }, nats(value)))),
        Array.from({ length: Math.floor(top / 5) + 1 }, (_, i) =>
          svg("text", { x: x(5 * i), y: 206, "text-anchor": "middle" }, String(5 * i))),
        svg("text", { x: 187, y: 222, "text-anchor": "middle" }, "gain on the exam, points"),
        svg("text", { x: 4, y: 12 }, "KL from the base model, nats a token"),
        svg("line", { class: "move-height", x1: x(at), x2: x(at), y1: 20, y2: 190 }),
        found.map((curve) => svg("g", {},
          svg("polyline", { class: `move-line move-${curve.kind}`,
            points: curve.gains.map((g, i) => `${x(g)},${y(curve.drifts[i])}`).join(" ") }),
          curve.gains.map((g, i) => svg("circle", { class: `move-dot move-${curve.kind}`, cx: x(g), cy: y(curve.drifts[i]), r: 3 })),
          curve.drift === null ? null : svg("circle", { class: `move-dot move-open move-${curve.kind}`, cx: x(at), cy: y(curve.drift), r: 5 })))));
      const reached = found.map((curve) => curve.drift === null
        ? `${curve.label} has no run on both sides, so nothing can be said about it there`
        : `${curve.label} has drifted ${nats(curve.drift)} nats`);
      const [first, ...others] = found.filter((curve) => curve.drift !== null);
      const times = (others || []).map((curve) => `${curve.label} ${text(curve.drift / first.drift, 1)} times`);
      words.textContent = `At a gain of ${points(at)}: ${reached.join("; ")}.` +
        (times.length ? ` In units of ${first.label}: ${times.join(", ")}.` : "");
    }
    draw();
  });
})();
