"""The baselines of sequences: earlier tasks among the rows, and adapters that are merged."""

from __future__ import annotations

import random
from typing import Annotated, Literal

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import Field
from torch import nn

from ..baselines import Change
from ..sequences import StageStart

EARLIER, MERGED = "earlier", "merged"  # adapters that are there while two are merged


def replay_tasks(start: StageStart, share: Annotated[float, Field(gt=0, lt=1)] = 0.2) -> Change:
    """Rows of the tasks learned before among those of this one: `share` of all rows.

    Experience replay (Robins 1995; Chaudhry et al., arXiv 1902.10486), with all earlier rows to
    draw from: as many of each task, drawn from the seed, none twice before all were drawn. It has
    more rows than a stage without replay, and so more steps.

    Raises:
        ValueError: no task was learned before; name in `first` an arm for the first stage.
    """
    if not start.learned:
        raise ValueError(
            "baseline='replay_tasks': no task was learned before this one; let `first` name the "
            "arm whose first stage it shares"
        )
    wanted = round(len(start.rows) * share / (1 - share))
    rng = random.Random(f"replay of tasks {start.seed}")
    drawn: list[dict] = []
    for number, rows in enumerate(start.learned):
        own = wanted // len(start.learned) + (number < wanted % len(start.learned))
        found: list[dict] = []
        while len(found) < own:
            found += rng.sample(list(rows), len(rows))
        drawn += found[:own]
    return Change(rows=[*start.rows, *drawn])


def merge_adapters(
    start: StageStart,
    combination_type: Literal["svd", "linear", "ties", "dare_linear", "dare_ties"] = "svd",
    weights: tuple[float, float] = (1.0, 1.0),
    density: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> Change:
    """An adapter of this task alone, merged with what the stage before left.

    By PEFT's `add_weighted_adapter`: "svd" is the sum of both changes, cut to the adapter's rank;
    "linear" adds the factors; "ties" (Yadav et al., arXiv 2306.01708) and "dare_..." (Yu et al.,
    arXiv 2311.03099) keep a share `density` of the weights first. weights: of the stage before and
    of this task.

    Raises:
        ValueError: no task was learned before; name in `first` an arm for the first stage.
    """
    if start.parent is None:
        raise ValueError(
            "baseline='merge_adapters': no task was learned before this one; let `first` name the "
            "arm whose first stage it shares"
        )
    parent = start.parent

    def finish(model: nn.Module) -> None:
        torch.manual_seed(start.seed)  # which weights DARE drops
        state = get_peft_model_state_dict(parent())
        model.add_adapter(EARLIER, model.peft_config["default"])
        set_peft_model_state_dict(model, state, EARLIER)
        keeps = {} if combination_type in ("svd", "linear") else {"density": density}
        model.add_weighted_adapter(
            [EARLIER, "default"], list(weights), MERGED, combination_type, **keeps
        )
        merged = get_peft_model_state_dict(model, adapter_name=MERGED)
        scaling = _scaling(model)
        for name in merged:  # a merged adapter has a scaling of 1
            if ".lora_B." in name:
                merged[name] = merged[name] / scaling
        set_peft_model_state_dict(model, merged, "default")
        model.set_adapter("default")
        for name in (EARLIER, MERGED):
            model.delete_adapter(name)

    return Change(finish=finish)


def _scaling(model: nn.Module) -> float:
    """What LoRA's change is multiplied by, the same for all of a model's maps.

    Raises:
        ValueError: it differs between maps.
    """
    found = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
    if len(found) > 1:
        raise ValueError(
            f"rank_pattern or alpha_pattern give maps the scalings {sorted(found)}, and "
            "merge_adapters knows one for all; leave them out"
        )
    return found.pop()
