"""Patches and adapters that are wrong or hostile are refused by name, and nothing is touched."""

import json
from pickle import UnpicklingError, dumps

import pytest
import torch
from helpers_models import tiny_model
from helpers_patches import OWNER, assert_same_state, fresh, state, train
from peft import PeftModel
from safetensors.torch import load_file, save_file

from smf_lib.method.patches.file import PatchFileError, write_patch_file
from smf_lib.method.patches.patch import RowPatch

ROWS, AFTER, UPDATES = (f"{OWNER}/{part}" for part in ("rows", "after", "updates"))


@pytest.fixture(scope="module")
def patch_parts(tmp_path_factory):
    """Tensors and content of a patch, as `save` writes them."""
    kept = {}
    path = tmp_path_factory.mktemp("patch") / "p.safetensors"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(
            "smf_lib.method.patches.patch.write_patch_file",
            lambda path, tensors, content: kept.update(tensors=tensors, content=content),
        )
        RowPatch.from_model(train(fresh(trainable="values+scale"))).save(path)
    return kept["tensors"], kept["content"]


def first(value):
    return lambda tensor: torch.cat([torch.full_like(tensor[:1], value), tensor[1:]])


WRONG_TENSORS = {
    "not a number": ({AFTER: first(float("nan"))}, "before and after must be numbers"),
    "infinite": ({AFTER: first(float("inf"))}, "before and after must be numbers"),
    "row ids as numbers": ({ROWS: lambda t: t.float()}, "rows are torch.float32"),
    "negative row": ({ROWS: first(-1)}, "ascending row ids from 0"),
    "row twice": ({ROWS: lambda t: torch.cat([t[1:2], t[1:]])}, "each once"),
    "other width": ({AFTER: lambda t: t[:, 1:].contiguous()}, "wide, the model's"),
    "other type": ({AFTER: lambda t: t.double()}, "before is torch.float64"),
    "one row less": ({AFTER: lambda t: t[1:]}, "do not fit together"),
    "no update": ({UPDATES: first(0)}, "counts of at least 1"),
    "negative updates": ({UPDATES: first(-5)}, "counts of at least 1"),
    "updates as numbers": ({UPDATES: lambda t: t.float()}, "counts of at least 1"),
    "flat": ({AFTER: lambda t: t.flatten()[: len(t)]}, "before and after two"),
    "scale": ({f"{OWNER}/scale": lambda t: t * float("nan")}, "must be two numbers"),
    "a scale of three": ({f"{OWNER}/scale": lambda t: t.repeat(2)}, "must be two numbers"),
    "row out of range": ({ROWS: lambda t: t + 64 - t[:1]}, "not among the model's 64"),
    "too many updates": ({UPDATES: first(2**31 - 1)}, None),
}
WRONG_CONTENT = {
    "no identity": ({"identity": None}, "does not say which model"),
    "half an identity": ({"identity": {"base_config": {}}}, "does not say which model"),
    "tables no list": ({"tables": "abc"}, "tables must be a list"),
    "no tables": ({"tables": None}, "tables must be a list"),
    "a table twice": ({"tables": [OWNER, OWNER]}, "names a layer twice"),
    "a further table": ({"tables": [OWNER, "x"]}, "lacks the tensors"),
    "a table less": ({"tables": [OWNER]}, "holds tensors that are no part of it"),
    "scales no list": ({"scales": {"a": 1}}, "scales must be a list"),
}


def refused(path, match):
    """The file is refused when it is read, or at the latest when it is applied."""
    model = fresh(trainable="values+scale")
    untouched = state(model)
    with pytest.raises(ValueError, match=match):
        RowPatch.load(path).apply(model)
    assert_same_state(model, untouched)


@pytest.mark.parametrize("kind", WRONG_TENSORS)
def test_a_patch_of_wrong_tensors_changes_nothing(kind, patch_parts, tmp_path):
    tensors, content = patch_parts
    changes, match = WRONG_TENSORS[kind]
    changed = tensors | {name: change(tensors[name]) for name, change in changes.items()}
    path = write_patch_file(tmp_path / "p.safetensors", changed, content)
    if match is None:
        RowPatch.load(path).apply(fresh(trainable="values+scale"))
        return
    refused(path, match)


@pytest.mark.parametrize("kind", WRONG_CONTENT)
def test_a_patch_of_wrong_content_changes_nothing(kind, patch_parts, tmp_path):
    tensors, content = patch_parts
    changes, match = WRONG_CONTENT[kind]
    path = write_patch_file(tmp_path / "p.safetensors", tensors, content | changes)
    refused(path, rf"p\.safetensors: .*{match}")


