"""`SparseMemoryCallback` in transformers' Trainer: what it prepares, changes and logs."""

from __future__ import annotations

import warnings
from math import hypot

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import get_parameters_from_modules
from helpers_models import bits, memory_config, memory_model, tables, tiny_model, tokens
from helpers_text import word_tokenizer
from peft import get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments

from smf_lib import RowAdamW, SparseMemoryCallback, collect_background, memories
from smf_lib.method import row_adam
from smf_lib.method.distributed import memory_parameters
from smf_lib.method.row_log import RowLog

BACKGROUND = tokens(6, 12, seed=99).tolist()


def trainer(folder, model, steps=4, callbacks=(), optimizers=(None, None), **settings):
    """A Trainer on 16 rows of random tokens, 4 a step, that logs every step."""
    arguments = {
        "per_device_train_batch_size": 4,
        "max_steps": steps,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    return Trainer(
        model=model,
        args=TrainingArguments(str(folder), **arguments | settings),
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens(16, 9)],
        callbacks=list(callbacks),
        optimizers=optimizers,
    )


def without_background(**settings):
    return get_peft_model(tiny_model(), memory_config(**{"rule": "kl"} | settings))


def train(trainer, **settings):
    callback = SparseMemoryCallback(trainer, **settings)
    trainer.add_callback(callback)
    return train_alone(trainer)


def train_alone(trainer):
    trainer.train()
    return [line for line in trainer.state.log_history if "loss" in line]


with_or_without = pytest.mark.parametrize("train", [train, train_alone], ids=["with", "without"])


class Reporter(TrainerCallback):
    """Keeps what a tool that `report_to` names would be told."""

    def __init__(self):
        self.lines = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.lines.append(dict(logs))


def test_it_changes_no_bit_of_what_steps_do(tmp_path):
    by_hand, by_callback = memory_model(rule="kl"), without_background()
    trainer(tmp_path, by_hand, gradient_accumulation_steps=2).train()
    train(trainer(tmp_path, by_callback, gradient_accumulation_steps=2), background=BACKGROUND)
    for one, other in zip(tables(by_hand), tables(by_callback)):
        assert one.row_updates.sum() == 4 * 6
        assert torch.equal(one.row_updates, other.row_updates)
        assert torch.equal(bits(one.values), bits(other.values))
        assert torch.equal(one.background_counts, other.background_counts)


@with_or_without
def test_the_log_says_what_steps_did_also_to_reporters(train, tmp_path, monkeypatch):
    model, reporter = memory_model(), Reporter()
    norms, chosen = [], []
    clip = row_adam._clip

    def spy(gradients):
        norms.append(hypot(*(float(grad.norm()) for _, grad in gradients)))
        clip(gradients)

    def select(*given):
        chosen.append(row_adam_select(*given))
        return chosen[-1]

    row_adam_select = row_adam.select_rows
    monkeypatch.setattr(row_adam, "_clip", spy)
    monkeypatch.setattr(row_adam, "select_rows", select)
    lines = train(trainer(tmp_path, model, callbacks=[reporter]))
    told = [line for line in reporter.lines if "loss" in line]
    assert len(lines) == len(told) == len(norms) == 4
    for step, (line, same) in enumerate(zip(lines, told)):
        assert same.items() <= line.items()
        assert line["smf/row_grad_norm"] == pytest.approx(norms[step], rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norms[step], rel=1e-5)
        assert line["smf/rows_chosen"] == 12
        assert line["smf/learning_rate"] == 1e-2
        so_far = [set(map(int, torch.cat(chosen[i::2][: step + 1]))) for i in range(2)]
        assert line["smf/rows_touched"] == sum(map(len, so_far))
        now, before = chosen[2 * step : 2 * step + 2], chosen[max(2 * step - 2, 0) : 2 * step]
        again = sum(len(set(a.tolist()) & set(b.tolist())) for a, b in zip(now, before))
        assert line["smf/overlap_with_last_step"] == again / 12
    assert any(line["smf/overlap_with_last_step"] for line in lines)


