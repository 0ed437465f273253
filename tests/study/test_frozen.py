"""Kept casts of frozen weights: the same bits as autocast's own, in forward and backward."""

from __future__ import annotations

import pytest
import torch
from helpers_models import adamw, bits, memory_model, tables, tiny_model, tokens, train_step
from peft import LoraConfig, get_peft_model
from torch import nn

from smf_lib.study.training.frozen import kept_casts


def converted(action) -> int:
    """How many weight matrices of a linear map `action` converts to bfloat16."""
    with torch.profiler.profile(record_shapes=True) as profile:
        action()
    shapes = [e.input_shapes for e in profile.events() if e.name == "aten::_to_copy"]
    return sum(bool(s) and s[0] in ([48, 32], [32, 48]) for s in shapes)


def trained(kind: str, keep: bool):
    """A few steps under autocast; the model and the bits of what was trained, and the losses."""
    if kind == "memory":
        model = memory_model(trainable="values+scale")
    else:
        torch.manual_seed(0)
        model = get_peft_model(
            tiny_model(), LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
        )
    optimizer, losses = adamw(model.train()), []

    def steps():
        for step in range(4):
            with torch.autocast("cpu", torch.bfloat16):
                losses.append(train_step(model, optimizer, tokens(2, 9, seed=step)))

    if keep:
        with kept_casts(model):
            steps()
    else:
        steps()
    return losses, {n: bits(p) for n, p in model.named_parameters()}


@pytest.mark.parametrize("kind", ["memory", "lora"])
def test_training_has_the_same_bits(kind):
    losses, weights = trained(kind, keep=False)
    kept_losses, kept_weights = trained(kind, keep=True)
    assert losses == kept_losses and weights.keys() == kept_weights.keys()
    assert all(torch.equal(weights[name], kept_weights[name]) for name in weights)


def test_a_frozen_weight_is_converted_once():
    model, ids = memory_model(), tokens(2, 9)

    def forward():
        with torch.autocast("cpu", torch.bfloat16):
            model(input_ids=ids)

    assert converted(forward) == 12  # three in each of four MLPs
    with kept_casts(model):
        assert converted(forward) == 12
        assert converted(forward) == 0
    assert converted(forward) == 12


def test_changed_and_trained_weights_are_converted_anew():
    linear, x = nn.Linear(32, 48).requires_grad_(False), torch.randn(5, 32)

    def output():
        with torch.autocast("cpu", torch.bfloat16):
            return linear(x)

    with kept_casts(linear):
        first = output()
        linear.weight.mul_(2)
        second = output()
        linear.weight.data = torch.zeros(48, 32)
        third = output()
        linear.requires_grad_(True)
        output().sum().backward()
    assert not torch.equal(first, second) and torch.equal(
        third, linear.bias.bfloat16().expand(5, -1)
    )
    assert linear.weight.grad is not None and linear.weight.dtype == torch.float32


def test_without_autocast_and_afterwards_nothing_is_different():
    model, ids = memory_model(initial_values="random"), tokens(2, 9)
    expected = model(input_ids=ids).logits
    with pytest.raises(RuntimeError, match="stop"), kept_casts(model):
        assert torch.equal(model(input_ids=ids).logits, expected)
        with torch.autocast("cpu", torch.bfloat16):
            kept = model(input_ids=ids).logits
            with model.disable_adapter():
                disabled = model(input_ids=ids).logits
        raise RuntimeError("stop")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(input_ids=ids).logits, kept)
        assert torch.equal(tiny_model()(input_ids=ids).logits, disabled)
    assert not any("forward" in vars(module) for module in model.modules())
    assert len(tables(model)) == 2
