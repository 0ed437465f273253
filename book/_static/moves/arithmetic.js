/* The arithmetic of the book's moving pieces. It touches no page, so that the tests run it beside
   the library's own (tests/report/test_moves.py). Every function takes and returns plain values. */
(function (root) {
  "use strict";

  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

  /* Places of the k largest numbers, the largest first; of equal ones the first. */
  function top(numbers, k) {
    const places = numbers.map((_, place) => place);
    places.sort((a, b) => numbers[b] - numbers[a] || a - b);
    return places.slice(0, k);
  }

  /* A product-key lookup of one head. halves: [q1, q2]; keys: [a, b], two lists of n sub-keys. */
  function lookup(halves, keys, k) {
    const n = keys[0].length;
    const scores = keys.map((list, half) => list.map((key) => dot(halves[half], key)));
    const survivors = scores.map((list) => top(list, k));
    const pairs = survivors[0].flatMap((i) => survivors[1].map((j) => [i, j]));
    const sums = pairs.map(([i, j]) => scores[0][i] + scores[1][j]);
    const best = top(sums, k);
    const parts = best.map((place) => Math.exp(sums[place] - sums[best[0]]));
    const total = parts.reduce((a, b) => a + b, 0);
    return {
      scores,
      survivors,
      pairs,
      sums,
      rows: best.map((place) => pairs[place][0] * n + pairs[place][1]),
      rowScores: best.map((place) => sums[place]),
      weights: parts.map((part) => part / total),
    };
  }

  /* The weighted sum of the value rows that were read. */
  function read(rows, weights, values) {
    return values[0].map((_, column) =>
      rows.reduce((sum, row, place) => sum + weights[place] * values[row][column], 0)
    );
  }

  /* Score every row of a small table. c: reads of the step; b, d: reads and documents of the
     background; N: its documents. A row that was not read has no score (null). */
  function rowScores(c, b, d, N) {
    const all = c.reduce((a, x) => a + x, 0);
    const background = b.reduce((a, x) => a + x, 0) + b.length;
    const p = c.map((x) => (all ? x / all : 0));
    const q = b.map((x) => (x + 1) / background);
    const scored = (rule) => c.map((x, i) => (x > 0 ? rule(i) : null));
    return {
      p,
      q,
      count: scored((i) => c[i]),
      kl: scored((i) => p[i] * Math.log(p[i] / q[i])),
      tfidf: scored((i) => p[i] * Math.log((N + 1) / (d[i] + 1))),
    };
  }

  /* Rows to update, ascending: the T highest scores among the rows that were read. */
  function selectRows(scores, T) {
    const candidates = scores.map((_, row) => row).filter((row) => scores[row] !== null);
    const places = top(candidates.map((row) => scores[row]), T);
    return places.map((place) => candidates[place]).sort((a, b) => a - b);
  }

  /* How far one number moves in each step, in units of the learning rate, with gradient 1 in the
     steps that select its row. masked: Adam that sees gradient 0 in the others; rowwise: Adam with
     the row's own step count that does nothing in the others. Epsilon is left out. */
  function adamMoves(selected, beta1, beta2) {
    function run(steps) {
      let m = 0;
      let v = 0;
      return steps.map((gradient, i) => {
        m = beta1 * m + (1 - beta1) * gradient;
        v = beta2 * v + (1 - beta2) * gradient * gradient;
        const ahead = m / (1 - beta1 ** (i + 1));
        return v === 0 ? 0 : ahead / Math.sqrt(v / (1 - beta2 ** (i + 1)));
      });
    }
    const own = run(selected.filter(Boolean).map(() => 1));
    let next = 0;
    return {
      masked: run(selected.map((chosen) => (chosen ? 1 : 0))),
      rowwise: selected.map((chosen) => (chosen ? own[next++] : 0)),
    };
  }

  /* Lowest drift at which a curve of points passes a gain, straight lines between neighbours; null
     where it does not. The points are joined in their order. */
  function driftAt(gains, drifts, at) {
    let lowest = null;
    for (let i = 0; i + 1 < gains.length; i++) {
      const [left, right] = [gains[i], gains[i + 1]];
      if (Math.min(left, right) > at || at > Math.max(left, right)) continue;
      const height =
        left === right
          ? Math.min(drifts[i], drifts[i + 1])
          : drifts[i] + ((at - left) / (right - left)) * (drifts[i + 1] - drifts[i]);
      if (lowest === null || height < lowest) lowest = height;
    }
    return lowest;
  }

  /* Multiply-adds a token of one training step: [forward, backward to activations, to weights].
     shape: width, inner, kv, vocab, layers; memory: layers, subkeys, heads, topK, keyDim;
     scored: share of the tokens that bear loss. */
  function stepCost(shape, memory, rank, scored) {
    const { width, inner, kv } = shape;
    const maps = [
      [width, width], [width, kv], [width, kv], [width, width],
      [width, inner], [width, inner], [inner, width],
    ];
    const layer = maps.reduce((sum, [a, b]) => sum + a * b, 0);
    const head = scored * width * shape.vocab;
    const body = shape.layers * layer + head;
    const lora = shape.layers * rank * maps.reduce((sum, [a, b]) => sum + a + b, 0);
    const one =
      memory.heads * memory.keyDim * (width + memory.subkeys) + memory.heads * memory.topK * width;
    const above = shape.layers - 1 - Math.min(...memory.layers);
    const n = memory.layers.length;
    return {
      smf: [body + n * one, above * layer + head + (n - 1) * one, 0],
      lora: [body + lora, body + lora, lora],
      full: [body, body, body],
    };
  }

  const functions = { lookup, read, rowScores, selectRows, adamMoves, driftAt, stepCost };
  if (typeof module !== "undefined" && module.exports) module.exports = functions;
  else root.smfArithmetic = functions;
})(typeof self !== "undefined" ? self : this);
