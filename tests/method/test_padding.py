"""Each read counts by the mask of its own forward pass, however passes are mixed or repeated."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers_models import adamw, memory_model, tables, tokens
from torch.utils.checkpoint import checkpoint

BATCHES = {"short": (2, 6, [6, 2]), "long": (3, 9, [4, 9, 7]), "whole": (1, 5, [5])}


def batch(name: str) -> dict:
    """Token ids, mask and labels; `name` says which of BATCHES."""
    size, length, lengths = BATCHES[name]
    ids = tokens(size, length, seed=len(name))
    mask = (torch.arange(length) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def backward_in_order(model):
    for name in BATCHES:
        model(**batch(name)).loss.backward()


def backward_in_reverse(model):
    losses = [model(**batch(name)).loss for name in BATCHES]
    for loss in reversed(losses):
        loss.backward()


def backward_of_the_sum(model):
    sum(model(**batch(name)).loss for name in BATCHES).backward()


def another_pass_in_between(model):
    for name, other in zip(BATCHES, [*list(BATCHES)[1:], "short"], strict=True):
        loss = model(**batch(name)).loss
        with torch.no_grad():
            model(**batch(other))
        loss.backward()


ORDERS = [backward_in_order, backward_in_reverse, backward_of_the_sum, another_pass_in_between]


def real_reads(model) -> list[int]:
    return [sum(len(entry[0]) for entry in table.tape.entries) for table in tables(model)]


def trained_rows(model, order) -> list[torch.Tensor]:
    """How often three steps updated each row, after checking how many tokens each counted."""
    optimizer = adamw(model.train())
    n_real = sum(sum(lengths) for *_, lengths in BATCHES.values())
    for _ in range(2):
        order(model)
        assert real_reads(model) == [n_real] * len(tables(model))
        optimizer.step()
        optimizer.zero_grad()
    return [table.row_updates for table in tables(model)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "OPT"])
def test_checkpointed_training_chooses_the_rows_of_the_plain_one(architecture, order):
    plain = memory_model(architecture)
    reentrant, other = copy.deepcopy(plain), copy.deepcopy(plain)
    expected = trained_rows(plain, order)
    for model, kind in ((reentrant, True), (other, False)):
        model.gradient_checkpointing_enable({"use_reentrant": kind})
        model.enable_input_require_grads()
        assert all(map(torch.equal, expected, trained_rows(model, order)))
        for own, table in zip(tables(plain), tables(model), strict=True):
            torch.testing.assert_close(own.values, table.values)


def test_a_checkpoint_around_the_whole_model():
    model = memory_model().train()
    embed = model.get_input_embeddings()

    def loss(hidden, name):
        inputs = batch(name) | {"input_ids": None, "inputs_embeds": hidden}
        return model(**inputs).loss

    def hidden(name):
        return embed(batch(name)["input_ids"]).detach().requires_grad_()

    for inner in (False, True):
        if inner:
            model.gradient_checkpointing_enable({"use_reentrant": True})
        first, second = (
            checkpoint(loss, hidden(name), name, use_reentrant=True) for name in ("short", "long")
        )
        first.backward()
        assert real_reads(model) == [8, 8]
        second.backward()
        assert real_reads(model) == [28, 28]
        model.zero_grad()
