"""Whether a change of the code leaves every number as it was; if it does, keys are told so.

    python -m benchmarks.same_numbers <commit> --why "..."

Runs `numbers.yaml`, every way to train on a tiny random model, with the code of the commit and with
that of this folder, and compares all that runs leave, to the bit: trained weights, losses, each
answer and each probability, rows updated. Where all are equal, each module that keys count and that
is another one is noted in `smf_lib/study/equal_code.json`: records made by the earlier code stay
current, and what it trained is not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from safetensors import safe_open

from smf_lib.study.code import EQUAL, EqualCode, read_equal_code, syntax_digest
from smf_lib.study.files import write_whole
from smf_lib.study.keys import METHOD, TRAINING, WRITING
from smf_lib.study.metrics import COMMON_CODE, METRICS

HERE = Path(__file__).resolve().parent
PROFILE = HERE / "numbers.yaml"
KEYED = {
    *(*METHOD, *TRAINING, *WRITING, "study/baselines.py", "study/training/baseline*.py"),
    *(f"study/{m.replace('.', '/')}.py" for m in COMMON_CODE),
    *(f"study/{m.replace('.', '/')}.py" for spec in METRICS.values() for m in spec.code),
}
OF_THE_TIME = ("cost", "created", "commit", "dirty", "hardware", "keys", "sha256", "versions")


def numbers(root: Path, profile: Path, work: Path) -> dict[str, object]:
    """All that runs of a profile with the code of a folder leave and that no clock decides.

    Args:
        root: a folder with the packages and the profiles.
        profile: a profile's file.
        work: a new folder for what the runs write.

    Returns:
        records, and each trained tensor's bytes, by what and where they are.

    Raises:
        RuntimeError: runs failed, or left no weights.
    """
    work.mkdir()
    for name in ("profiles", "smf_lib"):
        (work / name).symlink_to(root / name)
    settings = {"PYTHONPATH": str(root), "SMF_ROOT": str(work), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "smf_lib.study", "run", "--profile", str(profile)],
        cwd=work,
        env=os.environ | settings,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the runs with the code of {root} failed:\n{done.stdout[-3000:]}")
    found: dict[str, object] = {}
    for path in sorted(work.glob("work/kept/*/**/*.safetensors")):
        method = path.relative_to(work / "work" / "kept").parts[0].rpartition("-")[0]
        with safe_open(path, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                place = f"weights {method} {path.name} {name}"
                found[place] = tensors.get_tensor(name).numpy().tobytes()
    if not found:
        raise RuntimeError(f"the runs of {profile} with the code of {root} left no weights")
    for path in sorted(work.glob("results/*/local/*.json")):
        record = json.loads(path.read_text())
        found[f"record {path.stem}"] = {n: v for n, v in record.items() if n not in OF_THE_TIME}
    return found


def differing(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What is not the same in two `numbers`; a field of records that is new is no difference."""
    places = sorted({*before, *after})
    return [p for p in places if before.get(p) != _fields_of(before.get(p), after.get(p))]


def _fields_of(before: Any, after: Any) -> Any:
    """`after`, if both are records those fields of it alone that `before` has."""
    if isinstance(before, dict) and isinstance(after, dict):
        return {name: value for name, value in after.items() if name in before}
    return after


def changes(before: Path, after: Path, commit: str, why: str) -> list[EqualCode]:
    """The modules that keys count and that are other ones, as entries; before a new one is ""."""
    found = []
    for path in sorted({p for pattern in KEYED for p in (after / "smf_lib").glob(pattern)}):
        name = path.relative_to(after / "smf_lib").as_posix()
        old = before / "smf_lib" / name
        one = syntax_digest(old) if old.is_file() else ""
        other = syntax_digest(path)
        if one != other:
            found.append(EqualCode(name, one, other, commit, why))
    return found


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", help="the code of before")
    parser.add_argument("--why", required=True, help="what was changed, and what for")
    arguments = parser.parse_args(argv)
    root = HERE.parent
    with tempfile.TemporaryDirectory() as scratch:
        before = Path(scratch) / "code"
        git = ["git", "-C", str(root)]
        subprocess.run(
            [*git, "worktree", "add", "-q", "--detach", before, arguments.commit], check=True
        )
        try:
            noted = subprocess.check_output(
                [*git, "rev-parse", arguments.commit], text=True
            ).strip()
            entries = changes(before, root, noted, arguments.why)
            places = differing(
                numbers(before, PROFILE, Path(scratch) / "before"),
                numbers(root, PROFILE, Path(scratch) / "after"),
            )
        finally:
            subprocess.run([*git, "worktree", "remove", "--force", before], check=True)
    if places:
        raise SystemExit(f"{len(places)} numbers are others, {EQUAL.name} stays: {places[:8]}")
    text = json.dumps([e._asdict() for e in [*read_equal_code(), *entries]], indent=2)
    write_whole(EQUAL, text + "\n")
    print(f"all numbers are equal; noted: {', '.join(e.module for e in entries) or 'nothing'}")


if __name__ == "__main__":
    main()