def test_a_patch_with_further_tensors_is_refused_before_they_are_read(
    patch_parts, tmp_path, monkeypatch
):
    tensors, content = patch_parts
    more = tensors | {"payload": torch.zeros(10)}
    path = write_patch_file(tmp_path / "p.safetensors", more, content)
    monkeypatch.setattr("smf_lib.method.patches.file._checksum", lambda *_: pytest.fail("read"))
    with pytest.raises(PatchFileError, match="no part of it: payload"):
        RowPatch.load(path)


def test_files_that_are_no_patch(tmp_path):
    with pytest.raises(PatchFileError, match="there is no such file"):
        RowPatch.load(tmp_path / "none.safetensors")
    metadata = {"format": "smf_lib row patch", "format_version": "1", "content": "[", "sha256": ""}
    save_file({"a": torch.zeros(1)}, tmp_path / "p.safetensors", metadata)
    with pytest.raises(PatchFileError, match="header holds no content"):
        RowPatch.load(tmp_path / "p.safetensors")


# ---------------------------------------------------------------------- adapters

VALUES = "base_model.model.model.layers.1.mlp.smf_memory.values"
COUNTS = "base_model.model.model.layers.1.mlp.smf_memory.row_updates"
WRONG_ADAPTERS = {
    "values lost": ({VALUES: None}, "lacks model.layers.1.mlp.smf_memory.default.values"),
    "all lost": ("all", "lacks every table of a memory"),
    "one memory lost": (
        {VALUES: None, COUNTS: None}, "lacks model.layers.1.mlp.smf_memory.default",
    ),
    "a payload": ({"payload": lambda s: torch.zeros(10)}, "that are no part of it payload"),
    "a payload beside a memory": (
        {VALUES.replace("smf_memory.values", "payload"): lambda s: torch.zeros(10)},
        "that are no part of it model.layers.1.mlp.payload",
    ),
    "a weight of the base": (
        {VALUES.replace("mlp.smf_memory.values", "self_attn.q_proj.weight"):
            lambda s: torch.zeros(32, 32)},
        "that are no part of it model.layers.1.self_attn.q_proj.weight",
    ),
    "a memory too many": (
        {VALUES.replace("layers.1", "layers.3"): lambda s: s[VALUES].clone()},
        "of no memory of the model",
    ),
    "not a number": ({VALUES: lambda s: s[VALUES] * float("nan")}, "numbers that cannot be in"),
    "negative counts": ({COUNTS: lambda s: s[COUNTS] - 1000}, "numbers that cannot be in"),
    "counts as numbers": ({COUNTS: lambda s: s[COUNTS].float()}, "other shapes or kinds"),
    "other shape": ({VALUES: lambda s: s[VALUES][:-1].clone()}, "other shapes or kinds"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG_ADAPTERS)
def test_an_adapter_that_is_not_whole_is_refused(kind, tmp_path):
    train(fresh()).save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors, (changes, match) = load_file(file), WRONG_ADAPTERS[kind]
    if changes == "all":
        tensors = {"unrelated": torch.zeros(1)}
    else:
        made = {k: None if c is None else c(tensors) for k, c in changes.items()}
        tensors = {k: t for k, t in (tensors | made).items() if t is not None}
    save_file(tensors, file)
    with pytest.raises(ValueError, match=match):
        PeftModel.from_pretrained(tiny_model(), tmp_path)


HUGE = [
    ({"num_heads": 10**7}, "num_heads=10000000 is too large; at most 1024"),
    (
        {"num_heads": 1024, "key_dim": 65_536},
        "num_heads=1024 times key_dim=65536 .* at most 262144",
    ),
    ({"num_subkeys": 4096}, "other shapes or kinds in .*smf_memory.keys"),
    ({"num_heads": 1024}, "other shapes or kinds in .*smf_memory.keys"),
    ({"key_dim": 65_536}, "other shapes or kinds in .*smf_memory.keys"),
]


@pytest.mark.parametrize(("settings", "match"), HUGE)
def test_settings_larger_than_the_file_are_refused_before_memory_is_taken(
    settings, match, tmp_path, monkeypatch
):
    fresh().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    monkeypatch.setattr("smf_lib.method.tuner.new_memory", lambda *_: pytest.fail("made"))
    with pytest.raises(ValueError, match=match):
        PeftModel.from_pretrained(tiny_model(), tmp_path)


class Code:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


@pytest.mark.parametrize("write", [torch.save, lambda code, path: path.write_bytes(dumps(code))])
def test_an_adapter_that_is_a_pickle_does_not_run(write, tmp_path):
    fresh().save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "adapter_model.safetensors").unlink()
    write(Code(tmp_path / "ran"), tmp_path / "saved" / "adapter_model.bin")
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        PeftModel.from_pretrained(tiny_model(), tmp_path / "saved")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\xff" * 8])
def test_a_file_that_is_no_adapter_is_refused_in_a_line(content, tmp_path):
    fresh().save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="truncated or not a safetensors file .* fetch"):
        PeftModel.from_pretrained(tiny_model(), tmp_path)
