"""What a build is going to do and about how long it will take, told before it starts."""

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from ...study.kept import what_is_left
from ...study.materials import Materials
from ...study.profiles import Profile
from ...study.records.results import read_record


def check_pages(profile: Profile, rows: int) -> None:
    """Refuse, before anything runs, a profile whose pages would have nothing to compare.

    rows: training questions that its exam has.

    Raises:
        ValueError: no base model or no other method; no probe; fewer training questions than a
            batch has. `make study` needs none of these.
    """
    kinds = [method.kind for method in profile.methods.values()]
    said = f"profile {profile.name!r}"
    if "base" not in kinds or set(kinds) == {"base"}:
        raise ValueError(
            f"methods={', '.join(profile.methods)} of {said}: pages compare the base model with "
            "trained ones; add a method of kind 'base' and one of another, or run make study"
        )
    if not profile.evaluation.probes:
        raise ValueError(
            f"evaluation.probes=[] of {said}: pages show what was forgotten; name a probe, or run "
            "make study"
        )
    batch = profile.training.batch_size
    if rows < batch:
        raise ValueError(
            f"exam.train_rows={rows} of {said} is less than training.batch_size={batch}; the page "
            "about selection needs a batch: raise the one or lower the other"
        )


def check_records(paths: Iterable[str | Path]) -> None:
    """Read what pages are to show, before anything runs.

    Raises:
        ValueError: a record that is damaged; the message names the first and what to do.
    """
    for path in sorted(map(Path, paths)):
        if path.suffix == ".json" and path.parent.name != "benchmarks" and path.is_file():
            read_record(path)


def describe_plan(study: Materials, jobs: Iterable[Any]) -> list[str]:
    """Lines that say what `jobs` (of Snakemake) will do: for each run what is left of it, and why.

    The time of a run is taken from a record of the same run: this machine's own where there is
    one, else a recorded study's.
    """
    jobs, profile = list(jobs), study.profile
    runs = sorted(job.wildcards.run_id for job in jobs if job.rule.name == "finetune")
    notebooks = sum(job.rule.name in ("build_memory", "finetune", "view") for job in jobs)
    lines = [f"Profile {profile.name}: {profile.title}."]
    if notebooks:
        lines.append(
            f"To do: {notebooks} notebooks (runs: {', '.join(runs) or 'none'}), then the book."
        )
    else:
        lines.append("To do: the book's pages; no notebook has to run. About half a minute.")
        return lines
    specs = {spec.run_id: spec for spec in profile.runs()}
    lines += [f"  {run}: {what_is_left(study, specs[run])}" for run in runs]
    known = {run: _recorded(study.results, run) for run in runs}
    times = [seconds for seconds, _ in filter(None, known.values())]
    if times:
        minutes = math.ceil(sum(times) / 60)
        where = sorted({machine for _, machine in filter(None, known.values())})
        lines.append(
            f"The runs took about {minutes} min on {' and '.join(where)}; the other notebooks and "
            "the pages take a few minutes more."
        )
    missing = [run for run, found in known.items() if found is None]
    if missing:
        lines.append(f"How long they take is not on record for: {', '.join(missing)}.")
    lines.append("Stop it whenever you like; the same command goes on with what is not finished.")
    return lines


def _recorded(folder: Path, run_id: str) -> tuple[float, str] | None:
    """Seconds and machine of a recorded run, those of study `local` before all others."""
    found = sorted(folder.glob(f"*/{run_id}.json"), key=lambda p: (p.parent.name != "local", p))
    for path in found:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            hardware, seconds = record["hardware"], float(record["cost"]["total_seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if path.parent.name == "local":
            return seconds, "this machine"
        return seconds, f"{hardware['cores']} cores of {hardware['gpu'] or hardware['cpu']}"
    return None


def other_builds(folder: str) -> list[int]:
    """Ids of Snakemake processes that work in `folder` and were started before this one.

    So of two that are started together one goes on. What started this one does not count.
    """
    me = psutil.Process()
    mine = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "cwd", "create_time"]):
        info = process.info
        words = [os.path.basename(word) for word in (info["cmdline"] or [])[:4]]
        earlier = (info["create_time"], info["pid"]) < (me.create_time(), me.pid)
        if info["pid"] not in mine and info["cwd"] == folder and "snakemake" in words and earlier:
            found.append(info["pid"])
    return sorted(found)
