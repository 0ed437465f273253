"""The paper's arms, stage 1 included, on a tiny Qwen2 and invented data under their Hub ids."""

import copy

import peft
import pytest
import torch
import yaml
from helpers_hub import MODEL, oasst1_row, serve

from smf_lib import RowPatch
from smf_lib.method.background import collect_background, memories
from smf_lib.study import build
from smf_lib.study import study as study_module
from smf_lib.study.kept import load_adapter
from smf_lib.study.metrics import metric_names
from smf_lib.study.records.results import read_record
from smf_lib.study.study import Study
from smf_lib.study.tasks.floors import floors

SMALL = {
    "extends": "paper",
    "name": "small",
    "exam": {
        "train_rows": 8,
        "validation_rows": 2,
        "test_rows": 6,
        "option_rows": 4,
        "seed": 0,
    },
    "probes": {
        "self_text_sequences": 2,
        "self_text_tokens": 12,
        "wikitext": {"lines": 8, "window": 64},
        "triviaqa": {"questions": 3},
    },
    "background": {"sequences": 6, "tokens": 24},
    "memory": {
        "layers": [1, 2],
        "num_subkeys": 8,
        "num_heads": 2,
        "top_k": 4,
        "key_dim": 8,
        "rows_per_step": 5,
    },
    "training": {
        "epochs": 1,
        "batch_size": 2,
        "gradient_accumulation": 2,
        "max_length": 256,
        "warmup_steps": 0,
        "precision": "fp32",
    },
    "retrofit": {
        "text": {"rows": 8, "at_most": None},
        "training": {
            "epochs": 1,
            "batch_size": 2,
            "gradient_accumulation": 2,
            "max_length": 64,
            "warmup_steps": 0,
            "precision": "fp32",
        },
    },
    "evaluation": {"batch_tokens": 1536},
    "seeds": [1],
}
CHILDREN = [
    "additive-kl",
    "additive-kl-2048",
    "additive-tfidf",
    "additive-s-kl",
    "additive-s-tfidf",
    "replacement-kl",
    "replacement-tfidf",
]


def small(folder, **changes):
    """The study of the profile above in a folder of its own, with some fields changed."""
    content = copy.deepcopy(SMALL)
    for place, value in changes.items():
        part, *names = place.split("__")
        at = content.setdefault(part, {})
        for name in names[:-1]:
            at = at.setdefault(name, {})
        if names:
            at[names[-1]] = value
        else:
            content[part] = value
    folder.mkdir(exist_ok=True)
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content))
    return Study.load(path, folder)


def run(study, method):
    """One run as the notebook has it. Returns the model as built and as trained, and the record."""
    spec = study.profile.run(method, 1)
    parent = study.parent(spec)
    if parent is not None and study.files(parent).weights is None:
        study.train(parent, *study.build(parent))
    model, tokenizer = study.build(spec)
    before = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    outcome = study.train(spec, model, tokenizer)
    record = study.record(spec, outcome, study.measure(spec, model, tokenizer))
    return before, model.state_dict(), record


def part(state, *words):
    """The tensors whose names hold all these words."""
    return {name: t for name, t in state.items() if all(word in name for word in words)}


def changed(before, after):
    """The names of the tensors that differ."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def equal(first, second):
    return first.keys() == second.keys() and not changed(first, second)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data, qwen2):
    """The study, and every method's run in the order of the profile."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        asked = serve(monkeypatch, data, qwen2)
        study = small(tmp_path_factory.mktemp("small"))
        found = {method: run(study, method) for method in study.profile.methods}
    return study, found, asked


def test_data_and_model_come_from_the_hub(runs):
    asked = {(source, config, split) for source, config, split, _ in runs[2]}
    assert asked == {
        (MODEL, None, None),
        ("openlifescienceai/medmcqa", None, "train"),
        ("openlifescienceai/medmcqa", None, "validation"),
        ("Salesforce/wikitext", "wikitext-103-v1", "test"),
        ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
        ("OpenAssistant/oasst1", None, "train"),
    }


def test_every_arm_is_trained_measured_and_recorded(runs):
    study, found, _ = runs
    assert {"osf", "ia3", "ln-tuning", "smf-random", "smf-all", *CHILDREN} < set(found)
    for method, (before, after, record) in found.items():
        kept = read_record(study.results / "local" / f"{record.run_id}.json")
        assert kept == record and list(kept.metrics) == metric_names(study.profile)
        assert all(metric.value == metric.value for metric in kept.metrics.values()), method
        assert bool(changed(before, after)) == (method != "base"), method
        assert kept.cost.steps == (0 if method == "base" else 2), method
        assert (kept.cost.trainable_parameters > 0) == (method != "base"), method
    sizes = {m: metric.n for m, metric in found["base"][2].metrics.items()}
    assert (sizes["exam_accuracy"], sizes["letter_accuracy"]) == (4, 6)
    assert (sizes["knowledge_accuracy"], sizes["exact_match"], sizes["self_kl"]) == (3, 3, 2)
    assert sizes["prose_kl"] == found["base"][2].data.prose.articles


