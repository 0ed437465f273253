"""Notebooks that only draw: they need records, and neither model nor data."""

import ast
import math
import re
import shutil

import nbformat
import numpy as np
import pytest
from helpers_records import ablation_records, frontier_records, make_record, study_records
from helpers_sequences import LORA, SMF, record, way
from IPython.display import Markdown

from smf_lib.report.analysis import findings, tables
from smf_lib.report.analysis.further import one_study, read_further
from smf_lib.report.analysis.sequence_findings import NOTHING
from smf_lib.report.figures import Figure
from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.records.results import records_folder
from smf_lib.study.study import Study

REPOSITORY = PROFILE_DIR.parent
STUDY = "medmcqa-qwen-coder"


def executed(name, **parameters):
    """The names that a notebook's code has made, `shown` what each cell ends with, by its id."""
    cells = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells
    names, shown = {}, {}
    for cell in cells:
        if cell.cell_type == "code":
            *before, last = ast.parse(cell.source).body
            value = isinstance(last, ast.Expr)
            steps = ast.Module([*before, *([] if value else [last])], [])
            exec(compile(steps, cell.id, "exec"), names)  # noqa: S102
            if value:
                expression = compile(ast.Expression(last.value), cell.id, "eval")
                shown[cell.id] = eval(expression, names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= parameters
    return names | {"shown": shown}


@pytest.mark.parametrize("name", ["03_results", "05_cost"])
def test_a_recorded_study_is_drawn_without_its_model_and_data(name, tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "results" / STUDY, tmp_path / "results" / STUDY)
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    with pytest.raises(ValueError, match="data/medmcqa"):
        Study.load(STUDY)
    methods = {record.method for record in executed(name, profile=STUDY)["records"]}
    assert {"base", "lora", "smf-kl"} <= methods <= set(load_profile(STUDY).methods)


def test_of_several_studies_ones_own_is_shown():
    made = [make_record("base", study=study) for study in ("reference", "local", "alices")]
    assert [[r.study for r in part] for part in one_study(made)] == [
        ["local"],
        ["reference", "alices"],
    ]
    shown, others = one_study([made[0], made[2]], "reference")
    assert (shown, others) == ([made[0]], [made[2]])


@pytest.mark.parametrize("notebook", ["03_results", "05_cost"])
def test_one_study_is_drawn_and_others_are_folded(notebook, results):
    for study in ("local", "reference"):
        results([record.model_copy(update={"study": study}) for record in invented("smoke")])
    given = {"profile": "smoke"} | ({} if notebook == "05_cost" else {"sweep": None})
    names = executed(notebook, **given)
    assert {record.study for record in names["records"]} == {"local"}
    folded = [table for place, table in names["shown"].items() if "others" in place]
    assert folded and all("Study smoke/reference" in table.caption for table in folded)
    with pytest.raises(ValueError, match="study='mine' has no records; there are: local, refere"):
        executed(notebook, study="mine", **given)


def invented(name):
    """A record of each run of a shipped profile's first seeds; the last one has diverged."""
    profile, random = load_profile(name), np.random.default_rng(0)
    runs = [r for r in profile.runs() if r.seed == profile.seeds_of(r.method)[0]]
    return [
        make_record(
            run.method, run.learning_rate or 0.0, run.seed, profile=name,
            label=run.settings.label, run_id=run.run_id, exam=random.integers(0, 2, 24),
            kl=[math.nan] * 4 if run is runs[-1] else random.uniform(0.01, 0.1, 4),
        )
        for run in runs
    ]  # fmt: skip


SHIPPED = sorted(path.stem for path in PROFILE_DIR.glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_profile_is_drawn_beside_a_sweep_of_ones_own(name, results):
    results(invented(name))
    if name != "sweep":
        results(invented("sweep"))
    for notebook in ("03_results", "05_cost"):
        shown = executed(notebook, profile=name)["shown"].values()
        assert [value for value in shown if isinstance(value, Figure)]
    executed("00_frontier", own=None if name in ("frontier", "ablations") else name)


def test_the_frontier_is_drawn_from_records_alone(results):
    for records in (frontier_records(), ablation_records(), study_records()):
        results(records)
    made = executed("00_frontier")
    figures = [value for value in made["shown"].values() if isinstance(value, Figure)]
    assert len(figures) == 5 and "Stars are runs of study quick/local" in figures[0].caption
    first = next(value for value in made["shown"].values() if isinstance(value, Markdown))
    assert first.data.startswith(
        "- **SMF, TF-IDF drifts less than LoRA r 16**: at +11 points of gain"
    )
    assert made["gains"] == [7, 11, 16]
    said = " ".join(v.data for v in made["shown"].values() if isinstance(v, Markdown))
    assert "reading again" in said and "Against the strict step" in said


@pytest.mark.parametrize(
    "records",
    [
        [],
        frontier_records(seeds=(0,), methods=("lora", "smf-tfidf", "full")),
        frontier_records(methods=("smf-tfidf",)),
    ],
    ids=["none", "one seed", "one curve"],
)
def test_the_frontier_says_what_too_few_records_cannot_tell(records, results):
    results(records)
    made = executed("00_frontier", references=["lora", "full"] if len(records) != 10 else [])
    said = " ".join(v.data for v in made["shown"].values() if isinstance(v, Markdown))
    assert "No ablation is on record yet" in said
    assert "no method with several passes" in said or "No method with several passes" in said


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"method": "smf"}, "method='smf' has no curve in study frontier/reference; it has full"),
        ({"references": ["ia3"]}, "references='ia3' has no curve"),
        ({"gain": 90}, "gain=90 is reached by no curve.*choose a number of points between"),
    ],
)
def test_a_parameter_of_the_frontier_that_cannot_work_is_refused(parameters, message, results):
    results(frontier_records(methods=("lora", "smf-tfidf", "full")))
    with pytest.raises(ValueError, match=message):
        executed("00_frontier", **parameters)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=str)
