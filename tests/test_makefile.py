"""Names and paths on their way through make and the shell."""

import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path):
    """A folder whose path has what a shell, make or Python would read as something else."""
    folder = tmp_path / "a 'b$c\"é {d}"
    for name in ("v1", "v1.2", "mine", "kept"):
        (folder / "work" / name).mkdir(parents=True)
    shutil.copyfile(REPOSITORY / "Makefile", folder / "Makefile")
    return folder


def make(folder, *arguments):
    return subprocess.run(
        ["make", "-s", *arguments, "VENV=none"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def left(folder):
    return {path.name for path in (folder / "work").iterdir()}


@pytest.mark.parametrize(
    ("profile", "removed"),
    [("v1.2", "v1.2"), ("mine.yaml", "mine"), ("/x y/$(touch F)'\"/mine.yml", "mine")],
)
def test_clean_removes_the_profiles_own_folder(profile, removed, folder):
    before = left(folder)
    assert make(folder, "clean", f"PROFILE={profile}").returncode == 0
    assert left(folder) == before - {removed}
    assert not (folder / "F").exists()


@pytest.mark.parametrize("profile", ["", "..", ".", "kept", "x$(touch F)", "a b", "*", "-rf"])
def test_clean_removes_nothing_for_what_is_no_name(profile, folder):
    before = left(folder)
    done = make(folder, "clean", f"PROFILE={profile}")
    assert done.returncode and "names no profile; nothing is removed" in done.stderr
    assert left(folder) == before and not (folder / "F").exists()


def test_a_profiles_path_reaches_snakemake_as_it_is(folder):
    (folder / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (folder / "python").chmod(0o755)
    path = "/x y/$(touch F) $HOME 'q' \"r\"/mine.yaml"
    done = subprocess.run(
        ["make", "-s", "study", "VENV=none", f"PROFILE={path}"],
        cwd=folder, capture_output=True, text=True, check=True,
        env={"PATH": f"{folder}:/usr/bin:/bin"},
    )  # fmt: skip
    assert f"profile={path}" in done.stdout.splitlines()
    assert not (folder / "F").exists()
