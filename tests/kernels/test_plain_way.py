"""Where no kernel runs: on processors, without Triton, and where Triton does not work."""

from __future__ import annotations

import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from helpers_models import Called

from smf_lib import ProductKeyMemory, method
from smf_lib.method import operators
from smf_lib.method.row_adam import RowAdamW

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def not_tried_yet():
    operators.kernels_agree.cache_clear()
    yield
    operators.kernels_agree.cache_clear()


def test_a_processor_reads_by_torch_and_tries_no_kernel(monkeypatch):
    monkeypatch.setattr(operators, "kernels_agree", lambda device: pytest.fail("tried"))
    memory = ProductKeyMemory(8, 6, 2, 3, 8, rule="count", rows_per_step=5)
    optimizer = RowAdamW(memory.parameters(), lr=1e-2)
    with Called() as called:
        memory(torch.randn(2, 5, 8)).sum().backward()
        memory.tape.row_gradient_on_device(torch.tensor([1, 4]), 36)
        optimizer.step()
    assert memory.row_updates.sum() == 5
    assert called.names & {"_embedding_bag", "_embedding_bag_forward_only"}
    assert not called.names & {"read_rows", "weight_gradient"}


def test_without_triton_nothing_is_said(monkeypatch, recwarn):
    monkeypatch.setattr(operators, "find_spec", lambda name: None)
    assert not operators.kernels_agree(CPU) and not recwarn.list


def breaks(*args):
    raise RuntimeError("Failed to find C compiler.\nAnd more.")


WRONG = {
    "fails to run: RuntimeError: Failed to find C compiler.$": {"read": breaks},
    "gives other numbers: AssertionError: Tensor-likes are not close!$": {
        "read": lambda values, indices, weights: torch.zeros(len(indices), values.shape[1]),
        "weight_gradient": lambda grad, values, indices: torch.zeros(indices.shape),
        "row_gradient": lambda places, weights, grad, rows: torch.zeros(rows, grad.shape[1]),
    },
}


@pytest.mark.parametrize("case", WRONG)
def test_kernels_that_do_not_work_are_told_once_and_not_used(case, monkeypatch):
    monkeypatch.setattr(operators, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "smf_lib.method.kernels", None)
    monkeypatch.setattr(method, "kernels", SimpleNamespace(**WRONG[case]), raising=False)
    reason = case.partition(": ")[2]
    with pytest.warns(UserWarning, match=rf"do not work on cpu, .* without them: {reason}"):
        assert not operators.kernels_agree(CPU)
    with warnings.catch_warnings(action="error"):
        assert not operators.kernels_agree(CPU)
