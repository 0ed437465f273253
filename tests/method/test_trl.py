"""TRL's trainers that compare with a reference, run as they are: KTO, and GRPO with a penalty.

The reference is the base model where the memory is new, and the memory's start where a trained one
is given. DPO stands in tests/test_own_training.py.
"""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from helpers_models import adamw, bits, memory_config, tables, tiny_model, tokens, train_step
from helpers_text import NUMBERS, word_tokenizer
from peft import get_peft_model
from transformers import AutoModelForCausalLM
from trl import GRPOConfig, GRPOTrainer, KTOConfig, KTOTrainer

STEPS = 2
SETTINGS = {
    "max_steps": STEPS,
    "learning_rate": 0.3,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 4,
    "beta": 0.5,
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
}
PROMPTS = [f"Question {one} Answer" for one in NUMBERS[:8]]


def kto(folder, **given):
    """Every log has what chosen and rejected answers earn beyond the reference."""
    rows = [
        {"prompt": prompt, "completion": f" {NUMBERS[n % 5]} six", "label": n % 2 == 0}
        for n, prompt in enumerate(PROMPTS)
    ]
    arguments = KTOConfig(str(folder), **SETTINGS)
    trainer = KTOTrainer(args=arguments, train_dataset=Dataset.from_list(rows), **given)
    return trainer, ("rewards/chosen", "rewards/rejected")


def grpo(folder, **given):
    """Every log has how far the policy is from the reference."""
    arguments = GRPOConfig(str(folder), num_generations=4, max_completion_length=6, **SETTINGS)
    trainer = GRPOTrainer(
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        reward_funcs=lambda completions, **_: [float(len(text) % 7) for text in completions],
        **given,
    )
    return trainer, ("kl",)


@pytest.mark.parametrize("make", [kto, grpo])
@pytest.mark.parametrize("start", ["new", "trained"])
def test_the_reference_is_what_the_memory_was_and_rows_alone_are_trained(make, start, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    given = {"model": base, "processing_class": word_tokenizer()}
    if start == "new":
        given["peft_config"] = memory_config()
    else:
        given["model"] = get_peft_model(base, memory_config(trainable="values+scale"))
        optimizer = adamw(given["model"], 0.3)
        for _ in range(2):  # the scale moves once values are not zero
            train_step(given["model"], optimizer, tokens(2, 9))
    trainer, distances = make(tmp_path / "trained", **given)
    before = {name: bits(tensor) for name, tensor in trainer.model.state_dict().items()}
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    first, second = ([line[name] for name in distances] for line in logs)
    assert first == pytest.approx([0.0] * len(first), abs=1e-6)
    assert all(abs(value) > 1e-4 for value in second)

    after = {name: bits(tensor) for name, tensor in trainer.model.state_dict().items()}
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    ends = {"values", "row_updates"} | ({"smf_scale"} if start == "trained" else set())
    assert {name.removesuffix(".default").rpartition(".")[2] for name in moved} == ends
    assert len(moved) == 2 * len(ends) and all("default" in name for name in moved)
    references = [name for name, _ in trainer.model.named_parameters() if ".ref" in name]
    assert bool(references) == (start == "trained")
    for name in references:
        assert torch.equal(before[name], before[name.replace(".ref", ".default")])
    for table in tables(trainer.model):
        if table.values.requires_grad:
            assert 6 <= (table.row_updates > 0).sum() <= (STEPS + 2) * 6
