"""Time of a training step: sparse memory finetuning, LoRA and full finetuning, same tokens.

The model has the architecture of SmolLM2-135M with random weights, which take the same time as
trained ones. Methods have the settings of profiles/quick.yaml; all train with AdamW, under
bfloat16 autocast where the machine has it in hardware. They take steps in turn in one process, on
the same tokens: 36 in a sequence, as the study's training questions have on average, and 128.

Sparse memory finetuning steps within `smf_lib.kept_casts`, LoRA as PEFT gives it. Beside these two
stand the same without and with kept casts, which any method with frozen weights can use.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from benchmarks.common import (
    PRECISION,
    causal_loss,
    interleave,
    invent_background,
    medians,
    options,
    ratio,
    report,
    smol_model,
    timed,
)
from smf_lib import SparseMemoryConfig, kept_casts
from smf_lib.background import memories

LORA = {
    "r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear",
}
MEMORY = {
    "layers": [8, 15, 22], "num_subkeys": 64, "num_heads": 4, "top_k": 16, "key_dim": 128,
    "rule": "kl", "rows_per_step": 512,
}
KEPT = ("smf", "lora, casts kept")  # arms that step within kept_casts


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

    return {
        "smf": smf(), "lora": lora(), "full": base(),
        "smf, casts not kept": smf(), "lora, casts kept": lora(),
    }


def stepper(model: nn.Module, sequences: int, length: int) -> Callable[[], float]:
    """A function that takes one step on new random tokens and returns the seconds it took."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    random = torch.Generator().manual_seed(0)

    def update(ids: torch.Tensor) -> None:
        optimizer.zero_grad()
        causal_loss(model, ids).backward()
        with_gradient = [p for p in trained if p.grad is not None]
        torch.nn.utils.clip_grad_norm_(with_gradient, 1.0)
        optimizer.step()

    def step() -> float:
        ids = torch.randint(model.config.vocab_size, (sequences, length), generator=random)
        return timed(lambda: update(ids))

    return step


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    layers, sequences, lengths, rounds = 30, 8, (36, 128), 15
    if arguments.small:
        layers, sequences, lengths, rounds = 4, 2, (8,), 2
    found = models(layers, arguments.small)
    results = {}
    with ExitStack() as stack:
        for name in KEPT:
            stack.enter_context(kept_casts(found[name]))
        for length in lengths:
            steppers = {name: stepper(model, sequences, length) for name, model in found.items()}
            seconds = interleave(steppers, rounds, warmup=2)
            results[f"{sequences} x {length} tokens"] = {
                "median_seconds": medians(seconds),
                "smf_against_lora": ratio(seconds, "smf", "lora"),
                "smf_against_full": ratio(seconds, "smf", "full"),
                "casts_not_kept_smf_against_lora": ratio(seconds, "smf, casts not kept", "lora"),
                "casts_not_kept_smf_against_full": ratio(seconds, "smf, casts not kept", "full"),
                "casts_kept_smf_against_lora": ratio(seconds, "smf", "lora, casts kept"),
            }
    config = found["full"].config
    settings = {
        "layers": layers, "sequences": sequences, "lengths": lengths, "rounds": rounds,
        "lora": LORA, "memory": MEMORY, "precision": PRECISION,
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
