"""A run from the command line, on one process and on two that share each batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smf_lib.study.__main__ import main
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.records.results import read_record
from smf_lib.study.training import processes

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def profile(tmp_path, monkeypatch):
    """The path of a small smoke profile, whose results go to a folder of the test's own."""
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content["exam"] |= {"train_rows": 16, "test_rows": 4}
    content["evaluation"] = {"probes": []}
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(content))
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    return path


def losses(tmp_path):
    record = read_record(tmp_path / "results" / "smoke" / "local" / "smf-kl-seed0.json")
    return [entry.loss for entry in record.training_log], record


def test_a_run_is_trained_measured_and_recorded(profile, tmp_path, capsys):
    main(["run", "--profile", str(profile), "--method", "smf-kl"])
    assert "exam_accuracy" in capsys.readouterr().out
    trained, record = losses(tmp_path)
    assert len(trained) == 4 and record.selection["1"].rows_touched > 0


def test_a_wrong_setting_is_one_line(profile):
    with pytest.raises(SystemExit, match="error: method='nonsense' is not in profile 'smoke'"):
        main(["run", "--profile", str(profile), "--method", "nonsense"])


def test_several_runs_are_done_in_one_call(profile, tmp_path, capsys):
    main(["run", "--profile", str(profile), "--method", "base", "lora", "--seed", "0", "1"])
    local = tmp_path / "results" / "smoke" / "local"
    assert sorted(p.stem for p in local.iterdir()) == ["base", "lora-seed0", "lora-seed1"]
    main(["keys", "--profile", str(profile)])
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[3:])
    assert lines["base"] == lines["lora-seed0"] == "nothing to train or measure"
    assert lines["full-seed0"] == "train, measure exam_accuracy (no record yet)"


@pytest.mark.parametrize("command", [["keys"], ["run", "--method", "lora"]])
def test_an_unknown_profile_is_one_line(command):
    with pytest.raises(SystemExit, match="error: profile='nonsense' does not exist"):
        main([*command, "--profile", "nonsense"])


def launch(profile, processes):
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, "-m", *launcher, "-m", "smf_lib.study", "run"]
    return subprocess.run(
        [*command, "--profile", str(profile), "--method", "smf-kl"],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_processes_share_each_batch_and_learn_what_one_learns(profile, tmp_path):
    main(["run", "--profile", str(profile), "--method", "smf-kl"])
    alone, record = losses(tmp_path)
    (tmp_path / "results").rename(tmp_path / "alone")
    (tmp_path / "work").rename(tmp_path / "done")
    done = launch(profile, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("exam_accuracy") == 1  # the second process measures nothing
    together, shared = losses(tmp_path)
    assert together == pytest.approx(alone, rel=1e-4)  # on the same batches
    assert shared.cost.steps == record.cost.steps
    assert shared.selection["1"].updates == record.selection["1"].updates


def test_a_last_batch_that_is_not_whole_is_refused_to_several_processes(monkeypatch):
    processes.check_share("training.batch_size", 8, 1001)
    monkeypatch.setenv("WORLD_SIZE", "2")
    processes.check_share("training.batch_size", 8, 1000)
    with pytest.raises(ValueError, match=r"batch_size=8: the last 1 of 1001 rows .* on 1000 rows"):
        processes.check_share("training.batch_size", 8, 1001)


def test_a_batch_that_cannot_be_shared_is_refused(profile, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(SystemExit, match="training.batch_size=4 cannot be shared by 3 processes"):
        main(["run", "--profile", str(profile), "--method", "smf-kl"])