@with_or_without
def test_lines_that_are_rarer_than_steps_tell_of_the_last_step(train, tmp_path):
    lines = train(trainer(tmp_path, memory_model(), logging_steps=2))
    every = train(trainer(tmp_path, memory_model()))
    assert [line["step"] for line in lines] == [2, 4]
    for line, same in zip(lines, every[1::2]):
        for name in ("smf/row_grad_norm", "smf/rows_touched", "smf/overlap_with_last_step"):
            assert line[name] == same[name]


@with_or_without
def test_the_logged_norm_joins_rows_and_other_parameters(train, tmp_path):
    others = []
    made = trainer(tmp_path, memory_model(trainable="values+scale", initial_values="random"))
    clip = made.accelerator.clip_grad_norm_
    made.accelerator.clip_grad_norm_ = lambda *given: others.append(clip(*given)) or others[-1]
    lines = train(made)
    assert len(lines) == len(others) == 4
    for line, norm in zip(lines, others):
        assert line["smf/row_grad_norm"] > 0 and norm > 0
        assert line["grad_norm"] == pytest.approx(hypot(norm, line["smf/row_grad_norm"]))


def test_every_training_of_a_trainer_is_logged_by_one_callback(tmp_path):
    made = trainer(tmp_path, memory_model())
    first, again = train_alone(made), train_alone(made)
    assert sum(isinstance(c, RowLog) for c in made.callback_handler.callbacks) == 1
    assert first[0]["smf/overlap_with_last_step"] == again[0]["smf/overlap_with_last_step"] == 0
    assert all(line["grad_norm"] > 0 for line in first + again)
    callback = SparseMemoryCallback(made)
    made.add_callback(callback)
    assert all(line["grad_norm"] == line["smf/row_grad_norm"] > 0 for line in train_alone(made))
    assert made.callback_handler.callbacks[0] is callback and callback.entries


@pytest.mark.parametrize("settings", [{"update": "dense"}, {}], ids=["dense", "frozen"])
def test_a_trainer_that_moves_no_rows_keeps_its_log(settings, tmp_path):
    model = memory_model(**settings)
    for memory in memories(model).values():
        memory.values.requires_grad_(memory.rule is None)
    model.get_output_embeddings().requires_grad_(True)
    made = trainer(tmp_path, model)
    lines = train_alone(made)
    assert not any(isinstance(c, RowLog) for c in made.callback_handler.callbacks)
    assert all(line["grad_norm"] > 0 and "smf/rows_chosen" not in line for line in lines)


def test_rows_are_clipped_by_the_trainers_limit(tmp_path):
    models = [memory_model(max_grad_norm=limit) for limit in (1e-3, 1.0, 1.0)]
    trainer(tmp_path, models[0], max_grad_norm=5.0, optim="sgd").train()
    train(trainer(tmp_path, models[1], max_grad_norm=1e-3, optim="sgd"))
    train(trainer(tmp_path, models[2], max_grad_norm=0.0, optim="sgd"))
    for limited, by_trainer, free in zip(*map(tables, models)):
        assert torch.equal(bits(limited.values), bits(by_trainer.values))
        assert free.max_grad_norm is None and free.values.norm() > 2 * limited.values.norm()
    assert models[1].peft_config["default"].max_grad_norm == 1e-3


