"""Tasks of lm-eval that a profile names: found, scored as lm-eval scores them, or refused."""

import json
import math
import re
import shutil
import types
from collections import Counter
from functools import partial

import pytest
import yaml
from datasets import Dataset
from helpers_models import tiny_model
from helpers_text import word_tokenizer
from lm_eval.models.huggingface import HFLM

from smf_lib.study.evaluation import harness
from smf_lib.study.evaluation.harness import (
    SHIPPED,
    describe_task,
    find_task,
    measure_task,
    run_task,
)
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.evaluation.measuring import measure_metric
from smf_lib.study.keys import metric_key
from smf_lib.study.lengths import readings
from smf_lib.study.materials import Materials
from smf_lib.study.metrics import METRICS, describe_data, metric_names
from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.profiles import load_profile
from smf_lib.study.settings import EvaluationSettings

TASK = """
task: counting
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question {{{{question}}}} Answer"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list:
  - {{metric: {metric}, aggregation: {aggregation}, higher_is_better: true}}
metadata: {{version: 1.5}}
"""
NUMBERS = ["one", "two", "three", "four"]


@pytest.fixture
def task_file(tmp_path, datasets_cache):
    """Writes the task's YAML and rows into a folder and returns the file's name there."""

    def write(metric="acc", aggregation="mean"):
        rows = tmp_path / "rows.jsonl"
        questions = [
            {"question": f"word{20 + n}", "options": NUMBERS, "answer": n % 4} for n in range(12)
        ]
        rows.write_text("".join(json.dumps(question) + "\n" for question in questions))
        file = tmp_path / "counting.yaml"
        file.write_text(TASK.format(rows=rows, metric=metric, aggregation=aggregation))
        return file.name

    return write


def test_a_task_from_a_file_is_scored_as_lm_eval_scores_it(task_file, tmp_path):
    named, model = task_file(), tiny_model("Qwen2", initializer_range=0.5).eval()
    lm = SharedContextLM(model, word_tokenizer())
    measured = measure_task(lm, "lm_eval:counting", find_task(named, tmp_path))
    hflm = HFLM(pretrained=model, tokenizer=word_tokenizer(), batch_size=3)
    wanted = [sample["acc"] for sample in run_task(hflm, find_task(named, tmp_path))]
    assert measured.items == wanted and 0 < sum(wanted) < 12
    assert (measured.n, measured.task_version) == (12, "1.5")


def test_a_model_that_diverged_has_no_score(task_file, tmp_path):
    """lm-eval would take the first of options that all have NaN."""
    model = tiny_model()
    model.lm_head.weight.data.fill_(float("nan"))
    lm = SharedContextLM(model, word_tokenizer(), 512)
    for named in (task_file(), "minimal_pairs"):
        found = measure_task(lm, "x", find_task(named, tmp_path))
        assert math.isnan(found.value), named


def test_where_a_tasks_functions_lie_in_memory_is_not_in_its_sum(task_file, tmp_path):
    name = task_file()
    (tmp_path / "asking.py").write_text("def ask(row):\n    return row['question']\n")
    text = (tmp_path / name).read_text().splitlines()
    text[5] = "doc_to_text: !function asking.ask"
    (tmp_path / name).write_text("\n".join([*text, "num_fewshot: 0"]) + "\n")
    assert "doc_to_text" in text[5]
    sums = {describe_task("x", find_task(name, tmp_path))["sha256"] for _ in range(3)}
    assert len(sums) == 1


def test_a_profile_measures_and_records_the_tasks_that_it_names(task_file, tmp_path):
    named, smoke = task_file(), load_profile("smoke")
    evaluation = EvaluationSettings(lm_eval_tasks=[named])
    profile = smoke.model_copy(update={"evaluation": evaluation})
    assert metric_names(profile) == [*metric_names(smoke), "lm_eval:counting"]
    study = types.SimpleNamespace(profile=profile, root=tmp_path)
    model = tiny_model("Qwen2", initializer_range=0.5)
    found = measure_metric(study, "lm_eval:counting", model, word_tokenizer())
    assert found["about"]["title"] == "counting" and found["task_version"] == "1.5"
    part = describe_data(study, ["lm_eval:counting"])["lm_eval:counting"]
    assert (part["rows"], part["source"]) == (12, "counting.yaml")
    assert METRICS.source_of("lm_eval:counting") is None
    rows = tmp_path / "rows.jsonl"
    rows.write_text(rows.read_text().replace("word20", "word40"))
    changed = describe_task(named, find_task(named, tmp_path))
    assert changed["sha256"] != part["sha256"]
    file = tmp_path / named
    file.write_text(file.read_text().replace("Question {{", "Now {{"))
    asked = describe_task(named, find_task(named, tmp_path))
    assert asked["sha256"] != changed["sha256"]


