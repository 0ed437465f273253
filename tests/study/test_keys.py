"""What trains again and what measures again, change by change, on the smoke study."""

import importlib.util
import json
import shutil

import pytest
import yaml
from helpers_hub import medmcqa_row, write_rows

from smf_lib.method.rules import RULES
from smf_lib.study import code
from smf_lib.study.files import find_root
from smf_lib.study.kept import what_is_left
from smf_lib.study.keys import changed_parts, memory_key, record_state, run_keys
from smf_lib.study.materials import Materials
from smf_lib.study.models import tiny_random_model
from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.records.results import read_record, read_records, write_record
from smf_lib.study.study import Study, run

METRICS = {"exam_accuracy", "prose_perplexity", "knowledge_accuracy", "self_kl", "prose_kl"}
TRAINED = {"full", "lora", "smf-kl", "smf-tfidf"}
MEMORIES = {"smf-kl", "smf-tfidf"}


def write_study(tmp_path):
    """Write the smoke profile, its model as files, and an exam of its own as rows."""
    shutil.copytree(tiny_random_model().path, tmp_path / "model")
    write_rows(
        tmp_path / "exam",
        train=[medmcqa_row(n, choice_type="single") for n in range(20)],
        validation=[medmcqa_row(n, choice_type="single") for n in range(100, 112)],
    )
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content["model"] = {"source": "model"}
    content["exam"] = {"name": "medmcqa", "source": "exam", "format": "cloze", "train_rows": 16}
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(content))
    return tmp_path


@pytest.fixture
def folder(tmp_path, datasets_cache):
    """The folder of that study."""
    return write_study(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory, datasets_cache):
    """The keys of that study as it is written; they do not depend on the folder."""
    return keys(write_study(tmp_path_factory.mktemp("first")))


def materials(folder):
    return Materials(load_profile(folder / "smoke.yaml"), folder)


def keys(folder):
    study = materials(folder)
    return {spec.method: run_keys(study, spec) for spec in study.profile.runs()}


def repeated(before, after):
    """Methods that are trained again, and metrics that are measured again where nothing is."""
    trained = {m for m in before if before[m].training != after[m].training}
    measured = set()
    for method in before.keys() - trained:
        for name in before[method].metrics.keys() & after[method].metrics.keys():
            if before[method].metrics[name] != after[method].metrics[name]:
                measured.add(name)
    return trained, measured


def edit(path, before, after):
    text = path.read_text()
    assert before in text, (path, before)
    path.write_text(text.replace(before, after, 1))


@pytest.mark.parametrize(
    ("place", "value", "trained", "measured"),
    [
        ("methods.lora.label", "Low rank", set(), set()),
        ("title", "Another title", set(), set()),
        ("keep", "full", set(), set()),
        ("training.checkpoint_every", 7, set(), set()),
        ("evaluation.batch_tokens", 64, set(), set()),
        ("evaluation.probes", ["prose"], set(), set()),
        ("memory.top_k", 2, MEMORIES, set()),
        ("memory.seed", 1, MEMORIES, set()),
        ("memory.values_dtype", "float32", set(), set()),
        ("memory.values_dtype", "bfloat16", MEMORIES, set()),
        ("background.seed", 5, MEMORIES, set()),
        ("background.sequences", 4, MEMORIES, set()),
        ("methods.lora.learning_rate", 0.5, {"lora"}, set()),
        ("methods.lora.settings.r", 2, {"lora"}, set()),
        ("methods.smf-kl.settings.rule", "count", {"smf-kl"}, set()),
        ("methods.smf-kl.settings.rows_per_step", 3, {"smf-kl"}, set()),
        ("training.epochs", 2, TRAINED, set()),
        ("training.batch_size", 2, TRAINED, set()),
        ("training.warmup_steps", 2, TRAINED, set()),
        ("training.max_grad_norm", 2.0, TRAINED, set()),
        ("exam.train_rows", 12, TRAINED, set()),
        ("exam.test_rows", 4, set(), {"exam_accuracy"}),
        ("probes.prose_articles", 1, set(), {"prose_perplexity", "prose_kl"}),
        ("probes.knowledge_shots", 1, set(), {"knowledge_accuracy"}),
        ("probes.self_text_seed", 5, set(), {"self_kl"}),
        ("seeds", [1], TRAINED, set()),
    ],
)
def test_settings(folder, first, place, value, trained, measured):
    content = at = yaml.safe_load((folder / "smoke.yaml").read_text())
    *parts, last = place.split(".")
    for part in parts:
        at = at.setdefault(part, {})
    at[last] = value
    (folder / "smoke.yaml").write_text(yaml.safe_dump(content))
    assert repeated(first, keys(folder)) == (trained, measured)


