"""Which optimizers train memory rows, with which meaning, and which are refused."""

from __future__ import annotations

import copy
import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import Accelerator
from helpers_models import adamw, bits, memory_model, row_state, tables, tokens, train_step
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from transformers import Trainer, TrainingArguments

from smf_lib import ProductKeyMemory, RowAdamW, RowSGD
from smf_lib.method.row_adam import step_rows_after_other_optimizers

ROOT = Path(__file__).resolve().parents[2]


def memory_of_four_rows(rule: str | None, **settings) -> ProductKeyMemory:
    """So few rows that a batch reads them all; with rule `all` every step moves them all."""
    step_rows_after_other_optimizers()  # for a memory in a model, the tuner does it
    shape = {"hidden_size": 8, "num_subkeys": 2, "num_heads": 2, "top_k": 2, "key_dim": 8}
    return ProductKeyMemory(**shape, initial_values="random", rule=rule, **settings)


class SameStep(torch.optim.AdamW):
    """A subclass that steps as its parent does."""


class Logged(RowAdamW):
    """A subclass of our own with a step around it."""

    def step(self, closure=None):
        self.steps = getattr(self, "steps", 0) + 1
        return super().step(closure)


def scheduled(parameters):
    optimizer = torch.optim.AdamW(parameters, lr=0.05)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)  # it replaces optimizer.step
    return optimizer


ADAMW, ADAM, SGD = torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD
ACCEPTED = {
    "AdamW": lambda p: ADAMW(p, lr=0.05),
    "AdamW, foreach": lambda p: ADAMW(p, lr=0.05, foreach=True),
    "AdamW, fused": lambda p: ADAMW(p, lr=0.05, fused=True),
    "AdamW, decay": lambda p: ADAMW(p, lr=0.05, weight_decay=0.5),
    "AdamW, maximize": lambda p: ADAMW(p, lr=0.05, maximize=True, weight_decay=0.5),
    "AdamW, lr a tensor": lambda p: ADAMW(p, lr=torch.tensor(0.05), foreach=False),
    "AdamW, betas": lambda p: ADAMW(p, lr=0.05, betas=(0.5, 0.8), eps=1e-3),
    "Adam": lambda p: ADAM(p, lr=0.05),
    "Adam, L2": lambda p: ADAM(p, lr=0.05, weight_decay=0.5),
    "Adam, L2, maximize": lambda p: ADAM(p, lr=0.05, weight_decay=0.5, maximize=True),
    "Adam, fused": lambda p: ADAM(p, lr=0.05, weight_decay=0.5, fused=True),
    "Adam, decoupled": lambda p: ADAM(p, lr=0.05, weight_decay=0.5, decoupled_weight_decay=True),
    "SGD": lambda p: SGD(p, lr=0.05),
    "SGD, L2": lambda p: SGD(p, lr=0.05, weight_decay=0.5),
    "SGD, maximize": lambda p: SGD(p, lr=0.05, weight_decay=0.5, maximize=True),
    "SGD, foreach": lambda p: SGD(p, lr=0.05, foreach=True),
    "SGD, fused": lambda p: SGD(p, lr=0.05, fused=True),
    "RowAdamW": lambda p: RowAdamW(p, lr=0.05, weight_decay=0.5),
    "RowAdamW, maximize": lambda p: RowAdamW(p, lr=0.05, maximize=True),
    "RowSGD": lambda p: RowSGD(p, lr=0.05, weight_decay=0.5),
    "a subclass with the same step": lambda p: SameStep(p, lr=0.05),
    "a subclass of RowAdamW": lambda p: Logged(p, lr=0.05),
    "under a schedule": scheduled,
    "under accelerate": lambda p: Accelerator(cpu=True).prepare(ADAMW(p, lr=0.05)),
    "RowAdamW under accelerate": lambda p: Accelerator(cpu=True).prepare(RowAdamW(p, lr=0.05)),
}


