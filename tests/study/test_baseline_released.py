"""The algorithm as released, a switch at a time: which rows move, and by which gradient."""

import itertools

import pytest
import torch
from helpers_models import bits, memory_model, row_state, tables, tokens, train_step

from smf_lib.method.row_adam import RowAdamW, RowSGD
from smf_lib.method.rules import count_reads, select_rows
from smf_lib.study.baselines import Start, change_of
from smf_lib.study.training import processes
from smf_lib.study.training.train import finetune

BATCHES = [tokens(2, 6, seed=seed) for seed in (1, 2, 3)]
PADDED = torch.ones(2, 6, dtype=torch.int64)
PADDED[1, 2:] = 0


def optimizer_of(model, learning_rate=1e-2, **switches):
    change = change_of(Start(model, [], {}.get), "released", switches)
    return change.optimizer(trained(model), lr=learning_rate), change


def trained(model):
    return [p for p in model.parameters() if p.requires_grad]


def values(model):
    return [bits(table.values) for table in tables(model)]


def moved(before, after):
    """For each table the rows that are not what they were."""
    return [set((a != b).any(1).nonzero()[:, 0].tolist()) for a, b in zip(before, after)]


def selected(model):
    """The rows that a step has selected so far, for each table."""
    return [set((t.row_updates > 0).nonzero()[:, 0].tolist()) for t in tables(model)]


def backward(model, ids, mask=None):
    labels = ids if mask is None else ids.masked_fill(mask == 0, -100)
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()


@pytest.mark.parametrize("rule", ["count", "random", "tfidf"])
@pytest.mark.parametrize("shared", [False, True])
def test_without_switches_it_is_the_plain_method_to_the_bit(rule, shared):
    found = []
    for released in (False, True):
        model = memory_model(rule=rule, share_values=shared, max_grad_norm=0.01)
        plain = RowAdamW(trained(model), lr=1e-2, weight_decay=0.0)
        optimizer = optimizer_of(model)[0] if released else plain
        for first, second in itertools.pairwise(BATCHES):
            backward(model, first, PADDED)
            backward(model, second)
            optimizer.step()
            optimizer.zero_grad()
        states = [row_state(optimizer, table) for table in tables(model)]
        found.append((values(model), selected(model), states))
    (plain, rows, states), (same, same_rows, same_states) = found
    assert rows == same_rows and all(rows)
    assert all(torch.equal(*pair) for pair in zip(plain, same))
    for one, other in zip(states, same_states):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_with_dense_moments_rows_chosen_before_go_on_moving():
    """And no other row: what was never chosen has no momentum."""
    found = {}
    for dense in (False, True):
        model = memory_model(rows_per_step=4)
        optimizer, _ = optimizer_of(model, dense_moments=dense)
        train_step(model, optimizer, BATCHES[0])
        first, before = selected(model), values(model)
        train_step(model, optimizer, BATCHES[1])
        found[dense] = first, selected(model), moved(before, values(model))
    for first, ever, second_step in zip(*found[False]):
        assert len(first) == 4 and len(second_step) <= 4 and not first <= second_step
        assert second_step <= ever
    assert found[True][0] == found[False][0]
    for first, ever, second_step in zip(*found[True]):
        assert second_step == ever > first


def test_dense_moments_are_those_of_an_adamw_of_the_masked_gradient():
    model = memory_model(rows_per_step=4, max_grad_norm=None)
    optimizer, _ = optimizer_of(model, dense_moments=True)
    copies = [torch.nn.Parameter(t.values.detach().clone()) for t in tables(model)]
    masked = torch.optim.AdamW(copies, lr=1e-2, weight_decay=0.0)
    for ids in BATCHES:
        backward(model, ids)
        for table, copy in zip(tables(model), copies):
            reads = count_reads([indices for indices, _, _ in table.tape.entries])
            rows = select_rows(reads, "count", 4)
            copy.grad = torch.zeros_like(copy)
            copy.grad[rows] = table.tape.row_gradient(rows)
        optimizer.step()
        optimizer.zero_grad()
        masked.step()
    for table, copy in zip(tables(model), copies):
        assert table.values.grad is None
        torch.testing.assert_close(table.values, copy, rtol=0, atol=0)


