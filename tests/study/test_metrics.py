"""The registry of metrics: what is measured, a probe of one's own, and its way into a record."""

import ast
import json
import sys
from pathlib import Path

import pytest
from helpers_records import make_record

from smf_lib.study import metrics, registry
from smf_lib.study.evaluation.evaluate import Measurement
from smf_lib.study.evaluation.measuring import measure_metric
from smf_lib.study.metrics import METRICS, metric_names, probe_names, register_metric
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.record import DataPart, Metric, Record
from smf_lib.study.records.results import ResultsError, paired_key, read_record, write_record
from smf_lib.study.registry import Registry, load_function, source_of


@pytest.fixture
def own_metric():
    """A metric registered by this file, for the time of a test."""

    def describe(study):
        return {"sha256": "ab", "rows": 3, "source": "here"}

    @register_metric("code_perplexity", "Perplexity of code", "perplexity", describe=describe)
    def code_perplexity(study, lm):
        return Measurement("code_perplexity", 7.0, 0.5, 2, [[3.0, 2], [5.0, 2]])

    yield METRICS["code_perplexity"]
    del METRICS["code_perplexity"], METRICS.functions["code_perplexity"]


def test_the_registries_import_nothing_heavy():
    for module in (metrics, registry):
        tree = ast.parse(Path(module.__file__).read_text())
        found = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        found |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        assert found <= {"registry", *sys.stdlib_module_names} | {"collections.abc"}


@pytest.mark.parametrize("name", METRICS)
def test_every_shipped_metric_is_whole(name):
    spec = METRICS[name]
    assert callable(load_function(spec.measure)) and callable(load_function(spec.describe))
    assert spec.data in DataPart.model_fields and spec.is_shipped and spec.title
    for module in (*metrics.COMMON_CODE, *spec.code):
        __import__(f"smf_lib.study.{module}")


def test_what_a_profile_measures_follows_from_its_probes():
    quick, paper = load_profile("quick"), load_profile("paper")
    assert metric_names(quick) == [
        "exam_accuracy", "prose_perplexity", "knowledge_accuracy", "self_kl", "prose_kl"
    ]  # fmt: skip
    assert metric_names(paper) == [
        "exam_accuracy", "letter_accuracy", "prose_perplexity", "word_perplexity",
        "knowledge_accuracy", "exact_match", "self_kl", "prose_kl",
    ]  # fmt: skip
    few = quick.model_copy(
        update={"evaluation": quick.evaluation.model_copy(update={"probes": ["prose"]})}
    )
    assert metric_names(few) == ["exam_accuracy", "prose_perplexity", "prose_kl"]
    assert probe_names() == ["prose", "knowledge", "self_text"]


def test_a_metric_of_ones_own_is_measured_where_a_profile_names_it(own_metric):
    quick = load_profile("quick")
    assert "code_perplexity" in probe_names()
    assert "code_perplexity" not in metric_names(quick)
    probes = [*quick.evaluation.probes, "code_perplexity"]
    named = quick.model_copy(
        update={"evaluation": quick.evaluation.model_copy(update={"probes": probes})}
    )
    assert metric_names(named) == [*metric_names(quick), "code_perplexity"]


def test_a_metric_of_ones_own_explains_itself_in_the_record(own_metric, llama, tmp_path):
    from helpers_text import word_tokenizer

    study = type("Study", (), {"profile": load_profile("quick")})()
    found = measure_metric(study, "code_perplexity", llama, word_tokenizer())
    assert found["about"] == {
        "title": "Perplexity of code", "unit": "perplexity", "data": "code_perplexity"
    }  # fmt: skip
    parts = metrics.describe_data(study, ["code_perplexity"])
    assert parts == {"code_perplexity": {"sha256": "ab", "rows": 3, "source": "here"}}
    content = make_record().model_dump(mode="json")
    content["metrics"]["code_perplexity"] = Metric(**found).model_dump(mode="json")
    content["data"]["other"] = parts
    record = Record.model_validate(content)
    path = write_record(tmp_path / f"{record.run_id}.json", record)
    del METRICS["code_perplexity"]  # on another's machine
    again = read_record(path)
    METRICS["code_perplexity"] = own_metric
    assert again.spec("code_perplexity").title == "Perplexity of code"
    assert again.spec("code_perplexity").unit == "perplexity"
    assert paired_key(again, "code_perplexity") == ("code_perplexity", "ab", None, 2)
    assert again.metrics["code_perplexity"].items == [[3, 2], [5, 2]]


def test_a_record_of_a_metric_that_nothing_explains_is_refused(tmp_path):
    record = make_record()
    path = write_record(tmp_path / f"{record.run_id}.json", record)
    content = json.loads(path.read_text())
    content["metrics"]["mine"] = content["metrics"]["exam_accuracy"]
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="metrics.mine: metric='mine' is unknown; choose one of"):
        read_record(path)
    content["metrics"]["mine"] = content["metrics"]["mine"] | {
        "about": {"title": "Mine", "unit": "accuracy", "data": "mine"}
    }
    path.write_text(json.dumps(content))
    with pytest.raises(ResultsError, match="metrics.mine is given but data.mine is missing"):
        read_record(path)


def test_a_record_says_nothing_of_what_needs_no_words(tmp_path):
    record = make_record()
    path = write_record(tmp_path / f"{record.run_id}.json", record)
    kept = json.loads(path.read_text())["metrics"]["exam_accuracy"]
    assert sorted(kept) == ["items", "n", "stderr", "value"]


def test_a_unit_that_is_none_is_refused():
    with pytest.raises(ValueError, match="unit='percent' is unknown; choose accuracy, perplexity"):
        register_metric("mine", "Mine", "percent", describe=dict)


def test_a_registry_takes_the_same_function_again_and_no_other():
    things = Registry("thing")

    def one():
        return 1

    def other():
        return 2

    things.add("name", 1, one)
    things.add("name", 2, one)
    assert things["name"] == 2
    with pytest.raises(ValueError, match="thing 'name' is registered already; choose another"):
        things.add("name", 3, other)
    assert things.find("name") == 2
    with pytest.raises(ValueError, match="thing='nam' is unknown; choose one of name, or name the"):
        things.find("nam")


def test_the_source_of_a_function_is_its_file_unless_it_is_the_librarys():
    def mine():
        return None

    assert source_of(mine).name == "test_metrics.py"
    assert source_of(metric_names) is None and source_of("evaluation.measuring:exam") is None
