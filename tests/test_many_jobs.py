"""Runs side by side through Snakemake: on one machine, and as jobs of a cluster."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_book import copy_repository, environment_of

from smf_lib.study.__main__ import main
from smf_lib.study.records.results import read_record

RUNS = ["base", "smf-kl-seed0"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A copy of the repository in which the profile `smoke` is smaller yet."""
    root = copy_repository(tmp_path_factory.mktemp("repository"))
    path = root / "profiles" / "smoke.yaml"
    content = yaml.safe_load(path.read_text("utf-8"))
    content["evaluation"] = {"probes": ["self_text"]}
    content["exam"] |= {"train_rows": 8, "test_rows": 4}
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    return root


def snakemake(root: Path, *flags: str, search: str = "") -> subprocess.CompletedProcess:
    environment = environment_of(root)
    environment["PATH"] = f"{search}{os.pathsep}{environment['PATH']}"
    triggers = ["--rerun-triggers", "mtime", "params", "input"]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--nolock", *triggers, *flags],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow  # without Snakemake: tests/study/test_many_runs.py
def test_two_jobs_at_a_time_record_what_one_after_another_does(root, monkeypatch):
    wanted = [f"results/smoke/local/{run}.json" for run in RUNS]
    config = ["--config", "profile=smoke", "jobs=2"]
    done = snakemake(root, "--cores", "2", "--quiet", "all", *config, "--", *wanted)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = done.stdout.splitlines()
    begun = [i for i, line in enumerate(lines) if "cell 1 of" in line]
    ended = [i for i, line in enumerate(lines) if re.search(r"\] done in \d+ s", line)]
    assert len(begun) == len(ended) == 2 and max(begun) < min(ended)
    together = {run: read_record(root / path) for run, path in zip(RUNS, wanted)}

    for folder in ("results", "work"):
        (root / folder).rename(root / f"{folder}-together")
    monkeypatch.setenv("SMF_ROOT", str(root))
    profile = str(root / "profiles" / "smoke.yaml")
    main(["run", "--profile", profile, "--method", "base", "smf-kl"])
    for run, path in zip(RUNS, wanted):
        alone = read_record(root / path)
        assert alone.metrics == together[run].metrics
        assert alone.keys == together[run].keys and alone.selection == together[run].selection


@pytest.fixture
def slurm(tmp_path) -> Path:
    """A folder of stand-ins for Slurm's programs; `sbatch` notes what it gets and refuses it."""
    for name in ("sbatch", "squeue", "sacct", "sacctmgr", "scontrol", "sinfo", "sshare"):
        path = tmp_path / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (tmp_path / "sbatch").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/submitted\nexit 1\n')
    return tmp_path


@pytest.mark.slow
def test_every_run_is_submitted_as_a_job_with_the_cores_that_were_asked_for(root, slurm):
    done = snakemake(
        root, "--executor", "slurm", "--jobs", "9", "--seconds-between-status-checks", "1",
        "--set-threads", "finetune=4", "--default-resources", "gpu=1", "slurm_account=a",
        "slurm_partition=p", "--forceall", "--config", "profile=smoke",
        "--", "study", search=str(slurm),
    )  # fmt: skip
    assert "sbatch failed" in done.stdout + done.stderr
    jobs = (slurm / "submitted").read_text().splitlines()
    runs = ["base", "full-seed0", "lora-seed0", "smf-kl-seed0", "smf-tfidf-seed0"]
    assert sorted(re.findall(r"finetune:run_id=([\w-]+)", "\n".join(jobs))) == runs
    assert len(jobs) == 5  # nothing but runs
    assert all("--gpus=1" in job and "--cpus-per-task=4" in job for job in jobs)
