"""Settings of every test: no network, one thread, and the same random numbers each time."""

from __future__ import annotations

import os

for name, value in {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(name, value)

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("smf", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("smf")


@pytest.fixture(autouse=True)
def fixed_seed():
    """Start each test from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture
def llama():
    """A random Llama of 4 layers and width 32."""
    from helpers_models import tiny_model

    return tiny_model()


@pytest.fixture
def sparse_llama():
    """That Llama with a memory of 64 rows at layers 1 and 2 (rule `count`, 6 rows a step)."""
    from helpers_models import memory_model

    return memory_model()
