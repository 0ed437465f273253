"""Baselines that are no PEFT configuration: what they add to a loss, to rows and to weights."""

import copy
import shutil
from collections import Counter
from typing import Annotated

import pytest
import torch
import yaml
from helpers_models import memory_model, tables, tiny_model, tokens
from peft import LoraConfig, get_peft_model
from pydantic import Field

from smf_lib.method.background import memories
from smf_lib.study import code
from smf_lib.study.baselines import (
    BASELINES,
    NO_CHANGE,
    Change,
    Start,
    change_of,
    register_baseline,
)
from smf_lib.study.build import general_text
from smf_lib.study.keys import training_key
from smf_lib.study.methods import MethodSettings
from smf_lib.study.models import load_model, load_tokenizer, tiny_random_model
from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.settings import TrainingSettings
from smf_lib.study.study import Study, run
from smf_lib.study.tasks.probes import load_prose
from smf_lib.study.training.baselines import scored
from smf_lib.study.training.train import finetune

ROWS = [
    {"input_ids": [3 + i, 7, 8, 9 + i], "labels": [-100, -100, 8, 9 + i], "attention_mask": [1] * 4}
    for i in range(12)
]
TEXTS = [[40 + i, 41, 42] for i in range(5)]


def start(model=None, rows=ROWS, seed=0, parent=None):
    return Start(model, rows, {"background": TEXTS, "retrofit": []}.get, seed, parent=parent)


def lora(model):
    return get_peft_model(
        model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def batch():
    ids = tokens(3, 8)
    labels = ids.clone()
    labels[0, :5] = labels[2, 6:] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("share, wanted", [(0.5, 12), (0.25, 4), (0.6, 18)])
def test_replay_makes_a_share_of_the_rows_text_that_is_trained_on_whole(share, wanted):
    rows = change_of(start(), "replay", {"share": share}).rows
    assert rows[: len(ROWS)] == ROWS and len(rows) == len(ROWS) + wanted
    assert wanted / len(rows) == pytest.approx(share)
    for row in rows[len(ROWS) :]:
        assert row["labels"] == row["input_ids"] and row["input_ids"] in TEXTS
    times = Counter(row["input_ids"][0] for row in rows[len(ROWS) :])
    assert max(times.values()) - min(times.get(ids[0], 0) for ids in TEXTS) <= 1


def test_replay_follows_the_seed_and_needs_text():
    first, again, other = (change_of(start(seed=s), "replay", {}).rows for s in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ValueError, match="text='retrofit': the profile has no such text"):
        change_of(start(), "replay", {"text": "retrofit"})


@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["full", "lora"])
def test_the_divergence_is_nothing_at_the_start_and_the_formula_later(wrap):
    base = tiny_model("Qwen2", initializer_range=0.3)
    model, given = wrap(copy.deepcopy(base)), batch()
    loss = change_of(start(model), "kl_to_base", {"weight": 3.0}).loss
    assert loss(model, given, model(**given)).item() == 0
    perturbed(model)
    found = loss(model, given, model(**given))
    ours, theirs = model(**given).logits, base(**given).logits
    bearing = given["labels"][:, 1:] != -100
    p, q = theirs[:, :-1].softmax(-1), ours[:, :-1].softmax(-1)
    wanted = (p * (p / q).log()).sum(-1)[bearing].mean()
    assert found.item() == pytest.approx(3 * wanted.item(), rel=1e-4) and found > 1e-3
    found.backward()
    moved = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None for g in moved) and any((g != 0).any() for g in moved)


def test_the_divergence_reaches_the_rows_of_a_memory_and_counts_their_reads_once():
    given, found = batch(), {}
    for update in ("sparse", "dense"):
        model = memory_model(update=update)
        for seed, table in enumerate(tables(model)):
            noise = torch.randn(table.values.shape, generator=torch.Generator().manual_seed(seed))
            table.values.data.copy_(0.3 * noise)
        loss = change_of(start(model), "kl_to_base", {"weight": 3.0}).loss
        divergence = loss(model, given, model(**given))
        divergence.backward()
        assert divergence > 1e-3
        if update == "dense":
            found[update] = [table.values.grad for table in tables(model)]
            continue
        assert [len(table.tape.entries) for table in tables(model)] == [1, 1]
        every = torch.arange(64)
        found[update] = [table.tape.row_gradient(every) for table in tables(model)]
    for rows, whole in zip(found["sparse"], found["dense"]):
        torch.testing.assert_close(rows, whole)
        assert whole.any()


