"""A step as a GPU takes it: the rows of the CPU, and no result that Python would wait for."""

from __future__ import annotations

import copy
import pickle
from contextlib import nullcontext
from unittest.mock import Mock

import pytest
import torch
from helpers_models import adamw, bits, memory_model, row_state, run_ahead, tables, tokens
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from smf_lib import register_rule, select_rows
from smf_lib.method import layer, row_adam, row_steps, tape
from smf_lib.method.layer import ProductKeyMemory
from smf_lib.method.row_adam import RowAdamW, RowSGD
from smf_lib.method.rules import RULES, BackgroundReads, Reads, select_on_device
from smf_lib.method.tape import ReadTape


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Has this machine's memories step as they do where Python would wait for the device."""
    run_ahead(monkeypatch)


@given(
    rule=st.sampled_from(["kl", "tfidf", "count", "all"]),
    counts=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    rows_per_step=st.integers(1, 45),
    seed=st.integers(0, 1000),
)
def test_the_same_rows_are_chosen_and_equal_scores_go_to_the_lower(
    rule, counts, rows_per_step, seed
):
    counted, n = torch.tensor(counts), len(counts)
    random = torch.Generator().manual_seed(seed)
    background = BackgroundReads(
        torch.randint(0, 4, (n,), generator=random), torch.randint(0, 3, (n,), generator=random), 3
    )
    rows, read = select_on_device(counted, rule, rows_per_step, background)
    fixed = n if rule == "all" else min(rows_per_step, n)
    assert rows.tolist() == sorted(set(rows.tolist())) and len(rows) == fixed
    there = counted.nonzero().squeeze(1)
    expected = select_rows(Reads(there, counted[there]), rule, rows_per_step, background)
    assert rows[read].tolist() == expected.tolist()


def test_where_there_is_no_float64_rows_are_scored_on_the_cpu(monkeypatch):
    mps = torch.device("mps")
    memory = Mock(values=Mock(device=mps), num_rows=9, rows_per_step=2, background=None)
    memory.readers = [Mock(tape=ReadTape([(torch.tensor([[3, 5, 9, 5, 1, 1]]), None, None)]))]
    chosen = []

    def select(*given):
        chosen.append(select_rows(*given))
        return Mock(to=lambda device: (device, *chosen[0].tolist()))

    monkeypatch.setattr(row_adam, "select_rows", select)
    assert row_adam._choose(memory, "count", {}) == ((mps, 1, 5), None)


def test_the_gradient_of_rows_is_the_same_and_padding_has_none():
    random = torch.Generator().manual_seed(0)
    n, num_rows = 30, 12
    entries = []
    for _ in range(2):
        indices = torch.randint(0, num_rows, (n, 5), generator=random)  # a token reads some twice
        weights, grad = (torch.randn(n, size, generator=random) for size in (5, 7))
        indices[20:], grad[20:] = num_rows, 0.0
        entries.append((indices, weights, grad))
    rows = torch.tensor([0, 3, 4, 11])
    torch.testing.assert_close(
        ReadTape(entries).row_gradient_on_device(rows, num_rows),
        ReadTape([tuple(t[:20] for t in entry) for entry in entries]).row_gradient(rows),
    )


SETTINGS = {
    "KL": {"rule": "kl"},
    "TF-IDF, one table, all trained": {
        "rule": "tfidf",
        "share_values": True,
        "trainable": "memory",
    },
    "random rows": {"rule": "random"},
    "all rows": {"rule": "all"},
    "more rows than are read": {"rows_per_step": 60},
}


