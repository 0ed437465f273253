"""Where a run took place: package versions, hardware and the commit of the code."""

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "smf_lib",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "datasets",
    "lm-eval",
    "tokenizers",
    "safetensors",
    "numpy",
    "papermill",
    "snakemake",
    "jupyter-book",
    "matplotlib",
    "pandas",
    "pydantic",
    "simple-icd-10-cm",
    "airportsdata",
    "tzdata",
)


def provenance() -> dict[str, Any]:
    """The fields `versions`, `hardware`, `commit` and `dirty` of a record, for this process."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    commit, dirty = git_state(Path(__file__).resolve().parent)
    return {"versions": versions, "hardware": _hardware(), "commit": commit, "dirty": dirty}


def git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit of the repository that tracks this package and whether tracked files differ."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            # it would leave a lock in the repository where a disk is full or the process is ended
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "-uno"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _hardware() -> dict[str, Any]:
    """Processor, usable cores, memory, GPU and platform of this machine."""
    import psutil
    import torch

    usable = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_name(),
        "cores": len(usable(0)) if usable else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "platform": platform.platform(),
    }


def _cpu_name() -> str:
    """The processor's trade name where the system tells it, else its architecture."""
    if Path("/proc/cpuinfo").exists():
        names = re.findall(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        if names:
            return names[0]
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.processor() or platform.machine()
