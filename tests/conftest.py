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

# Files that take longest come first, so that none of them is left to the end for one process alone.
LONGEST = [
    *("test_pipeline", "test_many_runs", "test_study", "test_own_training", "test_stages"),
    *("test_main", "test_packaging", "test_room", "test_baselines"),
]

torch.set_num_threads(1)
settings.register_profile("smf", deadline=None, derandomize=True, max_examples=20)
settings.load_profile("smf")


def pytest_collection_modifyitems(items):
    """Put the tests of the longest files first, in that order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(autouse=True)
def fixed_seed():
    """Start each test from the same state of torch's global generator."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def rules_as_they_were():
    """Leave the registered rules as they were: tests register some of their own."""
    from smf_lib.method.rules import RULES

    before = dict(RULES)
    yield
    RULES.clear()
    RULES.update(before)


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


@pytest.fixture(scope="session")
def datasets_cache(tmp_path_factory):
    """A cache of `datasets` of the tests' own."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory):
    """The folder of a tiny random Qwen2 with a byte-level tokenizer."""
    from helpers_hub import write_qwen2

    return write_qwen2(tmp_path_factory.mktemp("models") / "tiny-qwen2")


@pytest.fixture(scope="session")
def data(tmp_path_factory, datasets_cache):
    """A folder with every data set of `helpers_hub`."""
    from helpers_hub import write_data

    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def hub(monkeypatch, data, qwen2):
    """A stand-in for the Hub that serves both; the list of what is asked for."""
    from helpers_hub import serve

    return serve(monkeypatch, data, qwen2)