EVERYTHING = {"base", *TRAINED}


@pytest.mark.parametrize(
    ("file", "before", "after", "trained", "measured"),
    [
        ("exam/train.jsonl", "disease 3?", "disease three?", TRAINED, set()),
        ("exam/train.jsonl", "Rash 7", "Itching", TRAINED, set()),
        ("exam/validation.jsonl", "Rash 103", "Itching", set(), {"exam_accuracy"}),
        ("model/config.json", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05', EVERYTHING, set()),
        ("model/config.json",
         '"transformers_version": "', '"transformers_version": "9', set(), set()),
        ("model/generation_config.json",
         '"eos_token_id": 257', '"eos_token_id": 1', EVERYTHING, set()),
        ("model/tokenizer_config.json", '"<pad>"', '"<s>"', EVERYTHING, set()),
        ("model/tokenizer_config.json",
         '"backend"', '"local_files_only": true, "backend"', set(), set()),
        ("model/tokenizer.json", '"id": 256', '"id": 255', EVERYTHING, set()),
    ],
)  # fmt: skip
def test_data_and_model(folder, first, file, before, after, trained, measured):
    edit(folder / file, before, after)
    assert repeated(first, keys(folder)) == (trained, measured)


NEW_RULE = '\n\n@register_rule("mine")\ndef mine(reads, background):\n    return reads.counts\n'


@pytest.mark.parametrize(
    ("file", "before", "after", "trained", "measured"),
    [
        ("study/training/train.py", "weight_decay=0.0", "weight_decay=0.1", TRAINED, set()),
        ("study/training/train.py", '"""Train `model`', '"""Fit `model`', set(), set()),
        ("study/training/processes.py", "cannot be shared", "can't be shared", set(), set()),
        ("study/build.py", "set_seed(spec.seed)", "set_seed(spec.seed + 1)", TRAINED, set()),
        ("study/build.py", "# a question that", "# A question that", set(), set()),
        ("method/layer.py", "import torch\n", "import torch\n\nX = 1\n", MEMORIES, set()),
        ("method/row_adam.py", "import torch\n", "import torch\n\nX = 1\n", TRAINED, set()),
        ("method/row_steps.py", "import inspect\n", "import inspect\n\nX = 1\n", TRAINED, set()),
        ("method/rules.py", "torch.log(reads.share / q)", "reads.share - q", {"smf-kl"}, set()),
        ("method/rules.py", "\n\ndef select_rows", "\n\ndef more():\n    pass\n\n\ndef select_rows",
         MEMORIES, set()),
        ("method/rules.py", "\n\ndef select_rows", NEW_RULE + "\n\ndef select_rows", set(), set()),
        ("study/evaluation/lm.py", "import torch\n", "import torch\n\nX = 1\n", set(), METRICS),
        ("study/tasks/own_text.py",
         "WRITING_BATCH =", "X = 1\nWRITING_BATCH =", MEMORIES, {"self_kl"}),
        ("study/records/record.py", "SCHEMA_VERSION = 1", "SCHEMA_VERSION = 2", set(), set()),
        ("report/figures/style.py", "import", "X = 1\nimport", set(), set()),
    ],
)  # fmt: skip
def test_code(folder, first, monkeypatch, file, before, after, trained, measured):
    package = folder / "package"
    shutil.copytree(code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", package)
    edit(package / file, before, after)
    assert repeated(first, keys(folder)) == (trained, measured)


def test_a_users_rule_is_counted_for_the_runs_that_use_it(folder, monkeypatch):
    path = folder / "mine.py"
    path.write_text(
        'from smf_lib import register_rule\n\n\n@register_rule("mine")\n'
        "def mine(reads, background):\n    return reads.counts\n"
    )
    spec = importlib.util.spec_from_file_location("mine", path)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    edit(folder / "smoke.yaml", "rule: kl", "rule: mine")
    first = keys(folder)
    edit(path, "reads.counts", "-reads.counts")
    assert repeated(first, keys(folder)) == ({"smf-kl"}, set())
    monkeypatch.delitem(RULES, "mine")


def test_the_memory_that_is_looked_at_has_a_key_of_its_own(folder):
    def key(place=None, value=None):
        content = yaml.safe_load((folder / "smoke.yaml").read_text())
        if place:
            content[place] |= value
        (folder / "smoke.yaml").write_text(yaml.safe_dump(content))
        return memory_key(materials(folder)).digest

    first = key()
    assert key("training", {"epochs": 3}) == key("probes", {"prose_articles": 1}) == first
    assert len({first, key("memory", {"rows_per_step": 5}), key("background", {"seed": 9})}) == 3


# ---------------------------------------------------------------------- records


@pytest.fixture
def recorded(folder):
    """The study with its runs `base` and `smf-kl` recorded."""
    study = Study.load(folder / "smoke.yaml", folder)
    for method in ("base", "smf-kl"):
        run(study, study.profile.run(method))
    return folder


def record_of(folder, run_id="smf-kl-seed0"):
    return read_record(folder / "results" / "smoke" / "local" / f"{run_id}.json")


def left(folder, method="smf-kl"):
    study = materials(folder)
    return what_is_left(study, study.profile.run(method))


def test_a_record_is_compared_with_today(recorded, monkeypatch):
    record, spec = record_of(recorded), materials(recorded).profile.run("smf-kl")
    assert record_state(record, materials(recorded)) == "current"
    assert str(left(recorded)) == "nothing to train or measure"
    assert set(record.keys.metrics) == METRICS

    edit(recorded / "exam" / "train.jsonl", "Rash 7", "Itching")
    assert changed_parts(record.keys, materials(recorded), spec) == ["training rows"]
    assert record_state(record, materials(recorded)) == "other data"
    todo = left(recorded)
    assert todo.train and set(todo.measure) == METRICS and todo.why == "training rows changed"
    assert record_state(record_of(recorded, "base"), materials(recorded)) == "current"

    package = recorded / "package"
    shutil.copytree(code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", package)
    edit(
        package / "study" / "evaluation" / "reading.py", "import torch\n", "import torch\n\nX = 1\n"
    )
    assert record_state(record_of(recorded, "base"), materials(recorded)) == "other code"
    assert record_state(record, materials(recorded)) == "other code and data"
    assert str(left(recorded, "base")).startswith("measure exam_accuracy, ")
    assert left(recorded, "base").why == "code of measuring changed"


def test_where_data_and_model_are_not_here_the_rest_is_compared(recorded):
    for name in ("model", "exam"):
        shutil.rmtree(recorded / name)
    record = record_of(recorded)
    assert record_state(record, materials(recorded)) == "current"
    edit(recorded / "smoke.yaml", "batch_size: 4", "batch_size: 8")
    assert record_state(record, materials(recorded)) == "other settings"


def test_the_precision_that_a_machine_chooses_is_not_compared(recorded, monkeypatch):
    content = yaml.safe_load((recorded / "smoke.yaml").read_text())
    content["training"]["precision"] = "auto"
    (recorded / "smoke.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("smf_lib.study.keys.resolve_precision", lambda precision: "bf16")
    assert record_state(record_of(recorded), materials(recorded)) == "current"
    assert left(recorded).why == "the precision of this machine is another"


@pytest.mark.parametrize("here", ["bf16", "fp32"])
def test_a_run_that_goes_on_from_another_is_compared_in_the_precision_of_its_record(
    here, monkeypatch
):
    """The recorded sequence was made in bfloat16, which not every machine has."""
    monkeypatch.setattr(
        "smf_lib.study.keys.resolve_precision", lambda said: here if said == "auto" else said
    )
    records = read_records(find_root() / "results/sequence/reference")
    study = Materials(load_profile("sequence"), find_root())
    assert any("-" in record.method for record in records)
    assert {record_state(record, study) for record in records} == {"current"}


def test_a_record_without_keys_says_so(recorded):
    path = recorded / "results" / "smoke" / "local" / "smf-kl-seed0.json"
    content = json.loads(path.read_text())
    del content["keys"], content["sha256"]
    path.write_text(json.dumps(content))
    assert record_state(record_of(recorded), materials(recorded)) == "before keys were kept"
    assert left(recorded).why == "recorded before keys were kept"
    path.unlink()
    assert str(left(recorded)) == "nothing to train or measure"  # all is in work/
    shutil.rmtree(recorded / "work")
    assert left(recorded).why == "no record yet" and left(recorded).train


def test_a_method_that_is_no_longer_there(recorded):
    record = record_of(recorded).model_copy(update={"method": "gone", "run_id": "gone-seed0"})
    write_record(recorded / "results" / "smoke" / "local" / "gone-seed0.json", record)
    assert record_state(record, materials(recorded)) == "other settings"


def test_a_new_probe_is_measured_without_training(recorded):
    content = yaml.safe_load((recorded / "smoke.yaml").read_text())
    content["exam"]["format"] = "lettered"
    (recorded / "smoke.yaml").write_text(yaml.safe_dump(content))
    todo = left(recorded, "base")
    assert not todo.train and set(todo.measure) == {"exam_accuracy", "letter_accuracy"}
    assert todo.why == "questions changed; letter_accuracy not measured before"