@pytest.mark.parametrize("method", ["smf-kl", "lora", "osf", "ia3", "ln-tuning", "full"])
def test_what_starts_as_the_base_model_is_it(runs, tmp_path, hub, method):
    """Without stage 1 an arm begins as the base model does, so that all it loses is by training."""
    study = small(tmp_path)
    model, tokenizer = study.build(study.profile.run(method, 1))
    base, _ = study.load_base()
    ids = torch.tensor([tokenizer("What is a tide?").input_ids])
    with torch.no_grad():
        logits, wanted = model.eval()(ids).logits, base(ids).logits
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "method, words",
    [
        ("osf", {"osf_svd_params"}),
        ("ia3", {"ia3_l"}),
        ("ln-tuning", {"layernorm", "norm"}),
        ("lora", {"lora_"}),
        ("smf-kl", {"values", "row_updates"}),
    ],
)
def test_a_method_changes_its_own_parameters_alone(runs, method, words):
    before, after, _ = runs[1][method]
    for name in changed(before, after):
        assert any(word in name for word in words), name


def test_every_arm_is_loaded_as_it_was_trained(runs, hub):
    study = runs[0]
    for method, (_, after, _) in runs[1].items():
        if method == "full":  # its weights are not kept
            continue
        loaded = study.trained(method, 1)[0].state_dict()
        assert equal({name: loaded[name] for name in after}, after), method


@pytest.mark.parametrize("method", ["smf-kl", *CHILDREN])
def test_every_sparse_memory_is_kept_as_changed_rows(runs, method):
    before, after, _ = runs[1][method]
    patch = RowPatch.load(runs[0].files(runs[0].profile.run(method, 1)).patch)
    moved = {n: t for n, t in part(after, "smf_memory", "values").items()}
    assert len(patch.tables) == len(moved) == 2
    for table, (name, values) in zip(patch.tables.values(), moved.items()):
        assert torch.equal(table.after, values[table.rows])
        assert torch.equal(table.before, before[name][table.rows])
    assert bool(patch.scales) == ("-s-" in method)


# ---------------------------------------------------------------------- stage 1


@pytest.mark.parametrize("integration", ["additive", "replacement"])
def test_stage_1_trains_the_whole_memory_and_nothing_else(runs, integration):
    before, after, record = runs[1][f"retrofit-{integration}"]
    moved = changed(before, after)
    assert all("smf_memory" in name or "smf_scale" in name for name in moved)
    for layer in (1, 2):
        for what in ("values", "keys", "query", "gate"):
            names = part(before, f"layers.{layer}.", "smf_memory", what)
            assert names and moved >= set(names), (layer, what)
    scales = part(before, "smf_scale")
    assert len(scales) == (2 if integration == "additive" else 0) and moved >= set(scales)
    assert record.selection == {}


def test_a_child_starts_from_its_parents_trained_memory_bit_for_bit(runs):
    for method in CHILDREN:
        parent = f"retrofit-{method.partition('-')[0]}"
        trained = part(runs[1][parent][1], "smf_")
        start = part(runs[1][method][0], "smf_")
        weights = [name for name in start if name in trained and "background" not in name]
        assert len(weights) >= 8
        for name in weights:
            assert torch.equal(start[name], trained[name]), (method, name)


def test_the_background_is_read_by_the_trained_memory(runs, hub):
    study = runs[0]
    drawn = study.at(study.profile.run("additive-kl", 1))  # the paper's texts, drawn by the seed
    model, tokenizer = study.build(study.profile.run("additive-kl", 1))
    kept = [memory.background_counts.clone() for memory in memories(model).values()]
    assert [int(counts.sum()) for counts in kept] == [6 * 24 * 2 * 4] * 2  # texts, tokens, heads, k

    def counted(model):
        collect_background(model, drawn.background_text((None, tokenizer)))
        return [memory.background_counts for memory in memories(model).values()]

    assert all(torch.equal(first, second) for first, second in zip(kept, counted(model)))
    config = study.profile.run("additive-kl", 1).settings.peft_config(study.profile.memory)
    config.seed += 1
    untrained = peft.get_peft_model(study.load_base()[0], config)
    assert not all(torch.equal(first, second) for first, second in zip(kept, counted(untrained)))


