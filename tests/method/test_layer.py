"""The memory layer: exact search, exact reads, exact gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_models import bits
from hypothesis import given
from hypothesis import strategies as st

from smf_lib.method.layer import ProductKeyMemory, candidate_pairs
from smf_lib.method.padding import real_tokens, token_mask


def memory(hidden_size=8, rule=None, **settings) -> ProductKeyMemory:
    shape = {"num_subkeys": 6, "num_heads": 2, "top_k": 3, "key_dim": 8, "initial_values": "random"}
    return ProductKeyMemory(hidden_size, rule=rule, rows_per_step=5, **shape | settings)


def all_scores(layer: ProductKeyMemory, x: np.ndarray) -> np.ndarray:
    """Score of every row for every token and head, (n, heads, rows), in NumPy float64."""
    query_weight, keys = (p.detach().double().numpy() for p in (layer.query_weight, layer.keys))
    heads, _, subkeys, half = keys.shape
    query = (x @ query_weight.T).reshape(len(x), heads, 2 * half)
    if layer.query_norm:
        centred = query - query.mean(-1, keepdims=True)
        query = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    scores = np.empty((len(x), heads, subkeys * subkeys))
    for first in range(subkeys):
        for second in range(subkeys):
            key = np.concatenate([keys[:, 0, first], keys[:, 1, second]], axis=-1)
            scores[:, :, first * subkeys + second] = np.einsum("nhc,hc->nh", query, key)
    return scores


def reference_output(layer: ProductKeyMemory, x: np.ndarray) -> np.ndarray:
    """What the layer must return for x (n, hidden_size), from its definition."""
    scores = all_scores(layer, x)
    values = layer.table.values.detach().double().numpy()
    read = np.zeros_like(x)
    for token in range(len(x)):
        for head in scores[token]:
            rows = np.argsort(-head, kind="stable")[: layer.top_k]
            weights = np.exp(head[rows] - head[rows].max())
            read[token] += (weights / weights.sum()) @ values[rows]
    if layer.gate_weight is not None:
        gate = x @ layer.gate_weight.detach().double().numpy().T
        read = (read * gate / (1 + np.exp(-gate))) @ layer.output_weight.detach().double().numpy().T
    return read


@given(
    hidden_size=st.integers(2, 12),
    num_subkeys=st.integers(1, 9),
    num_heads=st.integers(1, 4),
    half=st.integers(1, 6),
    query_norm=st.booleans(),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_lookup_equals_brute_force_over_all_rows(
    hidden_size, num_subkeys, num_heads, half, query_norm, seed, data
):
    top_k = data.draw(st.integers(1, num_subkeys), label="top_k")
    layer = memory(
        hidden_size,
        num_subkeys=num_subkeys,
        num_heads=num_heads,
        top_k=top_k,
        key_dim=2 * half,
        query_norm=query_norm,
        seed=seed,
    )
    x = torch.randn(7, hidden_size, generator=torch.Generator().manual_seed(seed))
    indices, weights = layer.lookup(x)
    assert indices.shape == weights.shape == (7, num_heads * top_k)
    scores = all_scores(layer, x.double().numpy())
    best = -np.sort(-scores, axis=-1)[..., :top_k]
    indices, weights = indices.view(7, num_heads, top_k), weights.view(7, num_heads, top_k)
    found = np.take_along_axis(scores, indices.numpy(), axis=-1)
    np.testing.assert_allclose(found, best, rtol=1e-4, atol=1e-4)  # ties: any row of that score
    assert all(len(set(row.tolist())) == top_k for row in indices.flatten(0, 1))
    expected = np.exp(best - best.max(-1, keepdims=True))
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(weights.detach().numpy(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("k, pairs", [(1, 1), (2, 3), (3, 5), (16, 50)])
def test_candidate_pairs_are_those_that_can_win_and_no_others(k, pairs):
    first, second = candidate_pairs(k, torch.device("cpu"))
    assert len(first) == pairs and (first[0], second[0]) == (0, 0)
    for i, j in zip(first.tolist(), second.tolist()):  # halves for which this pair does win
        below = torch.arange(k)
        sums = -(below > i).float()[:, None] - (below > j).float()[None, :]
        assert sums[i, j] == 0 and (sums == 0).sum() <= k
    rest = torch.ones(k, k, dtype=torch.bool)
    rest[first, second] = False
    assert all((i + 1) * (j + 1) > k for i, j in rest.nonzero().tolist())


def test_equal_scores_are_resolved_alike_for_every_token():
    layer = memory(num_subkeys=9, top_k=4)
    layer.keys.data.zero_()
    indices, weights = layer.lookup(torch.randn(50, 8))
    assert (indices == indices[0]).all() and torch.equal(weights, torch.full_like(weights, 0.25))
    assert all(len(set(row)) == 4 for row in indices.view(100, 4).tolist())


def test_only_what_is_trained_below_gets_a_gradient():
    """The lowest memory's search builds no graph; a higher one's reaches its input."""
    layer = memory(rule="count")
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name in ("values", "anchor"))
    x = torch.randn(7, 8)
    assert not layer.lookup(x)[1].requires_grad
    layer(x).sum().backward()
    assert len(layer.tape.entries) == 1 and layer.keys.grad is None
    x.requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0 and layer.keys.grad is None


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("query_norm", [False, True])
@pytest.mark.parametrize("rule", [None, "count"])
def test_read_equals_a_numpy_reference(gated, query_norm, rule):
    layer = memory(gated=gated, query_norm=query_norm, rule=rule)
    x = torch.randn(3, 5, 8)
    expected = reference_output(layer, x.view(15, 8).double().numpy()).reshape(3, 5, 8)
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def dense_output(layer: ProductKeyMemory, x: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The read as a matrix product with a dense (n, rows) weight matrix, for autograd."""
    indices, weights = layer.lookup(x)
    matrix = torch.zeros(len(x), len(values)).scatter_add(1, indices, weights)
    read = matrix @ values
    if layer.gate_weight is not None:
        gate = torch.nn.functional.silu(x @ layer.gate_weight.T)
        read = (read * gate) @ layer.output_weight.T
    return read


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rule", [None, "count"])
def test_gradients_equal_autograd_through_a_dense_table(gated, rule):
    layer, twin = memory(gated=gated, rule=rule), memory(gated=gated, rule=rule)
    x = torch.randn(20, 8, requires_grad=True)
    x_twin = x.detach().clone().requires_grad_()
    target = torch.randn(20, 8)
    ((layer(x) - target) ** 2).sum().backward()
    ((dense_output(twin, x_twin, twin.values) - target) ** 2).sum().backward()

    torch.testing.assert_close(x.grad, x_twin.grad, rtol=1e-4, atol=1e-5)
    for name, parameter in twin.named_parameters():
        if name not in ("values", "anchor"):
            own = dict(layer.named_parameters())[name].grad
            torch.testing.assert_close(own, parameter.grad, rtol=1e-4, atol=1e-5)
    if rule is None:
        torch.testing.assert_close(layer.values.grad, twin.values.grad, rtol=1e-4, atol=1e-5)
        assert not layer.tape.entries
    else:
        assert layer.values.grad is None
        every, some = torch.arange(layer.num_rows), torch.tensor([0, 3, 7, 20, 35])
        for rows in (every, some):
            torch.testing.assert_close(
                layer.tape.row_gradient(rows), twin.values.grad[rows], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rule", [None, "count"])
def test_rows_read_do_not_depend_on_the_precision_around(gated, rule):
    layer = memory(gated=gated, rule=rule)
    seen = []
    layer.observer = lambda rows, real: seen.append(rows)
    x = torch.randn(40, 8).to(torch.bfloat16)
    half = layer(x)
    full = layer(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = layer(x.float())
    assert half.dtype == torch.bfloat16 and full.dtype == mixed.dtype == torch.float32
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    assert torch.equal(bits(full), bits(mixed))
    assert torch.equal(bits(half), bits(full.to(torch.bfloat16)))


def test_a_memory_cast_to_bfloat16_still_reads():
    layer = memory(gated=True)
    x = torch.randn(9, 8)
    expected = layer(x)
    torch.testing.assert_close(layer.to(torch.bfloat16)(x), expected, rtol=0.2, atol=0.2)


def test_layers_that_share_a_table_add_up_their_gradients():
    first = memory(rule="count")
    second = memory(rule="count", seed=1, table=first)
    assert [n for n, _ in second.named_parameters() if "values" in n] == []
    assert [n for n, _ in second.named_buffers()] == []
    own = torch.nn.Parameter(first.values.detach().clone())
    x = torch.randn(12, 8)
    (first(x) + 2 * second(x)).square().sum().backward()
    (dense_output(first, x, own) + 2 * dense_output(second, x, own)).square().sum().backward()
    rows = torch.arange(36)
    both = first.tape.row_gradient(rows) + second.tape.row_gradient(rows)
    torch.testing.assert_close(both, own.grad, rtol=1e-4, atol=1e-4)


def test_initialisation_is_fixed_by_the_seed_alone():
    first = memory(gated=True, seed=3)
    torch.manual_seed(123)
    again, other = memory(gated=True, seed=3), memory(gated=True, seed=4)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.keys, other.keys)
    assert not torch.equal(first.values, other.values)
    wide = memory(hidden_size=64, num_subkeys=20)
    assert wide.values.std().item() == pytest.approx(64**-0.5, rel=0.02)
    assert (memory(initial_values="zero").values == 0).all()


def test_nothing_is_recorded_without_gradients():
    layer = memory(rule="count")
    with torch.no_grad():
        layer(torch.randn(4, 8))
    layer.values.requires_grad_(False)
    layer(torch.randn(4, 8, requires_grad=True)).sum().backward()
    assert not layer.tape.entries


def test_token_mask_reads_every_form_of_attention_mask():
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    allowed = torch.tril(torch.ones(4, 4, dtype=torch.bool)) & mask.bool()[:, None, :]
    added = torch.zeros(2, 1, 4, 4).masked_fill(~allowed[:, None], float("-inf"))
    for form in (
        mask,
        mask.bool(),
        mask.float(),
        allowed[:, None],
        added,
        {"full": added},
        {"sliding": None, "full": mask},
    ):
        assert torch.equal(token_mask(form), mask.bool())
    assert token_mask(None) is None and token_mask({"full": None}) is None
    for wrong in (mask[0], [[1, 1]], mask[:, None]):
        with pytest.raises(ValueError, match="attention_mask=.*which tokens are padding"):
            token_mask(wrong)


def test_real_tokens_fits_the_mask_to_the_tokens():
    mask = torch.tensor([[False, True, True], [True, True, False]])
    assert real_tokens(mask, 6).tolist() == [False, True, True, True, True, False]
    assert real_tokens(mask, 2).tolist() == [True, False]  # one new token each, the rest cached
    assert real_tokens(mask[:1], 9).tolist() == [False, True, True] * 3  # one mask for a batch
    assert real_tokens(None, 6) is None
    for n_tokens in (5, 8):
        with pytest.raises(ValueError, match=rf"shape \(2, 3\) does not fit {n_tokens} tokens"):
            real_tokens(mask, n_tokens)