@pytest.mark.parametrize("kind", ACCEPTED)
def test_rows_move_as_the_optimizer_moves_a_dense_table(kind):
    sparse, dense = memory_of_four_rows("all"), memory_of_four_rows(None)
    optimizers = []
    for memory in (sparse, dense):
        memory.requires_grad_(False)
        trained = [memory.values, memory.anchor, memory.query_weight]
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizers.append(ACCEPTED[kind](trained))
    start = sparse.values.detach().clone()
    for step in range(4):
        x, target = torch.randn(30, 8), torch.randn(30, 8)
        for memory, optimizer in zip((sparse, dense), optimizers):
            ((memory(x) - target) ** 2).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert (sparse.row_updates == step + 1).all()
        for name in ("values", "query_weight"):
            one, other = getattr(sparse, name), getattr(dense, name)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert (sparse.values - start).abs().min() > 0 and sparse.values.grad is None


@pytest.mark.parametrize("kind", ACCEPTED)
def test_masters_of_bfloat16_rows_move_as_rows_of_a_float32_table_do(kind):
    """To the bit, given the same reads and gradients."""
    half, whole = memory_of_four_rows("all", values_dtype="bfloat16"), memory_of_four_rows("all")
    whole.values.data.copy_(half.values)
    optimizers = [ACCEPTED[kind]([memory.values, memory.anchor]) for memory in (half, whole)]
    for _ in range(4):
        reads = torch.randint(4, (30, 4)), torch.rand(30, 4), torch.randn(30, 8)
        for memory, optimizer in zip((half, whole), optimizers):
            memory.anchor.grad = torch.zeros(())
            memory.write_down(*reads, None)
            optimizer.step()
        master = row_state(optimizers[0], half)["master"]
        assert torch.equal(bits(master), bits(whole.values))
        assert torch.equal(bits(half.values), bits(master.bfloat16()))


class HandWritten(torch.optim.Optimizer):
    """Another algorithm whose parameter groups look like Adam's."""

    def __init__(self, parameters, lr):
        keys = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}
        super().__init__(parameters, {"lr": lr} | keys)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


class OwnStep(torch.optim.AdamW):
    """A subclass that steps otherwise than its parent."""

    def step(self, closure=None):
        return super().step(closure)


def named_in_bitsandbytes(name: str) -> type:
    """Stands in for a class of bitsandbytes: its module, its name, its groups, a step of AdamW."""

    class EightBit(torch.optim.Optimizer):
        def __init__(self, parameters, lr):
            keys = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1, "alpha": 0.0}
            super().__init__(parameters, {"lr": lr} | keys)

        def step(self, closure=None):
            for group in self.param_groups:
                trained = [p for p in group["params"] if p.grad is not None]
                assert all(p.dim() < 2 for p in trained)  # a table has no gradient

    EightBit.__name__, EightBit.__module__ = name, "bitsandbytes.optim.standin"
    return EightBit


ACCEPTED_CLASSES = (ADAMW, ADAM, SGD, torch.optim.Optimizer)
OTHERS_OF_TORCH = {
    name: cls
    for name, cls in vars(torch.optim).items()
    if inspect.isclass(cls)
    and issubclass(cls, torch.optim.Optimizer)
    and cls not in ACCEPTED_CLASSES
}
REFUSED = {
    **{name: lambda p, cls=cls: cls(p, lr=0.1) for name, cls in OTHERS_OF_TORCH.items()},
    "Adafactor of transformers": lambda p: transformers.Adafactor(p, lr=0.1, relative_step=False),
    "HandWritten": lambda p: HandWritten(p, lr=0.1),
    "OwnStep": lambda p: OwnStep(p, lr=0.1),
    "Lion8bit": lambda p: named_in_bitsandbytes("Lion8bit")(p, lr=0.1),
    "AdEMAMix": lambda p: named_in_bitsandbytes("AdEMAMix")(p, lr=0.1),
}
REFUSED_SETTINGS = {
    "amsgrad=True of optimizer=AdamW": lambda p: ADAMW(p, lr=0.1, amsgrad=True),
    "amsgrad=True of optimizer=Adam": lambda p: ADAM(p, lr=0.1, amsgrad=True),
    "amsgrad=True of optimizer=RowAdamW": lambda p: RowAdamW(p, lr=0.1, amsgrad=True),
    "differentiable=True of optimizer=AdamW": lambda p: ADAMW(p, lr=0.1, differentiable=True),
    "momentum=0.9 of optimizer=SGD": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "momentum=0.5 of optimizer=RowSGD": lambda p: RowSGD(p, lr=0.1, momentum=0.5, nesterov=True),
}