def test_files_of_one_name_in_two_profiles_are_two_tasks(task_file, tmp_path):
    """Of one command, or a page, that is about both; their `task:` is the same as well."""
    content = (tmp_path / task_file()).read_text()
    studies = []
    for folder, word in (("one", "Question"), ("two", "Riddle")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "counting.yaml").write_text(content.replace("Question", word))
        evaluation = {"probes": [], "lm_eval_tasks": [f"{folder}/counting.yaml"]}
        path = tmp_path / f"{folder}.yaml"
        path.write_text(
            yaml.safe_dump({"extends": "smoke", "name": folder, "evaluation": evaluation})
        )
        studies.append(Materials(load_profile(path), tmp_path))
    task, keys, asked = "lm_eval:counting", set(), []
    for study in studies:
        assert metric_names(study.profile) == ["exam_accuracy", task]
        part = describe_data(study, [task])[task]
        assert part["source"] == f"{study.profile.name}/counting.yaml"
        keys.add(metric_key(study, study.profile.runs()[0], task).digest)
        model = tiny_model("Qwen2", initializer_range=0.5)
        lm = SharedContextLM(model, word_tokenizer())
        lm.loglikelihood = lambda requests: asked.extend(requests) or [(0.0, True)] * len(requests)
        METRICS[task].measure(study, lm)
    assert len(keys) == 2
    words = [request.args[0].split()[0] for request in asked]
    assert words == ["Question"] * 48 + ["Riddle"] * 48


def test_a_task_that_cannot_be_had_or_is_no_mean_is_refused(task_file, tmp_path):
    with pytest.raises(ValueError, match="lm_eval_tasks: 'absent.yaml' cannot be loaded"):
        find_task("absent.yaml", tmp_path)
    named = task_file("word_perplexity", "weighted_perplexity")
    with pytest.raises(ValueError, match="metric 'word_perplexity', which is no mean over items"):
        find_task(named, tmp_path)
    with pytest.raises(ValueError, match="name two tasks alike; rename a file"):
        EvaluationSettings(lm_eval_tasks=["a/x.yaml", "b/x.yaml"])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"question": None}, "question=None"),
        ({"question": ""}, "question=''"),
        ({"options": ["one", "", "three", "four"]}, "the choices"),
        ({"options": []}, r"the choices \[\]"),
        ({"options": None}, r"the choices \[\]"),
        ({"answer": None}, "the answer None, which is none of its 4 choices"),
        ({"answer": 4}, "the answer 4, which is none of its 4 choices"),
        ({"answer": -1}, "the answer -1, which is none of its 4 choices"),
    ],
)
def test_a_row_of_ones_own_that_asks_nothing_or_has_no_answer_is_refused(
    task_file, tmp_path, change, message
):
    """lm-eval would ask "Question None" and count the row as wrong."""
    named, place = task_file(), tmp_path / "rows.jsonl"
    rows = [json.loads(line) for line in place.open()]
    rows[3] |= change
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = EvaluationSettings(lm_eval_tasks=[named])
    profile = load_profile("smoke").model_copy(update={"evaluation": evaluation})
    with pytest.raises(ValueError, match=rf"lm_eval_tasks: row 3 of '{named}' has {message}"):
        list(readings(Materials(profile, tmp_path)))