def test_memories_that_were_trained_otherwise_do_not_share_their_background_reads(tmp_path, hub):
    counts = []
    for rate in (1e-4, 0.5):
        study = small(tmp_path, methods={"retrofit-additive": {"learning_rate": rate}})
        first = study.profile.run("retrofit-additive", 1)
        study.train(first, *study.build(first))
        model, _ = study.build(study.profile.run("additive-kl", 1))
        counts.append(torch.cat([m.background_counts for m in memories(model).values()]))
    assert not torch.equal(*counts)


def test_stage_1_is_a_language_model_of_whole_replies(runs, hub):
    study = runs[0]
    _, tokenizer = study.load_base()
    rows = study.training_rows(study.profile.run("retrofit-additive", 1))
    replies = [oasst1_row(number)["text"][:64] for number in range(40)]
    assert len(rows) == 8 and all(row["labels"] == row["input_ids"] for row in rows)
    assert {tokenizer.decode(row["input_ids"]) for row in rows} < set(replies)
    asked = study.training_rows(study.profile.run("additive-kl", 1))
    assert tokenizer.decode(asked[0]["input_ids"]).startswith("Medical exam question:\nQuestion:")


@pytest.mark.parametrize("method", CHILDREN)
def test_stage_2_changes_rows_that_were_chosen_and_leaves_the_others_bit_identical(runs, method):
    before, after, record = runs[1][method]
    moved = changed(before, after)
    tables = part(before, "smf_memory", "values")
    assert len(tables) == 2 and moved >= set(tables)
    most = 2 * (64 if method == "additive-kl-2048" else 5)  # steps, rows a step; a table has 64
    for name in tables:
        updates = after[name.replace("values", "row_updates")]
        rows = (before[name] != after[name]).any(1)
        assert 0 < rows.sum() <= most
        assert torch.equal(rows, updates > 0)
    touched = {layer: s.rows_touched for layer, s in record.selection.items()}
    assert touched.keys() == {"1", "2"} and all(0 < n <= most for n in touched.values())
    rest = {n for n in moved if not ("values" in n or "row_updates" in n or "smf_scale" in n)}
    assert rest == set()
    scales = set(part(before, "smf_scale"))
    assert moved & scales == (scales if "-s-" in method else set())
    assert not scales or "additive" in method


def test_rules_choose_different_rows(runs):
    chosen = {
        method: torch.cat([*part(runs[1][method][1], "row_updates").values()])
        for method in ("additive-kl", "additive-tfidf", "smf-kl", "smf-random", "smf-all")
    }
    assert not torch.equal(chosen["additive-kl"], chosen["additive-tfidf"])
    assert not torch.equal(chosen["smf-kl"], chosen["smf-random"])
    assert (chosen["smf-all"] > 0).sum() > (chosen["smf-kl"] > 0).sum()


def test_records_say_what_was_read_where_and_how_much(runs):
    found = {method: record for method, (_, _, record) in runs[1].items()}
    for method, record in found.items():
        data = record.data
        assert record.model.source == MODEL and record.model.name == MODEL
        assert (data.exam.name, data.exam.train_rows, data.exam.rows) == ("medmcqa", 8, 4)
        assert "openlifescienceai/medmcqa: trained on 8 of 30 rows of train" in data.exam.notes
        assert data.prose.source == "Salesforce/wikitext, test" and data.prose.words > 20
        assert data.knowledge.source == "mandarjoshi/trivia_qa, validation"
        assert (data.knowledge.questions, data.knowledge.shots) == (3, 0)
        assert (data.background.source, data.background.rows) == ("OpenAssistant/oasst1, train", 6)
        if "retrofit" in method or method in CHILDREN:
            assert (data.retrofit.source, data.retrofit.rows) == ("OpenAssistant/oasst1, train", 8)
            assert record.settings["retrofit"]["training"]["epochs"] == 1
        else:
            assert data.retrofit is None and "retrofit" not in record.settings
        assert str(runs[0].root) not in record.model_dump_json()
    assert found["additive-kl"].settings["method"]["settings"]["initial_scale"] == 0.01


def test_the_baseline_is_the_majority_letter(runs):
    study, found, _ = runs
    record = found["base"][2]
    scored = study.exam.test[: record.metrics["exam_accuracy"].n]
    assert len(scored) < len(study.exam.test)
    letters = [question.answer for question in scored]
    best = study.exam.majority_place
    baselines = record.baselines
    assert (baselines.chance, baselines.majority) == (0.25, letters.count(best) / len(letters))
    assert baselines.rules["first"] == letters.count(0) / len(letters)
    assert baselines.rules["last"] == letters.count(3) / len(letters)
    assert baselines.bags == floors(study.exam, "test", len(scored)).bags
    assert set(baselines.bags) == {"words", "letters"}


# ---------------------------------------------------------------------- resuming


