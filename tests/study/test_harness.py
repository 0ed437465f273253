"""Tasks of lm-eval that a profile names: found, scored as lm-eval scores them, or refused."""

import json
import types

import pytest
from helpers_models import tiny_model
from helpers_text import word_tokenizer
from lm_eval.models.huggingface import HFLM

from smf_lib.study.evaluation.harness import describe_task, find_task, measure_task, run_task
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.evaluation.measuring import measure_metric
from smf_lib.study.metrics import METRICS, describe_data, metric_names
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


def test_a_task_that_cannot_be_had_or_is_no_mean_is_refused(task_file, tmp_path):
    with pytest.raises(ValueError, match="lm_eval_tasks: 'absent.yaml' cannot be loaded"):
        find_task("absent.yaml", tmp_path)
    named = task_file("word_perplexity", "weighted_perplexity")
    with pytest.raises(ValueError, match="metric 'word_perplexity', which is no mean over items"):
        find_task(named, tmp_path)
    with pytest.raises(ValueError, match="name two tasks alike; rename a file"):
        EvaluationSettings(lm_eval_tasks=["a/x.yaml", "b/x.yaml"])


@pytest.mark.parametrize("bos", [False, True])
def test_a_pair_is_cut_out_of_both_encoded_together(bos):
    tokenizer = word_tokenizer(bos)
    lm = SharedContextLM(tiny_model(), tokenizer)
    context, rest = lm.encode_pair("one two ", "three four")
    assert context + rest == tokenizer("one two three four").input_ids
    assert rest == tokenizer("three four", add_special_tokens=False).input_ids
