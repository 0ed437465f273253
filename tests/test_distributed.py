"""Data parallelism: two processes on half a batch each equal one process on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORKER = Path(__file__).with_name("distributed_worker.py")


def launch(processes: int, way: str, folder: Path, rule: str) -> list[tuple]:
    """Tables after training in that many processes; fails after two minutes, should they hang."""
    file = folder / f"{way}-{rule}-{processes}.pt"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes),
        "--master-addr", "127.0.0.1", "--master-port", "0", "--rdzv-backend", "c10d",
        "--rdzv-endpoint", "127.0.0.1:0", str(WORKER), way, str(file),
    ]
    paths = [str(WORKER.parent), str(WORKER.parent.parent), os.environ.get("PYTHONPATH", "")]
    run = subprocess.run(
        command, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in paths if p),
                          "SMF_TEST_RULE": rule, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("way, rule", [("plain", "kl"), ("trainer", "count")])
def test_two_processes_equal_one(way, rule, tmp_path):
    one, two = (launch(processes, way, tmp_path, rule) for processes in (1, 2))
    for (values, updates, _), (other_values, other_updates, exchanged) in zip(one, two):
        assert updates.sum() == 3 * 6
        assert torch.equal(updates, other_updates)
        torch.testing.assert_close(values, other_values, rtol=1e-3, atol=1e-5)
        assert exchanged < 64  # bytes: the anchors, and nothing of the tables
