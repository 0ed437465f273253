"""A saved folder with touched rows alone: small, exact, read by PEFT, strict."""

import json
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from helpers_models import bits, memory_config, memory_model, tiny_model
from helpers_patches import fresh, train
from huggingface_hub import HfApi
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file, save_file

from smf_lib import RowPatch, save_touched
from smf_lib.method.background import collect_background, memories
from smf_lib.method.card import WEIGHTS
from smf_lib.method.touched import BACKGROUND


def loaded(folder, **settings):
    return PeftModel.from_pretrained(tiny_model(), folder, **settings)


def same(one, other, beside=()):
    names = one.state_dict()
    differing = [
        name
        for name, tensor in other.state_dict().items()
        if not name.endswith(beside) and not torch.equal(bits(tensor), bits(names[name]))
    ]
    return names.keys() == other.state_dict().keys() and differing == []


every = pytest.mark.parametrize(
    "settings",
    [
        {},
        {"initial_values": "random", "seed": 7},
        {"share_values": True, "gated": True},
        {"trainable": "memory", "initial_scale": 0.01},
        {"initial_values": "random", "values_dtype": "bfloat16"},
        {"modules_to_save": ["lm_head"], "trainable_token_indices": [5]},
    ],
    ids=lambda settings: "-".join(settings) or "default",
)


def only_rows(folder):
    """Whether the folder's file has touched rows and no table."""
    ends = {name.rpartition(".")[2] for name in load_file(folder / WEIGHTS)}
    return {"rows", "row_values"} <= ends and not {"values", "row_updates"} & ends


@every
@pytest.mark.parametrize("adapter", ["default", "other"])
def test_save_pretrained_writes_touched_rows_where_the_configuration_says_so(
    settings, adapter, tmp_path
):
    model = memory_model(adapter_name=adapter, save_rows="touched", rule="tfidf", **settings)
    train(model)
    model.save_pretrained(tmp_path)
    folder = tmp_path if adapter == "default" else tmp_path / adapter
    assert only_rows(folder)
    read = loaded(folder, adapter_name=adapter, is_trainable=True)
    assert read.peft_config[adapter].save_rows == "touched" and same(read, model)
    train(read, seed=1)  # the background is there, too
    read.save_pretrained(tmp_path / "again")
    assert only_rows(tmp_path / "again" / folder.relative_to(tmp_path))
    card = (folder / "README.md").read_text("utf-8")
    table = next(m for m in memories(model).values() if m.table is m)
    assert f"| 1 | {int((table.row_updates > 0).sum())} of 64 |" in card
    assert "holds the touched rows alone. Load it by PEFT" in card


@every
def test_the_state_that_peft_gives_goes_into_a_new_model_and_an_injected_one(settings):
    model = train(fresh(save_rows="touched", **settings))
    state = get_peft_model_state_dict(model)
    assert not [name for name in state if name.endswith("smf_memory.values")]
    again = fresh(**settings)
    assert not set_peft_model_state_dict(again, state).unexpected_keys
    assert same(again, model)
    bare = tiny_model()
    bare.add_adapter(memory_config(save_rows="touched", **settings))
    state = {name.removeprefix("base_model.model."): tensor for name, tensor in state.items()}
    set_peft_model_state_dict(bare, state)
    assert same(bare, model.get_base_model())
    assert state.keys() == get_peft_model_state_dict(bare).keys()


def test_one_adapter_of_two_may_be_saved_whole(tmp_path):
    model = fresh(save_rows="touched")
    model.add_adapter("whole", memory_config(seed=1))
    for name in ("default", "whole"):
        model.set_adapter(name)
        train(model)
    model.save_pretrained(tmp_path)
    assert only_rows(tmp_path) and not only_rows(tmp_path / "whole")
    read = loaded(tmp_path)
    read.load_adapter(tmp_path / "whole", "whole")
    assert same(read, model)


def test_the_pickled_file_has_touched_rows_too(tmp_path):
    model = train(fresh(save_rows="touched"))
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert not (tmp_path / WEIGHTS).exists()
    state = torch.load(tmp_path / "adapter_model.bin", weights_only=True)
    assert not [name for name in state if name.endswith("smf_memory.values")]
    assert same(loaded(tmp_path), model)


def test_what_is_pushed_to_the_hub_are_touched_rows(tmp_path, monkeypatch):
    pushed = {}

    def create_commit(self, repo_id, operations, **settings):
        for operation in operations:
            place = tmp_path / operation.path_in_repo
            place.write_bytes(Path(operation.path_or_fileobj).read_bytes())
        pushed[repo_id] = sorted(operation.path_in_repo for operation in operations)

    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo_id, **_: Mock(repo_id=repo_id))
    monkeypatch.setattr(HfApi, "create_commit", create_commit)
    model = train(fresh(save_rows="touched"))
    model.push_to_hub("someone/memory")
    assert pushed == {"someone/memory": ["README.md", "adapter_config.json", WEIGHTS]}
    assert only_rows(tmp_path) and same(loaded(tmp_path), model)


