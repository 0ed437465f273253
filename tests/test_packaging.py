"""What is installed: the profiles of a wheel, and the requirements of each room."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from helpers_models import memory_model, tables, tiny_model
from helpers_text import word_tokenizer

from smf_lib.study.profiles import PROFILE_DIR

REPOSITORY = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))


def names(requirements):
    return {re.match(r"[\w.-]+", line)[0].lower().replace("_", "-") for line in requirements}


def test_profiles_are_found_in_the_repository():
    assert PROFILE_DIR == REPOSITORY / "profiles"


@pytest.fixture
def installed(tmp_path):
    """A folder of packages with what a wheel has; runs Python code there."""
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    packages = tmp_path / "packages"
    for package in wheel["packages"]:
        shutil.copytree(REPOSITORY / package, packages / package)
    for source, target in wheel["force-include"].items():
        copy = shutil.copytree if (REPOSITORY / source).is_dir() else shutil.copy
        copy(REPOSITORY / source, packages / target)
    # as for the folder that pip installs to, Python runs the .pth files in it
    starts = f"import site; site.addsitedir({str(packages)!r})"
    (tmp_path / "sitecustomize.py").write_text(starts)

    def run(*command):
        return subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{packages}"},
            text=True,
            capture_output=True,
            check=False,
            timeout=240,
        )

    run.packages = packages
    return run


def test_profiles_are_found_in_a_wheel(installed):
    code = "from smf_lib.study.profiles import *; print(load_profile('smoke').name, PROFILE_DIR)"
    done = installed("-c", code)
    where = str(installed.packages / "smf_lib" / "profiles")
    assert done.stdout.split() == ["smoke", where], done.stderr


@pytest.mark.slow
def test_the_command_works_from_a_wheel(installed, tmp_path):
    """Without the repository: the run of the base model is done and recorded."""
    command = ("-m", "smf_lib.study", "run", "--profile", "smoke", "--method", "base")
    done = installed(*command)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "results" / "smoke" / "local" / "base.json").is_file()


def test_a_program_that_imports_peft_alone_loads_a_saved_memory(installed, tmp_path):
    model = memory_model()
    table = tables(model)[0]
    torch.nn.init.normal_(table.values)
    tiny_model().save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    word_tokenizer().save_pretrained(tmp_path / "base")
    code = """
import importlib.util, sys
assert importlib.util.find_spec("peft") and "torch" not in sys.modules
from transformers import AutoModelForCausalLM, pipeline
from peft import AutoPeftModelForCausalLM, PeftModel
import torch
ids = torch.arange(3, 9)[None]
base = AutoModelForCausalLM.from_pretrained("base")
base.load_adapter("adapter")
models = [base, AutoPeftModelForCausalLM.from_pretrained("adapter")]
models.append(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base"), "adapter"))
models.append(pipeline("text-generation", model="adapter").model)
with torch.no_grad():
    torch.save([model(input_ids=ids).logits for model in models], "logits.pt")
"""
    config = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(config.read_text()) | {"base_model_name_or_path": "base"}
    config.write_text(json.dumps(settings))
    done = installed("-W", "error::UserWarning", "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]
    with torch.no_grad():
        expected = model(input_ids=torch.arange(3, 9)[None]).logits
    for logits in torch.load(tmp_path / "logits.pt"):
        assert torch.equal(logits, expected)


@pytest.mark.parametrize(
    "first",
    [
        "from transformers import Trainer",
        "from transformers.trainer_callback import TrainerCallback",
        "from transformers import pipeline",
        "import accelerate",
        "import peft",
    ],
)
def test_whatever_is_imported_first_peft_knows_the_method(installed, first):
    """The Trainer imports PEFT while it is itself being imported."""
    code = f"""
{first}
import peft
assert "SPARSE_MEMORY" in peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
from smf_lib import SparseMemoryCallback
from transformers import TrainerCallback
assert issubclass(SparseMemoryCallback, TrainerCallback)
"""
    done = installed("-W", "error::UserWarning", "-c", code)
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_broken_installation_warns_and_leaves_peft_as_it_is(installed):
    (installed.packages / "smf_lib" / "__init__.py").write_text("raise OSError('half a file')")
    done = installed("-c", "import peft; print(peft.LoraConfig(r=2).r)")
    assert done.stdout.strip() == "2"
    assert "smf_lib could not be imported (OSError: half a file)" in done.stderr


def test_a_start_of_python_imports_neither_the_library_nor_peft(installed):
    code = "import sys; print({'peft', 'smf_lib', '_smf_lib_startup'} & {*sys.modules})"
    assert installed("-c", code).stdout.strip() == "{'_smf_lib_startup'}"


def test_method_needs_five_packages_and_each_extra_holds_those_below():
    assert names(PROJECT["project"]["dependencies"]) == {
        "torch", "transformers", "peft", "safetensors", "tqdm",
    }  # fmt: skip
    extras = PROJECT["project"]["optional-dependencies"]
    for above, below in [("book", "study"), ("test", "book"), ("lint", "test")]:
        assert f"smf_lib[{below}]" in extras[above]


def locked_sums(file):
    """The requirements of a lock, each with the sums of its files."""
    text = (REPOSITORY / file).read_text("utf-8").replace(" \\\n", " ")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    split = (line.partition(" --hash=") for line in lines)
    return {package: re.findall(r"sha256:([0-9a-f]{64})\b", sums) for package, _, sums in split}


@pytest.mark.parametrize("build", ["", "-cpu", "-cuda", "-quantised"])
def test_what_pip_fetches_is_checked_by_sum(build):
    locked = locked_sums(f"requirements{build}.lock")
    assert locked and [line for line, sums in locked.items() if not sums] == []
    both = [*locked_sums("requirements-cuda.lock"), *locked_sums("requirements.lock")]
    everywhere = dict(line.split(" ")[0].split("==") for line in both)
    for line in locked:  # a package that stands in two locks has one version
        name, version = line.split(" ")[0].split("==")
        assert everywhere.get(name, version) == version


def test_lock_has_every_package_that_is_declared():
    declared = [*PROJECT["project"]["dependencies"]]
    for extra in PROJECT["project"]["optional-dependencies"].values():
        declared += extra
    locked = locked_sums("requirements.lock")
    assert [line for line in locked if "==" not in line] == []
    assert names(declared) - names(locked) == {"smf-lib"}
