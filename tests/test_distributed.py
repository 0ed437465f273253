"""Data parallelism: two processes on half a batch each equal one process on the whole batch."""

from __future__ import annotations

import time

import pytest
import torch
import torch.multiprocessing as mp
from helpers_distributed import result, train_plain, train_trainer, worker
from helpers_models import tables

PATIENCE = 240  # seconds until processes that wait for each other count as hanging


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """What each of two processes trained: [plain, trainer, bytes exchanged by DDP], by rank."""
    folder = tmp_path_factory.mktemp("distributed")
    started = mp.start_processes(worker, (2, folder), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + PATIENCE
    while not started.join(timeout=5):
        if time.monotonic() > deadline:
            for process in started.processes:
                process.kill()
            pytest.fail(f"the processes did not end within {PATIENCE} s")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("way", ["plain", "trainer"])
def test_two_processes_equal_one(way, two_processes, tmp_path):
    model = train_plain(1, 0)[0] if way == "plain" else train_trainer(1, tmp_path)
    which = ["plain", "trainer"].index(way)
    first, second = (rank[which] for rank in two_processes)
    for whole, half, other_half in zip(result(model), first, second):
        assert all(torch.equal(*pair) for pair in zip(half, other_half))
        assert whole[1].sum() == 3 * 6
        assert torch.equal(whole[1], half[1])
        torch.testing.assert_close(whole[0], half[0], rtol=1e-3, atol=1e-5)


def test_data_parallelism_does_not_exchange_the_tables(two_processes):
    anchors = 4 * len(tables(train_plain(1, 0)[0]))  # one float32 each
    assert all(exchanged == anchors for *_, exchanged in two_processes)
