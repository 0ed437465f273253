"""The whole way, as `make book` goes it: profile smoke through Snakemake to a checked book.

One study is run for all tests here, in a copy of the repository, so that files can be changed.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from helpers_book import copy_repository, environment_of

from smf_lib.report.book.site_check import check_site
from smf_lib.study.notebooks import is_whole
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import read_records

FLAGS = ["--cores", "all", "--nolock", "--rerun-incomplete"]
FLAGS += ["--rerun-triggers", "mtime", "params", "input"]
QUIET = ["--quiet", "host", "progress", "rules", "reason"]


USER = "ada-of-this-machine"
SENTENCE = "One more sentence of prose."


class Study:
    """A copy of the repository and the command that builds its book."""

    def __init__(self, root: Path):
        self.root = root
        self.html = root / "work" / "smoke" / "site" / "_build" / "html"
        self.home = root / f"the 'home' of $HOME \"é\" {'y' * 170}" / USER
        self.home.mkdir(parents=True)

    def start(self, *flags: str, profile: str = "smoke") -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", *FLAGS, *flags]
        return subprocess.Popen(
            [*command, "--config", f"profile={profile}", "--", "book"],
            cwd=self.root,
            env=environment_of(self.root)
            | {"XDG_CACHE_HOME": str(self.root / "a cache's")}
            | {"HOME": str(self.home), "LOGNAME": USER},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def build(self, *flags: str, profile: str = "smoke") -> tuple[int, str]:
        """Exit status and output of a build."""
        process = self.start(*(flags or QUIET), profile=profile)
        output, _ = process.communicate()
        return process.returncode, output

    def records(self) -> dict[str, int]:
        """Time of writing of each record."""
        found = self.root.glob("results/smoke/local/*.json")
        return {path.name: path.stat().st_mtime_ns for path in found}

    def page(self, name: str) -> BeautifulSoup:
        return BeautifulSoup((self.html / f"{name}.html").read_text("utf-8"), "html.parser")

    def planned(self) -> str:
        """What the next build would do, without doing it."""
        return self.build("--dry-run")[1]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    """Lies where the path has what a shell, make, Python, Snakemake or Sphinx reads otherwise."""
    root = tmp_path_factory.mktemp("repository") / "a 'b' $HOME \"é\" 日 {d}" / ("x" * 100)
    made = Study(copy_repository(root))
    made.before_kill = kill_a_build_between_its_runs(made)
    status, output = made.build()
    assert status == 0, output[-6000:]
    return made


def kill_a_build_between_its_runs(study: Study) -> dict[str, int]:
    """Start the build, kill it like `kill -9` in its second run; the records there were then."""
    process = study.start(*QUIET)
    seen = ""
    for line in process.stdout:
        seen += line
        if study.records() and line.startswith("[02_finetune") and "Training" in line:
            break
    assert study.records(), seen[-6000:]
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()
    process.wait()
    return study.records()


def test_a_killed_build_goes_on_where_it_was(study):
    now = study.records()
    assert study.before_kill
    assert {name: now[name] for name in study.before_kill} == study.before_kill


def test_site_has_no_fault(study):
    assert check_site(study.html) == []


def test_every_run_has_a_record_and_a_page(study):
    runs = load_profile("smoke").runs()
    records = {r.run_id: r for r in read_records(study.root / "results" / "smoke")}
    assert sorted(records) == sorted(run.run_id for run in runs)
    for run in runs:
        assert set(records[run.run_id].metrics) >= {"exam_accuracy", "self_kl"}
    tabs = {
        label.text.strip() for label in study.page("notebooks/02_finetune").select(".sd-tab-label")
    }
    assert tabs == {run.settings.label for run in runs}


def test_every_notebook_page_says_what_drew_it(study):
    cpu = read_records(study.root / "results" / "smoke")[0].hardware.cpu
    for path in sorted((study.html / "notebooks").glob("*.html")):
        text = " ".join(study.page(f"notebooks/{path.stem}").find("article").text.split())
        if path.stem == "08_patches":
            assert "papermill runs it" in text  # no build runs it
            continue
        assert "Profile smoke" in text and cpu in text
        assert "numbers on this page mean nothing" in text


def test_the_papers_chapter_stands_where_no_study_is_on_record(study):
    for name, shown in {
        "06_paper": "Additive SMF (KL) learns the exam",
        "06_paper_tables": "make book PROFILE=paper",
    }.items():  # fmt: skip
        text = " ".join(study.page(f"notebooks/{name}").find("article").text.split())
        assert "no study of these profiles is on record yet" in text and shown in text


def test_what_is_published_names_no_folder_of_the_machine_and_no_user(study):
    places = {str(study.root), json.dumps(str(study.root))[1:-1], sys.prefix, str(study.home)}
    found = [*study.root.glob("work/smoke/notebooks/*.ipynb")]
    found += [path for path in study.html.rglob("*") if path.suffix in (".html", ".ipynb", ".js")]
    found += study.root.glob("results/smoke/local/*.json")
    for path in found:
        text = path.read_text("utf-8")
        assert not [name for name in {*places, USER} if name in text], path


def test_no_injected_cell_and_no_path_of_the_machine_is_shown(study):
    for path in study.html.rglob("*.html"):
        text = path.read_text("utf-8")
        assert "# Parameters" not in text and str(study.root) not in text, path


def test_downloads_are_notebooks_with_the_values_used(study):
    found = list((study.html / "_downloads").rglob("02_finetune.ipynb"))
    assert len(found) == 1
    source = "".join(cell.source for cell in nbformat.read(found[0], 4).cells)
    method = load_profile("smoke").runs()[-1].method
    assert re.search(rf"method(: str)? = '{method}'", source)


def test_search_finds_words_of_notebooks_and_chapters(study):
    text = (study.html / "searchindex.js").read_text("utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    names = index["docnames"]
    for word, page in {
        "hub": "book/row_selection",
        "background": "notebooks/01_build_memory",
    }.items():
        pages = set()
        for kind in ("terms", "titleterms"):
            found = index[kind].get(word, [])
            pages |= {names[i] for i in (found if isinstance(found, list) else [found])}
        assert page in pages, word


def test_a_second_build_does_nothing(study):
    before = (study.html / "index.html").stat().st_mtime_ns
    status, output = study.build()
    assert status == 0 and "Nothing to be done" in output
    assert (study.html / "index.html").stat().st_mtime_ns == before


def test_editing_a_notebooks_text_runs_nothing(study):
    path = study.root / "notebooks" / "05_cost.ipynb"
    before, times = path.read_bytes(), path.stat()
    notebook = nbformat.read(path, 4)
    notebook.cells[0].source += "\n\nA sentence of its text."
    nbformat.write(notebook, path)
    plan = study.planned()
    path.write_bytes(before)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # by which the pages are repeated
    assert "rule pages:" in plan and "rule view:" not in plan and "rule finetune:" not in plan


TRAIN, SMOKE = "smf_lib/study/training/train.py", "profiles/smoke.yaml"


@pytest.mark.parametrize(
    ("edits", "repeated", "kept"),
    [
        ([(TRAIN, "weight_decay=0.0", "weight_decay=0.1")], ["finetune", "view"], []),
        (
            [(TRAIN, '"""Train `model` in place', '"""Train a model in place')],
            [],
            ["finetune", "build_memory", "view", "pages"],
        ),
        (
            [("smf_lib/study/evaluation/reading.py", "import torch\n", "import torch\n\nx = 1\n")],
            ["finetune"],
            ["build_memory"],
        ),
        ([(SMOKE, "label: LoRA r 4", "label: LoRA")], ["finetune"], ["build_memory"]),
        (
            [
                ("smf_lib/report/figures/costs.py", "\ndef _bar", "\nx = 1\n\n\ndef _bar"),
                (SMOKE, "checkpoint_every: 2", "checkpoint_every: 3"),
                (SMOKE, "through the whole", "through all"),
            ],
            ["view", "pages"],
            ["finetune", "build_memory"],
        ),
    ],
    ids=["training", "docstring", "measuring", "label", "drawing and settings"],
)
def test_an_edit_repeats_what_depends_on_it(study, edits, repeated, kept):
    texts = {file: (study.root / file).read_text("utf-8") for file, _, _ in edits}
    for file, before, after in edits:
        text = (study.root / file).read_text("utf-8")
        assert before in text
        (study.root / file).write_text(text.replace(before, after, 1), "utf-8")
    plan = study.planned()
    for file, text in texts.items():
        (study.root / file).write_text(text, "utf-8")
    assert all(f"rule {name}:" in plan for name in repeated), plan
    assert not any(f"rule {name}:" in plan for name in kept), plan


def test_a_changed_line_of_data_is_said_before_the_runs_repeat_that_read_it(study):
    files = list((study.root / "smf_lib" / "study" / "data").glob("prose_*.jsonl"))
    before = {path: path.read_text("utf-8") for path in files}
    for path, text in before.items():
        path.write_text(text.replace(" the ", " this "), "utf-8")
    keys = [sys.executable, "-m", "smf_lib.study", "keys", "--profile", "smoke"]
    environment = environment_of(study.root) | {"SMF_ROOT": str(study.root)}
    told = subprocess.run(
        keys, cwd=study.root, env=environment, capture_output=True, text=True, check=True
    )
    plan = study.planned()
    for path, text in before.items():
        path.write_text(text, "utf-8")
    assert "lora-seed0: measure prose_perplexity, prose_kl (articles changed)" in told.stdout
    assert plan.count("rule finetune:") == 5 and "rule build_memory:" not in plan, plan


def test_what_was_trained_is_kept(study):
    kept = {path.parent.parent.name for path in study.root.rglob("adapter/adapter_config.json")}
    assert {name.rpartition("-")[0] for name in kept} == {"lora", "smf-kl", "smf-tfidf"}
    text = study.page("notebooks/02_finetune").text
    assert "kept in work/kept/smf-kl-" in text and "after:" in text and "right:" in text


def test_a_second_build_is_refused_but_not_the_jobs_of_a_cluster(study):
    script = study.root / "snakemake"
    script.write_text("import time\nprint(flush=True)\ntime.sleep(120)\n")
    with subprocess.Popen(
        [sys.executable, script], cwd=study.root, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        status, output = study.build("--dry-run")
        assert status != 0 and f"process {other.pid} is building in this folder" in output
        status, output = study.build("--dry-run", "--mode", "remote")
        assert status == 0, output
        other.kill()


def test_editing_prose_rebuilds_the_pages_alone(study):
    """They are built by `test_damaged_pages_and_...`, which finds the sentence."""
    chapter = study.root / "book" / "limits.md"
    chapter.write_text(chapter.read_text("utf-8") + f"\n{SENTENCE}\n", "utf-8")
    plan = study.planned()
    assert "rule pages:" in plan and not re.search("rule (view|finetune|build_memory):", plan)


def files_below(folder):
    """Each file with its size and time of writing."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_a_damaged_notebook_and_a_lost_record_are_told_and_their_runs_repeated(study):
    notebooks = study.root / "work" / "smoke" / "notebooks"
    paths = [notebooks / "02_finetune_lora-seed0.ipynb", notebooks / "04_selection.ipynb"]
    paths.append(study.html / "book" / "limits.html")
    before = {path: (path.read_bytes(), path.stat()) for path in paths}
    for path, (content, _) in before.items():
        path.write_bytes(content[:-100])
    record = study.root / "results" / "smoke" / "local" / "smf-kl-seed0.json"
    text = record.read_text("utf-8")
    record.unlink()
    there = files_below(study.root / "work")
    plan = study.planned()
    assert files_below(study.root / "work") == there  # a dry run removes nothing
    for path, (content, times) in before.items():
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    record.write_text(text, "utf-8")
    for name in (paths[0].name, paths[1].name, study.html.name):
        assert f"{name} is damaged; what it held is made again" in plan, plan
    assert "output: work/smoke/notebooks/04_selection.ipynb" in plan and "rule pages:" in plan, plan
    assert "output: results/smoke/local/lora-seed0.json" in plan, plan
    assert "output: results/smoke/local/smf-kl-seed0.json" in plan, plan
    assert plan.count("rule finetune:") == 2, plan


def test_damaged_pages_and_a_damaged_notebook_are_made_again_by_the_same_command(study):
    executed = study.root / "work" / "smoke" / "notebooks" / "05_cost.ipynb"
    executed.write_bytes(executed.read_bytes()[:-100])
    page = study.html / "book" / "limits.html"
    page.write_text("")
    records = study.records()
    status, output = study.build()
    assert status == 0, output[-6000:]
    assert output.count("is damaged; what it held is made again") == 2, output
    assert is_whole(executed) and check_site(study.html) == []
    assert SENTENCE in study.page("book/limits").text
    assert study.records() == records


def test_a_profile_by_its_path_is_read_wherever_it_lies(study):
    path = study.root / "a profile's $folder é" / "mine.yaml"
    path.parent.mkdir()
    smoke = (study.root / "profiles" / "smoke.yaml").read_text("utf-8")
    path.write_text(smoke.replace("name: smoke", "name: mine", 1), "utf-8")
    status, plan = study.build("--dry-run", profile=str(path))
    assert status == 0 and plan.count("rule finetune:") == 5, plan


def test_an_unknown_profile_is_one_clear_error(study):
    status, output = study.build(profile="nosuch")
    assert status != 0
    assert "profile='nosuch' does not exist" in output and "smoke" in output
