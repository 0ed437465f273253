"""Many runs side by side, in processes of their own, on a tiny random model."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from filelock import FileLock

from smf_lib.study import many
from smf_lib.study.__main__ import main
from smf_lib.study.kept import RunFiles
from smf_lib.study.many import Job, chosen_runs, run_many
from smf_lib.study.materials import Materials
from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.records.results import read_record

REPOSITORY = Path(__file__).resolve().parents[2]
# A rule that tells what it is asked, to look at runs from outside; it fails where it is told to.
RULE = """
import os, time
from pathlib import Path
from smf_lib import register_rule

@register_rule("spoilt")
def spoilt(reads, background):
    raise ArithmeticError("a spoilt rule")

@register_rule("slow")
def slow(reads, background):
    time.sleep(0.3)
    return reads.share

@register_rule("deadly")
def deadly(reads, background):
    os._exit(9)
"""


def sparse(rule: str) -> dict:
    arm = {"label": rule, "kind": "peft", "peft_type": "SPARSE_MEMORY", "learning_rate": 1.0e-2}
    return {**arm, "settings": {"rule": rule}}


def write_profile(folder: Path, name: str = "smoke", **changes) -> Path:
    """A small smoke profile with rules of the test's own."""
    (folder / "rules.py").write_text(RULE)
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content["exam"] |= {"train_rows": 16, "test_rows": 4}
    content |= {"name": name, "evaluation": {"probes": []}, "imports": ["rules.py"], **changes}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    """Where results go; workers find the library as this process does."""
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    return tmp_path


