"""Row patches: exact, small, strict about what they fit, and composable."""

import json
import re

import pytest
import torch
from helpers_models import memory_config, tiny_model
from helpers_patches import OWNER, WIDTH, assert_same_state, fresh, state, train
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from smf_lib.method.patches.compose import RowConflict, compose
from smf_lib.method.patches.file import PatchFileError
from smf_lib.method.patches.identity import Identity, memory_mlps
from smf_lib.method.patches.patch import RowPatch


@pytest.fixture(scope="module")
def patches():
    """Patches of two tasks that start from the same model."""
    return [RowPatch.from_model(train(fresh(), seed)) for seed in (1, 2)]


def disjoint(patch, other):
    """The patch without the rows that the other one changed too."""
    tables = {}
    for name, table in patch.tables.items():
        kept = ~torch.isin(table.rows, other.tables[name].rows)
        parts = (table.rows, table.before, table.after, table.updates)
        tables[name] = type(table)(*(part[kept] for part in parts))
    return RowPatch(patch.identity, tables, {})


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"initial_values": "random"},
        {"initial_values": "random", "share_values": True, "gated": True, "seed": 3},
        {"share_values": True},
        {"trainable": "values+scale", "initial_scale": 0.01},
        {"integration": "replacement"},
        {"values_dtype": "bfloat16"},
        {"initial_values": "random", "values_dtype": "bfloat16"},
    ],
    ids=lambda settings: "-".join(f"{k}={v}" for k, v in settings.items()) or "default",
)
def test_apply_and_revert_are_exact_through_a_file(settings, tmp_path):
    before = state(fresh(**settings))
    trained = train(fresh(**settings))
    path = RowPatch.from_model(trained).save(tmp_path / "task.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["task.safetensors"]

    patch = RowPatch.load(path)
    model = fresh(**settings)
    patch.apply(model)
    assert_same_state(model, state(trained))
    patch.revert(model)
    assert_same_state(model, before)
    patch.revert(trained)
    assert_same_state(trained, before)


def test_a_patch_holds_the_updated_rows_and_trained_scales():
    trained = train(fresh(trainable="values+scale"))
    patch = RowPatch.from_model(trained)
    assert list(patch.tables) == [OWNER, "model.layers.2.mlp"]
    for name, mlp in memory_mlps(trained, "default").items():
        memory, table = mlp.smf_memory["default"], patch.tables[name]
        assert torch.equal(table.rows, memory.row_updates.nonzero().squeeze(1))
        assert torch.equal(table.after, memory.values[table.rows])
        assert not table.before.any()
        assert patch.scales[name].tolist() == [1.0, mlp.smf_scale["default"].item()]
    assert RowPatch.from_model(train(fresh())).scales == {}


def test_a_patch_of_training_that_went_on_from_a_trained_memory(tmp_path):
    first = train(fresh(), seed=1)
    first.save_pretrained(tmp_path / "first")
    start = state(first)
    both = train(first, seed=2)
    both.load_adapter(tmp_path / "first", adapter_name="first")
    second = RowPatch.from_model(both, start="first")
    assert second.n_rows < RowPatch.from_model(both).n_rows
    assert any(table.before.any() for table in second.tables.values())

    model = train(fresh(), seed=1)
    second.apply(model)
    for name, table in RowPatch.from_model(both).tables.items():
        values = memory_mlps(model, "default")[name].smf_memory["default"].values
        assert torch.equal(values[table.rows], table.after)
    second.revert(model)
    assert_same_state(model, start)


def test_an_unknown_start_is_refused():
    model = train(fresh())
    with torch.no_grad():
        memory_mlps(model, "default")[OWNER].smf_memory["default"].values += 1
    with pytest.raises(ValueError, match=rf"rows of {OWNER} were never updated and differ"):
        RowPatch.from_model(model)


def test_only_a_finetune_that_is_confined_to_rows_becomes_a_patch():
    with pytest.raises(ValueError, match="trainable='memory' changes more than rows"):
        RowPatch.from_model(fresh(trainable="memory"))
    with pytest.raises(ValueError, match="update='dense'.*save_pretrained"):
        RowPatch.from_model(fresh(update="dense"))
    with pytest.raises(ValueError, match="adapter='default' has no updated rows"):
        RowPatch.from_model(fresh())
    with pytest.raises(ValueError, match="adapter='other' is unknown; the model has default"):
        RowPatch.from_model(fresh(), adapter="other")
    with pytest.raises(ValueError, match="has no sparse memory; insert one"):
        RowPatch.from_model(tiny_model())
    lora = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="has no sparse memory; insert one"):
        RowPatch.from_model(lora)


