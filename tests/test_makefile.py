"""Names and paths on their way through make and the shell; the environment that make makes."""

import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import threading
import zipfile
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


def wheel(folder, name, version):
    """Write a wheel of nothing but its metadata, and return its path."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": kind,
    }
    record = "".join(f"{about}/{file},,\n" for file in [*files, "RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in (files | {"RECORD": record}).items():
            archive.writestr(f"{about}/{file}", text)
    return path


@pytest.fixture
def index(tmp_path):
    """A package index on this machine with a CPU build of torch: its address, and that wheel."""
    (tmp_path / "index" / "torch").mkdir(parents=True)
    built = wheel(tmp_path / "index" / "torch", "torch", "9.9.9+cpu")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "index")
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", built
        server.shutdown()


def test_the_cpu_build_of_torch_comes_first_from_its_index_and_stays(tmp_path, index):
    address, built = index
    folder = tmp_path / "a folder"
    folder.mkdir()
    shutil.copyfile(REPOSITORY / "Makefile", folder / "Makefile")
    wheel(folder, "smf_lib", "0")
    (folder / "backend.py").write_text(  # builds nothing, so that nothing is fetched to build with
        "import shutil\n\ndef build_editable(folder, *options):\n"
        "    return shutil.copy('smf_lib-0-py3-none-any.whl', folder).rpartition('/')[2]\n"
    )
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    wrong = 64 * "0"
    for lock in ("requirements.lock", "requirements-cuda.lock"):  # the index's build, and its CUDA
        name = "torch" if lock == "requirements.lock" else "cuda"
        (folder / lock).write_text(f"{name}==9.9.9 --hash=sha256:{wrong}\n")

    def make_environment(sha256):
        (folder / "requirements-cpu.lock").write_text(f"torch==9.9.9 --hash=sha256:{sha256}\n")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
        return subprocess.run(
            ["make", "-s", ".venv/.installed", f"PYTHON={sys.executable}", "TORCH=cpu",
             f"TORCH_INDEX={address}"],
            cwd=folder, env=kept | {"PIP_CONFIG_FILE": os.devnull},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    refused = make_environment(wrong)
    assert refused.returncode and "DO NOT MATCH THE HASHES" in refused.stderr
    assert not (folder / ".venv" / ".installed").exists()

    done = make_environment(hashlib.sha256(built.read_bytes()).hexdigest())
    assert done.returncode == 0, done.stderr
    listed = [folder / ".venv" / "bin" / "python", "-m", "pip", "list", "--format=freeze"]
    found = subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()
    assert {"torch==9.9.9+cpu", "smf_lib==0"} <= {*found}
    assert not [package for package in found if package.startswith("cuda")]
