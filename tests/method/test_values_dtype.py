"""Tables in bfloat16: half the bytes, and float32 masters of the rows that steps chose."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers_models import (
    adamw,
    bits,
    memory_model,
    row_state,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import PeftModel
from torch import Tensor
from transformers import Trainer, TrainingArguments

from smf_lib import (
    ProductKeyMemory,
    RowAdamW,
    RowPatch,
    RowSGD,
    SparseMemoryCallback,
    TrainingState,
    compose,
)

DTYPES = ("float32", "bfloat16")


def in_bfloat16(model=None, **settings):
    return memory_model(model=model, values_dtype="bfloat16", **settings)


def optimizer_of(model, make=RowAdamW, lr=1e-2, **settings):
    return make([p for p in model.parameters() if p.requires_grad], lr=lr, **settings)


def bytes_of(model) -> int:
    return sum(t.values.nbytes for t in tables(model))


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lean", [False, True])
def test_the_table_alone_is_in_bfloat16_wherever_it_goes(base, lean, tmp_path):
    model = in_bfloat16(tiny_model().to(base), initial_values="random", trainable="memory")
    train_step(model, optimizer_of(model), tokens(2, 9))
    model.save_pretrained(tmp_path)
    wrapped = PeftModel.from_pretrained(tiny_model().to(base), tmp_path, low_cpu_mem_usage=lean)
    wrapped.load_adapter(tmp_path, "again", low_cpu_mem_usage=lean)
    for found in (model, wrapped, copy.deepcopy(model)):
        named = [(n, p) for n, p in found.named_parameters() if ".smf_" in n]
        assert {p.dtype for n, p in named if n.endswith(".values")} == {torch.bfloat16}
        assert {p.dtype for n, p in named if not n.endswith(".values")} == {torch.float32}
    for one, other in zip(tables(model), tables(wrapped)[::2], strict=True):
        assert torch.equal(bits(one.values), bits(other.values))
        assert torch.equal(one.row_updates, other.row_updates)
    random = [t.values for t in tables(memory_model(initial_values="random"))]
    untouched = [t.row_updates == 0 for t in tables(model)]
    for table, rows, whole in zip(tables(model), untouched, random):
        assert torch.equal(table.values[rows], whole[rows].bfloat16())


def test_it_takes_half_the_bytes_in_memory_and_in_the_file(tmp_path):
    models = {dtype: memory_model(num_subkeys=64, values_dtype=dtype) for dtype in DTYPES}
    for dtype, model in models.items():
        train_step(model, optimizer_of(model), tokens(2, 9))
        model.save_pretrained(tmp_path / dtype)
    assert bytes_of(models["float32"]) == 2 * bytes_of(models["bfloat16"]) == 2 * 64**2 * 32 * 4
    sizes = [(tmp_path / n / "adapter_model.safetensors").stat().st_size for n in DTYPES]
    assert sizes[0] - sizes[1] == pytest.approx(bytes_of(models["bfloat16"]), rel=1e-2)
    for table in tables(models["bfloat16"]):  # and a master only for rows that were chosen
        state = row_state(optimizer_of(models["bfloat16"]), table)
        assert not state["master"].any()


def trained_alone(values_dtype: str, make, lr: float, steps: int = 200):
    """A memory of 16 rows, all of which move in each step, on a target; and its optimizer."""
    memory = ProductKeyMemory(
        hidden_size=8, num_subkeys=4, num_heads=2, top_k=4, key_dim=8, rule="all",
        initial_values="random", values_dtype=values_dtype,
    ).requires_grad_(False)  # fmt: skip
    memory.values.requires_grad_(True), memory.anchor.requires_grad_(True)
    memory.values.data = memory.values.bfloat16().to(memory.values_dtype)  # the same start
    optimizer = make([memory.values, memory.anchor], lr=lr)
    random = torch.Generator().manual_seed(0)
    x, target = (torch.randn(30, 8, generator=random) for _ in range(2))
    for _ in range(steps):
        ((memory(x) - target) ** 2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return memory, optimizer


@pytest.mark.parametrize("make, lr", [(RowAdamW, 5e-5), (RowSGD, 1e-3)])
def test_updates_that_bfloat16_alone_would_lose_add_up(make, lr):
    """200 steps, nearly all far below half of what tells neighbouring bfloat16 numbers apart.

    After them a master is within 2 % of the largest move of where float32 training comes to, and
    the row is the master's rounding.
    """
    start = trained_alone("float32", make, lr, steps=0)[0].values.detach()
    whole = trained_alone("float32", make, lr)[0].values.detach()
    memory, optimizer = trained_alone("bfloat16", make, lr)
    master = row_state(optimizer, memory)["master"]
    one_step = (start + (whole - start) / 200).bfloat16()
    assert (one_step == start).float().mean() > 0.95
    assert (master - whole).abs().max() < 0.02 * (whole - start).abs().max()
    assert torch.equal(bits(memory.values), bits(master.bfloat16()))
    assert (memory.values != start).float().mean() > 0.5


def trained_in_both(make, lr):
    """Models in float32 and in bfloat16 after the same six steps, and their losses."""
    models = [memory_model(values_dtype=dtype, rule="random") for dtype in DTYPES]
    optimizers = [optimizer_of(model, make, lr=lr) for model in models]
    batches = [tokens(2, 9, seed=step) for step in range(6)]
    losses = [
        [train_step(model, optimizer, ids) for ids in batches]
        for model, optimizer in zip(models, optimizers)
    ]
    return models, losses


def test_descent_equals_that_in_float32_up_to_rounding():
    """The same rows, each value within 1 % of the largest."""
    models, losses = trained_in_both(RowSGD, 0.1)
    for one, other in zip(*map(tables, models), strict=True):
        assert torch.equal(one.row_updates, other.row_updates) and one.row_updates.any()
        assert (one.values - other.values).abs().max() < 0.01 * one.values.abs().max()
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_adam_learns_as_much_as_in_float32():
    """(Of a number with next to no gradient Adam's step has the sign of its rounding.)"""
    _, losses = trained_in_both(RowAdamW, 0.1)
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def written(model, rows: Tensor) -> None:
    with torch.no_grad():
        for table in tables(model):
            table.values[rows] = 5.0


@pytest.mark.parametrize("make", [RowAdamW, RowSGD])
def test_what_else_writes_to_rows_is_not_undone_by_their_masters(make):
    model = in_bfloat16(rule="all", initial_values="random")
    optimizer = optimizer_of(model, make, lr=1e-4)
    for step in range(3):
        train_step(model, optimizer, tokens(2, 9, seed=step))
    before = [row_state(optimizer, t)["master"] for t in tables(model)]
    rows = torch.arange(0, 64, 2)
    written(model, rows)
    train_step(model, optimizer, tokens(2, 9, seed=3))
    for table, earlier in zip(tables(model), before):
        now = row_state(optimizer, table)["master"]
        moved = now != earlier
        assert moved[rows].any() and moved[rows + 1].any()
        changed = rows[moved[rows].any(1)]
        assert (now[changed] - 5).abs().max() < 1e-3  # from where they were put
        others = (rows + 1)[moved[rows + 1].any(1)]
        assert (now[others] - earlier[others]).abs().max() < 1e-3  # from where they were
        assert (now[others] != table.values[others].float()).any()
        assert torch.equal(bits(table.values[changed]), bits(now[changed].bfloat16()))


def test_a_patch_that_is_reverted_between_steps_stays_reverted():
    model = in_bfloat16(rule="all")
    optimizer = optimizer_of(model, lr=1.0)
    train_step(model, optimizer, tokens(2, 9))
    assert all(t.values.abs().max() > 0.5 for t in tables(model))
    RowPatch.from_model(model).revert(model)
    optimizer.param_groups[0]["lr"] = 1e-4
    train_step(model, optimizer, tokens(2, 9))
    assert all(0 < t.values.abs().max() < 1e-3 for t in tables(model))


def test_patches_hold_float32_and_fit_tables_of_either_dtype():
    patches = []
    for seed in (0, 1):
        model = in_bfloat16()
        train_step(model, optimizer_of(model, lr=0.3), tokens(2, 9, seed=seed))
        patches.append(RowPatch.from_model(model))
    for on_conflict in ("sum", "moved"):
        both = compose(*patches, on_conflict=on_conflict, model=in_bfloat16()).patch
        for dtype in DTYPES:
            model = memory_model(values_dtype=dtype)
            both.apply(model)
            for table, rows in zip(tables(model), both.tables.values()):
                assert rows.after.dtype == torch.float32
                assert torch.equal(table.values[rows.rows], rows.after.to(table.values.dtype))
            both.revert(model)
            assert not any(t.values.any() or t.row_updates.any() for t in tables(model))


@pytest.mark.parametrize(
    "make",
    [
        RowAdamW,
        RowSGD,
        torch.optim.SGD,
        lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True, weight_decay=0.1),
    ],
    ids=["RowAdamW", "RowSGD", "SGD", "Adam, fused"],
)
def test_a_distributed_checkpoint_goes_on_bit_for_bit(make):
    models = [in_bfloat16(rule="random", trainable="values+scale") for _ in range(2)]
    optimizers = [optimizer_of(model, make, lr=1e-3) for model in models]
    for step in range(3):
        train_step(models[0], optimizers[0], tokens(2, 9, seed=step))
    state = copy.deepcopy(TrainingState(models[0], optimizers[0]).state_dict())
    TrainingState(models[1], optimizers[1]).load_state_dict(state)
    for step in range(3, 6):
        for model, optimizer in zip(models, optimizers):
            train_step(model, optimizer, tokens(2, 9, seed=step))
    for one, other in zip(*map(tables, models), strict=True):
        assert torch.equal(bits(one.values), bits(other.values)) and one.row_updates.any()
        first, second = row_state(optimizers[0], one), row_state(optimizers[1], other)
        assert first["master"].any()
        assert all(torch.equal(bits(first[name]), bits(second[name])) for name in first)


