"""Staging of the book on a tiny repository with invented records."""

import subprocess
import sys

import nbformat
import pytest
import yaml
from helpers_book import PAGES, REPOSITORY, copy_repository, executed, notebook, write
from helpers_records import make_record
from nbformat import v4

from smf_lib.report.book import build
from smf_lib.report.book.pages import BookError
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import write_record

PROFILE = load_profile("smoke").model_copy(update={"seeds": [0, 1]})
NAMES = [
    "00_frontier", "01_build_memory", "02_finetune", "03_results", "04_selection", "05_cost",
    "06_paper", "06_paper_tables", "07_one_after_another", "08_patches",
]  # fmt: skip


@pytest.fixture
def study(tmp_path):
    """(source, root): prose, source notebooks, executed copies and a record for every run."""
    source, root = tmp_path / "source", tmp_path / "root"
    copy_repository(source, PAGES)
    plain = notebook("(sec-part)=\n## Part", ("print(seed)",))
    for name in NAMES:
        write(plain, source / "notebooks" / f"{name}.ipynb")
        if name != "02_finetune":
            done = executed(plain, profile="smoke", seed=0)
            write(done, root / "work/smoke/notebooks" / f"{name}.ipynb")
    for run in PROFILE.runs():
        record = make_record(run.method, seed=run.seed, profile="smoke", run_id=run.run_id)
        write_record(root / "results/smoke/local" / f"{run.run_id}.json", record)
        said = v4.new_output("stream", text=f"run {run.run_id}\n")
        done = executed(plain, [said], profile="smoke", seed=run.seed)
        write(done, root / "work/smoke/notebooks" / f"02_finetune_{run.run_id}.ipynb")
    return source, root


def staged(study):
    source, root = study
    return build.stage(PROFILE, source, root, root / "site")


def test_every_run_of_the_first_seed_has_a_tab_of_one_page(study):
    site = staged(study)
    assert [p.name for p in (site / "notebooks").glob("02_*")] == ["02_finetune.ipynb"]
    page = nbformat.read(site / "notebooks" / "02_finetune.ipynb", 4)
    assert "One notebook, executed once for each method" in page.cells[0].source
    tabs = [cell.source for cell in page.cells if "{tab-set}" in cell.source]
    assert len(tabs) == 1
    for run in build.shown_runs(PROFILE):
        said = f"run {run.run_id}"
        assert f"{{tab-item}} {build.describe_run(PROFILE, run)}\n" in tabs[0] and said in tabs[0]
    assert "seed1" not in tabs[0] and "Of several seeds the first is shown" in page.cells[0].source


def test_the_page_of_all_methods_says_what_each_was_given_and_one_run_can_be_taken_along(study):
    folder = staged(study) / "notebooks"
    table = nbformat.read(folder / "02_finetune.ipynb", 4).cells[1].source
    assert "| `seed` | `0` |" in table
    taken = nbformat.read(folder / "files" / "02_finetune.ipynb", 4)
    assert "{tab-set}" not in str(taken) and taken.cells[3].outputs


def test_pages_say_what_drew_them(study):
    site = staged(study)
    for path in (site / "notebooks").glob("*.ipynb"):
        first = nbformat.read(path, 4).cells[0].source
        if path.stem == "08_patches":  # which no build runs
            assert "papermill runs it" in first
            continue
        assert "Profile `smoke`, run on Test CPU (2 cores, 24 GiB), 23 November 2026" in first
        assert "numbers on this page mean nothing" in first
        assert f"files/{path.stem}.ipynb" in first
        assert (site / "notebooks" / "files" / path.name).is_file()
    footer = yaml.safe_load((site / "_config.yml").read_text())
    footer = footer["sphinx"]["config"]["html_theme_options"]["extra_footer"]
    assert "profile smoke on Test CPU" in footer


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        ("results/smoke/local/lora-seed1.json", "lora-seed1.json is missing; run the study first"),
        ("work/smoke/notebooks/05_cost.ipynb", "05_cost.ipynb is missing; run the study first"),
        ("work/smoke/notebooks/02_finetune_base.ipynb", "02_finetune_base.ipynb is missing"),
    ],
)
def test_one_clear_error_for_what_is_missing(study, lost, message):
    (study[1] / lost).unlink()
    with pytest.raises(BookError, match=message):
        staged(study)


def test_a_broken_record_is_named(study):
    (study[1] / "results/smoke/local/base.json").write_text("{")
    with pytest.raises(BookError, match="base.json: not a whole JSON file"):
        staged(study)


@pytest.mark.parametrize("name", ["sweep", "frontier", "ablations"])
def test_swept_methods_have_a_tab_a_learning_rate(name):
    sweep = load_profile(name)
    runs = build.shown_runs(sweep)
    assert {(run.method, run.learning_rate) for run in runs} == {
        (run.method, run.learning_rate) for run in sweep.runs()
    }
    assert len(runs) < len(sweep.runs()) or len(sweep.seeds) == 1
    described = [build.describe_run(sweep, run) for run in runs]
    assert len(set(described)) == len(described)
    assert any("learning rate" in text for text in described)


def test_a_method_with_seeds_of_its_own_is_shown_by_its_first():
    smoke = load_profile("smoke")
    own = smoke.methods["lora"].model_copy(update={"seeds": [7, 3]})
    smoke = smoke.model_copy(update={"methods": smoke.methods | {"lora": own}})
    assert [run.seed for run in build.shown_runs(smoke) if run.method == "lora"] == [7]


def test_command_line_reports_errors_in_one_message(tmp_path):
    command = [sys.executable, "-m", "smf_lib.report.book", "stage", "--root", str(tmp_path)]
    for profile, message in {
        "nosuch": "profile='nosuch' does not exist",
        "smoke": "is missing",
    }.items():
        done = subprocess.run(
            [*command, "--profile", profile, "--source", str(REPOSITORY)],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            check=False,
        )
        assert done.returncode == 1 and message in done.stderr
        assert "Traceback" not in done.stderr
