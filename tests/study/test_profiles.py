"""Profiles: what is wrong is said at once, with the field, the value and what is allowed."""

import re
from dataclasses import fields

import pytest
import yaml
from peft import PeftConfig

from smf_lib.method.config import SparseMemoryConfig
from smf_lib.method.rules import RULES
from smf_lib.study.methods import MemorySettings
from smf_lib.study.profiles import PROFILE_DIR, Profile, load_profile, with_memory
from smf_lib.study.registry import source_of
from smf_lib.study.settings import TextSettings


def changed(tmp_path, change):
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content["name"] = "mine"
    change(content)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", sorted(PROFILE_DIR.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads_under_its_own_name(path):
    profile = load_profile(path.stem)
    assert profile.name == path.stem
    run_ids = [run.run_id for run in profile.runs()]
    assert len(run_ids) == len(set(run_ids))


def test_a_profile_is_found_by_name_and_by_path(tmp_path):
    path = changed(tmp_path, lambda content: content.update(seeds=[0, 1]))
    assert load_profile("smoke").seeds == [0]
    assert load_profile(path).seeds == [0, 1]


def test_a_profile_has_the_name_of_its_file(tmp_path):
    path = changed(tmp_path, lambda content: content.update(name="smoke"))
    with pytest.raises(
        ValueError, match="name='smoke' in profile .*must be that of the file, 'mine'"
    ):
        load_profile(path)


def test_numbers_are_numbers_without_a_point_too(tmp_path):
    path = changed(tmp_path, lambda content: None)
    text = re.sub("( *)lora_alpha: 8", r"\1lora_alpha: 8\n\1lora_dropout: 5e-2", path.read_text())
    path.write_text(text)
    profile = load_profile(path)
    config = profile.methods["lora"].peft_config(profile.memory)
    assert config.lora_dropout == 0.05


def test_the_limit_on_gradients_reaches_the_rows_of_a_memory():
    profile = load_profile("smoke")
    assert profile.methods["smf-kl"].peft_config(profile.memory, 0.1).max_grad_norm == 0.1
    memory = MemorySettings(**profile.memory.model_dump(), max_grad_norm=0.2)
    assert profile.methods["smf-kl"].peft_config(memory, 0.1).max_grad_norm == 0.2
    own = profile.methods["smf-kl"].model_copy(update={"settings": {"max_grad_norm": 0.5}})
    assert own.peft_config(profile.memory, 0.1).max_grad_norm == 0.5
    assert not hasattr(profile.methods["lora"].peft_config(profile.memory, 0.1), "max_grad_norm")


def test_runs_are_base_once_and_every_rate_and_seed(tmp_path):
    def two(content):
        content["seeds"] = [3, 4]
        content["methods"]["lora"]["learning_rate"] = [1e-4, 2e-4]

    runs = {run.run_id: run for run in load_profile(changed(tmp_path, two)).runs()}
    assert list(runs)[:3] == ["base", "full-seed3", "full-seed4"]
    assert {"lora-lr0.0001-seed3", "lora-lr0.0002-seed4"} <= runs.keys()
    assert runs["lora-lr0.0002-seed4"].learning_rate == 2e-4
    assert len(runs) == 1 + 2 + 4 + 2 + 2


def test_quick_and_sweep_agree_on_all_but_rates_and_amounts():
    quick, sweep = load_profile("quick"), load_profile("sweep")
    for part in ("model", "memory", "training", "background"):
        assert getattr(quick, part) == getattr(sweep, part)
    assert quick.methods.keys() == sweep.methods.keys()
    for name, method in quick.methods.items():
        swept = sweep.methods[name]
        assert (method.peft_type, method.settings) == (swept.peft_type, swept.settings)
        if method.kind != "base":
            assert len(swept.learning_rate) >= 4
            assert method.learning_rate in swept.learning_rate
    assert (quick.evaluation.split, sweep.evaluation.split) == ("test", "validation")


def test_texts_have_one_limit():
    with pytest.raises(ValueError, match="rows=7 and at_most=8: give one of the two"):
        TextSettings(rows=7, at_most=8)


