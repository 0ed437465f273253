"""A run from profile to record, on a tiny random model: resumable, repeatable, checked early."""

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import yaml
from helpers_hub import dolly_row, write_rows

from smf_lib import RowPatch
from smf_lib.method.background import memories
from smf_lib.study import study as study_module
from smf_lib.study.evaluation.evaluate import WINDOW
from smf_lib.study.evaluation.measuring import measure_metric
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.recording import footprint
from smf_lib.study.records.results import read_record
from smf_lib.study.study import Study, run
from smf_lib.study.talk import answer
from smf_lib.study.tasks.formats import IGNORED
from smf_lib.study.training.train import COMPLETE


def smoke(tmp_path, **changes):
    """The smoke study in a folder of its own, with some fields changed ("exam.train_rows": 5)."""
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    for name, value in changes.items():
        part, _, field = name.rpartition("__")
        (content.setdefault(part, {}) if part else content)[field] = value
    path = tmp_path / "smoke.yaml"
    path.write_text(yaml.safe_dump(content))
    return Study.load(path, tmp_path)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def trained(study, method, seed=0):
    spec = study.profile.run(method, seed)
    model, tokenizer = study.build(spec)
    study.train(spec, model, tokenizer)
    return model


def measured(study, spec):
    """The run's trained model with its tokenizer, the outcome of training, and the metrics."""
    model, tokenizer = study.build(spec)
    outcome = study.train(spec, model, tokenizer)
    return model, tokenizer, outcome, study.measure(spec, model, tokenizer)


def test_divergence_on_prose_is_zero_for_the_base_and_an_item_a_section(tmp_path):
    study = smoke(tmp_path)
    model, tokenizer = study.load_base()
    found = measure_metric(study, "prose_kl", model, tokenizer)
    assert found["items"] == [0.0] * 6 and found["n"] == len(study.prose)
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    moved = measure_metric(study, "prose_kl", model, tokenizer)
    assert min(moved["items"]) > 0
    base = study.load_base()[0]
    ids = torch.tensor([tokenizer(study.prose[4].text).input_ids[:WINDOW]])
    with torch.no_grad():
        p, q = (m.eval()(input_ids=ids).logits.log_softmax(-1) for m in (base, model))
    wanted = (p.exp() * (p - q)).sum(-1).mean().item()
    assert moved["items"][4] == pytest.approx(wanted, rel=1e-4)


def test_only_the_answer_bears_loss_and_it_is_the_right_one(tmp_path):
    study = smoke(tmp_path)
    _, tokenizer = study.load_base()
    question = study.exam.train[0]
    row = study.encode(question, tokenizer)
    answer = [t for t, label in zip(row["input_ids"], row["labels"]) if label != IGNORED]
    assert tokenizer.decode(answer[:-1]) == " " + question.options[question.answer]
    assert answer[-1] == tokenizer.eos_token_id
    assert all(t == label for t, label in zip(row["input_ids"], row["labels"]) if label != IGNORED)


def test_a_question_that_is_too_long_is_named(tmp_path):
    study = smoke(tmp_path, training__max_length=8)
    with pytest.raises(ValueError, match=r"training.max_length=8 is too short: question \S+ has"):
        trained(study, "full")


@pytest.mark.parametrize("method", ["full", "lora", "smf-kl"])
def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(tmp_path, method):
    for name in "ab":
        (tmp_path / name).mkdir()
    whole = weights(trained(smoke(tmp_path / "a"), method))

    study = smoke(tmp_path / "b")
    spec = study.profile.run(method)
    model, tokenizer = study.build(spec)

    class Killed(Exception):
        pass

    steps = []

    def bomb(module, args, output):
        if module.training:
            steps.append(1)
        if len(steps) == 5:  # after the checkpoint of step 4
            raise Killed

    handle = model.get_input_embeddings().register_forward_hook(bomb)
    with pytest.raises(Killed):
        study.train(spec, model, tokenizer)
    handle.remove()
    last = study.files(spec).folder / "checkpoint-4"
    assert (last / COMPLETE).is_file()
    shutil.copytree(last, last.with_name("checkpoint-5"))  # one that the kill left half-written
    (last.with_name("checkpoint-5") / COMPLETE).unlink()

    again, tokenizer = study.build(spec)
    outcome = study.train(spec, again, tokenizer)
    assert outcome.steps == 6 and len(outcome.log) > 0
    assert equal(weights(again), whole)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first, second, other = (
        trained(smoke(folder), "smf-kl", seed) for folder, seed in zip(folders, (0, 0, 1))
    )
    assert equal(weights(first), weights(second))
    keys = [next(iter(memories(m).values())).keys for m in (first, other)]
    assert not torch.equal(*keys)


