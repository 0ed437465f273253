"""Time of a training step: sparse memory finetuning, LoRA and full finetuning, same tokens.

The model has the architecture of SmolLM2-135M with random weights, which take the same time as
trained ones. Methods have the settings of profiles/quick.yaml; all train with AdamW, under
bfloat16 autocast where the machine has it in hardware. They take steps in turn in one process, on
the same tokens: 36 in a sequence of which the last 9 bear loss, as in the study's training
questions on average, and 128 that all bear loss.

Each method steps in two ways: as the study trains it, with what
`smf_lib.study.training.shortcuts` and `smf_lib.study.training.frozen.kept_casts` leave out, and
"plain", as transformers and PEFT alone do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.common import (
    PRECISION,
    interleave,
    invent_background,
    medians,
    options,
    ratio,
    report,
    smol_model,
    timed,
)
from smf_lib import SparseMemoryConfig
from smf_lib.method.background import memories
from smf_lib.study.tasks.formats import IGNORED
from smf_lib.study.training.frozen import kept_casts
from smf_lib.study.training.shortcuts import plain_attention

LORA = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": "all-linear",
}
MEMORY = {
    "layers": [8, 15, 22],
    "num_subkeys": 64,
    "num_heads": 4,
    "top_k": 16,
    "key_dim": 128,
    "rule": "kl",
    "rows_per_step": 512,
}
PLAIN = ", plain"  # ends the names of arms that step as transformers and PEFT alone do


def models(layers: int, small: bool) -> dict[str, nn.Module]:
    """One model a method, all with the same base weights."""

    def base() -> nn.Module:
        return smol_model(layers, 49_152, small)

    memory = MEMORY | ({"layers": [1, 2]} if small else {})

    def smf() -> nn.Module:
        model = get_peft_model(base(), SparseMemoryConfig(task_type="CAUSAL_LM", **memory))
        for layer in memories(model).values():
            invent_background(layer)
        return model

    def lora() -> nn.Module:
        return get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **LORA))

    made = {"smf": smf, "lora": lora, "full": base}
    return {name + way: make() for way in ("", PLAIN) for name, make in made.items()}


def stepper(
    model: nn.Module, sequences: int, length: int, scored: int, plain: bool
) -> Callable[[], float]:
    """A function that takes one step on new random tokens and returns the seconds it took.

    The last `scored` tokens of each sequence bear loss; unless `plain`, logits are made there only.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    random = torch.Generator().manual_seed(0)
    first = max(length - scored, 1)  # the first token of a sequence is never predicted

    def update(batch: dict[str, torch.Tensor]) -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16"):
            model(**batch).loss.backward()
        with_gradient = [p for p in trained if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(with_gradient, 1.0)
        optimizer.step()

    def step() -> float:
        ids = torch.randint(model.config.vocab_size, (sequences, length), generator=random)
        labels = ids.clone()
        labels[:, :first] = IGNORED
        batch = {"input_ids": ids, "labels": labels}
        if not plain:
            keep = torch.arange(first - 1, length - 1)
            batch |= {"logits_to_keep": keep, "shift_labels": ids[:, first:].contiguous()}
        return timed(lambda: update(batch))

    return step


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    layers, sequences, lengths, rounds = 30, 8, {36: 9, 128: 128}, 15
    if arguments.small:
        layers, sequences, lengths, rounds = 4, 2, {8: 3}, 2
    found = models(layers, arguments.small)
    results, batches = {}, {}
    with ExitStack() as stack:
        for name, model in found.items():
            if not name.endswith(PLAIN):
                stack.enter_context(kept_casts(model))
                stack.enter_context(plain_attention(model, max(lengths)))
        for length, scored in lengths.items():
            steppers = {
                name: stepper(model, sequences, length, scored, name.endswith(PLAIN))
                for name, model in found.items()
            }
            seconds = interleave(steppers, rounds, warmup=2)
            batch = f"{sequences} x {length} tokens, loss on {scored}"
            batches[batch] = {"sequences": sequences, "length": length, "scored": scored}
            results[batch] = {"median_seconds": medians(seconds)}
            for other in ("lora", "full"):
                results[batch] |= {
                    f"smf_against_{other}": ratio(seconds, "smf", other),
                    f"smf_against_plain_{other}": ratio(seconds, "smf", other + PLAIN),
                    f"plain_smf_against_plain_{other}": ratio(
                        seconds, "smf" + PLAIN, other + PLAIN
                    ),
                }
    config = found["full"].config
    settings = {
        "layers": layers,
        "batches": batches,
        "rounds": rounds,
        "lora": LORA,
        "memory": MEMORY,
        "precision": PRECISION,
        "model": "architecture of SmolLM2-135M, random weights",
        "shape": {
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "key_value_size": config.num_key_value_heads * config.head_dim,
            "vocab_size": config.vocab_size,
        },
        "trainable_parameters": {
            name: sum(p.numel() for p in model.parameters() if p.requires_grad)
            for name, model in found.items()
        },
    }
    report("step_vs_methods", arguments, settings, results)


if __name__ == "__main__":
    main()