def test_a_profile_cannot_have_the_name_of_the_shared_folder(tmp_path):
    path = tmp_path / "kept.yaml"
    path.write_text("{extends: smoke, name: kept}")
    with pytest.raises(ValueError, match="name='kept' in profile .* all profiles share; choose"):
        load_profile(path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(colour="red"), r"colour = 'red': Extra inputs"),
        (lambda c: c["exam"].update(train_rows=0), r" exam.train_rows = 0: .*greater than or eq"),
        (lambda c: c["training"].update(precision="fp8"), r"training.precision = 'fp8': .*'bf16'"),
        (lambda c: c["training"].update(epochs="two"), r"training.epochs = 'two': .*integer"),
        (lambda c: c["memory"].update(top_k=99), r"top_k=99 must be at most num_subkeys=8"),
        (lambda c: c["memory"].update(topk=4), r"memory has unknown fields \['topk'\]; .* top_k"),
        (lambda c: c["memory"].update(gated="yes"), r"gated='yes' is unknown; .*True, False"),
        (
            lambda c: c["memory"].update(target_modules=["mlp"]),
            r"memory has unknown fields \['target_modules'\]",
        ),
        (
            lambda c: c["methods"]["lora"].update(peft_type="LORRA"),
            r"fields:\n  \S.* methods.lora: peft_type='LORRA' is unknown; PEFT has .*LORA",
        ),
        (
            lambda c: c["methods"]["lora"]["settings"].update(rank=4),
            r"methods.lora: settings has unknown fields \['rank'\] for LORA; allowed are .*\br\b",
        ),
        (
            lambda c: c["methods"]["smf-kl"]["settings"].update(save_rows="touched"),
            r"methods.smf-kl.settings.save_rows='touched' is not for a study, .*save_touched",
        ),
        (
            lambda c: c["methods"]["smf-kl"]["settings"].update(rule="k1"),
            r"methods.smf-kl: rule='k1' is unknown; choose one of .*kl",
        ),
        (lambda c: c["methods"]["full"].update(learning_rate=-1.0), r"learning_rate=-1.0 must be"),
        (lambda c: c["methods"]["full"].pop("learning_rate"), r"kind='base' takes none"),
        (lambda c: c["methods"]["base"].update(settings={"r": 1}), r"only for kind='peft'"),
        (
            lambda c: c["exam"].update(name="bar"),
            r"exam = .*exam.name='bar' is unknown; choose one of airports, choice, cities, icd10",
        ),
        (
            lambda c: c.update(exam={"name": "medmcqa", "test_rows": 0}),
            r" exam.test_rows = 0: .*greater than or equal",
        ),
        (lambda c: c.update(seeds=[]), r"seeds = \[\]: .*at least 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_rule(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_profile(changed(tmp_path, change))


def test_a_rank_is_looked_at_only_where_it_is_given(tmp_path):
    """OFT has either a rank or the size of a block; the other one is 0."""
    settings = {"oft_block_size": 4, "target_modules": ["q_proj"]}
    profile = load_profile(
        changed(tmp_path, lambda c: c["methods"]["lora"].update(peft_type="OFT", settings=settings))
    )
    assert profile.methods["lora"].peft_config(profile.memory).r == 0


def test_an_unknown_profile_lists_those_there_are():
    with pytest.raises(ValueError, match=r"profile='quik' does not exist .* quick"):
        load_profile("quik")


def test_a_file_that_is_no_profile_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- a\n- b\n")
    with pytest.raises(ValueError, match="must be a YAML mapping"):
        load_profile(path)
    path.write_text("name: [")
    with pytest.raises(ValueError, match="is not YAML"):
        load_profile(path)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("lorra",), r"method='lorra' is not in profile 'smoke'; it has base, full, lora"),
        (("lora", -1), r"seed=-1 must be a whole number of at least 0"),
        (("lora", "0"), r"seed='0' must be a whole number"),
        (("lora", 0, "fast"), r"learning_rate='fast' must be a positive number"),
        (("base", 0, 1e-3), r"the base model is not trained"),
    ],
)
def test_a_wrong_run_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_profile("smoke").run(*arguments)


def test_a_swept_method_needs_a_rate():
    with pytest.raises(ValueError, match="name one learning_rate"):
        load_profile("sweep").run("lora")


def test_settings_do_not_change_after_loading():
    profile = load_profile("smoke")
    assert isinstance(profile, Profile)
    with pytest.raises(ValueError):
        profile.training.epochs = 2


# ---------------------------------------------------------------------- extends


def written(folder, name, text):
    (folder / f"{name}.yaml").write_text(text)
    return folder / f"{name}.yaml"


@pytest.fixture
def profiles(tmp_path):
    """A folder with a copy of the profile smoke, named below."""
    text = (PROFILE_DIR / "smoke.yaml").read_text().replace("name: smoke", "name: below")
    written(tmp_path, "below", text)
    return tmp_path