def test_torch_has_other_optimizers():
    assert {"NAdam", "RAdam", "Adamax", "LBFGS", "RMSprop"} <= OTHERS_OF_TORCH.keys()


def refuse_and_move_nothing(make, message: str) -> None:
    model = memory_model(trainable="memory", gated=True, initial_values="random")
    trained = [p for p in model.parameters() if p.requires_grad and p.dim() == 2]
    optimizer = make(trained)
    before = {name: bits(p) for name, p in model.named_parameters()}
    ids = tokens(2, 9)
    for _ in range(2):

        def loss():
            model.zero_grad()
            out = model(input_ids=ids, labels=ids).loss
            out.backward()
            return out

        loss()
        with pytest.raises(ValueError, match=message):
            optimizer.step(loss)
    assert all(torch.equal(bits(p), before[name]) for name, p in model.named_parameters())
    assert all((t.row_updates == 0).all() for t in tables(model))


@pytest.mark.parametrize("kind", REFUSED)
def test_any_other_optimizer_is_refused_by_name_before_anything_moves(kind):
    name = kind.partition(" ")[0]
    refuse_and_move_nothing(REFUSED[kind], rf"optimizer=\S+\.{name} cannot.*smf_lib.RowAdamW")


@pytest.mark.parametrize("setting", REFUSED_SETTINGS)
def test_settings_without_a_meaning_for_rows_are_refused(setting):
    refuse_and_move_nothing(REFUSED_SETTINGS[setting], f"{setting} has no meaning.*RowAdamW")


def test_an_optimizer_without_memory_rows_may_be_of_any_kind():
    weight = torch.nn.Parameter(torch.ones(3, 3))
    memory_model()
    for cls in (torch.optim.NAdam, HandWritten, RowAdamW):
        before = bits(weight)
        optimizer = cls([weight], lr=0.1)
        weight.square().sum().backward()
        optimizer.step()
        assert not torch.equal(bits(weight), before)


@pytest.mark.parametrize("paged", ["", "Paged"])
@pytest.mark.parametrize("width", ["", "8bit", "32bit"])
def test_adamw_of_bitsandbytes_moves_rows_as_adamw_with_state_of_32_bits(paged, width):
    small, plain = memory_model(), memory_model()
    cls = named_in_bitsandbytes(f"{paged}AdamW{width}")
    values = [[t.values for t in tables(m)] for m in (small, plain)]
    optimizers = cls(values[0], lr=0.1), RowAdamW(values[1], lr=0.1, weight_decay=0.1)
    for step in range(3):
        for model, optimizer in zip((small, plain), optimizers):
            train_step(model, optimizer, tokens(2, 9, seed=step))
            model.zero_grad()
    for one, other in zip(tables(small), tables(plain)):
        assert torch.equal(bits(one.values), bits(other.values)) and one.row_updates.any()
        state = optimizers[0].state[one.values]
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.float32


@pytest.mark.parametrize("rule", ["kl", "random", "all"])
@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"weight_decay": 0.1}], ids=str)
def test_the_class_and_the_hook_give_the_same_bits(rule, settings):
    visible, hooked = (memory_model(rule=rule, trainable="values+scale") for _ in range(2))
    optimizers = []
    for model, cls in ((visible, RowAdamW), (hooked, ADAMW)):
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizers.append(cls(trained, lr=1e-2, **settings))
    for step in range(4):
        for model, optimizer in zip((visible, hooked), optimizers):
            train_step(model, optimizer, tokens(2, 9, seed=step))
    for (name, one), (_, other) in zip(visible.named_parameters(), hooked.named_parameters()):
        assert torch.equal(bits(one), bits(other)), name
    for one, other in zip(tables(visible), tables(hooked)):
        states = row_state(optimizers[0], one), row_state(optimizers[1], other)
        assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
        assert one.row_updates.any() and torch.equal(one.row_updates, other.row_updates)


