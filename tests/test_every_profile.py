"""`make book` to its end for every profile that is shipped, with a tiny random model and few rows.

Each is built in a copy of the repository, with all recorded studies and another profile's local
records beside it, and with one rate at which training diverges. Of a profile with many runs some
are left out, but none of its methods. One of them alone is built by

    pytest -m slow "tests/test_every_profile.py::test_the_book_of_every_profile_is_built[sweep]"
"""

import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from helpers_book import EVERYTHING, copy_repository, environment_of
from helpers_hub import DATA, write_data

from smf_lib.report.book.site_check import check_site
from smf_lib.study.notebooks import is_whole
from smf_lib.study.profiles import PROFILE_DIR, _read_profile, load_profile
from smf_lib.study.records.results import read_records

PROFILES = sorted(path.stem for path in PROFILE_DIR.glob("*.yaml"))
MOST_RUNS = 12  # of a profile that keeps all its rates and seeds
DIVERGES = 1e38  # a learning rate: two steps leave the range of 32-bit floats
ROWS = {"train_rows": 16, "validation_rows": 8, "test_rows": 8}
CITIES = {"train_rows": 32, "validation_rows": 0, "test_rows": 8}  # eight facts in four wordings
PROBES = {"prose_articles": 2, "knowledge_questions": 18, "knowledge_shots": 2}
PROBES |= {"self_text_sequences": 4, "self_text_tokens": 24}
BACKGROUND = {"sequences": 8, "tokens": 24}
MEMORY = {"num_subkeys": 128, "top_k": 16, "rows_per_step": 512}  # where nothing else is said
TRAINING = {  # steps enough, without warm-up, for a rate that diverges to do so
    "epochs": 1,
    "batch_size": 4,
    "max_length": 512,
    "checkpoint_every": 2,
    "warmup_steps": 0,
    "gradient_accumulation": 1,
}