def test_logits_chosen_by_the_collator_are_scored_as_all_logits_are():
    model, given = tiny_model(), batch()
    shifted = torch.nn.functional.pad(given["labels"], (0, 1), value=-100)[:, 1:]
    keep = (shifted != -100).any(0).nonzero()[:, 0]
    some = given | {"logits_to_keep": keep, "shift_labels": shifted[:, keep]}
    every = scored(given, model(**given).logits)
    chosen = scored(some, model(input_ids=given["input_ids"], logits_to_keep=keep).logits)
    assert len(every) == int((shifted != -100).sum())
    torch.testing.assert_close(chosen, every)


def test_the_distance_and_its_gradient_are_those_of_the_formula():
    model = tiny_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = change_of(start(model), "l2_to_base", {"weight": 0.3}).loss
    assert loss(model, {}, None).item() == 0
    perturbed(model)
    found = loss(model, {}, None)
    squares = sum((p - before[n]).double().square().sum() for n, p in model.named_parameters())
    assert found.item() == pytest.approx(0.15 * squares.item(), rel=1e-5)
    found.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, 0.3 * (p.detach() - before[name]))


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_lie_on_the_line_from_the_base_to_the_finetuning(alpha, tied):
    base, trained = (tiny_model(seed=seed, tie_word_embeddings=tied) for seed in (0, 1))
    model = copy.deepcopy(base)
    change = change_of(start(model, parent=lambda: trained), "wise_ft", {"alpha": alpha})
    assert not change.trains
    change.finish(model)
    for one, other, found in zip(*(m.state_dict().values() for m in (base, trained, model))):
        if alpha in (0, 1):
            assert torch.equal(found, (one, other)[int(alpha)])
        else:
            torch.testing.assert_close(found, (1 - alpha) * one + alpha * other)


def finetuned(tmp_path, extra, **settings):
    model, tokenizer = load_model(tiny_random_model())
    change = NO_CHANGE if extra is None else extra(model)
    training = TrainingSettings(precision="fp32", checkpoint_every=99, **settings)
    finetune(model, tokenizer, ROWS, training, 1e-3, 0, tmp_path, change.loss)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_an_extra_loss_of_nothing_changes_no_bit(tmp_path):
    nothing = Change(loss=lambda model, batch, output: output.logits.sum() * 0)
    plain = finetuned(tmp_path / "plain", None, batch_size=4)
    assert torch.equal(finetuned(tmp_path / "nothing", lambda model: nothing, batch_size=4), plain)


def test_an_extra_loss_counts_once_a_step_however_the_step_is_made(tmp_path):
    """Not once a forward pass: two halves of a batch are one batch."""

    def far(model):
        parameters = [p for p in model.parameters()]
        return Change(
            loss=lambda *given: 5 * torch.stack([p.square().sum() for p in parameters]).sum()
        )

    plain = finetuned(tmp_path / "plain", None, batch_size=12, epochs=3)
    whole = finetuned(tmp_path / "whole", far, batch_size=12, epochs=3)
    halves = finetuned(tmp_path / "halves", far, batch_size=6, gradient_accumulation=2, epochs=3)
    assert (whole - plain).norm() > 20 * (whole - halves).norm()


def test_the_distance_holds_the_weights_back(tmp_path):
    base = torch.cat(
        [p.detach().reshape(-1) for p in load_model(tiny_random_model())[0].parameters()]
    )
    near, far = (
        finetuned(
            tmp_path / str(weight),
            lambda model, weight=weight: change_of(start(model), "l2_to_base", {"weight": weight}),
            batch_size=4,
            epochs=4,
        )
        for weight in (100.0, 1e-6)
    )
    assert (near - base).norm() < 0.7 * (far - base).norm()


# ---------------------------------------------------------------------- in a profile