def test_a_profile_takes_over_what_it_does_not_say_itself(profiles):
    path = written(
        profiles,
        "above",
        "extends: below\nname: above\ntraining: {epochs: 3}\nseeds: [5, 6]\n"
        "methods: {lora: {settings: {r: 2}, learning_rate: 0.5}}\n",
    )
    below, above = (load_profile(name, profiles) for name in ("below", "above"))
    assert (above.name, above.title, above.seeds) == ("above", below.title, [5, 6])
    assert above.training.model_dump() == below.training.model_dump() | {"epochs": 3}
    assert list(above.methods) == list(below.methods)
    assert above.methods["lora"].settings == below.methods["lora"].settings | {"r": 2}
    assert above.methods["lora"].label == "LoRA r 4" and above.methods["lora"].learning_rate == 0.5
    assert load_profile(path, profiles) == above  # by its path as by its name


def test_lists_are_replaced_and_not_merged(profiles):
    written(
        profiles,
        "above",
        "extends: below\nname: above\nmemory: {layers: [0]}\nevaluation: {probes: [prose]}\n"
        "methods: {full: {learning_rate: [0.1, 0.2]}}\n",
    )
    above = load_profile("above", profiles)
    assert above.memory.layers == [0] and above.evaluation.probes == ["prose"]
    assert above.methods["full"].learning_rate == [0.1, 0.2]


def test_null_takes_an_entry_out(profiles):
    written(
        profiles,
        "above",
        "extends: below\nname: above\nmethods: {lora: null, smf-kl: {settings: null}}\n"
        "probes: null\nmemory: {layers: null}\n",
    )
    above = load_profile("above", profiles)
    assert list(above.methods) == ["base", "full", "smf-kl", "smf-tfidf"]
    assert above.methods["smf-kl"].settings == {}
    assert above.probes == Profile.model_fields["probes"].default
    assert above.memory.layers is None


def test_profiles_extend_over_several_steps_and_by_a_path_from_their_own_folder(profiles):
    (profiles / "sub").mkdir()
    written(profiles, "middle", "extends: below\nname: middle\nseeds: [3]\n")
    path = written(
        profiles / "sub", "above", "extends: ../middle.yaml\nname: above\nexam: {test_rows: 2}\n"
    )
    above = load_profile(path, profiles)
    assert (above.seeds, above.exam.test_rows, above.exam.train_rows) == ([3], 2, 24)


@pytest.mark.parametrize(
    "text, message",
    [
        ("extends: nosuch\n", r"profile='nosuch' does not exist .*above, below"),
        ("extends: above\n", r"extends='above' goes round in a circle"),
        ("extends: one\n", r"goes round in a circle; take it out of .*one.yaml|above.yaml"),
        ("extends: [below]\n", r"extends=\['below'\] must be the name of a profile"),
        ("extends: below\nmethods: {new: null}\n", r"methods.new = None"),
        ("extends: below\nexam: {rows: 5}\n", r"exam.*rows = 5: Extra inputs"),
        ("extends: below\nmethods: {lora: {settings: {rank: 5}}}\n", r"unknown fields \['rank'\]"),
    ],
)
def test_what_is_wrong_with_extending_is_said(profiles, text, message):
    written(profiles, "one", "extends: above\nname: one\n")
    written(profiles, "above", text)
    with pytest.raises(ValueError, match=message):
        load_profile("above", profiles)


# ---------------------------------------------------------------------- stage 1


def staged(tmp_path, **changes):
    """The smoke profile with a retrofit and a method that goes on from it, both changed."""

    def two_stages(content):
        content["retrofit"] = {"text": {"source": "somewhere"}}
        memory = {"kind": "peft", "peft_type": "SPARSE_MEMORY", "learning_rate": 1e-3}
        content["methods"]["first"] = memory | {
            "label": "First",
            "stage": "retrofit",
            "settings": {"gated": True, "update": "dense", "trainable": "memory"},
        }
        content["methods"]["second"] = memory | {"label": "Second", "start": "first"}
        for name, change in changes.items():
            if name == "retrofit":
                content["retrofit"] = change
            else:
                content["methods"][name] |= change

    return changed(tmp_path, two_stages)