def test_a_run_is_recorded_and_what_was_measured_is_not_measured_again(tmp_path, monkeypatch):
    study = smoke(tmp_path)
    spec = study.profile.run("smf-kl")
    model, tokenizer, outcome, metrics = measured(study, spec)
    record = study.record(spec, outcome, metrics)
    path = study.results / "local" / "smf-kl-seed0.json"
    kept = read_record(path)
    assert kept.metrics["exam_accuracy"].items == metrics["exam_accuracy"].items
    assert kept.metrics["exam_accuracy"].n == 12 and record.cost.steps == 6
    asked = study.exam.split(study.profile.evaluation.split)[:12]
    assert kept.answers["exam_accuracy"] == [question.answer for question in asked]
    layers = {layer: s.rows_touched for layer, s in kept.selection.items()}
    assert layers.keys() == {"1", "2"} and all(0 < n <= 64 for n in layers.values())
    assert kept.cost.updated_parameters == 32 * sum(layers.values())
    assert not list(study.files(spec).folder.glob("checkpoint-*"))

    monkeypatch.setattr("smf_lib.study.study.finetune", None)  # calling it would fail
    monkeypatch.setattr("smf_lib.study.evaluation.evaluate.measure_exam", None)
    assert study.train(spec, model, tokenizer) == outcome
    assert study.measure(spec, model, tokenizer).keys() == metrics.keys()


METHODS = ["base", "full", "lora", "smf-kl"]


@pytest.mark.parametrize("method", METHODS)
def test_what_was_trained_is_kept_and_loaded_by_one_call(tmp_path, method):
    study = smoke(tmp_path, keep="full")
    spec = study.profile.run(method)
    model, tokenizer, outcome, metrics = measured(study, spec)
    study.record(spec, outcome, metrics)
    loaded, _ = smoke(tmp_path, keep="full").trained(method)
    state, own = loaded.state_dict(), model.state_dict()
    assert equal({n: t for n, t in state.items() if n in own}, own) and len(state) == len(own)
    assert not loaded.training
    ids = tokenizer("What is a tide?", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model.eval()(ids).logits)
    assert answer(loaded, tokenizer, "A tide is") == answer(model, tokenizer, "A tide is")


def test_what_is_not_kept_is_said_with_a_remedy(tmp_path):
    study = smoke(tmp_path)
    with pytest.raises(ValueError, match=r"'full-seed0' are not kept; train it.*run\('full', 0, 0"):
        study.trained("full")
    trained(study, "full")
    with pytest.raises(ValueError, match=r"'full-seed0' are not kept; set `keep: full` in the pro"):
        study.trained("full")
    with pytest.raises(ValueError, match="method='nonsense' is not in profile"):
        study.trained("nonsense")


def test_a_memory_is_also_kept_as_the_rows_that_changed(tmp_path):
    study = smoke(tmp_path)
    model = trained(study, "smf-kl")
    patch = RowPatch.load(study.files(study.profile.run("smf-kl")).patch)
    changed = {i: int((m.row_updates > 0).sum()) for i, m in enumerate(memories(model).values())}
    assert [len(table.rows) for table in patch.tables.values()] == list(changed.values())
    fresh, _ = study.build(study.profile.run("smf-kl"))
    patch.apply(fresh)
    assert equal(weights(fresh), weights(model))


@pytest.fixture
def trainings(monkeypatch):
    """The runs that are trained, in order."""
    done, finetune = [], study_module.finetune

    def counted(model, *arguments, **named):
        done.append(arguments[-1].name)
        return finetune(model, *arguments, **named)

    monkeypatch.setattr(study_module, "finetune", counted)
    return done


PROBES = ["knowledge", "self_text"]