def method(**fields):
    return MethodSettings(**{"label": "x", "kind": "full", "learning_rate": 1e-3, **fields})


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {"baseline": "repay"},
            "baseline='repay' is unknown; choose one of kl_to_base, l2_to_base",
        ),
        ({"baseline": "replay", "baseline_settings": {"share": 1.5}}, "share = 1.5: .*less than 1"),
        ({"baseline": "replay", "baseline_settings": {"text": "x"}}, "text = 'x': .*'background'"),
        ({"baseline": "replay", "baseline_settings": {"shares": 1}}, "replay takes share, text"),
        ({"baseline_settings": {"share": 0.5}}, "need a baseline"),
        ({"kind": "base", "learning_rate": None, "baseline": "replay"}, "it takes no baseline"),
        ({"kind": "base", "learning_rate": None, "training": {"epochs": 2}}, "no training"),
        (
            {"kind": "peft", "peft_type": "LORA", "baseline": "l2_to_base"},
            "baseline='l2_to_base' is for kind=full",
        ),
        ({"baseline": "wise_ft", "learning_rate": None}, "needs `start`, a full finetuning"),
        ({"baseline": "released"}, "baseline='released' is for kind=peft"),
        (
            {"kind": "peft", "peft_type": "LORA", "baseline": "released"},
            "baseline='released' is for peft_type='SPARSE_MEMORY' with update='sparse'",
        ),
        ({"background": {"sequences": 3}}, "this method reads no background; leave it out"),
        ({"baseline": "kl_to_base", "background": {"sequences": 3}}, "reads no background"),
        ({"seeds": [1, 2, 1]}, r"seeds=\[1, 2, 1\] must differ"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds"),
        ({"kind": "base", "learning_rate": None, "seeds": [1]}, "it takes no seeds"),
        ({"training": {"max_length": 9}}, r"fields \['max_length'\]; a method's own can be epochs"),
    ],
)
def test_what_cannot_work_is_refused_when_the_profile_is_loaded(fields, message):
    with pytest.raises(ValueError, match=message):
        method(**fields)


def test_a_method_has_training_settings_of_its_own():
    own = method(training={"epochs": 3}).trained_with(TrainingSettings(batch_size=2))
    assert (own.epochs, own.batch_size) == (3, 2)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        method(training={"epochs": 0}).trained_with(TrainingSettings())


def test_a_baseline_of_ones_own_has_its_settings_checked():
    @register_baseline("mine", kinds=("peft",))
    def mine(start, times: Annotated[int, Field(ge=1)], name="x"):
        return Change(rows=[*start.rows] * times)

    try:
        assert len(change_of(start(), "mine", {"times": 2}).rows) == 2 * len(ROWS)
        with pytest.raises(ValueError, match="times = .*Field required; mine takes times, name"):
            BASELINES["mine"].settings({})
        with pytest.raises(ValueError, match="baseline='mine' is for kind=peft"):
            method(baseline="mine", baseline_settings={"times": 1})
    finally:
        del BASELINES["mine"], BASELINES.functions["mine"]
    with pytest.raises(ValueError, match="must be of 'full' and 'peft'"):
        register_baseline("mine", kinds=("base",))


# ---------------------------------------------------------------------- in a study


FULL = {"label": "Full", "kind": "full", "learning_rate": 1e-3}
WISE = {"label": "WiSE-FT", "kind": "full", "baseline": "wise_ft", "start": "full"}
LORA = {"label": "LoRA", "kind": "peft", "peft_type": "LORA", "learning_rate": 1e-3}
LORA["settings"] = {"r": 4, "target_modules": "all-linear"}
SMF = {"label": "SMF", "kind": "peft", "peft_type": "SPARSE_MEMORY", "learning_rate": 1e-2}


def study_of(folder, methods, **changes):
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content["exam"] = {"train_rows": 8, "validation_rows": 2, "test_rows": 4}
    content["evaluation"] = {"probes": []}
    content |= {"methods": methods, "keep": "full", **changes}
    path = folder / "smoke.yaml"
    path.write_text(yaml.safe_dump(content))
    return Study.load(path, folder)


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_weights_between_base_and_finetuning_are_made_without_training(tmp_path):
    study = study_of(
        tmp_path,
        {
            "full": FULL,
            "half": WISE | {"baseline_settings": {"alpha": 0.5}},
            "all": WISE | {"baseline_settings": {"alpha": 1}},
        },
    )
    records = {spec.run_id: run(study, spec) for spec in study.profile.runs()}
    half = records["half-seed0"]
    assert half.cost.steps == 0 < records["full-seed0"].cost.steps
    assert half.cost.updated_parameters == records["full-seed0"].cost.updated_parameters > 0
    assert half.learning_rate == 1e-3 and half.kind == "full"
    base, full, middle, end = (
        weights_of(model)
        for model in (study.load_base()[0], *(study.trained(m)[0] for m in ("full", "half", "all")))
    )
    for name, value in middle.items():
        torch.testing.assert_close(value, torch.lerp(base[name], full[name], 0.5))
        assert torch.equal(end[name], full[name])
    assert any(not torch.equal(base[name], full[name]) for name in base)


