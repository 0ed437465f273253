"""Tasks learned one after another, on a tiny random model and sums of the tests' own."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import yaml
from helpers_models import bits
from helpers_tasks import ARMS, LORA, ROWS, content
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from smf_lib.method.background import memories
from smf_lib.study.kept import what_is_left
from smf_lib.study.keys import run_keys, training_key
from smf_lib.study.many import chosen_runs
from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import read_record
from smf_lib.study.sequences import StageStart
from smf_lib.study.study import Study, run
from smf_lib.study.training.baseline_sequence import merge_adapters, replay_tasks


def write(folder, **changes):
    path = folder / "three.yaml"
    path.write_text(yaml.safe_dump(content(**changes), sort_keys=False))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sequences")


@pytest.fixture(scope="module")
def study(folder):
    return Study.load(write(folder), folder)


@pytest.fixture(scope="module")
def done(study):
    """Records of the first order, of every arm, by the method's name."""
    return {spec.method: run(study, spec) for spec in in_first_order(study)}


def in_first_order(study):
    return [spec for spec in study.profile.runs() if ".power" not in spec.method]


def test_an_arm_becomes_a_run_for_each_stage_and_shares_what_begins_alike(study):
    methods = study.profile.methods
    assert [name for name in methods if name.startswith("lora.")] == [
        "lora.plus", "lora.plus-times", "lora.plus-times-power",
        "lora.power", "lora.power-times", "lora.power-times-plus",
    ]  # fmt: skip
    second, third = (methods[f"smf-grown.plus-times{more}"] for more in ("", "-power"))
    assert (second.start, second.task, second.learned) == ("smf.plus", "times", ["plus"])
    assert (third.start, third.learned) == ("smf-grown.plus-times", ["plus", "times"])
    assert (second.label, second.arm) == ("SMF, grown: plus, times", "SMF, grown")
    assert "smf-grown.plus" not in methods and len(methods) == 1 + 4 * 6 + 3 * 4


def test_an_arms_name_stands_for_its_stages_and_for_those_that_it_goes_on_from(study):
    found = [spec.method for spec in chosen_runs(study.profile, ["lora-merged"])]
    assert found == [
        "lora.plus", "lora.power", "lora-merged.plus-times", "lora-merged.plus-times-power",
        "lora-merged.power-times", "lora-merged.power-times-plus",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="method='lorra' is not in profile 'three'"):
        chosen_runs(study.profile, ["lorra"])


@pytest.mark.parametrize("arm", ["full", "lora", "osf", "smf"])
def test_a_stage_starts_where_the_one_before_ended_to_the_bit(study, done, arm):
    spec = study.profile.run(f"{arm}.plus-times")
    started, _ = study.build(spec)
    ended, _ = study.trained(f"{arm}.plus")
    base, _ = study.load_base()
    found, moved = started.state_dict(), False
    for name, tensor in ended.state_dict().items():
        if "background" in name:
            continue
        assert torch.equal(bits(found[name]), bits(tensor)), name
        moved |= name in base.state_dict() and not torch.equal(tensor, base.state_dict()[name])
    assert moved == (arm == "full")


def test_a_stage_is_trained_on_its_own_task_and_measured_on_all(study, done):
    record = done["lora.plus-times"]
    assert {"exam_accuracy", "task:times", "task:power", "self_kl"} == set(record.metrics)
    assert all(record.metrics[f"task:{task}"].n == 6 for task in ("times", "power"))
    assert record.data.exam.name == "plus" and record.data.other["task:power"].source == "power"
    assert {b.chance for b in record.task_baselines.values()} == {0.5}
    spec = study.profile.run("lora.plus-times")
    tokenizer = study.load_base()[1]
    texts = [tokenizer.decode(row["input_ids"]) for row in study.training_rows(spec)]
    assert len(texts) == 8 and all(" times " in text for text in texts)
    assert read_record(study.results / "local" / f"{record.run_id}.json") == record


def test_what_is_done_is_not_done_again(study, done, monkeypatch):
    monkeypatch.setattr("smf_lib.study.study.finetune", None)
    monkeypatch.setattr("smf_lib.study.study.measure_metric", None)
    for spec in in_first_order(study):
        assert what_is_left(study, spec).nothing
        assert run(study, spec).metrics == done[spec.method].metrics


def test_a_task_at_the_end_trains_its_own_stages_alone_and_is_all_that_others_measure(
    study, folder, tmp_path
):
    """What the last exercise of the chapter on sequences says."""
    asked = [
        {"question": f"What is {i}?", "options": ["it", "not"], "answer": 0} for i in range(20)
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, asked)))
    own = {"name": "choice", "source": str(tmp_path / "questions.jsonl"), **ROWS}
    tasks = content()["tasks"] | {"own": own}
    orders = [[*order, "own"] for order in content()["sequences"]]
    longer = Study.load(write(tmp_path, tasks=tasks, sequences=orders), folder)
    before, after = (
        {spec.run_id: run_keys(one, spec) for spec in one.profile.runs()} for one in (study, longer)
    )
    assert set(before) < set(after)
    assert all("-own-seed" in run_id for run_id in set(after) - set(before))
    for run_id, keys in before.items():
        assert after[run_id].training.digest == keys.training.digest
        digests = [{n: k.digest for n, k in x.metrics.items()} for x in (keys, after[run_id])]
        assert set(digests[1].items()) - set(digests[0].items()) == {
            ("task:own", digests[1]["task:own"])
        }


