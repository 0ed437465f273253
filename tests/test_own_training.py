"""The blocks of the chapter "In your own training", run as they stand there on a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_hub import write_qwen2
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "book" / "own_training.md"
TASKS = REPOSITORY / "smf_lib" / "study" / "data" / "tasks"
PYTHON = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RATES = re.compile(r"^\| ([^|]+) \| (\d\S*) \| (\S+) to (\S+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page's blocks read, and its scripts."""
    folder = tmp_path_factory.mktemp("training")
    write_qwen2(folder / "model")
    subjects = ["rain", "a boat", "the mill", "an owl", "bread", "the sea", "a lamp", "snow"]
    rows = {
        "task": [{"text": f"{subject} has the code {n}."} for n, subject in enumerate(subjects)],
        "general": [{"text": f"Then {subject} came to the hill."} for subject in subjects],
        "preferences": [
            {"prompt": f"What is {s}? ", "chosen": "a thing", "rejected": "no"} for s in subjects
        ],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), "utf-8")
    for name, text in PYTHON.findall(PAGE.read_text("utf-8")):
        (folder / name).write_text(text, "utf-8")
    shutil.copytree(TASKS, folder / "tasks")
    # what the .pth file of an installed library does when Python starts
    starts = f"import site; site.addsitedir({str(REPOSITORY / 'startup')!r})"
    (folder / "sitecustomize.py").write_text(starts)
    return folder


def run(folder: Path, *command: str, inside: str = ".") -> str:
    """The output of a Python command in the folder; fails with its last words."""
    settings = {
        "PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "WANDB_MODE": "disabled",
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder / inside,
        env=os.environ | settings,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def touched(adapter: Path) -> int:
    weights = load_file(adapter / "adapter_model.safetensors")
    return sum(int((w > 0).sum()) for name, w in weights.items() if name.endswith("row_updates"))


def test_the_scripts_train_what_they_save(folder):
    scripts = [name for name, _ in PYTHON.findall(PAGE.read_text("utf-8"))]
    assert scripts == ["trainer.py", "sft.py", "dpo.py", "quantised.py", "loop.py"]
    scripts.remove("quantised.py")  # tests/quantised
    code = f"import runpy\nfor name in {scripts}: runpy.run_path(name, run_name='__main__')"
    said = run(folder, "-c", code)
    for name in ("adapter", "adapter-sft", "adapter-dpo"):
        assert touched(folder / name) > 0
    norms = re.findall(r"'grad_norm': '?([\d.e-]+)", said)
    assert len(norms) >= 3 and all(float(norm) > 0 for norm in norms)
    assert said.count("smf/rows_chosen") == len(norms)
    first_dpo_loss = said[: said.index("rewards/chosen")].rpartition("'loss': ")[2]
    assert float(re.match(r"'?([\d.]+)", first_dpo_loss)[1]) == pytest.approx(0.6931, abs=1e-3)
    assert "teaches memory rows next to nothing" not in said


def test_two_processes_and_lm_eval_from_the_command_line(folder):
    torchrun, lm_eval = (block.split() for block in SHELL.findall(PAGE.read_text("utf-8")))
    assert torchrun[0] == "torchrun" and lm_eval[0] == "lm_eval"
    run(folder, "-m", "torch.distributed.run", *torchrun[1:])
    assert touched(folder / "adapter") > 0
    said = run(folder, "-m", *lm_eval, "--limit", "8", inside="tasks")
    assert re.search(r"minimal_pairs *\|.*\|acc", said)


@pytest.mark.parametrize("page", ["README.md", "book/own_training.md"])
def test_the_rates_are_those_of_the_profiles(page):
    quick, frontier = (
        yaml.safe_load((REPOSITORY / "profiles" / f"{name}.yaml").read_text("utf-8"))["methods"]
        for name in ("quick", "frontier")
    )
    labels = {quick[name]["label"]: name for name in quick}
    rates = RATES.findall((REPOSITORY / page).read_text("utf-8"))
    assert len(rates) == 4
    for label, first, low, high in rates:
        name = labels[label]
        assert float(first) == quick[name]["learning_rate"]
        swept = frontier[name]["learning_rate"]
        assert (float(low), float(high)) == (min(swept), max(swept))