def test_only_weights_that_another_method_starts_from_are_kept(tmp_path):
    methods = {
        "full": FULL | {"learning_rate": [1e-3, 2e-3], "seeds": [0, 1]},
        "half": WISE | {"learning_rate": 2e-3, "seeds": [0]},
    }
    study = study_of(tmp_path, methods, keep="adapters", seeds=[5])
    specs = study.profile.runs()
    assert [spec.run_id for spec in specs] == [
        "full-lr0.001-seed0",
        "full-lr0.002-seed0",
        "full-lr0.001-seed1",
        "full-lr0.002-seed1",
        "half-seed0",
    ]
    kept = [spec.run_id for spec in specs if study.profile.is_kept(spec)]
    assert kept == ["full-lr0.002-seed0"]
    assert study.profile.is_kept(study.profile.run("full", 7, 2e-3))  # for `half` with that seed

    half = specs[-1]
    parent = study.parent(half)
    assert parent == specs[1]
    record = run(study, half)
    assert record.learning_rate == 2e-3 and record.cost.steps == 0
    assert study.files(parent).weights is not None and study.files(half).weights is None
    full = weights_of(study.trained("full", 0, 2e-3)[0])
    model, tokenizer = study.build(half)
    base = weights_of(model)
    for kept in study.files(half).folder.glob("training*.json"):  # as if it had been killed
        kept.unlink()
    study.train(half, model, tokenizer)
    for name, value in weights_of(model).items():
        torch.testing.assert_close(value, torch.lerp(base[name], full[name], 0.5))


def test_a_method_has_a_background_of_its_own(tmp_path):
    own = {"sequences": 5, "text": {"source": "shipped"}}
    methods = {"smf": SMF, "own": SMF | {"background": own}}
    methods["replay"] = LORA | {"baseline": "replay", "background": own}
    study = study_of(tmp_path, methods, background={"sequences": 4, "tokens": 9})
    smf, other, replay = (study.profile.run(name) for name in methods)
    counted = []
    for spec in (smf, other):
        table = next(iter(memories(study.build(spec)[0]).values()))
        counted.append((int(table.n_background_documents), int(table.background_counts.sum())))
    assert counted == [(4, 4 * 9 * 8), (5, 5 * 9 * 8)]
    prose = "\n\n".join(article.text for article in load_prose())
    read = load_tokenizer(study.model_files).decode
    texts = [read(ids) for ids in general_text(study, replay, "background")]
    assert len(set(texts)) == 5 and all(f"\n\n{text}" in f"\n\n{prose}" for text in texts)
    plain, changed = (training_key(study, spec).parts for spec in (smf, other))
    assert {name for name in plain if plain[name] != changed[name]} == {"background"}
    record = run(study, other)
    assert record.settings["background"]["sequences"] == record.data.background.rows == 5


NEW_ARMS = {
    "full": FULL,
    "wise": WISE | {"curve": "wise"},
    "full-replay": FULL | {"baseline": "replay", "baseline_settings": {"share": 0.1}},
    "lora-replay": LORA | {"baseline": "replay", "baseline_settings": {"share": 0.1}},
    "smf-replay": SMF | {"baseline": "replay", "baseline_settings": {"share": 0.1}},
    "smf-kl-to-base": SMF | {"baseline": "kl_to_base"},
    "smf-3": SMF | {"training": {"epochs": 3}},
    "sgd": SMF | {"baseline": "sgd", "learning_rate": 100.0},
    "moments": SMF | {"baseline": "released", "baseline_settings": {"dense_moments": True}},
    "mask": SMF
    | {
        "baseline": "released",
        "baseline_settings": {"mask_micro_batch": True},
        "training": {"batch_size": 2, "gradient_accumulation": 2},
    },
    "padding": SMF | {"baseline": "released", "baseline_settings": {"count_padding": True}},
    "off": SMF | {"baseline": "released"},
    "smf": SMF,
    "keys": SMF | {"settings": {"trainable": "memory"}},
    "prose": SMF | {"background": {"sequences": 5, "text": {"source": "shipped"}}},
    "lora-all": LORA | {"settings": {"r": 8, "lora_alpha": 32, "target_modules": "all-linear"}},
    "osf": {"label": "OSF", "kind": "peft", "peft_type": "OSF", "learning_rate": 1e-3}
    | {"settings": {"target_modules": ["q_proj", "down_proj"]}},
}


@pytest.fixture(scope="module")
def arms(tmp_path_factory):
    study = study_of(tmp_path_factory.mktemp("arms"), NEW_ARMS, keep="adapters")
    return study, {spec.method: run(study, spec) for spec in study.profile.runs()}


def test_every_kind_of_arm_is_trained_measured_and_recorded(arms):
    _, records = arms
    steps = {name: record.cost.steps for name, record in records.items()}
    assert steps == dict.fromkeys(NEW_ARMS, 2) | {"wise": 0, "smf-3": 6} | {
        name: 3 for name in ("full-replay", "lora-replay", "smf-replay")
    }
    for name, record in records.items():
        assert record.metrics["exam_accuracy"].n == 4 and record.method == name
        if name.startswith("smf") or name in ("sgd", "moments", "mask", "padding"):
            assert all(layer.rows_touched > 0 for layer in record.selection.values())