def test_rows_have_a_rate_of_their_own_that_the_scheduler_scales(tmp_path):
    settings = {"lr_scheduler_type": "linear", "learning_rate": 1e-4}
    own = trainer(tmp_path, memory_model(trainable="values+scale"), **settings)
    lines = train(own, learning_rate=0.4)
    rows = {id(table.values) for table in tables(own.model)}
    *others, last = own.optimizer.param_groups
    assert {id(p) for p in last["params"]} == rows
    assert not rows & {id(p) for group in others for p in group["params"]}
    assert [line["smf/learning_rate"] for line in lines] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [line["learning_rate"] for line in lines] == pytest.approx(
        [1e-4, 0.75e-4, 0.5e-4, 0.25e-4]
    )
    same = trainer(tmp_path, memory_model(), lr_scheduler_type="linear", learning_rate=0.4)
    same.train()
    alone = trainer(tmp_path, memory_model(), **settings)
    train(alone, learning_rate=0.4)
    for one, other in zip(tables(same.model), tables(alone.model)):
        assert torch.equal(bits(one.values), bits(other.values))


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"values_dtype": "bfloat16"},
        {"save_rows": "touched"},
        {"save_rows": "touched", "values_dtype": "bfloat16", "initial_values": "random"},
        {"save_rows": "touched", "trainable": "memory", "share_values": True},
    ],
    ids=str,
)
def test_training_that_goes_on_from_a_checkpoint_equals_one_that_was_not_stopped(kind, tmp_path):
    whole, parts, last = (without_background(**kind) for _ in range(3))
    settings = {"lr_scheduler_type": "linear", "save_strategy": "steps", "save_steps": 2}
    train(trainer(tmp_path / "whole", whole, **settings), background=BACKGROUND, learning_rate=0.1)
    first = trainer(tmp_path / "parts", parts, **settings)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 2

    first.add_callback(Stop())
    train(first, background=BACKGROUND, learning_rate=0.1)
    goes_on = trainer(tmp_path / "parts", last, **settings)
    goes_on.add_callback(SparseMemoryCallback(goes_on, background=BACKGROUND, learning_rate=0.1))
    goes_on.train(resume_from_checkpoint=True)
    (saved,) = (tmp_path / "parts").glob("checkpoint-2")
    names = {name.rpartition(".")[2] for name in load_file(saved / "adapter_model.safetensors")}
    assert ("rows" in names) == ("save_rows" in kind) != ("values" in names)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(bits(tensor), bits(goes_on.model.state_dict()[name])), name


@pytest.mark.parametrize("kind", ["texts", "text rows", "token rows"])
def test_background_is_taken_from_texts_and_rows(kind, tmp_path):
    tokenizer = word_tokenizer()
    texts = ["one two three", "", "four five", "six"]
    background = {
        "texts": iter(texts),
        "text rows": [{"text": text} for text in texts],
        "token rows": [{"input_ids": tokenizer(text)["input_ids"]} for text in texts],
    }[kind]
    model = get_peft_model(tiny_model(vocab_size=len(tokenizer)), memory_config(rule="tfidf"))
    other = get_peft_model(tiny_model(vocab_size=len(tokenizer)), memory_config(rule="tfidf"))
    collect_background(other, [tokenizer(texts[i])["input_ids"][:9] for i in (0, 2)])
    made = trainer(tmp_path, model)
    made.processing_class = tokenizer
    train(made, background=background, sequences=2, tokens=9)
    for one, same in zip(tables(model), tables(other)):
        assert torch.equal(one.background_counts, same.background_counts)
        assert torch.equal(one.background_documents, same.background_documents)


def test_the_model_writes_a_background_without_its_memories(tmp_path):
    tokenizer = word_tokenizer()

    def made(**settings):
        base = tiny_model(vocab_size=len(tokenizer))
        model = get_peft_model(base, memory_config(rule="kl", layers=[0], **settings))
        made = trainer(tmp_path, model, steps=2)
        made.processing_class = tokenizer
        return made, tables(model)[0]

    trained, table = made()
    train(trained, background="model", sequences=5, tokens=8)
    assert table.background.n_documents == 5
    reads_of_a_token = 2 * 4
    assert 5 * reads_of_a_token < table.background_counts.sum() <= 5 * 8 * reads_of_a_token
    other, random = made(initial_values="random")
    train(other, background="model", sequences=5, tokens=8)
    assert torch.equal(table.background_counts, random.background_counts)  # of the same text

    same, given = made()
    for name in ("background_counts", "background_documents", "n_background_documents"):
        getattr(given, name).copy_(getattr(table, name))
    train(same)
    assert torch.equal(bits(table.values), bits(given.values))  # training's random numbers too


def test_a_rule_without_a_background_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"rule='kl' compares .*background='model'"):
        train(trainer(tmp_path, without_background()))
    lines = train(trainer(tmp_path, without_background(rule="count")))
    assert len(lines) == 4
    collected = without_background()
    collect_background(collected, BACKGROUND)
    assert len(train(trainer(tmp_path, collected))) == 4