@every
@pytest.mark.parametrize("lean", [False, True])
def test_peft_reads_the_folder_to_the_same_bits(settings, lean, tmp_path):
    model = train(fresh(**settings))
    assert save_touched(model, tmp_path / "saved") == tmp_path / "saved"
    assert model.peft_config["default"].save_rows == "all"
    assert same(loaded(tmp_path / "saved", low_cpu_mem_usage=lean), model)


def test_the_file_follows_the_rows_that_were_touched(tmp_path):
    sizes = {}
    for subkeys in (16, 64):
        model = train(fresh(num_subkeys=subkeys))
        model.save_pretrained(tmp_path / "whole")
        save_touched(model, tmp_path / "touched")
        whole, sizes[subkeys] = (
            (tmp_path / name / WEIGHTS).stat().st_size for name in ("whole", "touched")
        )
        assert whole > 4 * subkeys**2 * 32 > 2 * sizes[subkeys]
    assert sizes[64] < 1.5 * sizes[16]
    rows = load_file(tmp_path / "touched" / WEIGHTS)
    tables = [m for m in memories(model).values() if m.table is m]
    counts = [len(t) for name, t in rows.items() if name.endswith("smf_memory.rows")]
    assert counts == [int((table.row_updates > 0).sum()) for table in tables]


def test_a_patch_is_made_of_what_was_read_as_of_what_was_saved(tmp_path):
    model = train(fresh(rule="count"))
    save_touched(model, tmp_path / "saved")
    patch, again = RowPatch.from_model(model), RowPatch.from_model(loaded(tmp_path / "saved"))
    assert patch.tables.keys() == again.tables.keys()
    for name, table in patch.tables.items():
        assert torch.equal(table.rows, again.tables[name].rows)
        assert torch.equal(bits(table.after), bits(again.tables[name].after))
    other = fresh()
    again.apply(other)  # how a folder is written is no part of what a memory is
    assert same(other, model)


def test_background_reads_are_left_out_and_collected_again(tmp_path):
    model = fresh(rule="tfidf")
    collect_background(model, [[3, 4, 5], [6, 7]])
    save_touched(train(model), tmp_path / "saved")
    found = loaded(tmp_path / "saved", is_trainable=True)
    assert same(found, model, BACKGROUND) and not same(found, model)
    assert all(memory.background is None for memory in memories(found).values())
    with pytest.raises(ValueError, match="collect_background"):
        train(found)


def test_another_adapters_name_is_saved_as_a_folder_of_its_own(tmp_path):
    model = fresh()
    model.add_adapter("other", memory_config(layers=[3]))
    model.set_adapter("other")
    save_touched(train(model), tmp_path / "saved", "other")
    config = json.loads((tmp_path / "saved" / "adapter_config.json").read_text())
    assert config["layers"] == [3]
    read = loaded(tmp_path / "saved")
    (mine,) = memories(read).values()
    theirs = next(m for name, m in memories(model).items() if "other" in name)
    assert torch.equal(bits(mine.values), bits(theirs.values))


def test_what_is_no_memory_is_refused(tmp_path):
    lora = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    for model, adapter in ((lora, "default"), (fresh(), "other"), (tiny_model(), "default")):
        with pytest.raises(ValueError, match=rf"adapter='{adapter}' is no sparse memory"):
            save_touched(model, tmp_path / "saved", adapter)
    assert not list(tmp_path.iterdir())


def put(state, part, change):
    name = name_of(state, part)
    state[name] = change(state[name]).contiguous()


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda s: s.pop(name_of(s, "row_counts")), "lacks a part of its rows"),
        (lambda s: s[name_of(s, "rows")].add_(64), "rows that do not fit a table of 64"),
        (lambda s: s[name_of(s, "start_sha256")].add_(1), "seed=0 makes other numbers here"),
        (lambda s: s[name_of(s, "row_values")].fill_(torch.nan), "numbers that cannot be in"),
        (lambda s: s[name_of(s, "rows")][:2].fill_(5), "rows that do not fit"),
        (lambda s: put(s, "rows", lambda t: t.float()), "rows that do not fit"),
        (lambda s: put(s, "row_counts", lambda t: t[:, None]), "rows that do not fit"),
        # no bytes in the file, and a table that no memory holds
        (lambda s: put(s, "row_values", lambda t: t.new_zeros(0, 2**40)), "rows that do not fit"),
    ],
)
def test_a_folder_that_is_damaged_or_of_another_start_is_refused(change, says, tmp_path):
    folder = save_touched(train(fresh()), tmp_path / "saved")
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS, {"format": "pt"})
    with pytest.raises(ValueError, match=says):
        loaded(folder)


def name_of(state, part):
    return next(name for name in state if name.endswith(f".{part}"))
