"""`torch.compile` takes a model with memories in one graph, and it trains the same rows."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers_models import ARCHITECTURES, adamw, bits, memory_model, tables, tiny_model, tokens
from torch._dynamo.testing import CompileCounterWithBackend


@pytest.fixture
def compiled(request):
    """Compiles a model whole, or fails; the counter says how many graphs were made."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend(getattr(request, "param", "aot_eager"))
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
    assert_same_training(*models)


def assert_same_training(one, two) -> None:
    for plain, other in zip(tables(one), tables(two), strict=True):
        assert torch.equal(plain.row_updates, other.row_updates) and plain.row_updates.any()
        torch.testing.assert_close(plain.values, other.values, rtol=1e-3, atol=1e-5)
        still = plain.row_updates == 0
        assert torch.equal(bits(plain.values)[still], bits(other.values)[still])


ONE_LAYER = {"num_hidden_layers": 1}
OTHER_PATHS = {  # than Llama's, in a memory or in the model around it
    "Qwen2": ONE_LAYER,
    "GPT2": {"n_layer": 1},
    "GPTNeoX": ONE_LAYER,
    "OPT": ONE_LAYER,  # its MLP is no module
    "Phi3": ARCHITECTURES["Llama"] | ONE_LAYER,  # its gate is in one map with the rest
    "GptOss": ARCHITECTURES["Llama"]  # experts, which put out a pair
    | ONE_LAYER
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}


def loss_of(run, seed: int):
    """Outside of the graph: with labels, transformers breaks the graphs of some base models."""
    inputs = batch(seed)
    logits = run(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), inputs["labels"][:, 1:].flatten())


@pytest.mark.parametrize("compiled", ["eager"], indirect=True)  # the quickest that makes graphs
@pytest.mark.parametrize("architecture", OTHER_PATHS)
def test_others_are_one_graph_as_their_base_is(architecture, compiled):
    """A base and its model with memories alike: one graph for inference and one for training."""
    compile_, counter = compiled
    base = tiny_model(architecture, **OTHER_PATHS[architecture])
    models = [
        memory_model(model=copy.deepcopy(base), layers=[0], initial_values="random").train()
        for _ in range(2)
    ]
    loss_of(compile_(base.train()), 0).backward()
    assert counter.frame_count == 1
    runs, optimizers = [models[0], compile_(models[1])], [adamw(model) for model in models]
    for seed in range(2):
        for run, optimizer in zip(runs, optimizers):
            loss_of(run, seed).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert counter.frame_count == 2
    assert_same_training(*models)
    with torch.no_grad():
        torch.testing.assert_close(*(loss_of(run, 2) for run in runs))
    assert counter.frame_count == 3
