"""The row-sparse optimizer step: only selected rows move, and they move as Adam says."""

from __future__ import annotations

import io

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
from hypothesis import given
from hypothesis import strategies as st

from smf_lib.method.layer import ProductKeyMemory
from smf_lib.method.row_adam import RowAdamW
from smf_lib.method.rules import count_reads


@given(
    seed=st.integers(0, 1000),
    subkeys=st.integers(4, 9),
    rows_per_step=st.integers(1, 20),
    base=st.sampled_from([torch.float32, torch.bfloat16]),
    autocast=st.booleans(),
    accumulation=st.integers(1, 4),
    checkpointing=st.booleans(),
    weight_decay=st.sampled_from([0.0, 0.1]),
    rule=st.sampled_from(["kl", "tfidf", "count", "random"]),
    scope=st.sampled_from(["values", "values+scale", "memory"]),
    values_dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_rows_not_selected_keep_every_bit_and_their_optimizer_state(
    seed,
    subkeys,
    rows_per_step,
    base,
    autocast,
    accumulation,
    checkpointing,
    weight_decay,
    rule,
    scope,
    values_dtype,
):
    model = memory_model(
        model=tiny_model(seed=seed).to(base),
        num_subkeys=subkeys,
        rows_per_step=rows_per_step,
        rule=rule,
        trainable=scope,
        values_dtype=values_dtype,
        initial_values="random",
        seed=seed,
    ).train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = adamw(model, weight_decay=weight_decay)
    start = [bits(t.values) for t in tables(model)]
    for step in range(3):
        before = [
            (bits(t.values), t.row_updates.clone(), row_state(optimizer, t)) for t in tables(model)
        ]
        for micro in range(accumulation):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                ids = tokens(2, 7, seed=seed + 10 * step + micro)
                loss = model(input_ids=ids, labels=ids).loss / accumulation
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for table, (values, updates, state) in zip(tables(model), before):
            selected = table.row_updates > updates
            assert 0 < selected.sum() <= rows_per_step
            assert torch.equal(bits(table.values)[~selected], values[~selected])
            for name, now in row_state(optimizer, table).items():
                assert torch.equal(bits(now)[~selected], bits(state[name])[~selected]), name
    for table, values in zip(tables(model), start):
        never = table.row_updates == 0
        assert torch.equal(bits(table.values)[never], values[never])


def small_memory(rule: str | None, **settings) -> ProductKeyMemory:
    shape = {"hidden_size": 8, "num_subkeys": 6, "num_heads": 2, "top_k": 3, "key_dim": 8}
    return ProductKeyMemory(**shape | settings, initial_values="random", rule=rule)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("limit", [None, 0.05])
def test_selected_rows_follow_dense_adam_with_a_step_count_per_row(weight_decay, limit):
    """Against Adam on the dense gradient of autograd, applied to the selected rows alone."""
    sparse = small_memory("count", rows_per_step=5, max_grad_norm=limit)
    sparse.requires_grad_(False)
    sparse.values.requires_grad_(True), sparse.anchor.requires_grad_(True)
    lr, betas, eps = 1e-2, (0.8, 0.9), 1e-6
    optimizer = RowAdamW(
        [sparse.values, sparse.anchor], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay
    )
    values = sparse.values.detach().double()
    mean, square = torch.zeros_like(values), torch.zeros_like(values)
    count = torch.zeros(len(values), dtype=torch.float64)
    target = torch.randn(20, 8)
    for _ in range(6):
        x = torch.randn(20, 8)
        dense = small_memory(None)
        dense.values.data.copy_(values.float())
        ((dense(x) - target) ** 2).sum().backward()
        grad = dense.values.grad.double()

        ((sparse(x) - target) ** 2).sum().backward()
        before = sparse.row_updates.clone()
        optimizer.step()
        optimizer.zero_grad()
        rows = (sparse.row_updates > before).nonzero().squeeze(1)

        reads = count_reads([dense.lookup(x)[0]])
        best = sorted(zip((-reads.counts).tolist(), reads.rows.tolist()))[:5]
        assert rows.tolist() == sorted(row for _, row in best)
        grad = grad[rows]
        if limit is not None:
            assert grad.norm() > limit
            grad = grad * limit / grad.norm()
        count[rows] += 1
        mean[rows] = betas[0] * mean[rows] + (1 - betas[0]) * grad
        square[rows] = betas[1] * square[rows] + (1 - betas[1]) * grad**2
        t = count[rows, None]
        move = (mean[rows] / (1 - betas[0] ** t)) / (
            (square[rows] / (1 - betas[1] ** t)).sqrt() + eps
        )
        values[rows] -= lr * (move + weight_decay * values[rows])
        torch.testing.assert_close(sparse.values.detach().double(), values, rtol=1e-4, atol=1e-5)
    assert count.max() > count[count > 0].min()  # rows really were selected unequally often


def test_limit_of_the_gradient_norm_is_joint_over_tables():
    """Scaling all gradients scales Adam's first moment, from which the limit is read off."""
    model = memory_model(max_grad_norm=1e-3)
    optimizer = adamw(model)
    train_step(model, optimizer, tokens(2, 9))
    first = torch.cat([row_state(optimizer, t)["exp_avg"].flatten() for t in tables(model)]) / 0.1
    assert first.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("rule", ["kl", "count", "random", "all"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_micro_batches_add_up_to_one_batch(rule, checkpointing):
    ids, whole, parts = tokens(4, 9), memory_model(rule=rule), memory_model(rule=rule)
    if checkpointing:
        parts.train().gradient_checkpointing_enable({"use_reentrant": False})
    optimizers = adamw(whole), adamw(parts)
    for step in range(3):
        ids = tokens(4, 9, seed=step)
        train_step(whole, optimizers[0], ids)
        for part in ids.chunk(4):
            (parts(input_ids=part, labels=part).loss / 4).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
    for one, many in zip(tables(whole), tables(parts)):
        assert torch.equal(one.row_updates, many.row_updates)
        torch.testing.assert_close(one.values, many.values, rtol=1e-3, atol=1e-5)


def taped_reads(model) -> list[tuple]:
    counted = [count_reads([entry[0] for entry in t.tape.entries]) for t in tables(model)]
    return [(reads.rows.tolist(), reads.counts.tolist()) for reads in counted]


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_counts_reads_once(reentrant):
    plain, checkpointed = memory_model().train(), memory_model().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed.enable_input_require_grads()
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    for model in (plain, checkpointed):
        model(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
    assert taped_reads(plain) == taped_reads(checkpointed)
    assert sum(taped_reads(plain)[0][1]) == 14 * 8  # real tokens, each with 2 heads of 4 reads


def test_two_forward_passes_before_one_backward_both_count():
    once, checkpointed = memory_model().train(), memory_model().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    long, short = tokens(2, 9), tokens(1, 5, seed=1)
    mask = torch.ones_like(long)
    mask[0, 6:] = 0
    for model in (once, checkpointed):
        first = model(input_ids=long, labels=long, attention_mask=mask).loss
        second = model(input_ids=short, labels=short, attention_mask=torch.ones_like(short)).loss
        (first + second).backward()
    assert taped_reads(once) == taped_reads(checkpointed)
    assert sum(taped_reads(once)[0][1]) == (15 + 5) * 8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("form", ["2d", "4d added", "4d bool"])
def test_padding_never_counts(side, form):
    """A padded batch gives the rows and values of its sequences alone."""
    sequences = [tokens(1, length, seed=length) for length in (9, 5, 7)]
    ids, mask = torch.zeros(3, 9, dtype=torch.int64), torch.zeros(3, 9, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        n = sequence.shape[1]
        where = slice(9 - n, 9) if side == "left" else slice(0, n)
        ids[row, where], mask[row, where] = sequence, 1
    labels = ids.masked_fill(mask == 0, -100)
    if side == "left":  # the first real token has no earlier one to predict it from
        first = mask.argmax(1)
        labels[torch.arange(3), first] = -100
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    given_mask = mask
    if form != "2d":
        allowed = torch.tril(torch.ones(9, 9, dtype=torch.bool)) & mask.bool()[:, None, :]
        allowed = allowed[:, None]
        given_mask = (
            allowed
            if form == "4d bool"
            else torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
        )
    padded, alone = memory_model(), memory_model()
    optimizers = adamw(padded), adamw(alone)
    for _ in range(2):
        train_step(
            padded,
            optimizers[0],
            ids,
            labels=labels,
            attention_mask=given_mask,
            position_ids=positions,
        )
        n_targets = sum(s.shape[1] - 1 for s in sequences)
        for sequence in sequences:
            share = (sequence.shape[1] - 1) / n_targets
            (alone(input_ids=sequence, labels=sequence).loss * share).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
    for one, other in zip(tables(padded), tables(alone)):
        assert torch.equal(one.row_updates, other.row_updates)
        torch.testing.assert_close(one.values, other.values, rtol=1e-3, atol=1e-5)


def test_packed_sequences_without_a_mask_all_count():
    model = memory_model()
    ids = tokens(1, 12)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 6]])
    model(input_ids=ids, position_ids=positions, labels=ids).loss.backward()
    assert [sum(counts) for _, counts in taped_reads(model)] == [12 * 8, 12 * 8]


def test_packed_sequences_give_the_rows_and_values_of_the_sequences_apart():
    """Two texts and padding in one row: a block mask keeps the texts apart and padding out."""
    first, second = tokens(1, 5, seed=1), tokens(1, 6, seed=2)
    ids = torch.cat([first, second, torch.zeros(1, 3, dtype=torch.int64)], dim=1)
    text = torch.tensor([0] * 5 + [1] * 6 + [2] * 3)
    allowed = torch.tril(text[:, None] == text[None, :]) & (text < 2)[None, :]
    positions = torch.tensor([[*range(5), *range(6), *range(3)]])
    labels = ids.masked_fill((text == 2)[None], -100)
    labels[0, 5] = -100  # no text predicts the other's first token
    packed, apart = memory_model(), memory_model()
    optimizers = adamw(packed), adamw(apart)
    for _ in range(2):
        train_step(
            packed,
            optimizers[0],
            ids,
            labels=labels,
            position_ids=positions,
            attention_mask=allowed[None, None],
        )
        for one in (first, second):
            share = (one.shape[1] - 1) / 9
            (apart(input_ids=one, labels=one).loss * share).backward()
        optimizers[1].step()
        optimizers[1].zero_grad()
    for one, other in zip(tables(packed), tables(apart)):
        assert torch.equal(one.row_updates, other.row_updates) and one.row_updates.any()
        torch.testing.assert_close(one.values, other.values, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("values_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"fused": True}, {"foreach": True}, {"amsgrad": False}])
def test_saved_and_loaded_optimizer_goes_on_bit_for_bit(settings, values_dtype):
    straight, resumed = (memory_model(rule="random", values_dtype=values_dtype) for _ in range(2))
    optimizer, fresh = adamw(straight), adamw(resumed, **settings)
    batches = [tokens(2, 9, seed=s) for s in range(6)]
    for ids in batches[:3]:
        train_step(straight, optimizer, ids)
    file = io.BytesIO()
    torch.save([straight.state_dict(), optimizer.state_dict()], file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed.load_state_dict(weights)
    state["param_groups"] = fresh.state_dict()["param_groups"]
    fresh.load_state_dict(state)
    for ids in batches[3:]:
        train_step(straight, optimizer, ids)
        train_step(resumed, fresh, ids)
    for one, other in zip(tables(straight), tables(resumed)):
        assert torch.equal(one.row_updates, other.row_updates)
        assert torch.equal(bits(one.values), bits(other.values))
        for name, value in row_state(optimizer, one).items():
            assert torch.equal(bits(value), bits(row_state(fresh, other)[name])), name


def test_state_follows_the_rows_touched_and_not_the_table():
    model = memory_model(num_subkeys=64)
    optimizer = adamw(model)
    for step in range(8):
        train_step(model, optimizer, tokens(2, 9, seed=step))
    for table in tables(model):
        touched = int((table.row_updates > 0).sum())
        state = optimizer.state[table.values]
        assert int(state["used"]) == touched
        assert touched <= len(state["exp_avg"]) <= 1.5 * touched + 6 < table.num_rows
        assert table.values.grad is None


def test_dropped_gradients_drop_their_reads():
    dropped, never = memory_model(), memory_model()
    optimizers = adamw(dropped), adamw(never)
    start = [bits(t.values) for t in tables(dropped)]
    ids = tokens(2, 9, seed=5)
    dropped(input_ids=ids, labels=ids).loss.backward()
    optimizers[0].zero_grad()
    optimizers[0].step()  # nothing is left to step with
    assert all(torch.equal(bits(t.values), b) for t, b in zip(tables(dropped), start))

    later = dropped(input_ids=ids, labels=ids).loss
    dropped(input_ids=ids, labels=ids).loss.backward()
    optimizers[0].zero_grad()
    later.backward()  # of a forward pass from before the gradients were dropped
    optimizers[0].step()
    train_step(never, optimizers[1], ids)
    for one, other in zip(tables(dropped), tables(never)):
        assert torch.equal(bits(one.values), bits(other.values))


def test_an_optimizer_without_the_tables_is_reported():
    model, ids = memory_model(trainable="values+scale"), tokens(2, 9)
    blind = torch.optim.AdamW([p for n, p in model.named_parameters() if "scale" in n], lr=0.1)
    for _ in range(3):
        model(input_ids=ids, labels=ids).loss.backward()
        blind.step()
        model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    with pytest.warns(UserWarning, match="dropped three times.*give the optimizer.*`values`"):
        loss.backward()


def test_the_step_of_a_closure_uses_the_closures_reads():
    closed, plain = memory_model(), memory_model()
    optimizers = adamw(closed), adamw(plain)
    for step in range(2):
        ids = tokens(2, 9, seed=step)

        def closure(ids=ids):
            optimizers[0].zero_grad()
            loss = closed(input_ids=ids, labels=ids).loss
            loss.backward()
            return loss

        optimizers[0].step(closure)
        train_step(plain, optimizers[1], ids)
    for one, other in zip(tables(closed), tables(plain)):
        assert torch.equal(bits(one.values), bits(other.values))


def test_a_batch_of_padding_alone_changes_nothing():
    model = memory_model()
    optimizer = adamw(model)
    ids = tokens(2, 9)
    train_step(model, optimizer, ids, attention_mask=torch.zeros_like(ids))
    assert all((t.row_updates == 0).all() and (t.values == 0).all() for t in tables(model))
    train_step(model, optimizer, ids)
    assert all((t.row_updates > 0).sum() == 6 for t in tables(model))


def test_what_cannot_train_rows_is_refused():
    model, ids = memory_model(), tokens(2, 9)
    refused = pytest.raises(ValueError, match="fp16=True.*bf16=True")
    with refused, torch.autocast("cpu", torch.float16):
        model(input_ids=ids)
    with pytest.raises(ValueError, match="torch.bfloat16; keep them in torch.float32"):
        half = memory_model().to(torch.bfloat16)
        train_step(half, adamw(half), ids)
    with pytest.raises(ValueError, match="needs it on `anchor`"):
        for table in tables(model):
            table.anchor.requires_grad_(False)
        model(input_ids=ids)