@pytest.mark.parametrize("dtypes", [DTYPES, DTYPES[::-1]], ids=str)
def test_an_optimizers_state_from_beside_another_dtype_is_refused(dtypes):
    models = [memory_model(values_dtype=dtype) for dtype in dtypes]
    optimizers = [adamw(model) for model in models]
    train_step(models[0], optimizers[0], tokens(2, 9))
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    before = [bits(t.values) for t in tables(models[1])]
    with pytest.raises(ValueError, match="state of optimizer=AdamW.*another dtype than torch"):
        train_step(models[1], optimizers[1], tokens(2, 9))
    assert all(torch.equal(bits(t.values), b) for t, b in zip(tables(models[1]), before))


def test_a_table_that_is_not_in_its_dtype_is_refused_and_the_callback_puts_it_back(tmp_path):
    expected, model = (in_bfloat16(initial_values="random") for _ in range(2))
    model.float()
    with pytest.raises(ValueError, match="values are torch.float32; keep them in torch.bfloat16"):
        train_step(model, adamw(model), tokens(2, 9))
    with pytest.raises(ValueError, match="values of .* are torch.float32"):
        RowPatch.from_model(model)
    for wrap in (torch.nn.Module.float, torch.nn.Module.half, torch.nn.Module.bfloat16):
        wrap(model)
        args = TrainingArguments(str(tmp_path), use_cpu=True, report_to=[])
        SparseMemoryCallback(Trainer(model, args, train_dataset=[]))
        for one, other in zip(tables(model), tables(expected)):
            assert torch.equal(bits(one.values), bits(other.values))
            assert torch.equal(bits(one.keys), bits(other.keys))
