"""Where in the base model's own texts the divergence lies when weights move by next to nothing.

Each weight moves up or down by one small number, by lot, as the first steps of full finetuning
move it, and the base model is compared with that model position by position, in both number
formats; in bfloat16 also with itself in 32 bits. Texts that begin alike share what happens at
their first positions. What the recorded frontier says without the largest such group stands
beside it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from benchmarks.common import options, report
from smf_lib.report.analysis.arms import METHOD, REFERENCES
from smf_lib.report.analysis.frontier import frontier_of, read_frontier
from smf_lib.report.measures import DIVERGENCE
from smf_lib.study import Study
from smf_lib.study.evaluation.reading import inference

BATCH = 8  # texts


def log_probabilities(model: PreTrainedModel, ids: Tensor, precision: str) -> Tensor:
    """Of the next token at every position, (texts, tokens, vocabulary) float32."""
    with inference(model, precision):
        return model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)


def divergence(
    base: PreTrainedModel, other: PreTrainedModel, ids: Tensor, first: str, second: str
) -> Tensor:
    """KL(base || other) in nats, (texts, tokens); the number format of each model."""
    found = []
    for batch in tqdm(ids.split(BATCH), desc=f"{first}, {second}", unit="batch"):
        p, q = log_probabilities(base, batch, first), log_probabilities(other, batch, second)
        found.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(found)


def nudged(model: PreTrainedModel, by: float) -> PreTrainedModel:
    """A copy with every weight moved up or down by the same number, by lot."""
    random = torch.Generator().manual_seed(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in other.parameters():
            sign = torch.randint(0, 2, weight.shape, generator=random) * 2 - 1
            weight.add_(by * sign)
    return other


def parts(found: Tensor, group: Tensor) -> dict[str, Any]:
    """Mean divergence a token in the group of texts and in the others, and at their positions."""
    return {
        name: {
            "mean": float(texts.mean()),
            "at": [float(x) for x in texts.mean(0)[:3]],
            "from_the_fourth_on": float(texts[:, 3:].mean()),
        }
        for name, texts in (("group", found[group]), ("others", found[~group]))
    }


def on_record(keep: Sequence[int]) -> dict[str, Any]:
    """The method's drift over each reference's at equal gain, by all own texts and by some."""
    whole = read_frontier("frontier")
    if whole.base is None:
        return {}
    at = float(whole.common_gain([METHOD, *REFERENCES]))
    fewer = []
    for record in whole.records:
        metric = record.metrics[DIVERGENCE]
        items = [metric.items[i] for i in keep]
        few = metric.model_copy(update={"items": items, "n": len(items)})
        fewer.append(record.model_copy(update={"metrics": record.metrics | {DIVERGENCE: few}}))
    found: dict[str, Any] = {"gain": at}
    for name, frontier in (("all", whole), ("without_group", frontier_of(fewer))):
        ratios = {other: frontier.ratio((METHOD, other), at) for other in REFERENCES}
        found[name] = {other: [r.value, r.low, r.high] for other, r in ratios.items()}
    return found


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    study = Study.load("smoke" if arguments.small else "frontier")
    base, tokenizer = study.load_base()
    texts = study.self_text((base, tokenizer))
    ids = torch.tensor(texts)
    (token, many), *_ = Counter(ids[:, 1].tolist()).most_common(1)
    group = ids[:, 1] == token
    results: dict[str, Any] = {
        "bf16_against_fp32": parts(divergence(base, base, ids, "fp32", "bf16"), group)
    }
    for by in (1e-5, 1e-4):
        other = nudged(base, by)
        results[f"moved_by_{by:g}"] = {
            precision: parts(divergence(base, other, ids, precision, precision), group)
            for precision in ("fp32", "bf16")
        }
    if not arguments.small:
        kept = torch.nonzero(~group).flatten().tolist()
        results["frontier"] = on_record(kept)
    settings = {
        "model": study.model_files.name,
        "texts": len(texts),
        "tokens": ids.shape[1],
        "group": {"begins": tokenizer.decode(ids[group][0, :2]), "texts": many},
    }
    report("own_text_positions", arguments, settings, results)


if __name__ == "__main__":
    main()