@pytest.fixture
def trainings(monkeypatch):
    """The methods that are trained, in order."""
    done, finetune = [], study_module.finetune

    def counted(model, *arguments, **named):
        done.append(arguments[-1].name.rpartition("-")[0])  # method-key
        return finetune(model, *arguments, **named)

    monkeypatch.setattr(study_module, "finetune", counted)
    return done


class Killed(Exception):
    pass


def test_building_never_trains_and_says_what_is_missing(tmp_path, hub, trainings):
    study = small(tmp_path)
    with pytest.raises(
        ValueError, match="'additive-kl-seed1' goes on from run 'retrofit-additive-"
    ):
        study.build(study.profile.run("additive-kl", 1))
    assert trainings == []


def test_a_parent_is_trained_first_and_only_once(tmp_path, hub, trainings):
    study = small(tmp_path)
    for method in ("additive-kl", "retrofit-additive", "additive-tfidf", "replacement-kl"):
        run(study, method)
    assert trainings == [
        "retrofit-additive",
        "additive-kl",
        "additive-tfidf",
        "retrofit-replacement",
        "replacement-kl",
    ]
    records = {path.stem for path in (study.results / "local").glob("*.json")}
    assert "retrofit-replacement-seed1" not in records and "retrofit-additive-seed1" in records


def test_killed_between_parent_and_child_nothing_is_trained_twice(
    tmp_path, hub, trainings, runs, monkeypatch
):
    study, read = small(tmp_path), build.read_background

    def die(*arguments):
        raise Killed

    monkeypatch.setattr(build, "read_background", die)
    with pytest.raises(Killed):
        run(study, "additive-kl")
    assert trainings == ["retrofit-additive"]
    monkeypatch.setattr(build, "read_background", read)
    again = small(tmp_path)
    _, after, _ = run(again, "additive-kl")
    assert trainings == ["retrofit-additive", "additive-kl"]
    assert equal(after, runs[1]["additive-kl"][1])  # as if it had not been killed
    _, parent, record = run(again, "retrofit-additive")  # measured from the kept memory
    assert trainings == ["retrofit-additive", "additive-kl"]
    assert equal(parent, runs[1]["retrofit-additive"][1])
    whole = runs[1]["retrofit-additive"][2]
    assert record.metrics == whole.metrics and record.cost.steps == whole.cost.steps == 2
    assert record.cost.updated_parameters == whole.cost.updated_parameters


@pytest.mark.parametrize(
    "method", ["osf", "ia3", "ln-tuning", "retrofit-additive", "replacement-kl", "additive-s-tfidf"]
)
def test_a_killed_arm_goes_on_and_ends_as_if_it_had_not_been(tmp_path, hub, runs, method):
    study = small(tmp_path, training__checkpoint_every=1, retrofit__training__checkpoint_every=1)
    spec = study.profile.run(method, 1)
    parent = study.parent(spec)
    if parent is not None:
        study.train(parent, *study.build(parent))
    model, tokenizer = study.build(spec)
    micro_batches = []

    def count(module, args, output):
        micro_batches.append(module.training)
        if sum(micro_batches) == 4:  # in the second step
            raise Killed

    model.get_input_embeddings().register_forward_hook(count)
    with pytest.raises(Killed):
        study.train(spec, model, tokenizer)
    again, tokenizer = study.build(spec)
    micro_batches.clear()
    again.get_input_embeddings().register_forward_hook(count)
    assert study.train(spec, again, tokenizer).steps == 2
    assert sum(micro_batches) == 2  # those of the second step alone
    assert equal(again.state_dict(), runs[1][method][1])


def test_a_memory_of_another_shape_is_refused_by_name(runs, hub):
    study = runs[0]
    model, _ = study.build(study.profile.run("smf-kl", 1))  # not gated
    folder = study.files(study.profile.run("retrofit-additive", 1)).weights
    with pytest.raises(ValueError, match=r"safetensors and the model differ in .*gate"):
        load_adapter(model, folder)


def test_offline_a_study_of_the_hub_says_what_to_give_instead(tmp_path):
    with pytest.raises(ValueError, match=r"^exam.source='openlifescienceai/medmcqa' is not a fold"):
        small(tmp_path)


def test_without_the_hub_the_same_study_runs_on_folders(tmp_path, data, qwen2):
    study = small(
        tmp_path,
        model={"source": str(qwen2)},
        exam__source=str(data / "medmcqa"),
        probes__wikitext__source=str(data / "wikitext"),
        probes__wikitext__config=None,
        probes__triviaqa__source=str(data / "trivia_qa"),
        probes__triviaqa__config=None,
        background__text={"source": str(data / "dolly")},
        retrofit__text__source=str(data / "dolly"),
    )
    _, _, record = run(study, "retrofit-additive")
    assert record.data.retrofit.source == f"{data / 'dolly'}, train"
    assert record.data.exam.notes.startswith(str(data / "medmcqa"))
