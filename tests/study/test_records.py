"""Records of runs: strict reading, whole writing, compact items, provenance."""

import json
import math
import os

import pytest
from helpers_records import make_record

from smf_lib.study.records import results
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import (
    ResultsError,
    paired_key,
    read_record,
    read_records,
    records_folder,
    write_record,
)


def stored(folder, **changes):
    record = make_record(**changes)
    return write_record(folder / f"{record.run_id}.json", record)


def test_round_trip_is_exact(tmp_path):
    record = make_record(study="reference")
    path = write_record(tmp_path / "quick" / "reference" / f"{record.run_id}.json", record)
    assert read_record(path) == record


def test_floors_are_kept_and_records_of_before_they_were_have_none(tmp_path):
    record = make_record()
    assert (record.baselines.rules, record.baselines.bags) == ({}, {})
    record.baselines.rules, record.baselines.bags = {"longest": 0.27}, {"words": 0.4}
    path = write_record(tmp_path / f"{record.run_id}.json", record)
    assert read_record(path).baselines == record.baselines
    content = json.loads(path.read_text())
    del content["baselines"]["rules"], content["baselines"]["bags"], content["sha256"]
    path.write_text(json.dumps(content))
    assert (read_record(path).baselines.rules, read_record(path).baselines.bags) == ({}, {})


def test_outcomes_are_stored_as_one_string_and_decoded(tmp_path):
    path = stored(tmp_path, exam=[1, 0, 1, 1])
    text = json.loads(path.read_text())["metrics"]["exam_accuracy"]["items"]
    assert text == "1011"
    assert read_record(path).metrics["exam_accuracy"].items == [1, 0, 1, 1]


def test_numbers_keep_six_digits_and_pairs(tmp_path):
    path = stored(tmp_path, prose=[[1234.56789, 400], [2.0, 1]], kl=[0.0123456789, 1.5])
    metrics = read_record(path).metrics
    assert metrics["prose_perplexity"].items == [[1234.57, 400], [2, 1]]
    assert metrics["self_kl"].items == [0.0123457, 1.5]


def test_study_is_the_folder(tmp_path):
    path = stored(tmp_path / "mine", study="elsewhere")
    assert read_record(path).study == "mine"
    (tmp_path / "theirs").mkdir()
    moved = tmp_path / "theirs" / path.name
    os.rename(path, moved)
    assert read_record(moved).study == "theirs"


def test_diverged_run_can_be_recorded(tmp_path):
    path = stored(tmp_path, kl=[math.inf, 0.5], loss=[2.0, math.nan])
    assert "NaN" not in path.read_text() and "Infinity" not in path.read_text()
    record = read_record(path)
    assert math.isnan(record.metrics["self_kl"].value)
    assert math.isnan(record.metrics["self_kl"].items[0])
    assert math.isnan(record.training_log[1].loss)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_other_schema_version_is_refused(tmp_path, version):
    path = stored(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    with pytest.raises(ResultsError, match="schema_version is") as caught:
        read_record(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_truncated_file_is_refused(tmp_path, share):
    path = stored(tmp_path)
    text = path.read_text()
    path.write_text(text[: int(len(text) * share)])
    with pytest.raises(ResultsError, match="not a whole JSON file") as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def remove(content, dotted):
    *parents, last = dotted.split(".")
    for key in parents:
        content = content[key]
    del content[last]


@pytest.mark.parametrize(
    "key",
    [
        "seed",
        "commit",
        "model.sha256",
        "cost.saved_bytes",
        "metrics.exam_accuracy.items",
        "data.exam.split",
        "hardware.gpu",
        "settings.method.kind",
    ],
)
def test_missing_key_is_named(tmp_path, key):
    path = stored(tmp_path)
    content = json.loads(path.read_text())
    remove(content, key)
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert f"{key}: is missing" in str(caught.value) or f"{key} is missing" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sed": 1}, "sed: is not a known key"),
        ({"seed": "0"}, "seed: "),
        ({"status": "running"}, "status: "),
        ({"metrics": {"accuracy": {}}}, "metrics.accuracy"),
        ({"data": {}}, "data.exam is missing"),
        ({"run_id": "other"}, "must be named other.json"),
    ],
)
def test_wrong_content_is_named(tmp_path, change, message):
    path = stored(tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ResultsError) as caught:
        read_record(path)
    assert str(path) in str(caught.value) and message in str(caught.value)


def test_items_must_match_n_and_alphabet(tmp_path):
    path = stored(tmp_path, exam=[1, 0, 1, 1])
    content = json.loads(path.read_text())
    for items, message in [("101", "has 3 entries, but n is 4"), ("10x1", "only the characters")]:
        content["metrics"]["exam_accuracy"]["items"] = items
        path.write_text(json.dumps(content))
        with pytest.raises(ResultsError, match=message):
            read_record(path)