def smaller(memory):
    """Settings of a memory with a sixteenth of the rows, in a model of four layers, not thirty."""
    divided = {"num_subkeys": 4, "top_k": 4, "rows_per_step": 16}
    made = {name: max(2, memory[name] // by) for name, by in divided.items() if name in memory}
    if "layers" in memory:
        made["layers"] = sorted({layer * 4 // 30 for layer in memory["layers"]})
    return memory | made


def tiny(content):
    """The content of a profile with little of everything, but all its methods, rates and seeds."""
    made = content | {
        "model": {"source": "tiny-random"},
        "exam": content["exam"] | ROWS,
        "tasks": {
            name: task | (CITIES if task["name"] == "cities" else ROWS)
            for name, task in content.get("tasks", {}).items()
        },
        "probes": content.get("probes", {}) | PROBES,
        "background": content.get("background", {}) | BACKGROUND,
        "memory": smaller(MEMORY | content["memory"]) | {"layers": [1, 2], "key_dim": 8},
        "training": content.get("training", {}) | TRAINING,
    }
    for name, rows in (("wikitext", "lines"), ("triviaqa", "questions")):
        if name in made["probes"]:
            made["probes"][name] |= {rows: 8}
    if made["exam"].get("option_rows"):
        made["exam"]["option_rows"] = 6
    if "retrofit" in made:
        made["retrofit"]["text"] |= {"rows": 8, "at_most": None}
        made["retrofit"]["training"] |= TRAINING
    if "sequences" in made:  # the first two tasks, in each of the orders
        learned = list(dict.fromkeys(task for tasks in made["sequences"] for task in tasks))[:2]
        made["sequences"] = [[t for t in tasks if t in learned] for tasks in made["sequences"]]
    for method in made["methods"].values():
        method["settings"] = smaller(method.get("settings", {}))
        if "sequences" in method.get("background", {}):
            method["background"] |= {"sequences": 8}
    return made


def with_few_runs(content):
    """Without all seeds but the first, and without all rates but the lowest and those asked for."""
    methods = content["methods"]
    for name, method in methods.items():
        method.pop("seeds", None)
        rates = method.get("learning_rate")
        if isinstance(rates, list):
            wanted = [m["learning_rate"] for m in methods.values() if m.get("start") == name]
            method["learning_rate"] = [r for r in rates if r in wanted] or rates[:1]
    return content | {"seeds": content.get("seeds", [0])[:1]}


def with_one_that_diverges(content):
    """With a rate that is far too high, of a method that no other goes on from."""
    methods = content["methods"]
    start = {m.get("start") for m in methods.values()} | {m.get("first") for m in methods.values()}
    ends = [m for name, m in methods.items() if name not in start and "learning_rate" in m]
    swept = [method for method in ends if isinstance(method["learning_rate"], list)]
    if swept:
        swept[0]["learning_rate"].append(DIVERGES)
    else:
        ends[0]["learning_rate"] = DIVERGES
    return content


def write_tiny(name, root):
    """Put a tiny profile in the place of the shipped one, and return it."""
    path = root / "profiles" / f"{name}.yaml"
    content = tiny(_read_profile(path, path.parent, ()))
    path.write_text(yaml.safe_dump(content, sort_keys=False), "utf-8")
    if len(load_profile(path).runs()) > MOST_RUNS:
        content = with_few_runs(content)
    path.write_text(yaml.safe_dump(with_one_that_diverges(content), sort_keys=False), "utf-8")
    return load_profile(path)


def make_book(name, root):
    """Exit status and output of `make book`."""
    environment = environment_of(root) | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_DATASETS_CACHE": str(root / "cache"),
    }
    done = subprocess.run(
        ["make", "-s", "book", "VENV=none", f"PROFILE={name}", "JOBS=2"],
        cwd=root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


def faults(notebook):
    """The errors that cells of an executed notebook ended with."""
    cells = nbformat.read(notebook, 4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return [output.evalue for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("name", PROFILES)
def test_a_tiny_profile_has_all_methods_of_the_shipped_one(name, tmp_path):
    made = write_tiny(name, copy_repository(tmp_path, ["profiles"]))
    shipped = load_profile(name)
    labels = {method.arm or method.label for method in shipped.methods.values()}
    assert {method.arm or method.label for method in made.methods.values()} == labels
    rates = [run.learning_rate for run in made.runs()]
    assert DIVERGES in rates and len(rates) <= 40


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_the_book_of_every_profile_is_built(name, tmp_path):
    root = copy_repository(tmp_path, [*EVERYTHING, "Makefile", "results"])
    other = "sweep" if name != "sweep" else "frontier"
    shutil.copytree(
        root / "results" / other / "reference",
        root / "results" / other / "local",
        ignore=shutil.ignore_patterns("notebooks"),
    )
    data = write_data(root / "data")
    shutil.copytree(data / "wikitext", data / "wikitext-2-raw")
    for place, (folder, _) in DATA.items():
        shutil.copytree(data / folder, root / place)
    profile = write_tiny(name, root)

    status, output = make_book(name, root)
    assert status == 0, output[-6000:]
    work = root / "work" / name
    assert output.rstrip().endswith(f"{work}/site/_build/html/index.html")

    records = {r.run_id: r for r in read_records(root / "results" / name) if r.study == "local"}
    assert sorted(records) == sorted(run.run_id for run in profile.runs())
    for run in profile.runs():
        if run.learning_rate == DIVERGES:
            metrics = records[run.run_id].metrics.values()
            assert not all(math.isfinite(metric.value) for metric in metrics), run.run_id

    executed = list((work / "notebooks").glob("*.ipynb"))
    assert len(executed) >= len(records) and all(map(is_whole, executed))
    assert [fault for path in executed for fault in faults(path)] == []

    html = work / "site" / "_build" / "html"
    assert check_site(html) == []
    for path in (root / "notebooks").glob("*.ipynb"):
        page = BeautifulSoup((html / "notebooks" / f"{path.stem}.html").read_text("utf-8"), "lxml")
        assert page.find("article") and "Traceback" not in page.text, path.stem