def trained(settings: dict, make, steps: int = 4) -> tuple:
    """A model after steps of two micro-batches with padding, and its optimizer."""
    model = memory_model(initial_values="random", **settings).train()
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    for step in range(steps):
        for micro in range(2):
            ids = tokens(2, 6, seed=10 * step + micro)
            mask = torch.ones_like(ids)
            mask[1, 3:] = 0
            model(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_training_moves_the_same_rows_by_as_much(settings, monkeypatch):
    def make(parameters):
        return RowAdamW(parameters, lr=1e-2, weight_decay=0.1)

    model, optimizer = trained(settings, make)
    monkeypatch.undo()
    plain, other = trained(settings, make)
    for one, two in zip(tables(model), tables(plain)):
        assert torch.equal(one.row_updates, two.row_updates) and one.row_updates.any()
        torch.testing.assert_close(one.values, two.values, rtol=1e-3, atol=1e-5)
        never = one.row_updates == 0
        assert torch.equal(bits(one.values)[never], bits(two.values)[never])
        found = row_state(optimizer, one)
        for name, expected in row_state(other, two).items():
            torch.testing.assert_close(found[name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize(
    "make",
    [
        lambda p: RowAdamW(p, lr=1e-2, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=1e-2, weight_decay=0.1),
        lambda p: RowSGD(p, lr=1e-2, weight_decay=0.1),
    ],
    ids=["AdamW", "Adam", "SGD"],
)
@pytest.mark.parametrize("values_dtype", ["float32", "bfloat16"])
def test_rows_that_fill_up_the_number_keep_every_bit(make, values_dtype):
    """Of 64 rows 60 are asked for and fewer are read; some were read, and moved, before."""
    settings = {"initial_values": "random", "rows_per_step": 60}
    model = memory_model(values_dtype=values_dtype, **settings).train()
    optimizer = make([p for p in model.parameters() if p.requires_grad])

    def state_of(table):
        return {} if isinstance(optimizer, RowSGD) else row_state(optimizer, table)

    fewer = 0
    for step in range(4):
        ids = tokens(1, 3, seed=step)
        before = [(bits(t.values), state_of(t)) for t in tables(model)]
        updates = [t.row_updates.clone() for t in tables(model)]
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for table, (values, state), earlier in zip(tables(model), before, updates):
            still = table.row_updates == earlier
            fewer += int(still.sum() > 4 and (earlier[still] > 0).any())
            assert torch.equal(bits(table.values)[still], values[still])
            for name, now in state_of(table).items():
                assert torch.equal(bits(now)[still], bits(state[name])[still]), name
    assert fewer


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_rule_that_compares_rows_gets_what_it_gets_on_the_cpu():
    given_reads = []

    @register_rule("compares")
    def compares(reads, background):
        given_reads.append(reads)
        return reads.counts - reads.counts.double().mean()

    try:
        model = memory_model(rule="compares")
        optimizer = adamw(model)
        ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.int64)
        mask[0, 4:] = 0
        model(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
        optimizer.step()
    finally:
        del RULES["compares"]
    assert len(given_reads) == 2
    for reads in given_reads:
        assert (reads.counts > 0).all() and reads.counts.sum() == 13 * 8
        assert reads.rows.max() < 64


class Asks(TorchDispatchMode):
    """Counts the operations whose result Python, or a shape, depends on."""

    ASKING = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "repeat_interleave")

    def __init__(self):
        super().__init__()
        self.asked = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        masks = args[1] if name in ("index", "index_put", "index_put_") else ()
        self.asked += any(name.startswith(asking) for asking in self.ASKING)
        self.asked += any(m is not None and m.dtype == torch.bool for m in masks)
        return function(*args, **kwargs)


def asked_in_steps(model, optimizer, batches) -> list[int]:
    """How often each whole step asks, from its forward pass to `zero_grad`."""
    asked = []
    for ids in batches:
        with Asks() as asks:
            train(model, optimizer, ids)
        asked.append(asks.asked)
    return asked


def train(model, optimizer, ids) -> None:
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


BATCHES = {
    "one batch again and again": [tokens(2, 9)] * 40,
    "new ones": [tokens(2, 9, seed=step) for step in range(40)],
}
KINDS = {  # fused, since the others ask on this machine
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True), "float32", 0),
    "masters": (lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True), "bfloat16", 4),
    "the rate a tensor": (lambda p: RowAdamW(p, lr=torch.tensor(1e-2), fused=True), "float32", 1),
    "SGD": (lambda p: RowSGD(p, lr=torch.tensor(1e-2), fused=True), "bfloat16", 1),
}