def test_a_record_that_was_changed_by_hand_is_told(tmp_path):
    path = write_record(tmp_path / "base.json", make_record("base", run_id="base"))
    text = path.read_text()
    path.write_text(text.replace('"tokens_per_second": ', '"tokens_per_second": 1'))
    with pytest.raises(ResultsError, match="base.json: it was changed since it was written"):
        read_record(path)
    content = json.loads(path.read_text())
    del content["sha256"]  # on purpose, as the message says
    path.write_text(json.dumps(content))
    assert read_record(path)


def test_what_a_profile_names_by_absolute_paths_is_recorded_by_its_last_name(tmp_path):
    record = make_record("base", run_id="base")
    content = record.model_dump()
    model, questions = "/scratch/ada/models/qwen 2", "/scratch/ada/x.jsonl"
    content["model"] |= {"source": model}
    content["data"]["exam"] |= {"notes": f"{questions}: 5 rows were left out"}
    content["settings"] |= {
        "exam": {"source": [questions, "~/y.jsonl", "data/z.jsonl"]},
        "evaluation": {"lm_eval_tasks": ["/scratch/ada/sums.yaml", "arc_easy"]},
        "probes": {"triviaqa": {"source": "mandarjoshi/trivia_qa"}},
    }
    path = write_record(tmp_path / "base.json", Record.model_validate(content))
    assert "ada" not in path.read_text() and "~" not in path.read_text()
    read = read_record(path)
    assert read.model.source == "qwen 2" and read.label == record.label
    assert read.data.exam.notes == "x.jsonl: 5 rows were left out"
    assert read.settings["exam"]["source"] == ["x.jsonl", "y.jsonl", "data/z.jsonl"]
    assert read.settings["evaluation"]["lm_eval_tasks"] == ["sums.yaml", "arc_easy"]
    assert read.settings["probes"]["triviaqa"]["source"] == "mandarjoshi/trivia_qa"


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = stored(tmp_path, exam=[1, 0])
    before = path.read_text()

    def full_disk(_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        stored(tmp_path, exam=[0, 0])
    assert path.read_text() == before
    assert os.listdir(tmp_path) == [path.name]


def test_file_name_must_be_the_run_id(tmp_path):
    with pytest.raises(ResultsError, match="named"):
        write_record(tmp_path / "x.json", make_record())


def test_read_records_from_files_and_folders(tmp_path):
    first = stored(tmp_path / "quick" / "local", method="base")
    stored(tmp_path / "quick" / "reference", method="base")
    records = read_records([tmp_path / "quick", first])
    assert [record.study for record in records] == ["local", "reference"]
    assert read_records(first)[0] == records[0]


def test_read_records_names_what_is_not_there(tmp_path):
    with pytest.raises(ResultsError, match="absent: no such file or folder"):
        read_records(tmp_path / "absent")
    with pytest.raises(ResultsError, match="no record"):
        read_records([tmp_path])


def test_the_folder_of_a_profile_is_named_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    assert records_folder() == tmp_path / "results"
    for profile in ("mine", "elsewhere/mine.yaml", "mine.yml"):
        assert records_folder(profile) == tmp_path / "results" / "mine"


def test_paired_key_tells_data_and_split():
    one = make_record(method="lora")
    assert paired_key(one, "exam_accuracy") == paired_key(
        make_record(method="base"), "exam_accuracy"
    )
    other = make_record(split="validation")
    assert paired_key(one, "exam_accuracy") != paired_key(other, "exam_accuracy")
    assert paired_key(one, "self_kl") == paired_key(other, "self_kl")
    with pytest.raises(ResultsError, match="no metric 'self_kl'"):
        paired_key(make_record(drop=["self_kl"]), "self_kl")


def test_what_was_measured_is_told_by_the_key_of_the_metric():
    """Of two exams whose other splits differ in size, the same questions are the same."""

    def keyed(questions, sha, training="a", code="b", precision="c"):
        parts = {
            "training": training,
            "questions": questions,
            "metric settings": "d",
            "precision": precision,
            "code of measuring": code,
        }
        record = make_record(method="lora")
        exam = record.data.exam.model_copy(update={"sha256": sha})
        keys = {
            "training": {"key": training, "parts": {}},
            "metrics": {"exam_accuracy": {"key": "e", "parts": parts}},
        }
        changed = record.model_dump() | {"keys": keys}
        changed["data"]["exam"] = exam.model_dump()
        return type(record).model_validate(changed)

    one = paired_key(keyed("same", "01" * 32), "exam_accuracy")
    assert one == paired_key(keyed("same", "02" * 32, "x", "y", "z"), "exam_accuracy")
    assert one != paired_key(keyed("other", "01" * 32), "exam_accuracy")


def test_learning_rate_and_kind():
    assert make_record(method="base").learning_rate is None
    assert make_record(method="lora", rate=1e-4).learning_rate == 1e-4
    assert make_record(method="full").kind == "full"


def test_provenance_fills_a_record():
    record = make_record(provenance=results.provenance())
    assert record.versions["torch"] and record.hardware.memory_bytes > 0
    assert (record.commit is None) == (record.dirty is None)


def test_git_state_outside_a_repository(tmp_path):
    from smf_lib.study.records.provenance import git_state

    assert git_state(tmp_path) == (None, None)
