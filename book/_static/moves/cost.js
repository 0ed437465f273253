/* Predict what one training step costs, in multiply-adds a token. */
(function () {
  "use strict";
  const { stepCost } = window.smfArithmetic;
  const { html, svg, slider, choice, piece, text, said } = window.smfPage;
  const MODELS = {
    smollm: { name: "SmolLM2-135M", width: 576, inner: 1536, kv: 192, vocab: 49152, layers: 30 },
    qwen: { name: "Qwen2.5-0.5B", width: 896, inner: 4864, kv: 128, vocab: 151936, layers: 24 },
  };
  const METHODS = { full: "Full finetuning", lora: "LoRA", smf: "SMF" };
  const PARTS = ["forward", "backward to activations", "backward to weights"];

  piece("cost", (place) => {
    const percent = (x) => `${Math.round(100 * x)} %`;
    const model = choice("model", Object.fromEntries(Object.entries(MODELS).map(([key, m]) => [key, m.name])), "smollm", draw);
    const lowest = slider("lowest memory, share of the depth", { min: 0, max: 0.95, step: 0.05, value: 0.25, show: percent }, draw);
    const count = slider("memory layers", { min: 1, max: 6, step: 1, value: 3 }, draw);
    const subkeys = slider("sub-keys a half", { min: 32, max: 1024, step: 32, value: 64 }, draw);
    const rank = slider("rank of LoRA", { min: 1, max: 128, step: 1, value: 16 }, draw);
    const scored = slider("tokens that bear loss", { min: 0.05, max: 1, step: 0.05, value: 0.25, show: percent }, draw);
    const chart = html("div", { class: "move-chart" });
    const words = said();
    place.append(html("div", { class: "move-controls" },
      [model, lowest, count, subkeys, rank, scored].map((control) => control.row)), chart, words);

    function draw() {
      const shape = MODELS[model.value];
      const bottom = Math.min(Math.round(lowest.value * shape.layers), shape.layers - count.value);
      const memory = { layers: Array.from({ length: count.value }, (_, i) => bottom + i),
        subkeys: subkeys.value, heads: 4, topK: 16, keyDim: 128 };
      const costs = stepCost(shape, memory, rank.value, scored.value);
      const totals = Object.fromEntries(Object.entries(costs).map(([name, parts]) => [name, parts.reduce((a, b) => a + b, 0)]));
      const most = Math.max(...Object.values(totals));
      const bars = Object.keys(METHODS).map((name, i) => {
        let left = 0;
        return svg("g", {},
          svg("text", { x: 4, y: 18 + 52 * i }, `${METHODS[name]}: ${text(totals[name] / 1e6, 0)} million`),
          costs[name].map((part, p) => {
            const x = 4 + (left / most) * 342;
            left += part;
            return svg("rect", { class: `move-part-${p}`, x, y: 24 + 52 * i, width: (part / most) * 342, height: 20 });
          }));
      });
      chart.replaceChildren(svg("svg", { viewBox: "0 0 350 160", role: "img", "aria-label":
        "Multiply-adds a token of one step: " + Object.keys(METHODS).map((n) => `${METHODS[n]} ${text(totals[n] / 1e6, 0)} million ` +
          `(${costs[n].map((part, p) => `${PARTS[p]} ${text(part / 1e6, 0)}`).join(", ")})`).join("; ") }, bars),
      html("p", { class: "move-key" }, PARTS.map((part, p) => html("span", { class: `move-key-${p}` }, `■ ${part} `))));
      const above = shape.layers - 1 - bottom;
      words.textContent = `The lowest memory sits in layer ${bottom} of ${shape.layers} (from 0), so the backward pass crosses ` +
        `${above} ${above === 1 ? "layer" : "layers"}. SMF needs ${text(totals.smf / totals.full, 2)} of full finetuning's ` +
        `multiply-adds and ${text(totals.smf / totals.lora, 2)} of LoRA's.`;
    }
    draw();
  });
})();