@pytest.mark.parametrize("rate, own, warns", [(2e-4, None, 1), (2e-4, 3e-2, 0), (1e-2, 1e-4, 1)])
def test_a_rate_that_cannot_teach_rows_is_warned_of(rate, own, warns, tmp_path, recwarn):
    warnings.simplefilter("always")  # else Python itself would say it once
    train(trainer(tmp_path, memory_model(), learning_rate=rate), learning_rate=own)
    about = [w for w in recwarn if "teaches memory rows next to nothing" in str(w.message)]
    assert len(about) == warns


@pytest.mark.parametrize("rate, warns", [(2e-4, 1), (1e-2, 0)])
@with_or_without
def test_a_rate_that_warms_up_counts_as_it_is_to_be(train, rate, warns, tmp_path, recwarn):
    warnings.simplefilter("always")
    train(
        trainer(
            tmp_path,
            memory_model(),
            learning_rate=rate,
            lr_scheduler_type="constant_with_warmup",
            warmup_steps=4,
        )
    )
    about = [w for w in recwarn if f"learning_rate={rate:g} teaches memory rows" in str(w.message)]
    assert len(about) == warns


@with_or_without
def test_gradient_descent_is_not_warned_of_its_rate(train, tmp_path, recwarn):
    train(trainer(tmp_path, memory_model(), learning_rate=1e-4, optim="sgd"))
    assert not [w for w in recwarn if "memory rows" in str(w.message)]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"background": "texts.txt"}, "background='texts.txt' is no collection"),
        ({"background": {"train": ["a"]}}, "one split of a data set"),
        ({"sequences": 0}, "sequences=0"),
        ({"tokens": 1.5}, r"tokens=1\.5"),
        ({"learning_rate": 0}, "learning_rate=0"),
        ({"learning_rate": "3e-2"}, "learning_rate='3e-2'"),
        ({"learning_rate": True}, "learning_rate=True"),
        ({"learning_rate": float("inf")}, "learning_rate=inf"),
        ({"background": 5}, "background=5 is no collection"),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        SparseMemoryCallback(trainer(tmp_path, memory_model()), **settings)


@pytest.mark.parametrize(
    "background, message",
    [
        ([], "background has no text"),
        (["a text"], "needs a tokenizer"),
        ([{"question": "a"}], "columns question"),
        ([{"text": None}], "background holds None, which is no text"),
        ([1, 2, 3], "background holds 1, which is no text"),
    ],
)
def test_a_background_that_cannot_be_read_is_refused(background, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train(trainer(tmp_path, without_background()), background=background)


def test_a_model_without_memory_and_an_optimizer_that_is_there_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"LlamaForCausalLM has no memory"):
        SparseMemoryCallback(trainer(tmp_path, tiny_model()))
    model = memory_model()
    optimizer = RowAdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    made = trainer(tmp_path, model, optimizers=(optimizer, None))
    with pytest.raises(ValueError, match="learning_rate=0.1 comes too late"):
        SparseMemoryCallback(made, learning_rate=0.1)


def test_an_optimizer_that_does_not_train_rows_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match="cannot train memory rows"):
        train(trainer(tmp_path, memory_model(), optim="adafactor"))
    other = RowAdamW([p for p in memory_model().parameters() if p.requires_grad], lr=1e-2)
    made = trainer(tmp_path, memory_model(), optimizers=(other, None))
    with pytest.raises(ValueError, match="does not hold the memories' `values`"):
        train(made)


def sharding_trainer(folder, save_rows="all", **settings):
    """A Trainer as accelerate makes it where FSDP is asked for."""
    made = trainer(folder, memory_model(save_rows=save_rows))
    by_trainer = {"fsdp_version": 2, "cpu_ram_efficient_loading": False}
    plugin = FullyShardedDataParallelPlugin(**by_trainer | settings)
    made.accelerator.state.fsdp_plugin = plugin  # the next arguments of a Trainer reset the state
    made.is_fsdp_enabled = True
    return made, plugin


def test_what_would_share_out_the_tables_is_refused_at_once(tmp_path):
    made = trainer(tmp_path, memory_model())
    made.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed, at any ZeRO stage, cannot train a memory"):
        SparseMemoryCallback(made)
    for setting, value in (("fsdp_version", 1), ("cpu_ram_efficient_loading", True)):
        made, _ = sharding_trainer(tmp_path, **{setting: value})
        with pytest.raises(ValueError, match=f"{setting}={value} of FSDP cannot train a memory"):
            SparseMemoryCallback(made)


