"""What is kept under work/ and damaged is told in a line and made again, with the same numbers."""

import json
import shutil

import pytest
import yaml

from smf_lib import RowPatch
from smf_lib.study.files import kept_json
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.study import Study, run

DAMAGES = [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b"{}", b'{"log": []}', b'{"kept": {}}']


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The root of a study with one finished run, its profile, and the run's record."""
    root = tmp_path_factory.mktemp("root")
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text()) | {"name": "mine"}
    profile = root / "mine.yaml"
    profile.write_text(yaml.safe_dump(content))
    study = Study.load(profile, root)
    return root, profile, run(study, study.profile.run("smf-kl"))


def flip(path):
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def again(root, profile, copy, damage, which):
    """The record of a copy of the study in which `which` files are damaged."""
    shutil.copytree(root, copy)
    files = [p for p in (copy / "work" / "kept").rglob("*") if p.is_file() and which(p)]
    files = [p for p in files if p.suffix != ".lock"]
    for path in files:
        damage(path)
    study = Study.load(profile, copy)
    return files, run(study, study.profile.run("smf-kl"))


def same(record, other):
    return {n: m.items for n, m in record.metrics.items()} == {
        n: m.items for n, m in other.metrics.items()
    }


def test_whatever_is_flipped_is_made_again(done, tmp_path, capsys):
    root, profile, record = done
    files, made = again(root, profile, tmp_path / "again", flip, lambda p: True)
    kinds = {p.suffix for p in files}
    assert kinds >= {".json", ".pt", ".safetensors", ".sha256"} and len(files) > 15
    assert same(made, record)
    said = capsys.readouterr().err
    for name in ("training.json", "training.copy.json", "reads-", "self-text-", "background-"):
        assert any(name in line and "made again" in line for line in said.splitlines()), name


def test_what_is_whole_is_kept_though_all_else_is_damaged(done, tmp_path, monkeypatch, capsys):
    """Nothing is trained where the weights and one copy of what training took are whole."""
    root, profile, record = done
    monkeypatch.setattr("smf_lib.study.study.finetune", None)
    whole = ("adapter_model.safetensors", "training.copy.json")

    def other(path):
        return path.parent.name != "adapter" and path.name not in whole

    def damage(path):
        path.write_bytes(b"{") if path.suffix == ".json" else flip(path)

    _, made = again(root, profile, tmp_path / "again", damage, other)
    assert same(made, record) and made.cost == record.cost.model_copy(
        update={"total_seconds": made.cost.total_seconds}
    )
    folder = next((tmp_path / "again" / "work" / "kept").glob("smf-kl-*"))
    capsys.readouterr()
    study = Study.load(profile, tmp_path / "again")
    files = study.files(study.profile.run("smf-kl"))
    assert files.weights and files.patch_is_whole and RowPatch.load(folder / "rows.safetensors")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["training.json", "training.copy.json"])
def test_one_copy_of_what_training_took_is_enough(done, tmp_path, monkeypatch, name):
    root, profile, record = done
    monkeypatch.setattr("smf_lib.study.study.finetune", None)
    (lost,), made = again(
        root, profile, tmp_path / "again", lambda p: p.unlink(), lambda p: p.name == name
    )
    assert same(made, record) and lost.is_file()


def test_a_metric_that_was_edited_is_measured_again(done, tmp_path, monkeypatch, capsys):
    root, profile, record = done
    monkeypatch.setattr("smf_lib.study.study.finetune", None)

    def edit(path):
        content = json.loads(path.read_text())
        content["kept"]["metric"]["value"] = 0.99
        path.write_text(json.dumps(content))

    files, made = again(
        root, profile, tmp_path / "again", edit, lambda p: p.name.startswith("exam_accuracy-")
    )
    assert len(files) == 1 and same(made, record)
    assert f"{files[0]} is damaged" in capsys.readouterr().err


def test_what_has_no_sum_is_made_again(done, tmp_path, monkeypatch, capsys):
    """An object that was written by another hand, or emptied, is no measurement and no size."""
    root, profile, record = done
    monkeypatch.setattr("smf_lib.study.study.finetune", None)

    def replace(path):
        content = json.loads(path.read_text())["kept"]
        path.write_text(json.dumps(content | {"seconds": 1} if "metric" in content else {}))

    files, made = again(
        root,
        profile,
        tmp_path / "again",
        replace,
        lambda p: p.name.startswith(("exam_accuracy-", "footprint", "provenance")),
    )
    assert len(files) == 3 and same(made, record) and made.selection == record.selection
    said = capsys.readouterr().err
    assert all(f"{path} is damaged" in said for path in files)


def test_damaged_weights_cost_a_training_and_nothing_else(done, tmp_path, capsys):
    root, profile, record = done
    damaged, made = again(
        root, profile, tmp_path / "again", flip, lambda p: p.name == "adapter_model.safetensors"
    )
    said = capsys.readouterr()
    assert same(made, record) and f"{damaged[0]} is damaged" in said.err
    assert "trained again: its weights are damaged" in said.out
    study = Study.load(profile, tmp_path / "again")
    assert study.trained("smf-kl") and not capsys.readouterr().err


def test_a_damaged_record_is_told_where_it_is_made_again(done, tmp_path, capsys):
    """By the run itself too, which a notebook does without asking what is left."""
    root, profile, record = done
    shutil.copytree(root, tmp_path / "again")
    study = Study.load(profile, tmp_path / "again")
    path = study.results / "local" / "smf-kl-seed0.json"
    path.write_bytes(path.read_bytes()[:100])
    assert same(run(study, study.profile.run("smf-kl")), record)
    (said,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("record "))
    assert str(path) in said and said.endswith("it is made again from what is kept")


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_as_good_as_missing(damage, tmp_path, capsys):
    path = tmp_path / f"kept-{damage.hex()}.json"
    path.write_bytes(damage)
    assert kept_json(path) is None
    assert capsys.readouterr().err == f"{path} is damaged; what it held is made again\n"
    assert kept_json(tmp_path / "none.json") is None and not capsys.readouterr().err
