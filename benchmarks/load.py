"""Time and memory of large things, each through the notebook that a reader would run.

| part | what is large |
| --- | --- |
| table | memories of 1,048,576 rows: 01_build_memory |
| background | 10,000 sequences of background text, written and counted: 01_build_memory |
| questions | an exam of 5,000 questions, asked of the base model: 02_finetune |
| records | 200 records of 50 methods, one diverged: 03_results |
| seeds | 5 methods with 12 seeds each: 03_results |

The model is tiny and random: what grows with its size is measured elsewhere. Each part runs in a
process of its own. Seconds are those of a clock and of the processor, memory is the largest of any
process.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import yaml

from benchmarks.common import RESULTS, options, report
from smf_lib.study.notebooks import run_notebook
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import read_record, write_record

NAN = float("nan")
NOTEBOOKS = PROFILE_DIR.parent / "notebooks"


def profile_of(folder: Path, **changes: dict) -> Path:
    """Profile smoke with other fields, as a file."""
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text(encoding="utf-8"))
    for field, value in changes.items():
        content[field] = {**content.get(field, {}), **value}
    path = folder / "large.yaml"
    path.write_text(yaml.safe_dump(content | {"name": "large"}), encoding="utf-8")
    return path


def invent_questions(path: Path, count: int) -> None:
    """Sums as multiple choice, two for training and `count` for testing."""
    rows = [
        {"question": f"What is {n} + {n % 7}?", "options": [str(n + n % 7 + i) for i in range(3)]}
        for n in range(count + 8)
    ]
    text = "".join(json.dumps(row | {"answer": n % 3}) + "\n" for n, row in enumerate(rows))
    path.write_text(text, encoding="utf-8")


def invent_records(folder: Path, methods: int, seeds: int) -> None:
    """Records of invented methods, like a recorded one, with invented outcomes; one diverged."""
    random = np.random.default_rng(0)
    like = read_record(next((RESULTS.parent / "quick" / "reference").glob("lora-*.json")))
    base = read_record(RESULTS.parent / "quick" / "reference" / "base.json")
    write_record(folder / "local" / "base.json", _like(base, random, 0.0, {}))
    for method in range(methods):
        for seed in range(seeds):
            run_id = f"method-{method}-seed{seed}"
            named = {"run_id": run_id, "method": f"method-{method}", "seed": seed}
            named["label"] = f"Method {method} of many"
            record = _like(like, random, method / methods, named)
            if method == seed == 1:
                kl = record.metrics["self_kl"]
                nothing = {"value": NAN, "stderr": NAN, "items": [NAN] * kl.n}
                diverged = {**record.metrics, "self_kl": kl.model_copy(update=nothing)}
                record = record.model_copy(update={"metrics": diverged})
            write_record(folder / "local" / f"{run_id}.json", record)


def _like(record: Record, random: np.random.Generator, more: float, named: dict) -> Record:
    """A record with other outcomes on the exam, the more right the larger `more` is."""
    metric = record.metrics["exam_accuracy"]
    right = (random.random(metric.n) < 0.3 + 0.2 * more).astype(int).tolist()
    exam = metric.model_copy(update={"items": right, "value": float(np.mean(right))})
    return record.model_copy(
        update={
            "profile": "large",
            "metrics": {**record.metrics, "exam_accuracy": exam},
            "by_answer": {},
            "answers": {},
            **named,
        }
    )


def run_part(part: str, small: bool, pipe) -> None:
    """Run one part in this process; send what it took through the pipe."""
    rows, sequences, questions = (16, 64, 40) if small else (1024, 10_000, 5000)
    methods, seeds = (6, 2) if small else (50, 4)
    with tempfile.TemporaryDirectory() as name, _root(Path(name)) as folder:
        notebook, parameters = "03_results", {"profile": "large"}
        if part == "table":
            path = profile_of(folder, memory={"num_subkeys": rows})
            notebook, parameters = "01_build_memory", {"profile": str(path)}
        elif part == "background":
            path = profile_of(folder, background={"sequences": sequences})
            notebook, parameters = "01_build_memory", {"profile": str(path)}
        elif part == "questions":
            invent_questions(folder / "sums.jsonl", questions)
            exam = {"name": "choice", "source": str(folder / "sums.jsonl"), "seed": 0}
            content = {"test_rows": questions, "validation_rows": 0, "train_rows": None}
            path = profile_of(folder)
            whole = yaml.safe_load(path.read_text(encoding="utf-8"))
            whole["exam"] = exam | content
            path.write_text(yaml.safe_dump(whole), encoding="utf-8")
            notebook = "02_finetune"
            parameters = {"profile": str(path), "method": "base", "seed": 0}
        elif part == "records":
            invent_records(folder / "results" / "large", methods, seeds)
        else:
            invent_records(folder / "results" / "large", 5, 3 if small else 12)
        started = time.perf_counter()
        with contextlib.redirect_stdout(sys.stderr):
            run_notebook(
                NOTEBOOKS / f"{notebook}.ipynb", folder / "out.ipynb", parameters, folder / "log"
            )
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        pipe.send(
            {
                "notebook": notebook,
                "seconds": time.perf_counter() - started,
                "processor_seconds": used.ru_utime + used.ru_stime,
                "peak_memory_bytes": used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
                "page_bytes": (folder / "out.ipynb").stat().st_size,
            }
        )


@contextlib.contextmanager
def _root(folder: Path) -> Iterator[Path]:
    """The folder in which work/ and results/ are."""
    os.environ["SMF_ROOT"] = str(folder)
    yield folder


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    context, results = multiprocessing.get_context("spawn"), {}
    for part in ("records", "seeds", "table", "background", "questions"):
        ours, theirs = context.Pipe()
        process = context.Process(target=run_part, args=(part, arguments.small, theirs))
        process.start()
        theirs.close()
        results[part] = ours.recv()
        process.join()
        print(f"{part}: {results[part]}", file=sys.stderr, flush=True)
    settings = {"model": "tiny-random", "profile": "smoke, with larger parts"}
    report("load", arguments, settings, results)


if __name__ == "__main__":
    main()
