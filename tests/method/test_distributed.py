"""Data parallelism: two processes on half a batch each equal one process on the whole batch."""

from __future__ import annotations

import time

import pytest
import torch
import torch.multiprocessing as mp
from helpers_distributed import result, train_plain, train_trainer, worker

PATIENCE = 240  # seconds until processes that wait for each other count as hanging


def train_in_two_processes(folder) -> list[list]:
    """By rank, what each of two processes trained: [plain, trainer, bytes exchanged, log]."""
    started = mp.start_processes(worker, (2, folder), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + PATIENCE
    while not started.join(timeout=5):
        if time.monotonic() > deadline:
            for process in started.processes:
                process.kill()
            pytest.fail(f"the processes did not end within {PATIENCE} s")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_processes_equal_one_and_do_not_exchange_the_tables(tmp_path):
    """One test, since starting the processes takes most of its time."""
    first, second = train_in_two_processes(tmp_path)
    by_trainer, log = train_trainer(1, tmp_path)
    models = train_plain(1, 0)[0], by_trainer
    for model, of_first, of_second in zip(models, first, second):
        for whole, half, other_half in zip(result(model), of_first, of_second):
            assert all(torch.equal(*pair) for pair in zip(half, other_half))
            assert whole[1].sum() == 3 * 6
            assert torch.equal(whole[1], half[1])
            torch.testing.assert_close(whole[0], half[0], rtol=1e-3, atol=1e-5)
    anchors = 4 * 2  # one float32 in each of two memories
    assert first[2] == second[2] == anchors
    assert first[3] == second[3]
    for whole, half in zip(log, first[3], strict=True):
        assert whole.keys() == half.keys() and whole == pytest.approx(half, rel=1e-3)