def test_another_base_model_is_refused_by_name(patches):
    other = get_peft_model(tiny_model(seed=5), memory_config())
    untouched = state(other)
    weights = [Identity.of(m, "default").base_weights for m in (fresh(), other)]
    with pytest.raises(ValueError, match="base model weights.*{}.*{}".format(*weights)):
        patches[0].apply(other)
    assert_same_state(other, untouched)

    wider = get_peft_model(tiny_model(hidden_size=64), memory_config())
    with pytest.raises(ValueError, match="hidden_size: 32 in the patch, 64 in the model"):
        patches[0].apply(wider)
    other_rope = get_peft_model(tiny_model(rms_norm_eps=1e-5), memory_config())
    with pytest.raises(ValueError, match="rms_norm_eps: 1e-06 in the patch, 1e-05 in the model"):
        patches[0].apply(other_rope)


def test_one_changed_weight_makes_another_tiny_model(patches):
    model = fresh()
    with torch.no_grad():
        model.get_submodule("base_model.model.model.norm").weight[3] += 1e-3
    with pytest.raises(ValueError, match="base model weights"):
        patches[0].apply(model)


@pytest.mark.parametrize(
    "setting, value, shown",
    [
        ("layers", [1, 3], r"memory layers: \[1, 2\] in the patch, \[1, 3\] in the model"),
        ("num_subkeys", 16, "memory num_subkeys: 8 in the patch, 16 in the model"),
        ("seed", 4, "memory seed: 0 in the patch, 4 in the model.*memory keys"),
        ("gated", True, "memory gated: False in the patch, True in the model"),
        ("integration", "replacement", "memory integration: 'additive' in the patch"),
    ],
)
def test_another_memory_is_refused_by_name(patches, setting, value, shown):
    with pytest.raises(ValueError, match=shown):
        patches[0].apply(fresh(**{setting: value}))


@pytest.mark.parametrize(
    "settings",
    [{"rule": "random"}, {"rows_per_step": 9}, {"max_grad_norm": None}, {"update": "dense"}],
    ids=str,
)
def test_how_the_memory_is_trained_does_not_matter(settings, patches):
    """The values and counts that the patch was taken of come out, whatever trains them next."""
    model = fresh(**settings)
    before = state(model)
    patches[0].apply(model)
    assert_same_state(model, state(train(fresh(), seed=1)))
    patches[0].revert(model)
    assert_same_state(model, before)


def test_the_identity_ignores_precision_and_what_trainers_edit():
    torch.manual_seed(0)
    base = tiny_model().to(torch.bfloat16)
    low = Identity.of(get_peft_model(base, memory_config()), "default")
    again = tiny_model()
    again.load_state_dict(
        {n.replace("base_layer.", ""): v for n, v in base.state_dict().items() if "smf_" not in n}
    )
    again.config.use_cache, again.config.pad_token_id = False, 7
    high = Identity.of(get_peft_model(again, memory_config()), "default")
    assert low.differences(high, "low", "high") == []


def test_rows_that_hold_other_values_are_refused_and_nothing_is_written(patches):
    model = fresh()
    with pytest.raises(ValueError, match="apply the patch first"):
        patches[0].revert(model)
    patches[0].apply(model)
    applied = state(model)
    with pytest.raises(ValueError, match=rf"of \d+ rows of {OWNER} hold other values"):
        patches[0].apply(model)
    with pytest.raises(ValueError, match="revert what was applied or trained there, or compose"):
        patches[1].apply(model)
    assert_same_state(model, applied)


def test_the_file_grows_with_the_rows_and_not_with_the_table(tmp_path):
    def size(num_subkeys, rows_per_step):
        settings = {"num_subkeys": num_subkeys, "rows_per_step": rows_per_step, "layers": [1]}
        patch = RowPatch.from_model(train(fresh(**settings), steps=1))
        assert patch.n_rows == rows_per_step
        return patch.save(tmp_path / "p.safetensors").stat().st_size

    row = 4 * WIDTH + 4 + 4  # values, row id, update count
    assert abs(size(64, 5) - size(8, 5)) < 32
    assert size(8, 25) - size(8, 5) == pytest.approx(20 * row, abs=32)


def test_a_truncated_file_is_refused(patches, tmp_path):
    path = patches[0].save(tmp_path / "p.safetensors")
    whole = path.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(PatchFileError, match=re.escape(str(path))):
            RowPatch.load(path)


def test_a_changed_byte_anywhere_is_refused(patches, tmp_path):
    path = patches[0].save(tmp_path / "p.safetensors")
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(PatchFileError):
            RowPatch.load(path)


