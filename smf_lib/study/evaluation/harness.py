"""Tasks of lm-eval: made here, taken from its own YAML with other rows, or a user's.

A task runs on any of lm-eval's models; the studies run it on `evaluation.lm.SharedContextLM`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import yaml
from datasets import Dataset
from lm_eval.api.metrics import mean
from lm_eval.api.task import ConfigurableTask, Task
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from ..names import first_line
from ..tasks.hub import locate
from ..tasks.probes import DATA
from .measurement import Measurement

MEAN = {"aggregation": "mean", "higher_is_better": True}  # of an lm-eval metric
BUNDLED = Path(lm_eval.__file__).parent / "tasks"
SHIPPED = DATA / "tasks"  # of this project: a YAML as lm-eval reads it, its rows beside it


def make_task(config: dict, rows: list[dict]) -> Task:
    """A task of our own over rows, `config` as in lm-eval's YAML."""
    with _quiet_lm_eval():
        return ConfigurableTask(config=config | _only(rows))


def bundled_task(name: str, rows: list[dict], **changes: Any) -> Task:
    """lm-eval's own task from its own YAML, on rows in the columns of its data set.

    changes: fields of the YAML that differ, such as num_fewshot.
    """
    manager = TaskManager(include_path=BUNDLED / name, include_defaults=False)
    with _quiet_lm_eval():
        loaded = manager.load(
            {"group": "given", "task": [{"task": name, **_only(rows), **changes}]}
        )
    return loaded["tasks"][name]


def find_task(named: str, root: str | Path) -> Task:
    """The task that a profile names.

    A YAML file, below `root` if relative; or by its name one that this project ships (`SHIPPED`)
    or one of lm-eval's.

    Raises:
        ValueError: no such task, more than one under that name, data that cannot be had, or a task
            whose first metric is not a mean over its items.
    """
    place = Path(locate(named, root))
    if not place.is_file() and (SHIPPED / f"{named}.yaml").is_file():
        return _shipped_task(SHIPPED / f"{named}.yaml")
    try:
        with _quiet_lm_eval():
            # lm-eval reads thousands of files to know all its tasks; a task's folder is enough
            folder = BUNDLED / named
            narrow = place.is_file() or folder.is_dir()
            include = folder if folder.is_dir() and not place.is_file() else None
            manager = TaskManager(include_path=include, include_defaults=not narrow)
            found = manager.load(str(place) if place.is_file() else named)["tasks"]
    except Exception as error:
        raise ValueError(
            f"evaluation.lm_eval_tasks: {named!r} cannot be loaded ({type(error).__name__}: "
            f"{first_line(error)}); name a task of lm-eval or the path of a YAML file"
        ) from error
    if len(found) != 1:
        raise ValueError(
            f"evaluation.lm_eval_tasks: {named!r} stands for {len(found)} tasks "
            f"({', '.join(sorted(found)[:5])}); name one"
        )
    (task,) = found.values()
    first = next(iter(task.aggregation()))
    if task.aggregation()[first] is not mean:
        raise ValueError(
            f"evaluation.lm_eval_tasks: {named!r} has the metric {first!r}, which is no mean over "
            "items; name a task that is scored by acc, acc_norm or exact_match"
        )
    return task


def _shipped_task(path: Path) -> Task:
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = (path.parent / config.pop("dataset_kwargs")["data_files"]["test"]).read_text("utf-8")
    config.pop("dataset_path")
    return make_task(config, [json.loads(row) for row in rows.splitlines()])


def measure_task(lm, name: str, task: Task) -> Measurement:
    """A task's first metric, an item being what lm-eval's log gives for a row."""
    metric = next(iter(task.aggregation()))
    if task.config.output_type == "multiple_choice":  # NaN is no answer
        return multiple_choice(name, metric, run_task(lm, task), version_of(task))
    items = [float(sample[metric]) for sample in run_task(lm, task)]
    return Measurement.of_mean(name, items, version_of(task))


def describe_task(named: str, task: Task) -> dict:
    """A record's part about a task: the sum is of the rows that it scores and of how it asks."""
    rows = [dict(row) for row in task.eval_docs]
    config = task.config.to_dict()
    asked = {name: value for name, value in config.items() if not name.startswith("dataset_")}
    for name in ("metadata", "custom_dataset"):  # hold a path, a place in memory of this machine
        asked.pop(name, None)
    text = json.dumps([rows, asked, version_of(task)], sort_keys=True, default=str)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)  # where a task's functions lie in memory
    sha = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"sha256": sha, "rows": len(rows), "source": named}


def run_task(lm, task: Task) -> list[dict]:
    """Run a task with lm-eval and return its log of each row, in the order given."""
    name = task.config.task
    with _quiet_lm_eval():
        results = evaluate(lm, {"tasks": {name: task}, "groups": {}}, bootstrap_iters=0)
    return sorted(results["samples"][name], key=lambda sample: sample["doc_id"])


def version_of(task: Task) -> str:
    """The version that a task's YAML gives it; lm-eval writes "Yaml" where it gives none."""
    return str(task.VERSION)


def multiple_choice(
    name: str, metric: str, samples: Sequence[dict], version: str | None = None
) -> Measurement:
    """The mean of a metric in lm-eval's log of multiple-choice rows; NaN where a score is."""
    items = []
    for sample in samples:
        finite = np.isfinite([score for ((score, _),) in sample["resps"]]).all()
        items.append(float(sample[metric]) if finite else math.nan)
    return Measurement.of_mean(name, items, version)


def _only(rows: list[dict]) -> dict:
    """The fields that give a task these rows and no others."""
    return {
        "custom_dataset": lambda **_: {"test": Dataset.from_list(rows)},
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
    }


@contextlib.contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    logger, level = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
