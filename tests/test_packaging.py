"""What is installed: the profiles of a wheel, and the requirements of each room."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from smf_lib.study.profiles import PROFILE_DIR

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def names(requirements):
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_profiles_are_found_in_the_repository():
    assert PROFILE_DIR == REPOSITORY / "profiles"


def test_profiles_are_found_in_a_wheel(tmp_path):
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    for package in wheel["packages"]:
        shutil.copytree(REPOSITORY / package, tmp_path / package)
    for source, target in wheel["force-include"].items():
        shutil.copytree(REPOSITORY / source, tmp_path / target)
    code = "from smf_lib.study.profiles import *; print(load_profile('smoke').name, PROFILE_DIR)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=False
    )
    assert done.stdout.split() == ["smoke", str(tmp_path / "smf_lib" / "profiles")], done.stderr


def test_method_needs_five_packages_and_each_extra_holds_those_below():
    assert names(PROJECT["project"]["dependencies"]) == {
        "torch", "transformers", "peft", "safetensors", "tqdm",
    }  # fmt: skip
    extras = PROJECT["project"]["optional-dependencies"]
    for above, below in [("book", "study"), ("test", "book"), ("lint", "test")]:
        assert f"smf_lib[{below}]" in extras[above]


def test_lock_has_every_package_that_is_declared():
    declared = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    lines = (REPOSITORY / "requirements.lock").read_text("utf-8").splitlines()
    locked = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in locked if "==" not in line] == []
    assert names(declared) - names(locked) == {"smf-lib"}
