"""What a build says before it starts."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers_records import make_record

from smf_lib.report.book.plan import check_records, describe_plan, other_builds
from smf_lib.study.materials import Materials
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import write_record


@pytest.fixture
def study(tmp_path):
    """The smoke study in a folder of the test's own."""
    return Materials(load_profile("smoke"), tmp_path)


def job(rule, run_id=None):
    return SimpleNamespace(
        rule=SimpleNamespace(name=rule), wildcards=SimpleNamespace(run_id=run_id)
    )


def record(folder, study, run_id, seconds):
    made = make_record(profile="smoke", run_id=run_id)
    made.cost.total_seconds = seconds
    write_record(folder / "results" / "smoke" / study / f"{run_id}.json", made)


def test_time_comes_from_records_of_the_same_runs(tmp_path, study):
    record(tmp_path, "reference", "lora-seed0", 600)
    record(tmp_path, "reference", "base", 60)
    text = "\n".join(describe_plan(study, [job("finetune", "base"), job("finetune", "lora-seed0")]))
    assert "2 notebooks (runs: base, lora-seed0)" in text
    assert "about 11 min on 2 cores of Test CPU" in text


def test_records_of_this_machine_come_first(tmp_path, study):
    record(tmp_path, "reference", "base", 6000)
    record(tmp_path, "local", "base", 100)
    text = "\n".join(describe_plan(study, [job("finetune", "base"), job("pages")]))
    assert "about 2 min on this machine" in text


def test_an_unknown_time_is_said_to_be_unknown(study):
    text = "\n".join(describe_plan(study, [job("finetune", "smf-kl-seed0")]))
    assert "not on record for: smf-kl-seed0" in text and "about" not in text


def test_each_run_says_what_is_left_of_it_and_why(tmp_path, study):
    record(tmp_path, "local", "base", 100)  # an old one, without keys
    lines = describe_plan(study, [job("finetune", "base"), job("finetune", "lora-seed0")])
    metrics = "exam_accuracy, prose_perplexity, knowledge_accuracy, self_kl, prose_kl"
    assert f"  base: measure {metrics} (recorded before keys were kept)" in lines
    assert f"  lora-seed0: train, measure {metrics} (no record yet)" in lines


def test_a_damaged_record_is_told_before_pages_are_made(tmp_path):
    paths = [
        write_record(tmp_path / f"{name}.json", make_record(name, run_id=name))
        for name in ("base", "lora")
    ]
    check_records([*paths, tmp_path / "nosuch.json", tmp_path / "a.yaml"])
    paths[1].write_bytes(paths[1].read_bytes()[:-50])
    with pytest.raises(ValueError, match="lora.json: not a whole JSON file .*delete it and run"):
        check_records(paths)


def test_pages_alone(study):
    assert "no notebook has to run" in "\n".join(describe_plan(study, [job("pages")]))


@pytest.fixture
def snakemake_in(tmp_path):
    """A process that looks like Snakemake at work in a folder."""
    script = tmp_path / "snakemake"
    script.write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    process = subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    yield process, tmp_path
    process.kill()
    process.communicate()


def test_another_build_is_seen_in_its_folder_only_and_by_later_ones(snakemake_in):
    process, folder = snakemake_in
    assert other_builds(os.path.realpath(folder)) == []  # which was started after this process
    code = (
        "import sys; from smf_lib.report.book.plan import other_builds as f; print(f(sys.argv[1]))"
    )
    for place, seen in {folder: [process.pid], folder.parent: []}.items():
        later = [sys.executable, "-c", code, os.path.realpath(place)]
        done = subprocess.run(later, capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[0] == str(seen)