def test_the_last_stage_alone_trains_those_before_it(tmp_path):
    methods = {name: ARMS[name] for name in ("base", "smf", "smf-grown")}
    study = Study.load(write(tmp_path, methods=methods), tmp_path)
    run(study, study.profile.run("smf-grown.power-times-plus"))
    for name in ("smf.power", "smf-grown.power-times"):
        assert study.files(study.profile.run(name)).weights is not None
    assert len(list(study.results.glob("local/*.json"))) == 1


def test_a_background_that_grows_holds_the_rows_of_earlier_tasks(study, done):
    documents = {}
    for method in (
        "smf.plus-times",
        "smf-grown.plus-times",
        "smf-grown.plus-times-power",
    ):
        model, _ = study.build(study.profile.run(method))
        memory = next(iter(memories(model).values()))
        documents[method] = int(memory.n_background_documents)
    own = study.profile.background.sequences
    assert list(documents.values()) == [own, own + 8, own + 16]
    assert done["smf.plus-times"].selection != done["smf-grown.plus-times"].selection


def test_replayed_rows_are_as_many_of_each_earlier_task():
    row = {"input_ids": [1], "labels": [1], "attention_mask": [1]}
    rows = [[{**row, "task": task, "n": n} for n in range(6)] for task in range(3)]
    start = StageStart(None, rows[0], list, seed=1, learned=rows[1:])
    found = replay_tasks(start, share=0.4).rows
    assert found[:6] == rows[0]
    assert sorted(r["task"] for r in found[6:]) == [1, 1, 2, 2]
    assert len({(r["task"], r["n"]) for r in found[6:]}) == 4
    with pytest.raises(ValueError, match="'replay_tasks': no task was learned before"):
        replay_tasks(StageStart(None, rows[0], list))


def test_merging_adds_the_changes_of_both_tasks_up_to_the_rank(llama):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj"])
    changes, models = [], []
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = get_peft_model(copy.deepcopy(llama), copy.deepcopy(config))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter)
        models.append(model)
        changes.append(change_of_first_map(model))
    start = StageStart(models[1], [], list, parent=lambda: models[0])
    merge_adapters(start).finish(models[1])
    u, s, v = torch.linalg.svd(changes[0] + changes[1])
    wanted = (u[:, :4] * s[:4]) @ v[:4]
    assert torch.allclose(change_of_first_map(models[1]), wanted, atol=1e-4)
    assert list(models[1].peft_config) == ["default"]
    with pytest.raises(ValueError, match="'merge_adapters': no task was learned before"):
        merge_adapters(StageStart(models[1], [], list))
    uneven = LoraConfig(r=4, target_modules=["q_proj"], alpha_pattern={"layers.1.*": 2})
    parts = [get_peft_model(copy.deepcopy(llama), copy.deepcopy(uneven)) for _ in range(2)]
    with pytest.raises(ValueError, match="alpha_pattern give maps the scalings"):
        merge_adapters(StageStart(parts[1], [], list, parent=lambda: parts[0])).finish(parts[1])


def change_of_first_map(model):
    maps = [module for module in model.modules() if isinstance(module, LoraLayer)]
    return maps[0].get_delta_weight("default").detach().clone()


def test_a_key_holds_what_was_learned_before_and_not_what_is_asked(study, tmp_path):
    def key(method, **changes):
        other = Study.load(write(tmp_path, **changes), tmp_path)
        return training_key(other, other.profile.run(method)).digest

    tasks = content()["tasks"]
    last = "lora.plus-times-power"
    assert key(last) == training_key(study, study.profile.run(last)).digest
    assert key(last, exam={"name": "plus", **ROWS, "train_rows": 7}) != key(last)
    fewer = tasks | {"power": {**tasks["power"], "train_rows": 7}}
    assert key(last, tasks=fewer) != key(last)
    assert key("lora.plus-times", tasks=fewer) == key("lora.plus-times")
    smf = copy.deepcopy(ARMS)
    smf["smf"]["background"] = {"learned": True}
    assert key("smf.plus", methods=smf) == key("smf.plus")
    assert key("smf.plus-times", methods=smf) != key("smf.plus-times")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"sequences": [["plus", "plus"]]}, "one or more different tasks of plus, times"),
        ({"sequences": [["plus", "roots"]]}, "one or more different tasks of plus, times"),
        ({"tasks": {"plus": {"name": "plus"}}}, "tasks.plus has the name of the exam"),
        ({"first": "full"}, "first='full' must stand before it|must name a stage of the same kind"),
        ({"first": "none"}, "first='none' must name an arm with first stages of its own"),
        ({"task": "plus"}, "task belong to single stages"),
    ],
)
def test_sequences_that_cannot_be_are_refused(tmp_path, changes, says):
    if {"first", "task"} & changes.keys():
        changes = {"methods": ARMS | {"lora-more": {**LORA, **changes}}}
    with pytest.raises(ValueError, match=says):
        load_profile(write(tmp_path, **changes))


def test_the_shipped_profile_has_two_orders_and_seven_arms():
    profile = load_profile("sequence")
    assert [len(tasks) for tasks in profile.sequences] == [3, 3]
    arms = {method.arm for method in profile.methods.values()} - {None}
    assert len(arms) == 8 and len(profile.runs()) == 1 + 3 * (5 * 6 + 3 * 4)
