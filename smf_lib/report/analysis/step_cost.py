"""Recorded benchmarks, and how many multiplications a training step should take."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

Benchmark = dict[str, Any]  # what `benchmarks.common.report` writes
NAMES = (
    "step_vs_table",
    "step_vs_methods",
    "layer_vs_pkm",
    "saved_size",
    "rows_read",
    "scoring_vs_hflm",
    "on_device",
    "on_device_cuda",  # the same on a GPU
)


def read_benchmark(results: Path, name: str) -> Benchmark | None:
    """The benchmark recorded in `results`/benchmarks, or None.

    Raises ValueError for an unknown name, or a file that holds no run at full size.
    """
    if name not in NAMES:
        raise ValueError(f"name={name!r} is no benchmark; choose one of {', '.join(NAMES)}")
    file = Path(results) / "benchmarks" / f"{name}.json"
    if not file.is_file():
        return None
    try:
        record = json.loads(file.read_text())
        whole = record["benchmark"] == name.removesuffix("_cuda") and not record["small"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a benchmark's record: {error!r}; remove it") from error
    if not whole:
        raise ValueError(f"{file} is not a full run of {name}; remove it")
    return record


def with_range(ratio: dict[str, float]) -> str:
    """`0.55 [0.50, 0.61]`: the median of a ratio, the least and the most of any round."""
    return f"{ratio['median']:.2f} [{ratio['least']:.2f}, {ratio['most']:.2f}]"


def multiplications(settings: dict[str, Any], batch: str) -> dict[str, tuple[float, float, float]]:
    """Multiply-adds a token of one step by method: forward, backward to activations, to weights.

    settings: those of the record "step_vs_methods"; batch: the name of one of its batches. Linear
    maps and the memory are counted, the map to the vocabulary only where a token bears loss;
    attention scores, normalisation and the optimizer are not.
    """
    shape, memory, rank = settings["shape"], settings["memory"], settings["lora"]["r"]
    width, inner, kv = shape["hidden_size"], shape["intermediate_size"], shape["key_value_size"]
    maps = [(width, width), (width, kv), (width, kv), (width, width)]
    maps += [(width, inner), (width, inner), (inner, width)]
    layer = sum(a * b for a, b in maps)
    scored = settings["batches"][batch]["scored"] / settings["batches"][batch]["length"]
    head, layers = scored * width * shape["vocab_size"], settings["layers"]
    body = layers * layer + head
    lora = layers * rank * sum(a + b for a, b in maps)
    query = memory["num_heads"] * memory["key_dim"]
    one = query * (width + memory["num_subkeys"]) + memory["num_heads"] * memory["top_k"] * width
    above = layers - 1 - min(memory["layers"])
    n = len(memory["layers"])
    return {
        "smf": (body + n * one, above * layer + head + (n - 1) * one, 0.0),
        "lora": (body + lora, body + lora, lora),
        "full": (body, body, body),
    }


def expected_steps(record: Benchmark | None) -> pd.DataFrame:
    """One row a batch and method: multiply-adds a token in millions, and SMF's total against it.

    Empty if the benchmark of methods is not on record, since that says for which model to count.
    """
    if record is None:
        return pd.DataFrame()
    parts = ("forward", "backward, activations", "backward, weights")
    rows = []
    for batch in record["settings"]["batches"]:
        counts = multiplications(record["settings"], batch)
        for name, count in counts.items():
            rows.append(
                {"batch": batch, "method": METHODS[name]}
                | {f"{part} (M)": f"{value / 1e6:.0f}" for part, value in zip(parts, count)}
                | {
                    "together (M)": f"{sum(count) / 1e6:.0f}",
                    "sparse memory against it": f"{sum(counts['smf']) / sum(count):.2f}",
                }
            )
    return pd.DataFrame(rows)


METHODS = {"smf": "Sparse memory", "lora": "LoRA", "full": "Full finetuning"}