def test_each_switch_of_the_released_algorithm_changes_what_is_trained_and_none_nothing(arms):
    study, _ = arms

    def rows(name):
        found = memories(study.trained(name)[0])
        return torch.cat([memory.values.detach() for memory in found.values()])

    plain = rows("smf")
    assert torch.equal(rows("off"), plain) and plain.any()
    for name in ("sgd", "moments", "mask", "padding", "smf-replay", "smf-kl-to-base", "prose"):
        assert not torch.equal(rows(name), plain), name


def test_label_curve_and_list_of_seeds_are_in_no_key(tmp_path):
    named = {"label": "Other", "curve": "one", "seeds": [0, 3]}
    for fields in (FULL, LORA, SMF):
        study = study_of(tmp_path, {"plain": fields, "named": fields | named})
        plain, other = (training_key(study, study.profile.run(n, 3)) for n in ("plain", "named"))
        assert plain == other


def test_a_method_trains_on_replayed_text_with_its_own_epochs(tmp_path):
    methods = {"lora": LORA, "replay": LORA | {"baseline": "replay", "training": {"epochs": 2}}}
    study = study_of(tmp_path, methods)
    lora_record, replayed = (run(study, spec) for spec in study.profile.runs())
    assert replayed.cost.steps == 2 * 2 * lora_record.cost.steps
    assert (
        replayed.settings["training"]["epochs"] == 2 != lora_record.settings["training"]["epochs"]
    )


def test_the_key_of_a_training_holds_its_baseline_and_what_that_reads(tmp_path):
    def parts(**fields):
        study = study_of(
            tmp_path, {"lora": LORA | fields}, background={"sequences": 4, "tokens": 9}
        )
        return training_key(study, study.profile.run("lora")).parts

    plain, replayed = parts(), parts(baseline="replay")
    other = parts(baseline="replay", baseline_settings={"share": 0.2})
    kl = parts(baseline="kl_to_base")
    assert replayed.keys() - plain.keys() == {"code of the baseline", "text of the baseline"}
    assert kl.keys() - plain.keys() == {"code of the baseline"}
    assert {n for n in replayed if replayed[n] != other[n]} == {"method settings"}
    longer = parts(training={"epochs": 3})
    assert {n for n in plain if plain[n] != longer[n]} == {"training settings"}


def test_a_baselines_key_holds_the_code_of_its_own_module(tmp_path, monkeypatch):
    methods = {"sgd": SMF | {"baseline": "sgd"}, "released": SMF | {"baseline": "released"}}
    study = study_of(tmp_path, methods)
    package = tmp_path / "package"
    shutil.copytree(code.PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "PACKAGE", package)

    def found():
        return [training_key(study, study.profile.run(name)) for name in methods]

    before = found()
    with open(package / "study" / "training" / "baseline_released.py", "a") as file:
        file.write("X = 1\n")
    assert [now.changed(key.parts) for now, key in zip(found(), before)] == [
        [],
        ["code of the baseline"],
    ]


@pytest.mark.parametrize(
    "methods, changes, message",
    [
        (
            {"full": FULL | {"learning_rate": [1e-3, 2e-3]}, "wise": WISE},
            {},
            r"start='full' is swept over \[0.001, 0.002\]; name one of them",
        ),
        (
            {"full": FULL, "wise": WISE | {"learning_rate": 2e-3}},
            {},
            r"learning_rate=0.002 must be of start='full', which has \[0.001\]",
        ),
        ({"full": LORA, "wise": WISE}, {}, "start='full' must name a full finetuning"),
        ({"wise": WISE}, {}, "start='full' must name a full finetuning"),
        ({"smf": SMF | {"background": {"sequence": 3}}}, {}, "methods.smf.background.sequence"),
        (
            {"lora": LORA | {"baseline": "replay", "baseline_settings": {"text": "retrofit"}}},
            {},
            "methods.lora: text='retrofit' needs the profile's `retrofit` settings",
        ),
        ({"lora": LORA | {"training": {"epochs": 0}}}, {}, "methods.lora.training.epochs"),
    ],
)
def test_what_a_baseline_needs_is_said_when_the_profile_is_loaded(
    tmp_path, methods, changes, message
):
    with pytest.raises(ValueError, match=message.replace(": .*", r": [\s\S]*")):
        study_of(tmp_path, methods, **changes)
