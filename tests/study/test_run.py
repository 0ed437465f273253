"""A run from the command line, on one process and on two that share each batch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.records.results import read_record
from smf_lib.study.run import main

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
    main(["--profile", str(profile), "--method", "smf-kl"])
    assert "exam_accuracy" in capsys.readouterr().out
    trained, record = losses(tmp_path)
    assert len(trained) == 4 and record.selection["1"].rows_touched > 0


def test_a_wrong_setting_is_one_line(profile):
    with pytest.raises(SystemExit, match="error: method='nonsense' is not in profile 'smoke'"):
        main(["--profile", str(profile), "--method", "nonsense"])


def launch(profile, processes):
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, "-m", *launcher, "-m", "smf_lib.study.run"]
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
    main(["--profile", str(profile), "--method", "smf-kl"])
    alone, record = losses(tmp_path)
    (tmp_path / "results").rename(tmp_path / "alone")
    (tmp_path / "work").rename(tmp_path / "done")
    done = launch(profile, 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("exam_accuracy") == 1  # the second process measures nothing
    together, shared = losses(tmp_path)
    assert together == pytest.approx(alone, rel=2e-2)
    assert shared.cost.steps == record.cost.steps
    assert shared.selection["1"].updates == record.selection["1"].updates


def test_a_batch_that_cannot_be_shared_is_refused(profile):
    done = launch(profile, 3)
    assert done.returncode != 0
    assert "training.batch_size=4 cannot be shared by 3 processes" in done.stderr