@pytest.mark.parametrize("make, values_dtype, late", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("batches", BATCHES.values(), ids=BATCHES)
def test_no_step_asks_the_device(batches, make, values_dtype, late, monkeypatch):
    """Also where the state grows, whose size still follows the rows that were touched."""
    run_ahead(monkeypatch, late)
    model = memory_model(num_subkeys=24, rows_per_step=12, rule="kl", values_dtype=values_dtype)
    optimizer = make([p for p in model.parameters() if p.requires_grad])
    asked = asked_in_steps(model, optimizer, batches)
    assert asked[0] == 2 and not any(asked[1:])  # the sum of each table's background, once
    for table in tables(model):
        state, touched = optimizer.state[table.values], int((table.row_updates > 0).sum())
        kept = state.get("exp_avg", state.get("master"))
        assert state["used"].view(torch.float32) == touched
        # what may have been taken since the last count that arrived counts as taken
        assert touched <= len(kept) <= 1.5 * (touched + 12 * (2 * late + 2)) < table.num_rows


def test_a_copied_number_is_said_once_the_copy_is_there(monkeypatch):
    number, held = torch.tensor(3.0), torch.tensor(0.0)
    event = Mock(query=iter([False, False, True]).__next__)
    stream = Mock(record_event=lambda: held == 3 and event)  # begun before its end is marked
    module = Mock(current_stream={number.device: stream}.__getitem__)
    monkeypatch.setattr(torch, "get_device_module", {number.device: module}.__getitem__)
    monkeypatch.setattr(torch, "empty_like", lambda like, **settings: held)
    taken = row_steps.begin_copy(number)
    assert [taken(), taken(), taken()] == [None, None, 3]


def pickled(model, optimizer):
    return pickle.loads(pickle.dumps((model, optimizer)))


def loaded(model, optimizer):
    copied = copy.deepcopy(model)
    other = adamw(copied, fused=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return copied, other


def moved(model, optimizer):
    for state in optimizer.state.values():
        state |= {name: held.clone() for name, held in state.items() if torch.is_tensor(held)}
    return model, optimizer


def set_back(model, optimizer):
    """To what it was a step ago, by writing into the tensors that are there."""
    weights, state = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, tokens(2, 9, seed=77))
    model.load_state_dict(weights)
    for held, before in zip(optimizer.state_dict()["state"].values(), state["state"].values()):
        for name, tensor in before.items():
            if torch.is_tensor(tensor) and held[name].shape == tensor.shape:
                held[name].copy_(tensor)
            else:
                held[name] = tensor
    return model, optimizer


WAYS = [pickled, lambda *given: copy.deepcopy(given), loaded, moved, set_back]


@pytest.mark.parametrize("values_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("way", WAYS, ids=["pickled", "copied", "loaded", "moved", "set back"])
def test_a_state_from_elsewhere_is_asked_once_and_trains_the_same(way, values_dtype, monkeypatch):
    run_ahead(monkeypatch, late=1)
    straight = memory_model(num_subkeys=24, rows_per_step=12, values_dtype=values_dtype)
    optimizer = adamw(straight, fused=True)
    for step in range(5):
        train(straight, optimizer, tokens(2, 9, seed=step))
    model, other = way(*copy.deepcopy((straight, optimizer)))
    batches = [tokens(2, 9, seed=step) for step in range(5, 20)]
    asked = asked_in_steps(model, other, batches)
    assert asked[0] == 2 and not any(asked[1:])  # once for each table
    for ids in batches:
        train(straight, optimizer, ids)
    for one, two in zip(tables(straight), tables(model), strict=True):
        assert torch.equal(bits(one.values), bits(two.values))
        for name, held in row_state(optimizer, one).items():
            assert torch.equal(bits(held), bits(row_state(other, two)[name])), name
        assert {type(held) for held in other.state[two.values].values()} == {torch.Tensor, int}


@pytest.mark.parametrize("rule", ["kl", "tfidf", "count", "random", "all"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("rows_per_step", [4, 36])
def test_a_step_runs_on_a_device_that_holds_no_numbers(rule, mask, rows_per_step, monkeypatch):
    """On the meta device whatever Python would wait for is an error."""
    memory = ProductKeyMemory(8, 6, 2, 3, 8, rule=rule, rows_per_step=rows_per_step, gated=True)
    memory.to("meta")
    monkeypatch.setattr(row_steps, "begin_copy", lambda number: lambda: 4)
    held = BackgroundReads(memory.background_counts, memory.background_documents, 3)
    held.__dict__["total"] = 100
    monkeypatch.setattr(ProductKeyMemory, "background", held)

    def write_down(number, indices, weights, grad, mask, copy):
        tape.READERS[number].write_down(indices, weights, grad, mask)
        return grad.new_zeros(())

    monkeypatch.setattr(tape, "write_down", write_down)  # torch runs its stand-in on meta tensors
    monkeypatch.setattr(layer, "check_recording", lambda *given: None)  # meta knows no autocast
    monkeypatch.setattr(torch, "autocast", lambda *given, **settings: nullcontext())
    memory.padding.mask = torch.ones(2, 5, device="meta").bool() if mask else None
    optimizer = RowAdamW(memory.parameters(), lr=1e-2)

    def step() -> None:
        for _ in range(2):
            memory(torch.randn(2, 5, 8, device="meta")).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    if rule == "random":  # its numbers come from the CPU
        with pytest.raises((RuntimeError, NotImplementedError), match="unique"):
            step()
        return
    for _ in range(12):
        step()
    assert optimizer.state[memory.values]["step"] == 12
