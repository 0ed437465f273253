"""The tape: which forward passes may write on it, and how it tells backward passes apart."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call

from smf_lib import ProductKeyMemory
from smf_lib.method.tape import number_of_backward_pass


def memory() -> ProductKeyMemory:
    shape = {"hidden_size": 8, "num_subkeys": 6, "num_heads": 2, "top_k": 3, "key_dim": 8}
    return ProductKeyMemory(**shape, initial_values="random", rule="count", rows_per_step=5)


def test_a_backward_pass_has_a_number_of_its_own():
    numbers = []
    assert number_of_backward_pass() == -1
    for _ in range(2):
        x = torch.ones(3, requires_grad=True)
        y = x * 2
        for tensor in (x, y):
            tensor.register_hook(lambda grad: numbers.append(number_of_backward_pass()))
        y.sum().backward()
    assert numbers[0] == numbers[1] != numbers[2] == numbers[3] and min(numbers) >= 0
    assert number_of_backward_pass() == -1


def test_reads_of_one_backward_pass_and_of_gradients_that_are_kept_add_up():
    layer, x = memory(), torch.randn(7, 8)
    (layer(x).sum() + layer(x).sum()).backward()
    assert len(layer.tape.entries) == 2
    layer(x).sum().backward()
    assert len(layer.tape.entries) == 3
    layer.zero_grad()
    layer(x).sum().backward()
    assert len(layer.tape.entries) == 1


def test_a_replica_whose_parameters_are_computed_is_refused():
    """As torch.nn.DataParallel makes them: copies that lead back to the module's own."""
    layer = memory()
    copies = {name: parameter * 1 for name, parameter in layer.named_parameters()}
    with pytest.raises(ValueError, match="DataParallel cannot train a memory.*torchrun"):
        functional_call(layer, copies, (torch.randn(7, 8),))