@pytest.mark.parametrize("output", ["generate_until", "loglikelihood"])
def test_a_row_of_ones_own_without_a_target_is_refused(task_file, tmp_path, output):
    named, place = task_file(), tmp_path / "rows.jsonl"
    file, metric = tmp_path / named, {"loglikelihood": "acc"}.get(output, "exact_match")
    text = (
        file.read_text()
        .replace("multiple_choice", output)
        .replace("metric: acc", f"metric: {metric}")
    )
    file.write_text(re.sub("doc_to_choice.*", "generation_kwargs: {until: ['.']}", text))
    evaluation = EvaluationSettings(lm_eval_tasks=[named])
    profile = load_profile("smoke").model_copy(update={"evaluation": evaluation})
    rows = [json.loads(line) | {"answer": "one"} for line in place.open()]
    for answer in ("one", "", None):
        rows[3]["answer"] = answer
        place.write_text("".join(json.dumps(row) + "\n" for row in rows))
        study = Materials(profile, tmp_path)
        if answer:
            assert list(readings(study))
            continue
        with pytest.raises(ValueError, match=rf"row 3 of '{named}' has the answer {answer!r}"):
            list(readings(study))


@pytest.mark.parametrize("name, rows, chance", [("minimal_pairs", 360, 2), ("endings", 120, 4)])
def test_a_shipped_task_is_found_by_its_name_without_the_hub(
    name, rows, chance, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    task = find_task(name, tmp_path)
    profile = load_profile("smoke")
    evaluation = EvaluationSettings(lm_eval_tasks=[name])
    profile = profile.model_copy(update={"evaluation": evaluation})
    assert metric_names(profile)[-1] == f"lm_eval:{name}"
    study = types.SimpleNamespace(profile=profile, root=tmp_path)
    part = describe_data(study, [f"lm_eval:{name}"])[f"lm_eval:{name}"]
    assert part == describe_task(name, find_task(name, tmp_path))
    assert (part["rows"], part["source"]) == (rows, name)
    options = [task.doc_to_choice(row) for row in task.eval_docs]
    assert {len(set(some)) for some in options} == {chance}
    few = Dataset.from_list(list(task.eval_docs)[:12])
    task.dataset["test"] = few
    model, tokenizer = load_model(tiny_random_model(tmp_path / "cache"))
    measured = measure_task(SharedContextLM(model, tokenizer), name, task)
    wanted = measure_task(HFLM(pretrained=model, tokenizer=tokenizer), name, task)
    assert measured.items == wanted.items and (measured.n, measured.task_version) == (12, "1.0")


def test_what_a_shipped_task_asks_and_holds_is_in_its_sum(tmp_path, monkeypatch):
    before = describe_task("endings", find_task("endings", tmp_path))
    folder = shutil.copytree(harness.SHIPPED, tmp_path / "tasks")
    monkeypatch.setattr(harness, "SHIPPED", folder)
    assert describe_task("endings", find_task("endings", tmp_path)) == before
    profile = load_profile("smoke")
    evaluation = EvaluationSettings(lm_eval_tasks=["endings"])
    profile = profile.model_copy(update={"evaluation": evaluation})
    key = partial(metric_key, spec=profile.runs()[0], metric="lm_eval:endings")
    old = key(Materials(profile, tmp_path))
    rows = folder / "endings.jsonl"
    rows.write_text(rows.read_text().replace("umbrella", "parasol"))
    other = describe_task("endings", find_task("endings", tmp_path))
    assert other["sha256"] != before["sha256"]
    assert key(Materials(profile, tmp_path)).changed(old.parts) == ["data of lm_eval:endings"]


def test_minimal_pairs_differ_in_a_word_or_two_and_are_even_over_phenomena():
    rows = [json.loads(line) for line in (SHIPPED / "minimal_pairs.jsonl").open()]
    counts = Counter(row["phenomenon"] for row in rows)
    assert len(counts) >= 10 and set(counts.values()) == {30}
    assert len({row["good"] for row in rows}) == len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        good, bad = row["good"].split(), row["bad"].split()
        assert len(good) == len(bad) and sum(a != b for a, b in zip(good, bad)) == 1, row["id"]


@pytest.mark.parametrize("bos", [False, True])
def test_a_pair_is_cut_out_of_both_encoded_together(bos):
    tokenizer = word_tokenizer(bos)
    lm = SharedContextLM(tiny_model(), tokenizer)
    context, rest = lm.encode_pair("one two ", "three four")
    assert context + rest == tokenizer("one two three four").input_ids
    assert rest == tokenizer("three four", add_special_tokens=False).input_ids