@pytest.fixture
def copied_workers(monkeypatch):
    """Workers are copies of one process that has imported all: for what they do once they run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["smf_lib.study.study"])
    monkeypatch.setattr(many, "multiprocessing", SimpleNamespace(get_context=lambda _: context))


def records(root: Path, name: str = "smoke") -> dict:
    found = (root / "results" / name / "local").glob("*.json")
    return {path.stem: read_record(path) for path in found}


def jobs_of(path: Path, root: Path) -> list[Job]:
    study = Materials(load_profile(path), root)
    return [Job(str(path), study, spec) for spec in study.profile.runs()]


def test_runs_side_by_side_are_recorded_as_one_after_another(root, capsys):
    smoke = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())["methods"]
    methods = {name: smoke[name] for name in ("base", "full", "smf-kl")}
    probes = {"evaluation": {"probes": ["self_text"]}, "seeds": [0, 1]}
    path = write_profile(root, methods=methods, **probes)
    main(["run", "--profile", str(path), "--jobs", "2"])
    assert "done: 5 runs; done before: 0" in capsys.readouterr().out
    together = records(root)
    assert sorted(together) == sorted(job.spec.run_id for job in jobs_of(path, root))
    logs = root / "work" / "smoke" / "logs"
    assert "exam_accuracy" in (logs / "smf-kl-seed1.log").read_text()
    assert not list((root / "work").rglob("checkpoint-*"))
    assert not list((root / "work").rglob("weights"))
    written = {p: p.stat().st_mtime_ns for p in (root / "results").rglob("*.json")}
    main(["run", "--profile", str(path), "--jobs", "2"])
    assert "done: 0 runs; done before: 5" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in written} == written

    (root / "results").rename(root / "together")
    (root / "work").rename(root / "done")
    main(["run", "--profile", str(path), "--method", *methods, "--seed", "1"])
    alone = records(root)
    assert len(alone) == 3
    for run_id, record in alone.items():
        other = together[run_id]
        assert record.metrics == other.metrics and record.keys == other.keys
        assert record.training_log == other.training_log
        assert record.selection == other.selection


@pytest.mark.usefixtures("copied_workers")
def test_a_failed_run_is_told_and_stops_no_other(root, capsys):
    methods = {"a": sparse("spoilt"), "b": sparse("deadly"), "c": sparse("kl")}
    path = write_profile(root, methods=methods)
    with pytest.raises(SystemExit) as ended:
        main(["run", "--profile", str(path), "--jobs", "1"])
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "failed: smoke/a-seed0: ArithmeticError: a spoilt rule (see " in said
    assert "failed: smoke/b-seed0: its process ended with status 9" in said
    log = root / "work" / "smoke" / "logs" / "a-seed0.log"
    assert str(log) in said and "Traceback" in log.read_text()
    assert list(records(root)) == ["c-seed0"]


@pytest.mark.usefixtures("copied_workers")
def test_runs_of_two_profiles_that_train_the_same_are_trained_once(root):
    methods = {"base": {"label": "Base", "kind": "base"}, "a": sparse("kl"), "b": sparse("count")}
    one = write_profile(root, methods=methods)
    methods = {"a": sparse("kl") | {"label": "A", "learning_rate": [1.0e-2, 2.0e-2]}}
    validation = {"probes": [], "split": "validation"}
    two = write_profile(root, "other", methods=methods, evaluation=validation)
    outcome = run_many([*jobs_of(one, root), *jobs_of(two, root)], 2)
    assert len(outcome.done) == 5 and not outcome.failed
    assert len(list((root / "work" / "kept").glob("*/training.json"))) == 3
    first, second = records(root)["a-seed0"], records(root, "other")["a-lr0.01-seed0"]
    assert first.keys.training.key == second.keys.training.key
    assert first.cost.train_seconds == second.cost.train_seconds
    assert second.label == "A" and second.data.exam.split == "validation"
    assert run_many(jobs_of(two, root), 1).before == [
        "other/a-lr0.01-seed0",
        "other/a-lr0.02-seed0",
    ]


def test_of_runs_that_train_the_same_one_that_keeps_its_weights_trains(root):
    methods = {"full": yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())["methods"]["full"]}
    one = write_profile(root, methods=methods)
    two = write_profile(root, "keeping", methods=methods, keep="full")
    three = write_profile(root, "third", methods=methods)
    jobs = [job for path in (one, two, three) for job in jobs_of(path, root)]
    (job,) = many._trained_once(jobs)
    assert job.names == ["keeping/full-seed0", "smoke/full-seed0", "third/full-seed0"]


@pytest.mark.usefixtures("copied_workers")
def test_a_killed_driver_loses_nothing_that_is_finished(root):
    methods = {"a": sparse("kl"), "b": sparse("slow"), "c": sparse("slow")}
    path = write_profile(root, methods=methods)
    command = [sys.executable, "-m", "smf_lib.study", "run", "--profile", str(path), "--jobs", "2"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL)
    runs = root / "work" / "kept"
    while not records(root) or not list(runs.glob("*/checkpoint-*/complete.json")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    finished = records(root)
    assert len(finished) < 3
    locks = [FileLock(lock) for lock in runs.glob(".*.lock")]
    for lock in locks:  # the workers end soon after it
        lock.acquire(timeout=10)
        lock.release()
    assert records(root) == finished
    begun = list(runs.glob("*/checkpoint-*"))
    outcome = run_many(jobs_of(path, root), 2)
    assert len(outcome.before) == len(finished) and not outcome.failed
    now = records(root)
    assert len(now) == 3 and begun and not any(path.exists() for path in begun)
    assert all(now[run_id] == record for run_id, record in finished.items())


def test_no_run_is_begun_that_would_not_be_done_in_time(root):
    longer = {**sparse("kl"), "training": {"epochs": 3}}
    base = {"label": "Base", "kind": "base"}
    path = write_profile(root, methods={"long": longer, "a": sparse("kl"), "base": base})
    jobs = {job.spec.method: job for job in jobs_of(path, root)}
    runs = many._Runs(list(jobs.values()), 1, seconds=3000)
    assert runs._next().spec.method == "long"  # nothing is known yet
    runs.took = [(jobs["a"], 2000.0), (jobs["a"], 1500.0)]
    assert runs._next().spec.method == "a"  # three epochs would take 4500 s or more
    runs.took += [(jobs["long"], 2800.0)]
    assert runs._next().spec.method == "long"  # what one like it took says more
    runs.took += [(jobs["long"], 3100.0), (jobs["a"], 3200.0)]
    assert runs._next().spec.method == "base"


@pytest.mark.usefixtures("copied_workers")
def test_a_run_that_is_still_going_at_the_limit_is_ended(root, monkeypatch):
    arm = {**sparse("slow"), "training": {"epochs": 100}}
    path = write_profile(root, methods={"m": arm, "n": arm})
    monkeypatch.setattr(many, "GRACE_SECONDS", 1.0)
    started = time.monotonic()
    outcome = run_many(jobs_of(path, root), 1, seconds=4)
    assert time.monotonic() - started < 14
    assert outcome.ended == ["smoke/m-seed0"] and not outcome.failed
    assert outcome.not_started == {"smoke/n-seed0": "the time is short"}
    assert "the same command goes on" in "\n".join(outcome.lines())


def test_the_time_there_is_counts_from_the_start_of_the_command(root, capsys):
    path = write_profile(root, methods={"m": sparse("kl")})
    main(["run", "--profile", str(path), "--jobs", "1", "--seconds", "60"], time.time() - 61)
    assert "not started, the time is short: smoke/m-seed0" in capsys.readouterr().out


@pytest.mark.usefixtures("copied_workers")
def test_what_another_process_has_begun_is_left_to_it(root):
    path = write_profile(root, methods={"m": sparse("kl"), "n": sparse("kl")})
    jobs = jobs_of(path, root)
    with FileLock(RunFiles.of(jobs[0].study, jobs[0].spec).lock.lock_file):
        outcome = run_many(jobs, 1)
    assert outcome.not_started == {"smoke/m-seed0": "since it is being run by another process"}
    assert outcome.done == ["smoke/n-seed0"]


@pytest.mark.usefixtures("copied_workers")
def test_a_run_that_others_go_on_from_comes_before_them(root, data):
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())["training"]
    retrofit = {"text": {"source": str(data / "dolly"), "rows": 8}, "training": content}
    first = {"stage": "retrofit", "settings": {"update": "dense", "trainable": "memory"}}
    methods = {
        "later": {**sparse("kl"), "start": "first"},
        "after": {**sparse("tfidf"), "start": "first"},
        "first": {**sparse("kl"), **first},
    }
    path = write_profile(root, methods=methods, retrofit=retrofit)
    jobs = jobs_of(path, root)
    outcome = run_many(jobs, 2)
    assert not outcome.failed and outcome.done[0] == "smoke/first-seed0"
    assert len(outcome.done) == 3


def test_runs_are_chosen_in_the_order_of_the_profile(root):
    path = write_profile(root, seeds=[0, 1])
    profile = load_profile(path)
    assert chosen_runs(profile) == profile.runs()
    names = [spec.run_id for spec in chosen_runs(profile, ["lora", "base"], [3], 2e-3)]
    assert names == ["lora-lr0.002-seed3", "base"]
    with pytest.raises(ValueError, match="method='nonsense' is not in profile 'smoke'"):
        chosen_runs(profile, ["nonsense"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--jobs", "0"], "jobs=0 must be more than 0"),
        (["--jobs", "1", "--seconds", "0"], "seconds=0 must be more than 0"),
        (["--jobs", "1", "--seconds", "nan"], "seconds=nan must be more than 0"),
    ],
)
def test_limits_that_cannot_be_are_one_line(root, options, message):
    with pytest.raises(SystemExit, match=message):
        main(["run", "--profile", str(write_profile(root)), *options])


def test_two_profiles_of_one_name_are_refused(root):
    paths = [root / "one" / "smoke.yaml", root / "two" / "smoke.yaml"]
    for path in paths:
        path.parent.mkdir()
        path.write_text((PROFILE_DIR / "smoke.yaml").read_text())
    with pytest.raises(SystemExit, match="has the name 'smoke', as has .* give it another name"):
        main(["run", "--profile", *map(str, paths), "--jobs", "1"])


def test_processes_that_share_batches_do_not_run_side_by_side(root, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2 processes that share each batch"):
        main(["run", "--profile", str(write_profile(root)), "--jobs", "2"])