def test_rows_under_sgd_keep_no_moments_and_count_their_steps():
    model = memory_model(rule="random", max_grad_norm=0.5)
    optimizer = RowSGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    chosen = []
    for step in range(3):
        before = [(t.values.detach().clone(), t.row_updates.clone()) for t in tables(model)]
        train_step(model, optimizer, tokens(2, 9))  # the same reads each time
        moves = [t.values.detach() - v for t, (v, _) in zip(tables(model), before)]
        norm = torch.cat([m.flatten() for m in moves]).norm().item()
        assert norm <= 0.1 * 0.5 * 1.001
        chosen.append((tables(model)[0].row_updates - before[0][1]).nonzero().flatten().tolist())
        for table in tables(model):
            assert int(optimizer.state[table.values]["step"]) == step + 1
            assert set(optimizer.state[table.values]) == {"step"}
    assert chosen[0] != chosen[1] != chosen[2]


def one_cycle(optimizer, most):
    """An optimizer whose rate a scheduler of torch's sets: far below `most` at first."""
    torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=most, total_steps=10)
    return optimizer


LOW_RATES = {
    "RowAdamW": (lambda p: RowAdamW(p, lr=9e-4), True),
    "AdamW": (lambda p: ADAMW(p, lr=1e-4), True),
    "Adam, a tensor": (lambda p: ADAM(p, lr=torch.tensor(1e-4), foreach=False), True),
    "of bitsandbytes": (lambda p: named_in_bitsandbytes("AdamW8bit")(p, lr=1e-4), True),
    "under accelerate": (lambda p: Accelerator(cpu=True).prepare(ADAMW(p, lr=1e-4)), True),
    "of another group": (
        lambda p: ADAMW([{"params": p[:-1], "lr": 1e-2}, {"params": p[-1:]}], lr=1e-4),
        True,
    ),
    "not low": (lambda p: RowAdamW(p, lr=1e-3), False),
    "of one cycle": (lambda p: one_cycle(RowAdamW(p, lr=1e-4), 1e-2), False),
    "of one low cycle": (lambda p: one_cycle(RowAdamW(p, lr=1e-4), 9e-4), True),
    "gradient descent": (lambda p: RowSGD(p, lr=1e-4), False),
}


@pytest.mark.parametrize("make, warns", LOW_RATES.values(), ids=LOW_RATES)
def test_each_loop_is_warned_once_of_a_rate_that_cannot_teach_rows(make, warns, recwarn):
    warnings.simplefilter("always")  # else Python itself would say it once
    for _ in range(2):
        model = memory_model()
        optimizer = make([t.values for t in tables(model)])
        for step in range(3):
            train_step(model, optimizer, tokens(2, 9, seed=step))
            model.zero_grad()
    about = [w for w in recwarn if "teaches memory rows next to nothing" in str(w.message)]
    assert len(about) == 2 * warns


def test_nothing_is_said_of_the_rate_where_no_rows_are_trained(recwarn):
    model = memory_model(update="dense")
    train_step(model, adamw(model, 1e-4), tokens(2, 9))
    assert not [w for w in recwarn if "memory rows" in str(w.message)]