@pytest.mark.parametrize("keep, method, again", [
    ("adapters", "lora", 0), ("adapters", "smf-kl", 0), ("full", "full", 0), ("adapters", "full", 1)
])  # fmt: skip
def test_a_probe_added_later_trains_only_what_was_not_kept(
    tmp_path, trainings, capsys, keep, method, again
):
    first = smoke(tmp_path, keep=keep, evaluation__probes=PROBES)
    before = run(first, first.profile.run(method))
    later = smoke(tmp_path, keep=keep)
    assert len(trainings) == 1
    capsys.readouterr()
    after = run(later, later.profile.run(method))
    assert len(trainings) == 1 + again
    assert ("is trained again" in capsys.readouterr().out) == bool(again)
    assert set(after.metrics) == {*before.metrics, "prose_perplexity", "prose_kl"}
    assert {name: after.metrics[name] for name in before.metrics} == before.metrics
    alone = tmp_path / "alone"
    alone.mkdir()
    whole = smoke(alone)
    assert run(whole, whole.profile.run(method)).metrics == after.metrics


@pytest.mark.parametrize("first", ["a command", "the steps of a notebook"])
def test_a_run_that_is_started_twice_is_trained_and_measured_once(
    tmp_path, trainings, monkeypatch, first
):
    """The second waits while the first measures weights that are kept nowhere.

    A lock is of a thread, so that two threads are to each other what two processes are.
    """
    reached, waiting, said, measured_ = threading.Event(), threading.Event(), [], []

    def measure(study, metric, model, tokenizer):
        reached.set()
        assert waiting.wait(60)
        measured_.append(metric)
        return measure_metric(study, metric, model, tokenizer)

    def say(line, **_):
        said.append(line)
        waiting.set()

    def steps(study, spec):
        _, _, outcome, metrics = measured(study, spec)
        return study.record(spec, outcome, metrics)

    monkeypatch.setattr(study_module, "measure_metric", measure)
    monkeypatch.setattr(study_module, "print", say, raising=False)
    studies = [smoke(tmp_path, evaluation__probes=["self_text"]) for _ in range(2)]
    spec = studies[0].profile.run("full")
    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(run if first == "a command" else steps, studies[0], spec)
        assert reached.wait(60)
        two = pool.submit(run, studies[1], spec)
        records = one.result(), two.result()
    assert said == ["run full-seed0 is being run by another process; waiting until it is done"]
    assert len(trainings) == 1 and measured_ == ["exam_accuracy", "self_kl"]
    assert records[0].metrics == records[1].metrics and records[0].cost == records[1].cost
    path = studies[0].results / "local" / "full-seed0.json"
    assert read_record(path) == records[1]
    if first == "a command":
        assert records[0] == records[1]  # not written again
    with studies[1].alone(spec) as waited:
        assert not waited


def test_a_changed_label_is_recorded_without_training(tmp_path, trainings):
    study = smoke(tmp_path)
    before = run(study, study.profile.run("full"))
    named = study.profile.methods["full"].model_dump() | {"label": "All weights"}
    other = smoke(tmp_path, methods__full=named)
    after = run(other, other.profile.run("full"))
    assert len(trainings) == 1 and after.label == "All weights"
    assert after.metrics == before.metrics and after.cost == before.cost


def test_an_untrained_model_is_not_measured(tmp_path):
    study = smoke(tmp_path)
    spec = study.profile.run("lora")
    with pytest.raises(ValueError, match="run 'lora-seed0' is not trained; call study.train"):
        study.measure(spec, *study.build(spec))


def test_a_record_tells_time_and_place_of_the_run_and_not_of_its_writing(tmp_path, monkeypatch):
    study = smoke(tmp_path)
    spec = study.profile.run("lora")
    model, tokenizer, outcome, metrics = measured(study, spec)
    first = study.record(spec, outcome, metrics)
    assert first.cost.total_seconds > outcome.seconds > 0
    elsewhere = smoke(tmp_path)  # another process, on another machine
    monkeypatch.setattr("smf_lib.study.study.provenance", lambda: {"hardware": None})
    again = elsewhere.record(
        spec, elsewhere.train(spec, model, tokenizer), elsewhere.measure(spec, model, tokenizer)
    )
    assert (again.cost, again.hardware, again.commit) == (first.cost, first.hardware, first.commit)


