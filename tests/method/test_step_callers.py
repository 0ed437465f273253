"""A loss scaler is refused where it would step memory rows, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from helpers_models import adamw, memory_model, tables, tokens
from torch import nn

from smf_lib import RowAdamW

IDS = tokens(2, 9)


def scaled_step(model, optimizer, **settings):
    scaler = torch.amp.GradScaler("cpu", **settings)
    scaler.scale(model(input_ids=IDS, labels=IDS).loss).backward()
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("cls", [RowAdamW, torch.optim.AdamW])
def test_a_scaler_is_refused_before_anything_moves(cls, fused):
    model = memory_model(trainable="values+scale")
    optimizer = cls([p for p in model.parameters() if p.requires_grad], lr=0.1, fused=fused)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=r"GradScaler cannot train a memory.*enabled=False"):
        scaled_step(model, optimizer)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_scaler_that_is_switched_off_changes_no_bit():
    scaled, plain = memory_model(), memory_model()
    scaled_step(scaled, adamw(scaled), enabled=False)
    plain(input_ids=IDS, labels=IDS).loss.backward()
    adamw(plain).step()
    for one, other in zip(tables(scaled), tables(plain)):
        assert one.row_updates.sum() == 6 and torch.equal(one.values, other.values)


def test_other_models_may_be_scaled():
    memory_model()  # from here on there is a hook
    linear = nn.Linear(2, 1)
    scaler, optimizer = torch.amp.GradScaler("cpu"), torch.optim.AdamW(linear.parameters())
    before = linear.weight.detach().clone()
    scaler.scale(linear(torch.ones(1, 2)).sum()).backward()
    scaler.step(optimizer)
    assert not torch.equal(linear.weight, before)
