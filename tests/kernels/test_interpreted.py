"""The kernels, run by Triton's interpreter on a processor, give what torch gives."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
import triton
from helpers_models import adamw, bits, memory_model, run_ahead, tables, tokens
from torch._dynamo.testing import CompileCounterWithBackend

from smf_lib.method import kernels, layer, operators, tape
from smf_lib.method.tape import ReadTape

SHAPES = [  # rows, width, tokens, reads
    (1, 1, 1, 1),
    (7, 5, 3, 4),
    (12, 128, 5, 1),
    (9, 130, 4, 33),
    (40, 257, 2, 16),
]


@pytest.fixture
def with_kernels(monkeypatch):
    """Has this machine's memories read and step as on a GPU; gives the kernels, which count."""
    runs = {}
    for name in ("read", "weight_gradient", "row_gradient"):
        runs[name] = Mock(wraps=getattr(kernels, name))
        monkeypatch.setattr(kernels, name, runs[name])
    run_ahead(monkeypatch)
    for module in (layer, tape):  # all but the question whether it is a GPU
        monkeypatch.setattr(module, "kernels_run", operators._kernels_agree)
    operators.kernels_agree.cache_clear()
    yield runs
    operators.kernels_agree.cache_clear()


def table_and_reads(shape: tuple, dtype: torch.dtype) -> tuple:
    """Random values, row ids (a token reads some twice), weights, and a gradient of the read."""
    rows, width, n, reads = shape
    values = torch.randn(rows, width).to(dtype)
    indices = torch.randint(0, rows, (n, reads))
    return values, indices, torch.randn(n, reads), torch.randn(n, width)


def test_it_is_the_interpreter():
    assert triton.knobs.runtime.interpret


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_read_and_the_gradient_of_its_weights(shape, dtype):
    values, indices, weights, grad = table_and_reads(shape, dtype)
    found, expected = [], []
    for results in (found, expected):
        leaf = weights.clone().requires_grad_()
        if results is found:
            read = operators.read_rows(values, indices, leaf)
        else:
            read = F.embedding_bag(indices, values.float(), per_sample_weights=leaf, mode="sum")
        results += [read.detach(), *torch.autograd.grad(read, leaf, grad)]
    torch.testing.assert_close(found, expected)


def test_a_table_on_another_device_is_refused():
    """A GPU reads at another's addresses, or ends the process, where torch would say so."""
    values, indices, weights, grad = table_and_reads((7, 5, 3, 4), torch.float32)
    for call in (
        lambda: kernels.read(values, indices.to("meta"), weights),
        lambda: kernels.weight_gradient(grad, values.to("meta"), indices),
        lambda: kernels.row_gradient(indices, weights, grad.to("meta"), 2),
    ):
        with pytest.raises(ValueError, match=r"across devices \(cpu, meta\)"):
            call()


def test_no_tokens_and_no_rows_are_read_as_such():
    values, indices, weights, grad = table_and_reads((7, 5, 0, 4), torch.float32)
    assert kernels.read(values, indices, weights).shape == (0, 5)
    assert kernels.weight_gradient(grad, values, indices).shape == (0, 4)
    assert not kernels.row_gradient(indices, weights, grad, 3).any()
    _, indices, weights, grad = table_and_reads((7, 5, 3, 4), torch.float32)
    assert kernels.row_gradient(indices, weights, grad, 0).shape == (0, 5)


def test_a_gradient_that_is_one_number_repeated_is_read_as_such():
    values, indices, weights, _ = table_and_reads((9, 130, 4, 5), torch.float32)
    weights.requires_grad_()
    operators.read_rows(values, indices, weights).sum().backward()
    torch.testing.assert_close(weights.grad, values.sum(1)[indices])


def test_the_operator_is_as_torch_wants_operators():
    values, indices, weights, _ = table_and_reads((7, 5, 3, 4), torch.float32)
    torch.library.opcheck(operators.read_rows, (values, indices, weights.requires_grad_()))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_gradient_of_chosen_rows(shape, with_kernels, monkeypatch):
    """Some rows are read and not chosen, some chosen and not read; the last tokens are padding."""
    rows, width, n, reads = shape
    num_rows, chosen = 2 * rows, torch.arange(0, 2 * rows, 3)
    entries = []
    for _ in range(2):
        _, indices, weights, grad = table_and_reads((rows, width, n + 2, reads), torch.float32)
        indices[n:], grad[n:] = num_rows, 0.0
        entries.append((indices, weights, grad))
    found = ReadTape(entries).row_gradient_on_device(chosen, num_rows)
    assert with_kernels["row_gradient"].call_count == 3  # the trial, and both entries
    monkeypatch.undo()
    torch.testing.assert_close(found, ReadTape(entries).row_gradient_on_device(chosen, num_rows))
    assert not found[chosen >= rows].any()


def test_the_gradient_of_chosen_rows_asks_the_device_for_nothing(monkeypatch):
    """On the meta device whatever Python would wait for is an error."""
    monkeypatch.setattr(kernels, "_row_gradient", {(6, 2): lambda *given: None})
    places = torch.zeros(4, 5, dtype=torch.int64, device="meta")
    weights, grad = (torch.zeros(4, size, device="meta") for size in (5, 130))
    assert kernels.row_gradient(places, weights, grad, 6).shape == (6, 130)


def trained(settings: dict, through=lambda model: model) -> list:
    """The tables of a model after three steps of two micro-batches with padding."""
    model = memory_model(initial_values="random", **settings).train()
    optimizer, run = adamw(model, weight_decay=0.1), through(model)
    for step in range(3):
        for micro in range(2):
            ids = tokens(2, 6, seed=10 * step + micro)
            mask = torch.ones_like(ids)
            mask[1, 3:] = 0
            run(input_ids=ids, labels=ids, attention_mask=mask).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return tables(model)


def compiled(model):
    torch._dynamo.reset()
    return torch.compile(model, backend=CompileCounterWithBackend("aot_eager"), fullgraph=True)


@pytest.mark.parametrize("through", [lambda model: model, compiled], ids=["eager", "one graph"])
def test_training_moves_the_same_rows_by_as_much(through, with_kernels, monkeypatch):
    settings = {"rule": "kl", "trainable": "memory", "gated": True}
    found = trained(settings, through)
    assert all(kernel.call_count > 1 for kernel in with_kernels.values())
    monkeypatch.undo()
    for one, two in zip(found, trained(settings)):
        assert torch.equal(one.row_updates, two.row_updates) and one.row_updates.any()
        torch.testing.assert_close(one.values, two.values, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(one.query_weight, two.query_weight, rtol=1e-3, atol=1e-4)
        never = one.row_updates == 0
        assert torch.equal(bits(one.values)[never], bits(two.values)[never])
