"""Training through transformers' Trainer: sparse, resumable, the same for the same seed."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from helpers_models import bits, memory_model, tables, tokens
from transformers import Trainer, TrainingArguments

from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.settings import TrainingSettings
from smf_lib.study.training.train import finetune

SEQUENCES = [tokens(1, 5 + i % 4, seed=i)[0] for i in range(24)]


def collate(sequences: list[dict]) -> dict[str, torch.Tensor]:
    """Right padding with token 0, which bears no loss."""
    rows = [torch.as_tensor(s["input_ids"]) for s in sequences]
    pad = torch.nn.utils.rnn.pad_sequence
    ids, labels = pad(rows, batch_first=True), pad(rows, batch_first=True, padding_value=-100)
    return {"input_ids": ids, "labels": labels, "attention_mask": (labels != -100).long()}


def trainer(folder, model, **settings) -> Trainer:
    arguments = {
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 1,
        "save_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "logging_steps": 1,
        "disable_tqdm": True,
        "seed": 1,
        "data_seed": 1,
        "weight_decay": 0.01,
        "bf16": True,
    }
    rows = [{"input_ids": s.tolist()} for s in SEQUENCES]
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder), **arguments | settings),
        train_dataset=rows,
        data_collator=collate,
    )


def state(model) -> list[torch.Tensor]:
    own = {n: v for n, v in model.state_dict().items() if "smf_" in n}
    return [bits(own[name]) for name in sorted(own)]


def equal(one: list, other: list) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "kl"},
        {"rule": "random", "trainable": "values+scale"},
        {"share_values": True, "trainable": "memory", "gated": True},
    ],
    ids=str,
)
def test_resumed_run_equals_uninterrupted_run(settings, tmp_path):
    straight = memory_model(**settings)
    trainer(tmp_path / "whole", straight).train()
    for table in tables(straight):
        touched = table.row_updates > 0
        assert 6 < touched.sum() < 36 and table.row_updates.sum() == 6 * 6
        assert (table.values[~touched] == 0).all() and (table.values[touched] != 0).any()

    resumed = memory_model(**settings)
    result = trainer(tmp_path / "whole", resumed).train(str(tmp_path / "whole" / "checkpoint-3"))
    assert result.global_step == 6
    assert equal(state(resumed), state(straight))


class _Killed(Exception):
    pass


@pytest.mark.parametrize("killed_after", [4, 8, 11])
def test_a_killed_run_goes_on_in_the_order_of_its_epoch(killed_after, tmp_path, monkeypatch):
    """Three epochs of four steps each; what a step reads is the same with and without a kill."""
    rows = [
        {"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}
        for ids in ([3 + i, *range(5, 9 + i % 5)] for i in range(16))
    ]
    settings = TrainingSettings(batch_size=4, epochs=3, checkpoint_every=3, precision="fp32")
    step, seen = Trainer.training_step, []

    def counted(self, model, inputs, *args, **kwargs):
        if len(seen) == kill_at:
            raise _Killed
        seen.append(sorted(inputs["input_ids"][:, 0].tolist()))
        return step(self, model, inputs, *args, **kwargs)

    def run(folder):
        model, tokenizer = load_model(tiny_random_model())
        finetune(model, tokenizer, rows, settings, 1e-3, 0, folder)
        return model.state_dict()

    monkeypatch.setattr(Trainer, "training_step", counted)
    kill_at = None
    straight, order = run(tmp_path / "straight"), list(seen)
    assert len(order) == 12 and order[:4] != order[4:8] != order[8:]
    assert all(sorted(chain(*order[i : i + 4])) == [*range(3, 19)] for i in (0, 4, 8))
    seen.clear()
    kill_at = killed_after
    with pytest.raises(_Killed):
        run(tmp_path / "killed")
    seen.clear()
    kill_at = None
    resumed = run(tmp_path / "killed")
    assert seen == order[killed_after - killed_after % 3 :]
    assert all(torch.equal(value, straight[name]) for name, value in resumed.items())


class TwoGPUs(TrainingArguments):
    """Arguments as they are where a process sees two GPUs."""

    def __post_init__(self):
        super().__post_init__()
        assert self.n_gpu < 2  # which sets the devices up
        self._n_gpu = 2


def test_one_process_uses_one_gpu_of_several(tmp_path, monkeypatch):
    monkeypatch.setattr("smf_lib.study.training.train.TrainingArguments", TwoGPUs)
    model, tokenizer = load_model(tiny_random_model())
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7], "attention_mask": [1] * 3}] * 8
    settings = TrainingSettings(batch_size=2, precision="fp32", checkpoint_every=99)
    assert finetune(model, tokenizer, rows, settings, 1e-3, 0, tmp_path).steps == 4


def test_same_seed_same_result(tmp_path):
    results = []
    for seed in (1, 1, 2):
        model = memory_model()
        trainer(tmp_path, model, seed=seed, data_seed=seed, save_strategy="no", max_steps=3).train()
        results.append(state(model))
    assert equal(results[0], results[1]) and not equal(results[0], results[2])


def test_accumulation_and_checkpointing_do_not_change_the_run(tmp_path):
    results = []
    for batch, accumulation, checkpointing in ((6, 1, False), (3, 2, False), (2, 3, True)):
        model = memory_model()
        trainer(
            tmp_path,
            model,
            per_device_train_batch_size=batch,
            save_strategy="no",
            bf16=False,
            gradient_accumulation_steps=accumulation,
            gradient_checkpointing=checkpointing,
            max_steps=4,
        ).train()
        results.append(tables(model))
    for other in results[1:]:
        for one, table in zip(results[0], other):
            assert torch.equal(one.row_updates, table.row_updates)
            torch.testing.assert_close(one.values, table.values, rtol=1e-3, atol=1e-4)


def test_loss_falls(tmp_path):
    model = memory_model(rule="all")
    run = trainer(tmp_path, model, save_strategy="no", max_steps=30, learning_rate=3e-2)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 0.1


def test_training_leaves_the_type_of_the_logits_as_it_was(tmp_path):
    model, tokenizer = load_model(tiny_random_model())
    settings = TrainingSettings(batch_size=2, precision="bf16", checkpoint_every=99)
    rows = [{"input_ids": [5, 6, 7], "labels": [5, 6, 7], "attention_mask": [1] * 3}] * 2
    finetune(model, tokenizer, rows, settings, 1e-3, 0, tmp_path)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(input_ids=torch.tensor([[5, 6]])).logits.dtype == torch.bfloat16
