"""The folder in which the blocks of the chapter "In your own training" run, and running them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers_hub import write_qwen2
from safetensors.torch import load_file

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "book" / "own_training.md"
TASKS = REPOSITORY / "smf_lib" / "study" / "data" / "tasks"
PYTHON = re.compile(r"^```python\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def write_folder(folder: Path) -> Path:
    """Write the files that the page's blocks read, and its scripts."""
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


def run(folder: Path, *command: str, inside: str = ".", **variables: str) -> str:
    """The output of a Python command in the folder; fails with its last words.

    variables: of the environment, beside the tests' own.
    """
    given = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    paths = [str(folder), str(REPOSITORY), *map(os.path.abspath, given)]
    settings = {
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(folder / "cache"),
        "WANDB_MODE": "disabled",
    }
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder / inside,
        env=os.environ | settings | variables,
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
    counts = (".row_updates", ".row_counts")  # of whole tables, of touched rows alone
    return sum(int((w > 0).sum()) for name, w in weights.items() if name.endswith(counts))