def test_no_table_is_shown_without_a_caption(path):
    """`tables.show` asks for one; a bare DataFrame at a cell's end would have none."""
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            calls = [
                node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)
            ]
            shown = [
                c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "show"
            ]
            assert all(len(call.args) == 2 for call in shown), cell.source
            last = ast.unparse(ast.parse(cell.source).body[-1])
            assert not last.startswith(("pd.DataFrame(", "pd.Series(")), cell.source


@pytest.mark.parametrize("path", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=str)
def test_exercises_are_numbered_and_fold_without_the_book(path):
    cells = nbformat.read(path, 4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    asked = re.findall(r"\*\*Exercise (\d) \((easy|medium|hard), \d+ minutes\)\.\*\*", text)
    assert [int(number) for number, _ in asked] == list(range(1, len(asked) + 1))
    assert text.count("<details>\n<summary>Solution") == len(asked)
    assert text.count("<details>") == text.count("</details>") and "{admonition}" not in text
    assert 3 <= len(asked) <= 5 or path.stem == "06_paper_tables"  # an appendix


RESULTS = [
    "00_frontier",
    "03_results",
    "04_selection",
    "05_cost",
    "06_paper",
    "07_one_after_another",
]


@pytest.mark.parametrize("name", RESULTS)
def test_chapters_of_results_begin_with_what_came_out(name):
    cells = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells
    headed = [n for n, cell in enumerate(cells) if re.search(r"^## ", cell.source, re.MULTILINE)]
    assert cells[headed[0]].source.startswith("## What came out")
    assert "{doc}`/book/limits`" in cells[headed[0]].source, "says nothing of what ends the claim"
    assert re.search(r"^tables\.(said|points)\(", cells[headed[0] + 1].source, re.MULTILINE)


def test_what_a_rule_is_worth_is_told_beside_lora_and_full_finetuning(results):
    results(frontier_records())
    said = [findings.found_on_record("frontier"), findings.rules_on_record("frontier")]
    assert "as far as LoRA r 16 and " in said[0] and "as far as Full finetuning" in said[0]
    cells = nbformat.read(REPOSITORY / "notebooks" / "04_selection.ipynb", 4).cells
    code = next(cell.source for cell in cells if "came_out = " in cell.source)
    names = {"findings": findings, "tables": tables, "recorded": "frontier"}
    exec(code.rpartition("\n")[0], names)  # noqa: S102
    assert names["came_out"] == said


def test_a_kept_page_says_of_the_frontier_what_is_on_record_today():
    """Its outputs are kept, but how records are read may change, and records come in."""
    kept = records_folder("quick") / "reference" / "notebooks" / "04_selection.ipynb"
    cells = nbformat.read(kept, 4).cells
    (cell,) = (cell for cell in cells if "came_out = " in cell.source)
    told = [findings.found_on_record("frontier"), findings.rules_on_record("frontier")]
    shown = "".join(cell.outputs[0]["data"]["text/markdown"])
    assert shown == tables.said("\n".join(f"- {sentence}" for sentence in told)).data


DECIDED = "decided by its own 95 % interval"


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("00_frontier", "factor_sentence(factor)"),
        ("03_results", "outcomes.came_out"),
        ("07_one_after_another", "sequence_findings.came_out"),
    ],
)
def test_pages_say_above_their_sentences_that_each_is_decided_alone(name, before):
    cells = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells
    place = next(n for n, cell in enumerate(cells) if before in cell.source)
    above = [cell.source for cell in cells[:place] if cell.cell_type == "markdown"][-1]
    above = " ".join(above.split())
    assert DECIDED in above and "of twenty without any difference" in above


def test_sequences_are_drawn_from_records_alone(results):
    results([record("base"), *way("lora", LORA), *way("smf", SMF)])
    shown = executed("07_one_after_another")["shown"].values()
    drawn = [value for value in shown if isinstance(value, Figure)]
    assert len(drawn) == 1 and "learned in the order icd10, then airports" in drawn[0].caption
    first = next(value for value in shown if isinstance(value, Markdown))
    assert first.data.startswith("- **icd10, then airports, then cities**: average accuracy")


def test_one_seed_of_one_arm_and_a_half_is_drawn_and_says_what_is_left_out(results):
    results([record("base"), *way("smf-tfidf", SMF), *way("lora", LORA)[:2]])
    shown = executed("07_one_after_another")["shown"].values()
    (drawn,) = [value for value in shown if isinstance(value, Figure)]
    assert "Empty columns are not on record yet" in drawn.caption
    first = next(value for value in shown if isinstance(value, Markdown))
    assert "(one seed, study sequence/" in first.data and "LORA (2 of 3 tasks)" in first.data
    assert "What this leaves out.** One seed" in first.data


def test_where_no_sequence_is_on_record_one_sentence_says_so(results):
    results(study_records())
    shown = executed("07_one_after_another")["shown"].values()
    said = [value.data for value in shown if isinstance(value, Markdown)]
    assert said[0] == f"- {NOTHING}" and not any(said[1:])


def test_a_sweep_that_nobody_knows_is_refused(results):
    results(study_records())
    profile = study_records()[0].profile
    with pytest.raises(ValueError, match="sweep='nosuch' has no records, and profile='nosuch'"):
        executed("03_results", profile=profile, sweep="nosuch")
    assert executed("03_results", profile=profile, sweep=None)["swept"] == []
    assert read_further("sweep", "paper") == [] and len(read_further("sweep", profile)) > 1