def test_touched_rows_in_sharded_checkpoints_are_refused(tmp_path):
    made, _ = sharding_trainer(tmp_path, "touched", state_dict_type="SHARDED_STATE_DICT")
    with pytest.raises(ValueError, match="save_rows='touched' cannot be resumed from sharded"):
        SparseMemoryCallback(made)
    for save_rows, kind in (("touched", "FULL_STATE_DICT"), ("all", "SHARDED_STATE_DICT")):
        made, _ = sharding_trainer(tmp_path, save_rows, state_dict_type=kind)
        SparseMemoryCallback(made)


@pytest.mark.parametrize("given", [None, "lm_head", []], ids=str)
def test_fsdp_is_told_to_ignore_memories_beside_what_it_ignores(given, tmp_path):
    made, plugin = sharding_trainer(tmp_path, ignored_modules=given)
    SparseMemoryCallback(made)
    ignored = get_parameters_from_modules(plugin.ignored_modules, made.model, torch.device("cpu"))
    assert memory_parameters(made.model) <= ignored


def test_a_frozen_memory_is_left_alone(tmp_path):
    model = memory_model(max_grad_norm=0.25)
    for memory in memories(model).values():
        memory.values.requires_grad_(False)
    for parameter in model.get_output_embeddings().parameters():
        parameter.requires_grad_(True)
    lines = train(trainer(tmp_path, model))
    assert all(line["grad_norm"] > 0 for line in lines)
    assert not any(table.row_updates.any() for table in tables(model))


def test_a_background_that_can_be_read_once_serves_every_training(tmp_path):
    model = without_background()
    made = trainer(tmp_path, model)
    made.add_callback(SparseMemoryCallback(made, background=iter(BACKGROUND)))
    made.train()
    made.train()
    assert all(memory.background is not None for memory in memories(model).values())


def test_a_callback_of_another_trainer_is_told_so(tmp_path):
    one, other = (trainer(tmp_path, without_background()) for _ in range(2))
    other.add_callback(SparseMemoryCallback(one, background=BACKGROUND))
    with pytest.raises(ValueError, match="was made for another trainer"):
        other.train()


def test_a_reference_that_is_not_active_is_passed_over(tmp_path):
    """As TRL keeps one of the adapter that it trains on."""
    model = without_background()
    model.add_adapter("ref", memory_config(rule="kl"))
    model.set_adapter("default")
    train(trainer(tmp_path, model), background=BACKGROUND)
    found = {name: memory.background for name, memory in memories(model).items()}
    assert all((counts is None) == (".ref" in name) for name, counts in found.items())
    model.base_model.set_adapter([])
    with pytest.raises(ValueError, match="has no active memory; choose one"):
        collect_background(model, BACKGROUND)


def in_bfloat16(model):
    """As TRL's trainers leave an adapter beside a quantised base."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    return model


def test_a_memory_that_a_trainer_rounded_is_put_back_into_float32(tmp_path, recwarn):
    expected, found = without_background(), in_bfloat16(without_background())
    train(trainer(tmp_path, expected), background=BACKGROUND)
    recwarn.clear()
    train(trainer(tmp_path, found), background=BACKGROUND)
    assert not [w for w in recwarn if "rounded" in str(w.message)]
    for one, other in zip(tables(expected), tables(found)):
        assert other.values.dtype == torch.float32
        assert torch.equal(bits(one.values), bits(other.values))
    fresh = [memory_model(initial_values="random", trainable="memory") for _ in range(2)]
    SparseMemoryCallback(trainer(tmp_path, in_bfloat16(fresh[0])))
    assert not [w for w in recwarn if "rounded" in str(w.message)]
    for (name, one), other in zip(fresh[0].named_parameters(), fresh[1].parameters(), strict=True):
        assert torch.equal(bits(one), bits(other)), name
    with pytest.warns(UserWarning, match="rounded a memory that was trained before.*load_adapter"):
        SparseMemoryCallback(trainer(tmp_path, in_bfloat16(found)))
