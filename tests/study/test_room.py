"""A full or closed disk and too little memory: said in one line, and the same command goes on."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import smf_lib
from smf_lib.study import room
from smf_lib.study.profiles import with_memory
from smf_lib.study.records.results import read_record
from smf_lib.study.room import NoRoomError, check_room, explains_no_room
from smf_lib.study.study import Study, run


@pytest.fixture
def study(tmp_path):
    return Study.load("smoke", tmp_path)


@pytest.mark.parametrize("place", ["work", "results", "results/smoke/local"])
def test_a_folder_that_cannot_be_written_is_said_before_anything_runs(place, study, tmp_path):
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("a file")
    with pytest.raises(NoRoomError, match=f"{place}.* cannot be written .*SMF_ROOT") as error:
        check_room(study, study.profile.runs())
    assert "\n" not in str(error.value)


def test_too_small_a_disk_is_said_before_anything_runs(study, monkeypatch):
    runs = study.profile.runs()
    check_room(study, runs)
    usage = room.shutil.disk_usage("/")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: usage._replace(free=10**6))
    with pytest.raises(NoRoomError, match="runs, .* need about .* and 0.001 GB are free; make"):
        check_room(study, runs)
    check_room(study, [])


def test_what_all_runs_keep_is_added_up(study, monkeypatch):
    one = study.profile.run("smf-kl")
    rows = 2 * 64 * 32  # numbers in two tables of 64 rows
    usage = room.shutil.disk_usage("/")
    free = 2**26 + 4 * rows + 2 * 6 * rows  # what it keeps, and two checkpoints
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: usage._replace(free=free))
    check_room(study, [one])
    with pytest.raises(NoRoomError, match="2 runs, of which smf-kl.* is the largest"):
        check_room(study, [one, study.profile.run("smf-kl", 1)])


def have_memory(monkeypatch, size):
    """Let this machine have no GPU and so many bytes of memory."""
    there = room.psutil.virtual_memory()._replace(total=size)
    monkeypatch.setattr(room.psutil, "virtual_memory", lambda: there)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize("method", ["full", "lora", "smf-kl"])
def test_too_little_memory_is_said_before_anything_runs(study, monkeypatch, method):
    (run_id,) = {spec.run_id for spec in study.profile.runs() if spec.method == method}
    spec = study.profile.run(method)
    weights = study.empty_model().num_parameters()
    have_memory(monkeypatch, 4 * weights)
    with pytest.raises(NoRoomError, match=f"{run_id} needs at least .* of memory, and here are"):
        check_room(study, [spec])
    with pytest.raises(NoRoomError, match=f"{run_id} needs"):
        study.build(spec)
    have_memory(monkeypatch, 17 * weights)
    check_room(study, [spec])


def test_the_table_of_a_memory_counts(study, monkeypatch):
    weights = study.empty_model().num_parameters()
    have_memory(monkeypatch, 17 * weights)
    large = Study(with_memory(study.profile, num_subkeys=1024), study.root)
    with pytest.raises(NoRoomError, match="smf-kl.* needs at least 0.27 GB"):
        check_room(large, [large.profile.run("smf-kl")])


@pytest.mark.parametrize(
    "line, place",
    [
        ("0::/box/job", "box/job/memory.max"),
        ("0::/box/job", "box/memory.max"),
        ("3:cpu,memory:/box", "memory/box/memory.limit_in_bytes"),
    ],
)
def test_a_control_group_may_have_less_than_the_machine(tmp_path, monkeypatch, line, place):
    have_memory(monkeypatch, 10**9)
    monkeypatch.setattr(room, "GROUPS", tmp_path)
    monkeypatch.setattr(room, "OWN_GROUPS", tmp_path / "own")
    assert room.memory_size() == 10**9
    (tmp_path / "own").write_text(f"{line}\n1:name=systemd:/\n")
    (tmp_path / place).parent.mkdir(parents=True)
    for limit, found in (("max", 10**9), ("123456", 123456)):
        (tmp_path / place).write_text(f"{limit}\n")
        assert room.memory_size() == found


ERRORS = [
    (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: no space is left"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space is left"),
    (SafetensorError("I/O error: No space left on device (os error 28)"), "no space is left"),
    (RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter"), "no space"),
    (MemoryError(), "memory ran out"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory ran out"),
    (torch.OutOfMemoryError("CUDA out of memory."), "memory ran out"),
]


@pytest.mark.parametrize(("error", "said"), ERRORS, ids=lambda value: type(value).__name__)
def test_what_libraries_say_of_it_becomes_one_line(error, said, study):
    @explains_no_room
    def method(study):
        try:
            raise error
        finally:
            pass

    with pytest.raises(NoRoomError, match=said) as told:
        method(study)
    assert "\n" not in str(told.value) and "same command" in str(told.value)


def test_a_closed_folder_is_told_and_other_errors_stay_as_they_are(study):
    @explains_no_room
    def method(study, path):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with pytest.raises(NoRoomError, match=r"kept/x cannot be written \(Read-only file system\)"):
        method(study, study.kept / "x")
    with pytest.raises(OSError, match="Read-only") as error:
        method(study, "/elsewhere/x")
    assert not isinstance(error.value, NoRoomError)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The record of a run that had room."""
    study = Study.load("smoke", tmp_path_factory.mktemp("whole"))
    return run(study, study.profile.run("smf-kl"))


def test_a_run_whose_files_find_no_room_goes_on_with_the_same_command(whole, tmp_path):
    """A limit on the size of files stands for a disk that is full."""
    command = [sys.executable, "-m", "smf_lib.study", "run", "--profile", "smoke"]

    def start(limit=None):
        return subprocess.run(
            [*command, "--method", "smf-kl"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"SMF_ROOT": str(tmp_path)},
            cwd=Path(smf_lib.__file__).parents[1],
            preexec_fn=limit
            and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
        )

    first = start(20_000)
    assert first.returncode == 1 and "Traceback" not in first.stderr, first.stderr[-2000:]
    (said,) = (line for line in first.stderr.splitlines() if "error: " in line)
    assert "no space is left on its disk" in said
    assert start().returncode == 0
    made = read_record(tmp_path / "results" / "smoke" / "local" / "smf-kl-seed0.json")
    assert made.metrics == whole.metrics and made.selection == whole.selection
