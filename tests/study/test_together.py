"""Two finetunes put together on a tiny random model, as the notebook about row patches does it."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
import yaml
from helpers_tasks import ARMS, LORA, SMF, content

from smf_lib.study import together
from smf_lib.study.study import Study

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "08_patches.ipynb"
TASKS = ["plus", "times"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    settings = content(
        sequences=[[task] for task in TASKS],
        methods={"base": ARMS["base"], "lora": LORA, "smf-tfidf": SMF},
        evaluation={"probes": []},
    )
    (folder / "three.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    return Study.load(folder / "three.yaml", folder)


@pytest.fixture(scope="module")
def names(study):
    """What the notebook's code has made, run from top to bottom on that study."""
    found: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMF_ROOT", str(study.root))
        for cell in nbformat.read(NOTEBOOK, 4).cells:
            if cell.cell_type == "code":
                exec(compile(cell.source, cell.id, "exec"), found)  # noqa: S102
                if "parameters" in cell.metadata.get("tags", []):
                    found |= {"profile": str(study.root / "three.yaml"), "tasks": TASKS}
    return found


def test_the_notebook_runs_and_its_own_checks_hold(names):
    assert [way["way"] for way in names["ways"]] == [
        "base model", "plus alone", "times alone",
        "both, first", "both, second", "both, sum", "both, moved",
    ]  # fmt: skip
    assert all(way["taken out"] for way in names["ways"])
    assert names["sizes"]["folder, touched rows"] < names["sizes"]["folder, whole"]
    assert [way["way"] for way in names["merged"]] == [
        "base model", "plus alone", "times alone", *(f"both, {m}" for m in together.MERGES),
    ]  # fmt: skip


def test_a_way_says_how_many_rows_it_takes_and_how_many_met(names):
    ways = {way["way"]: way for way in names["ways"]}
    alone = [ways[f"{task} alone"]["rows"] for task in TASKS]
    met = ways["both, sum"]["conflicts"]
    assert met > 0 and ways["both, first"]["rows"] == sum(alone) - met
    assert ways["both, moved"]["rows"] == sum(alone)


def test_what_is_put_in_is_measured_and_not_something_else(study, names):
    """The first alone is what its run was recorded to be, or would be."""
    model, tokenizer = study.trained("smf-tfidf.plus")
    found = together.accuracies(study, model, tokenizer, TASKS)
    assert found == {task: names["ways"][1][task] for task in TASKS}
    model, tokenizer = study.trained("lora.times")
    found = together.accuracies(study, model, tokenizer, TASKS)
    assert found == {task: names["merged"][2][task] for task in TASKS}


def test_both_tables_begin_with_the_model_that_all_started_from(study, names):
    model, tokenizer = study.load_base()
    found = together.accuracies(study, model, tokenizer, TASKS)
    for ways in (names["ways"], names["merged"]):
        assert found == {task: ways[0][task] for task in TASKS}


def test_patches_of_another_start_are_refused(study, names):
    spec = study.profile.run("smf-tfidf.plus", 1)
    model, tokenizer = study.build(spec)
    with pytest.raises(ValueError, match="do not fit the model|does not fit the model"):
        list(together.composed(study, model, tokenizer, names["patches"]))


def test_retention_is_of_the_gain_of_each_tasks_own_finetune():
    ways = [
        {"way": "base model", "a": 0.3, "b": 0.25},
        {"way": "a alone", "a": 0.8, "b": 0.25}, {"way": "b alone", "a": 0.3, "b": 0.5},
        {"way": "both, sum", "a": 0.6, "b": 0.5}, {"way": "both, first", "a": 0.25, "b": 0.55},
    ]  # fmt: skip
    found = together.retained(ways, ["a", "b"])
    kept = [[way[f"{task}: kept of the gain (%)"] for task in "ab"] for way in found]
    assert kept == [[0, 0], [100, 0], [0, 100], [60, 100], [-10, 120]]
    assert found[3] == {
        "way": "both, sum", "a (%)": 60.0, "b (%)": 50.0, "a: kept of the gain (%)": 60,
        "b: kept of the gain (%)": 100, "joint (%)": 55.0,
    }  # fmt: skip
    ways[1]["a"] = 0.3  # a finetune that gained nothing
    assert [way["a: kept of the gain (%)"] for way in together.retained(ways, ["a", "b"])] == (
        ["–"] * 5
    )


NAN = float("nan")
WRONG = [
    ({"tasks": ["plus"]}, r"tasks=\['plus'\] must be two different tasks .* has plus, times"),
    ({"tasks": ["plus", "times", "plus"]}, "must be two different tasks"),
    ({"tasks": ["plus", "plus"]}, "must be two different tasks"),
    ({"tasks": ["plus", "nosuch"]}, "must be two different tasks"),
    ({"tasks": []}, r"tasks=\[\] must be"),
    ({"tasks": "plus"}, "tasks='plus' must be"),
    ({"tasks": None}, "tasks=None must be"),
    ({"tasks": [["plus"], "times"]}, "must be two different tasks"),
    ({"weights": [1.0]}, r"weights=\[1.0\] must be two finite numbers"),
    ({"weights": [1.0, 1.0, 1.0]}, "must be two finite numbers"),
    ({"weights": [1.0, NAN]}, "must be two finite numbers"),
    ({"weights": ["1", "1"]}, "must be two finite numbers"),
    ({"weights": [True, False]}, "must be two finite numbers"),
    ({"weights": None}, "must be two finite numbers"),
    ({"method": "lora"}, "method='lora' is no arm of SPARSE_MEMORY .* it has smf-tfidf"),
    ({"method": None}, "method=None is no arm"),
    ({"method": "smf-tfidf.plus"}, "method='smf-tfidf.plus' is no arm"),
    ({"reference": "smf-tfidf"}, "reference='smf-tfidf' is no arm of LORA .* it has lora"),
    ({"reference": ["lora"]}, "reference=.* is no arm"),
    ({"seed": -1}, "seed=-1"),
    ({"seed": "0"}, "seed='0'"),
]


@pytest.mark.parametrize(("wrong", "match"), WRONG)
def test_what_cannot_be_put_together_is_refused_before_anything_is_trained(wrong, match, study):
    right = {
        "method": "smf-tfidf", "reference": "lora", "tasks": TASKS, "seed": 0,
        "weights": [1.0, 1.0],
    }  # fmt: skip
    assert len(together.runs_of_pair(study.profile, **right)) == 4
    with pytest.raises(ValueError, match=match) as raised:
        together.runs_of_pair(study.profile, **right | wrong)
    assert len(str(raised.value).splitlines()) == 1


def test_no_adapter_is_refused(study):
    with pytest.raises(ValueError, match="adapters is empty; give two folders"):
        list(together.merged(study, study.load_base()[0], None, {}))