def test_the_step_of_a_closure_moves_rows_and_returns_its_loss():
    model, ids = memory_model(), tokens(2, 9)
    optimizer = RowSGD([p for p in model.parameters() if p.requires_grad], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        return loss

    assert optimizer.step(closure).item() > optimizer.step(closure).item() > 0
    assert all(t.row_updates.sum() == 12 for t in tables(model))


def test_state_that_a_checkpointing_tool_made_for_whole_tables_gives_way():
    plain, prepared = memory_model(), memory_model()
    optimizers = [
        RowAdamW([p for p in m.parameters() if p.requires_grad], lr=1e-2) for m in (plain, prepared)
    ]
    get_optimizer_state_dict(prepared, optimizers[1])  # it takes an empty step of its own
    assert "exp_avg" in optimizers[1].state[tables(prepared)[0].values]
    for step in range(2):
        for model, optimizer in zip((plain, prepared), optimizers):
            train_step(model, optimizer, tokens(2, 9, seed=step))
    for one, other in zip(tables(plain), tables(prepared)):
        assert torch.equal(bits(one.values), bits(other.values)) and one.row_updates.any()


def by_trainer(folder, **settings):
    """A memory model after three steps of transformers' Trainer."""
    model = memory_model(trainable="values+scale")
    ids = tokens(12, 9)
    arguments = {"optim": settings.pop("optim")} if "optim" in settings else {}
    Trainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=4,
            max_steps=3,
            learning_rate=1e-2,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            **arguments,
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in ids],
        **settings,
    ).train()
    return model


def test_a_trainer_that_names_no_optimizer_gives_the_bits_of_one_that_names_ours(tmp_path):
    args = TrainingArguments(str(tmp_path), learning_rate=1e-2, use_cpu=True)
    _, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    told_nothing = by_trainer(tmp_path)
    told = by_trainer(tmp_path, optimizer_cls_and_kwargs=(RowAdamW, kwargs))
    for one, other in zip(tables(told_nothing), tables(told)):
        assert one.row_updates.sum() == 18
        assert torch.equal(bits(one.values), bits(other.values))


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused", "sgd"])
def test_other_optimizers_of_a_trainer_train_rows_too(optim, tmp_path):
    assert all(t.row_updates.sum() == 18 for t in tables(by_trainer(tmp_path, optim=optim)))


@pytest.mark.parametrize("optim", ["adafactor", "rmsprop", "adagrad"])
def test_a_trainer_with_an_unknown_optimizer_is_refused(optim, tmp_path):
    with pytest.raises(ValueError, match=rf"optimizer=\S+\.(?i:{optim}) cannot train"):
        by_trainer(tmp_path, optim=optim)


def test_a_copied_or_unpickled_model_trains_its_rows_without_further_ado():
    model = memory_model()
    for handle in torch.optim.smf_lib_hooks:  # as in a process that has only unpickled it
        handle.remove()
    copied = copy.deepcopy(model)
    trained = [p for p in copied.parameters() if p.requires_grad]
    train_step(copied, torch.optim.AdamW(trained, lr=0.1), tokens(2, 9))
    assert all(t.row_updates.sum() == 6 for t in tables(copied))


HOOKS = """
import importlib, sys
sys.path.insert(0, "tests")
import torch
from torch.optim import optimizer
import smf_lib
assert not optimizer._global_optimizer_post_hooks and not optimizer._global_optimizer_pre_hooks
from helpers_models import memory_model, tables, tokens, train_step
memory_model(update="dense")
assert not optimizer._global_optimizer_post_hooks
for _ in range(2):
    memory_model()
from smf_lib.method import row_adam, tuner
for module in (row_adam, tuner):
    importlib.reload(module)
model = memory_model()
assert len(optimizer._global_optimizer_post_hooks) == 1
assert len(optimizer._global_optimizer_pre_hooks) == 2  # the other refuses loss scalers
trained = [p for p in model.parameters() if p.requires_grad]
for cls in (torch.optim.AdamW, smf_lib.RowAdamW, row_adam.RowAdamW):
    train_step(model, cls(trained, lr=0.1), tokens(2, 9))
assert all(t.row_updates.sum() == 18 for t in tables(model))
print("one pair of hooks")
"""


def test_an_import_installs_nothing_and_reloads_leave_one_pair_of_hooks():
    done = subprocess.run(
        [sys.executable, "-c", HOOKS],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout == "one pair of hooks\n", done.stderr