def test_edited_content_is_refused_with_both_sums(patches, tmp_path):
    path = patches[0].save(tmp_path / "p.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    content = json.loads(metadata["content"])
    content["identity"]["base_weights"] = "0" * 64
    save_file(load_file(path), path, metadata | {"content": json.dumps(content)})
    with pytest.raises(
        PatchFileError, match=f"has sha256 .* was written with {metadata['sha256']}"
    ):
        RowPatch.load(path)


def test_other_formats_and_versions_are_refused_by_name(patches, tmp_path):
    path = patches[0].save(tmp_path / "p.safetensors")
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    save_file(load_file(path), path, metadata | {"format_version": "2"})
    with pytest.raises(PatchFileError, match="format_version is '2' and .* reads '1'"):
        RowPatch.load(path)
    save_file(load_file(path), path)
    with pytest.raises(PatchFileError, match="format is None; a row patch has"):
        RowPatch.load(path)


def test_a_failed_write_leaves_the_old_file(patches, tmp_path, monkeypatch):
    path = patches[0].save(tmp_path / "p.safetensors")
    old = path.read_bytes()

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        patches[1].save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_patches_without_common_rows_compose_to_both(patches):
    first, second = patches[0], disjoint(patches[1], patches[0])
    result = compose(first, second)
    assert result.n_shared == 0
    assert str(result) == f"{first.n_rows + second.n_rows} rows, 0 changed by both: error"
    one_by_one, at_once = fresh(), fresh()
    first.apply(one_by_one)
    second.apply(one_by_one)
    result.patch.apply(at_once)
    assert_same_state(at_once, state(one_by_one))
    result.patch.revert(at_once)
    assert_same_state(at_once, state(fresh()))


def test_common_rows_need_a_rule_and_are_reported(patches):
    expected = {
        name: sorted(set(table.rows.tolist()) & set(patches[1].tables[name].rows.tolist()))
        for name, table in patches[0].tables.items()
    }
    with pytest.raises(RowConflict, match=rf"{len(expected[OWNER])} rows of {OWNER} \(.*'sum'"):
        compose(*patches)
    result = compose(*patches, on_conflict="sum")
    assert {name: rows.tolist() for name, rows in result.shared_rows.items()} == expected
    assert result.n_shared == sum(map(len, expected.values())) > 0
    assert f"{len(expected[OWNER])} rows of {OWNER}" in str(result)


@pytest.mark.parametrize("on_conflict", ["first", "second", "sum"])
def test_the_rule_decides_about_common_rows(patches, on_conflict):
    result = compose(*patches, on_conflict=on_conflict)
    for name, table in result.patch.tables.items():
        after = {
            int(row): values
            for patch in patches
            for row, values in zip(patch.tables[name].rows, patch.tables[name].after)
        }
        parts = [dict(zip(p.tables[name].rows.tolist(), p.tables[name].after)) for p in patches]
        for row in result.shared_rows[name].tolist():
            first, second = parts[0][row], parts[1][row]
            after[row] = {"first": first, "second": second, "sum": first + second}[on_conflict]
        assert table.rows.tolist() == sorted(after)
        assert torch.equal(table.after, torch.stack([after[int(row)] for row in table.rows]))


def test_a_sum_does_not_depend_on_the_order():
    first, second = (
        RowPatch.from_model(train(fresh(trainable="values+scale", initial_values="random"), seed))
        for seed in (1, 2)
    )
    one, other = compose(first, second, "sum"), compose(second, first, "sum")
    assert one.shared_scales == [OWNER, "model.layers.2.mlp"]
    for name, table in one.patch.tables.items():
        assert torch.equal(table.after, other.patch.tables[name].after)
        assert torch.equal(table.updates, other.patch.tables[name].updates)
        assert torch.equal(one.patch.scales[name], other.patch.scales[name])
    start, end_1, end_2 = *first.scales[OWNER].tolist(), second.scales[OWNER][1].item()
    assert one.patch.scales[OWNER][1].item() == pytest.approx(end_1 + end_2 - start)
    model = fresh(trainable="values+scale", initial_values="random")
    start = state(model)
    one.patch.apply(model)
    one.patch.revert(model)
    assert_same_state(model, start)


def test_what_cannot_be_composed_is_refused(patches):
    with pytest.raises(ValueError, match="on_conflict='both' is unknown; choose one of error"):
        compose(*patches, on_conflict="both")
    wider = RowPatch.from_model(train(fresh(num_subkeys=16)))
    with pytest.raises(ValueError, match="num_subkeys: 8 in first, 16 in second"):
        compose(patches[0], wider)
    table = patches[0].tables[OWNER]
    moved = type(table)(table.rows, table.before + 1, table.after, table.updates)
    with pytest.raises(ValueError, match=f"rows of {OWNER} start from different values"):
        compose(patches[0], RowPatch(patches[0].identity, {OWNER: moved}, {}), "sum")
