"""Texts that are longer than the model: said before anything is trained, and all that are read."""

import json

import pytest
import yaml

from smf_lib.study import lengths
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.evaluation.measuring import measure_metric
from smf_lib.study.metrics import metric_names
from smf_lib.study.models import load_tokenizer
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.study import Study

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {generation}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def smoke(tmp_path, **parts):
    """The smoke study in a folder of its own, with some parts of the profile replaced or added."""
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    for name, part in parts.items():
        content[name] = content.get(name, {}) | part if name == "probes" else part
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(content))
    return Study.load(path, tmp_path)


def public(data):
    """Parts of a profile that ask as the paper does, beside lm-eval's own protocols."""
    exam = {"name": "medmcqa", "source": str(data / "medmcqa"), "train_rows": 8, "test_rows": 6}
    trivia = {"source": str(data / "trivia_qa"), "config": None, "questions": 5, "shots": 2}
    return {"exam": exam, "probes": {"triviaqa": trivia}}


def write_task(folder, name, rows, generation):
    """A task of lm-eval, in a file of that folder."""
    place = folder / f"{name}.jsonl"
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = TASK.format(name=name, rows=place, generation=json.dumps(generation))
    (folder / f"{name}.yaml").write_text(text)
    return f"{name}.yaml"


@pytest.fixture
def read(monkeypatch):
    """What the model is given to read, each as one text."""
    texts = []
    encode = SharedContextLM._encode_pair

    def encode_pair(self, context, continuation):
        texts.append(context + continuation)
        return encode(self, context, continuation)

    def generate_until(self, requests, disable_tqdm=False):
        texts.extend(request.args[0] for request in requests)
        return [""] * len(requests)

    monkeypatch.setattr(SharedContextLM, "_encode_pair", encode_pair)
    monkeypatch.setattr(SharedContextLM, "generate_until", generate_until)
    return texts


@pytest.mark.parametrize("source", ["shipped", "public"])
def test_what_is_looked_at_is_what_is_read(source, tmp_path, data, read):
    study = smoke(tmp_path, **(public(data) if source == "public" else {}))
    metrics = {"exam_accuracy", "knowledge_accuracy", "exact_match"} & {
        *metric_names(study.profile)
    }
    assert len(metrics) == (3 if source == "public" else 2)
    loaded = study.load_base()
    for metric in metrics:
        measure_metric(study, metric, *loaded)
    assert set(read) == {reading.text for reading in lengths.readings(study)}


@pytest.mark.parametrize("metric", ["exam_accuracy", "knowledge_accuracy"])
def test_the_longest_that_is_let_through_can_be_read(metric, tmp_path):
    """One position less, and measuring itself, which comes after training, would refuse it."""
    study = smoke(tmp_path)
    model, tokenizer = study.load_base()
    wanted = "exam" if metric == "exam_accuracy" else "knowledge"
    some = [reading for reading in lengths.readings(study) if reading.where.startswith(wanted)]
    needed = max(len(lengths.encode_text(tokenizer, r.text)) + r.more for r in some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lengths, "readings", lambda study: some)
        lengths.check_readings(study, tokenizer, needed)
        with pytest.raises(ValueError, match=f"needs {needed} positions, more than the model's"):
            lengths.check_readings(study, tokenizer, needed - 1)
    model.config.max_position_embeddings = needed
    measure_metric(study, metric, model, tokenizer)
    model.config.max_position_embeddings = needed - 1
    with pytest.raises(ValueError, match=f"the model's maximum is {needed - 1}"):
        measure_metric(study, metric, model, tokenizer)


def test_which_text_is_too_long_is_said_with_a_remedy(tmp_path):
    study = smoke(tmp_path)
    tokenizer = load_tokenizer(study.model_files)
    message = (
        r"^exam: question '\S+' with an option needs \d+ positions, more than the model's 20; "
    )
    with pytest.raises(ValueError, match=message + "leave it out of the data, or choose"):
        lengths.check_readings(study, tokenizer, 20)
    lengthy = [r for r in lengths.readings(study) if r.where.startswith("knowledge")]
    message = r"^knowledge: question '\S+' with 2 examples and its answer needs \d+ .*; "
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lengths, "readings", lambda study: lengthy)
        with pytest.raises(ValueError, match=message + "lower probes.knowledge_shots"):
            lengths.check_readings(study, tokenizer, 20)


def test_texts_that_are_short_by_their_bytes_are_not_tokenized(tmp_path, monkeypatch):
    study = smoke(tmp_path)
    monkeypatch.setattr(lengths, "encode_text", None)
    lengths.check_readings(study, load_tokenizer(study.model_files), 4096)


def test_a_model_that_is_shorter_than_a_window_of_prose_is_refused(tmp_path, monkeypatch):
    model = Study.empty_model

    def short(self):
        shape = model(self)
        shape.config.max_position_embeddings = 256
        return shape

    monkeypatch.setattr(Study, "empty_model", short)
    with pytest.raises(ValueError, match="prose is read in windows of 512 .* the model's 256;"):
        smoke(tmp_path)


@pytest.mark.parametrize(
    "generation, words, message",
    [
        ({"until": ["."], "repetition_penalty": 1.2}, 3, "generation_kwargs: repetition_penalty=1"),
        ({"until": ["."]}, 5000, r"^evaluation.lm_eval_tasks: row 1 of 'long.yaml' needs \d+ pos"),
        ({"until": ["."], "max_gen_toks": 4096}, 3, r"row 0 of 'long.yaml' needs 4\d+ positions"),
    ],
)
def test_a_task_that_cannot_be_measured_is_refused_before_training(
    tmp_path, datasets_cache, monkeypatch, generation, words, message
):
    rows = [{"question": "word " * n, "answer": "word"} for n in (2, words)]
    named = write_task(tmp_path, "long", rows, generation)
    monkeypatch.setattr(Study, "load_base", None)
    with pytest.raises(ValueError, match=message) as caught:
        smoke(tmp_path, evaluation={"lm_eval_tasks": [named]})
    assert "'long.yaml'" in str(caught.value) and "\n" not in str(caught.value)