def test_each_micro_batch_chooses_by_its_own_reads():
    model = memory_model(rows_per_step=4, max_grad_norm=None)
    optimizer, _ = optimizer_of(model, mask_micro_batch=True)
    before = values(model)
    for ids in BATCHES[:2]:
        backward(model, ids)
    wanted, whole = [], []
    for table in tables(model):
        gradient = torch.zeros_like(table.values)
        for entry in table.tape.entries:
            rows = select_rows(count_reads([entry[0]]), "count", 4)
            part = type(table.tape)([entry])
            gradient[rows] += part.row_gradient(rows)
        wanted.append(gradient)
        reads = count_reads([entry[0] for entry in table.tape.entries])
        whole.append(set(select_rows(reads, "count", 4).tolist()))
    optimizer.step()
    for table, gradient, chosen, rows in zip(
        tables(model), wanted, whole, moved(before, values(model))
    ):
        assert rows == set(gradient.any(1).nonzero()[:, 0].tolist()) != chosen
        assert 4 < len(rows) <= 8
        moments = row_state(optimizer, table)["exp_avg"]
        torch.testing.assert_close(moments, 0.1 * gradient)


def test_one_micro_batch_chooses_as_the_whole_step_does():
    found = []
    for switch in (False, True):
        model = memory_model()
        optimizer, _ = optimizer_of(model, mask_micro_batch=switch)
        for ids in BATCHES:
            train_step(model, optimizer, ids)
        found.append(values(model))
    assert all(torch.equal(*pair) for pair in zip(*found))


def test_padding_counts_among_the_reads_until_training_is_done():
    chosen, read = {}, {}
    for counted in (False, True):
        model = memory_model(rows_per_step=4)
        optimizer, change = optimizer_of(model, count_padding=counted)
        backward(model, BATCHES[0], PADDED)
        read[counted] = [sum(len(e[0]) for e in t.tape.entries) for t in tables(model)]
        optimizer.step()
        optimizer.zero_grad()
        chosen[counted] = selected(model)
        if change.finish is not None:
            change.finish(model)
        backward(model, BATCHES[0], PADDED)
        assert [sum(len(e[0]) for e in t.tape.entries) for t in tables(model)] == [8, 8]
    assert read == {False: [8, 8], True: [12, 12]}
    assert chosen[False] != chosen[True]


def test_it_trains_on_one_process(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ValueError, match="trains on one process, not on 2"):
        change_of(Start(memory_model(), [], {}.get), "released", {})


def test_a_table_with_masters_is_refused():
    with pytest.raises(ValueError, match="baseline='released' trains tables in float32 alone"):
        change_of(Start(memory_model(values_dtype="bfloat16"), [], {}.get), "released", {})


def test_gradient_descent_moves_chosen_rows_by_their_gradient():
    model = memory_model(rows_per_step=4, max_grad_norm=None)
    change = change_of(Start(model, [], {}.get), "sgd", {})
    assert change.optimizer is RowSGD
    optimizer = change.optimizer(trained(model), lr=0.5)
    backward(model, BATCHES[0])
    wanted = []
    for table in tables(model):
        rows = select_rows(count_reads([e[0] for e in table.tape.entries]), "count", 4)
        gradient = torch.zeros_like(table.values)
        gradient[rows] = table.tape.row_gradient(rows)
        wanted.append(table.values.detach() - 0.5 * gradient)
    optimizer.step()
    for table, value in zip(tables(model), wanted):
        torch.testing.assert_close(table.values, value)


def test_a_training_takes_the_optimizer_of_a_baseline(tmp_path):
    """With those of AdamW's settings that it knows: gradient descent has no betas."""
    from smf_lib.study.models import load_model, tiny_random_model
    from smf_lib.study.settings import TrainingSettings

    ids = [[3 + i, 7, 8, 9 + i, 20 + i] for i in range(8)]
    rows = [{"input_ids": r, "labels": r, "attention_mask": [1] * 5} for r in ids]
    settings = TrainingSettings(
        precision="fp32", batch_size=2, gradient_accumulation=2, checkpoint_every=99
    )
    found = {}
    for name, baseline, switches in [
        ("plain", None, {}),
        ("off", "released", {}),
        ("dense", "released", {"dense_moments": True}),
        ("micro", "released", {"mask_micro_batch": True}),
        ("sgd", "sgd", {}),
    ]:
        base, tokenizer = load_model(tiny_random_model())
        model = memory_model(model=base)
        change = change_of(Start(model, rows, {}.get), baseline, switches)
        finetune(
            model, tokenizer, rows, settings, 1e-2, 0, tmp_path / name, optimizer=change.optimizer
        )
        found[name] = torch.cat(values(model))
    assert torch.equal(found["plain"], found["off"])
    others = [found[name] for name in ("plain", "dense", "micro", "sgd")]
    for i, one in enumerate(others):
        assert not any(torch.equal(one, other) for other in others[i + 1 :])