def test_a_child_has_the_memory_of_its_parent_and_updates_of_its_own(tmp_path):
    profile = load_profile(
        staged(tmp_path, second={"settings": {"rule": "tfidf", "rows_per_step": 3}})
    )
    child = profile.run("second")
    assert child.settings.settings == {"gated": True, "rule": "tfidf", "rows_per_step": 3}
    config = child.settings.peft_config(profile.memory)
    assert (config.gated, config.update, config.trainable) == (True, "sparse", "values")
    parent = profile.run("first").settings.peft_config(profile.memory)
    assert (parent.gated, parent.update, parent.trainable) == (True, "dense", "memory")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"second": {"start": "nosuch"}}, r"methods.second: start='nosuch' must name .* has first"),
        ({"second": {"start": "smf-kl"}}, r"start='smf-kl' must name a method of stage 'retrofit'"),
        ({"second": {"start": "second"}}, r"start='second' goes round in a circle"),
        ({"first": {"learning_rate": [1e-3, 2e-3]}}, r"start='first' .* with one learning rate"),
        ({"retrofit": None}, r"methods.first: stage='retrofit' needs the profile's `retrofit`"),
        (
            {"second": {"settings": {"gated": False}}},
            r"methods.second: settings \['gated'\] cannot differ from those of start='first'",
        ),
        ({"second": {"settings": {"num_subkeys": 4, "top_k": 2}}}, r"\['num_subkeys', 'top_k'\]"),
        ({"second": {"settings": {"integration": "replacement"}}}, r"\['integration'\] cannot"),
        ({"second": {"settings": {"rule": "k1"}}}, r"methods.second: rule='k1' is unknown"),
        ({"lora": {"start": "first"}}, r"start='first' are for peft_type='SPARSE_MEMORY' only"),
        ({"full": {"stage": "retrofit"}}, r"stage='retrofit' .* peft_type='SPARSE_MEMORY' only"),
        ({"second": {"stage": "pretrain"}}, r"methods.second.stage = 'pretrain': .*'retrofit'"),
        (
            {
                "first": {"settings": {"integration": "replacement"}},
                "second": {"settings": {"trainable": "values+scale"}},
            },
            r"methods.second: trainable='values\+scale' needs integration='additive'",
        ),
    ],
)
def test_what_is_wrong_with_two_stages_is_said(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_profile(staged(tmp_path, **changes))


RULE = "from smf_lib import register_rule\n\n\n@register_rule({name!r})\n"
RULE += "def mine(reads, background):\n"
RULE += "    return -reads.counts.double()\n"


@pytest.fixture
def rules():
    """The rules as they were, put back after the test."""
    before = dict(RULES)
    yield RULES
    RULES.clear()
    RULES.update(before)


def test_a_file_of_ones_own_is_run_before_the_profile_is_checked(tmp_path, rules):
    (tmp_path / "mine.py").write_text(RULE.format(name="mine"))

    def use(content):
        content["imports"] = ["mine.py"]
        content["methods"]["smf-kl"]["settings"]["rule"] = "mine"

    path = changed(tmp_path, use)
    assert load_profile(path).methods["smf-kl"].settings["rule"] == "mine"
    assert source_of(rules["mine"].score) == tmp_path / "mine.py"
    assert source_of(rules["kl"].score) is None
    load_profile(path)  # once more: run once


def test_imports_are_found_from_the_profile_that_names_them_and_add_up(tmp_path, rules):
    below, above = tmp_path / "below", tmp_path / "above"
    for folder, name in ((below, "lower"), (above, "upper")):
        folder.mkdir()
        (folder / "rules.py").write_text(RULE.format(name=name))
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    lower = content | {"name": "lower", "imports": ["rules.py"]}
    (below / "lower.yaml").write_text(yaml.safe_dump(lower))
    upper = {"extends": "../below/lower.yaml", "name": "upper", "imports": ["rules.py"]}
    (above / "upper.yaml").write_text(yaml.safe_dump(upper))
    assert load_profile(above / "upper.yaml").imports == [
        str(below / "rules.py"), str(above / "rules.py")
    ]  # fmt: skip
    assert {"lower", "upper"} <= rules.keys()


@pytest.mark.parametrize(
    "code, message",
    [
        ("x = 1\nraise RuntimeError('broken')\n", r"mine.py, line 2: RuntimeError: broken$"),
        ("x = 1\ny = = 2\n", r"mine.py, line 2: SyntaxError: "),
        ("import nothing_like_it\n", r"line 1: ModuleNotFoundError: .*nothing_like_it"),
        (None, r"imports: .*mine.py does not exist; give a path from the profile's folder"),
    ],
)
def test_a_file_that_fails_is_one_line_with_its_name(tmp_path, code, message):
    if code is not None:
        (tmp_path / "mine.py").write_text(code)
    path = changed(tmp_path, lambda content: content.update(imports=["mine.py"]))
    with pytest.raises(ValueError, match=message) as caught:
        load_profile(path)
    assert "\n" not in str(caught.value)


def test_what_is_imported_is_a_python_file(tmp_path):
    (tmp_path / "mine.txt").write_text("x = 1")
    path = changed(tmp_path, lambda content: content.update(imports=["mine.txt"]))
    with pytest.raises(ValueError, match=r"mine.txt is no Python file; let its name end in .py"):
        load_profile(path)


def test_a_probe_that_nothing_registers_is_refused(tmp_path):
    path = changed(tmp_path, lambda content: content.update(evaluation={"probes": ["code"]}))
    with pytest.raises(
        ValueError, match="'code' is unknown; choose from prose, knowledge, self_text"
    ):
        load_profile(path)


def test_an_exam_from_a_file_is_named_by_the_profile(tmp_path):
    exam = {"name": "choice", "source": "mine.jsonl", "test_rows": 3, "format": "lettered"}
    profile = load_profile(changed(tmp_path, lambda content: content.update(exam=exam)))
    assert (profile.exam.source, profile.exam.format) == ("mine.jsonl", "lettered")
    assert profile.model_dump()["exam"]["test_rows"] == 3
    with pytest.raises(ValueError, match="exam.source = .*Field required"):
        load_profile(changed(tmp_path, lambda c: c.update(exam={"name": "choice"})))


def test_the_memorys_settings_and_their_defaults_are_those_of_the_method():
    method = load_profile("smoke").methods["smf-kl"]
    made = method.peft_config(MemorySettings())
    assert made == SparseMemoryConfig(task_type="CAUSAL_LM", rule="kl")
    own = {f.name: f for f in fields(SparseMemoryConfig)}
    for name in own.keys() - {f.name for f in fields(PeftConfig)} - {"target_modules"}:
        value = getattr(made, name)
        assert MemorySettings(**{name: value}).model_dump() == {name: value}


def test_methods_are_run_in_the_order_of_the_profile_each_with_its_own_seeds():
    frontier = load_profile("frontier")
    runs = frontier.runs()
    order = list(dict.fromkeys(spec.method for spec in runs))
    assert order[:4] == ["base", "smf-tfidf", "lora", "full"] and order == list(frontier.methods)
    seeds = {m: list(dict.fromkeys(s.seed for s in runs if s.method == m)) for m in order}
    assert seeds["base"] == [0] and seeds["lora"] == [0, 1, 2, 3, 4] and seeds["osf"] == [0, 1, 2]
    first = [spec.learning_rate for spec in runs if spec.method == "lora"][:5]
    assert first == frontier.methods["lora"].learning_rate
    assert all(s.seed == 0 for s in [spec for spec in runs if spec.method == "lora"][:5])
    assert {m.curve for name, m in frontier.methods.items() if name.startswith("wise")} == {
        "wise-ft"
    }


def test_a_profile_that_names_all_entries_of_another_has_them_in_its_own_order(tmp_path):
    below = "extends: smoke\nname: below\nmethods: {smf-kl: null, smf-tfidf: null}\n"
    (tmp_path / "below.yaml").write_text(below)
    methods = "{lora: {}, new: {label: New, kind: full, learning_rate: 1}, base: {}, full: {}}"
    (tmp_path / "all.yaml").write_text(f"extends: below.yaml\nname: all\nmethods: {methods}\n")
    (tmp_path / "one.yaml").write_text("extends: below.yaml\nname: one\nmethods: {lora: {}}\n")
    assert list(load_profile(tmp_path / "all.yaml").methods) == ["lora", "new", "base", "full"]
    assert list(load_profile(tmp_path / "one.yaml").methods) == ["base", "full", "lora"]


def test_a_memory_is_varied_without_a_file():
    quick = load_profile("quick")
    assert with_memory(quick, top_k=None) is quick
    varied = with_memory(quick, num_subkeys=32, top_k=8, rows_per_step=None)
    assert varied.name == "quick-num_subkeys-32-top_k-8" and varied.methods == quick.methods
    assert varied.memory.model_dump() == quick.memory.model_dump() | {"num_subkeys": 32, "top_k": 8}
    for given, said in (
        ({"top_k": 65}, "top_k=65 in the memory of profile 'quick': .*top_k"),
        ({"num_subkeys": 0}, "num_subkeys=0 in the memory of profile 'quick': .*num_subkeys"),
        ({"rows": 3}, r"rows=3 in the memory of profile 'quick': .*unknown fields \['rows'\]"),
    ):
        with pytest.raises(ValueError, match=said):
            with_memory(quick, **given)