def test_background_counts_do_not_depend_on_being_kept(tmp_path):
    study = smoke(tmp_path)
    counts = []
    for _ in range(2):  # counted, then read from the disk
        model, _ = study.build_memory()
        counts.append([m.background.counts.clone() for m in memories(model).values()])
    assert all(torch.equal(a, b) for a, b in zip(*counts))
    assert all(int(c.sum()) == 8 * 24 * 2 * 4 for c in counts[0])  # sequences, tokens, heads, k


def test_rows_without_text_are_counted_in_the_record(tmp_path, datasets_cache):
    lines = [{"text": f"Line {n} is about bells, and about salt."} for n in range(20)]
    write_rows(tmp_path / "prose", test=[*lines, {"text": None}, {"text": None}])
    replies = [dolly_row(n) for n in range(12)]
    write_rows(tmp_path / "replies", train=[*replies, dolly_row(12, response=None)])
    prose = {"source": str(tmp_path / "prose"), "config": None, "lines": None, "window": 64}
    record = {}
    for missing in (True, False):
        if not missing:
            write_rows(tmp_path / "prose", test=lines)
            write_rows(tmp_path / "replies", train=replies)
        study = smoke(
            tmp_path,
            probes__wikitext=prose,
            background__text={"source": str(tmp_path / "replies")},
            evaluation={"probes": ["prose"]},
        )
        record[missing] = run(study, study.profile.run("base"))
    noted, plain = record[True].data, record[False].data
    assert noted.prose.source.endswith("prose, test; 2 rows without text left out")
    assert noted.background.source.endswith("replies, train; 1 rows without text left out")
    assert plain.prose.source.endswith("prose, test")
    assert plain.background.source.endswith("replies, train")
    assert record[True].keys == record[False].keys


def test_footprint_counts_what_may_change_and_what_did(tmp_path):
    study = smoke(tmp_path)
    lora, _ = study.build(study.profile.run("lora"))
    size = footprint(lora)
    assert size["trainable_parameters"] == size["updated_parameters"] == size["saved_bytes"] // 4
    memory, _ = study.build(study.profile.run("smf-kl"))
    size = footprint(memory)
    assert size["trainable_parameters"] == 2 * 64 * 32
    assert size["updated_parameters"] == size["saved_bytes"] == 0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"exam__train_rows": 10**6}, r"exam.train_rows 1000000 must be from 0 to"),
        ({"memory__layers": [1, 40]}, r"layers=\[40\] do not exist: .* has 4 layers"),
        ({"probes__knowledge_questions": 10**6}, r"knowledge_questions 1000000 must be from 1 to"),
        ({"probes__prose_articles": 10**6}, r"prose_articles 1000000 must be from 1 to"),
        ({"model": {"source": "no/such/folder"}}, r"model.source"),
        ({"probes__self_text_tokens": 10**6}, r"self_text_tokens=1000000 is more than the model's"),
        (
            {
                "methods__lora": {
                    "label": "L",
                    "kind": "peft",
                    "peft_type": "LORA",
                    "learning_rate": 1e-3,
                    "settings": {"target_modules": ["c_attn"]},
                }
            },
            r"methods.lora: target_modules=\['c_attn'\] are not in the model.*q_proj",
        ),
    ],
)
def test_what_cannot_work_is_said_before_loading(tmp_path, changes, message, monkeypatch):
    monkeypatch.setattr(Study, "load_base", None)
    with pytest.raises(ValueError, match=message):
        smoke(tmp_path, **changes)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((7, 1, ["kl", "tfidf"]), r"layer=7 has no memory; choose one of \[1, 2\]"),
        ((None, 0, ["kl", "tfidf"]), r"batches=0 must be a whole number from 1 to 6"),
        ((None, 7, ["kl", "tfidf"]), r"batches=7 must be"),
        ((None, 1, ["kl"]), r"at least two rules"),
        ((None, 1, ["kl", "idf"]), r"rule='idf' is unknown; choose one of .*tfidf"),
    ],
)
def test_selection_notebook_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        smoke(tmp_path).check_selection(*arguments)


def test_partial_files_are_never_left(tmp_path):
    study = smoke(tmp_path)
    trained(study, "full")
    assert json.loads((study.files(study.profile.run("full")).folder / "training.json").read_text())
    hidden = [p for p in tmp_path.rglob(".*") if p.is_file()]
    assert not [p for p in hidden if p.suffix != ".lock"]  # who trains what, see `making`
