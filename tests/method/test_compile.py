"""`torch.compile` takes a model with memories in one graph, and it trains the same rows."""

from __future__ import annotations

import pytest
import torch
from helpers_models import adamw, bits, memory_model, tables, tiny_model, tokens
from torch._dynamo.testing import CompileCounterWithBackend


@pytest.fixture
def compiled():
    """Compiles a model whole, or fails; the counter says how many graphs were made."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    yield lambda model: torch.compile(model, backend=counter, fullgraph=True), counter
    torch._dynamo.reset()


def model_of(**settings):
    base = tiny_model(num_hidden_layers=2)
    return memory_model(model=base, layers=[0, 1], initial_values="random", **settings)


def batch(seed: int) -> dict:
    ids = tokens(2, 9, seed=seed)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return {"input_ids": ids, "labels": ids, "attention_mask": mask}


def test_inference_is_one_graph(compiled):
    compile_, counter = compiled
    model = model_of()
    fast = compile_(model)
    with torch.no_grad():
        for seed in range(2):
            inputs = batch(seed)
            torch.testing.assert_close(fast(**inputs).logits, model(**inputs).logits)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"rule": "kl", "share_values": True, "trainable": "values+scale"},
        {"integration": "replacement", "gated": True, "trainable": "memory"},
    ],
    ids=["additive, one table", "replacement, all trained"],
)
def test_training_is_one_graph_and_moves_the_same_rows(settings, compiled):
    compile_, counter = compiled
    models = [model_of(**settings).train() for _ in range(2)]
    optimizers = [adamw(model) for model in models]
    runs = [models[0], compile_(models[1])]
    for step in range(3):
        for run, optimizer in zip(runs, optimizers):
            for micro in range(2):
                run(**batch(2 * step + micro)).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert counter.frame_count == 1
    for plain, other in zip(*map(tables, models)):
        assert torch.equal(plain.row_updates, other.row_updates) and plain.row_updates.any()
        torch.testing.assert_close(plain.values, other.values, rtol=1e-3, atol=1e-5)
        still = plain.row_updates == 0
        assert torch.equal(bits(plain.values)[still], bits(other.values)[still])
