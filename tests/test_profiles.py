"""Profiles: what is wrong is said at once, with the field, the value and what is allowed."""

import pytest
import yaml

from smf_lib.profiles import PROFILE_DIR, Profile, load_profile


def changed(tmp_path, change):
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
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


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(colour="red"), r"colour = 'red': Extra inputs"),
        (lambda c: c["exam"].update(train_rows=0), r"exam.train_rows = 0: .*greater than or equal"),
        (lambda c: c["training"].update(precision="fp8"), r"training.precision = 'fp8': .*'bf16'"),
        (lambda c: c["training"].update(epochs="two"), r"training.epochs = 'two': .*integer"),
        (lambda c: c["memory"].update(top_k=99), r"top_k=99 must be at most num_subkeys=8"),
        (
            lambda c: c["methods"]["lora"].update(peft_type="LORRA"),
            r"methods.lora: peft_type='LORRA' is unknown; PEFT has .*LORA",
        ),
        (
            lambda c: c["methods"]["lora"]["settings"].update(rank=4),
            r"methods.lora: settings has unknown fields \['rank'\] for LORA; allowed are .*\br\b",
        ),
        (
            lambda c: c["methods"]["smf-kl"]["settings"].update(rule="k1"),
            r"methods.smf-kl: rule='k1' is unknown; choose one of .*kl",
        ),
        (lambda c: c["methods"]["full"].update(learning_rate=-1.0), r"learning_rate=-1.0 must be"),
        (lambda c: c["methods"]["full"].pop("learning_rate"), r"kind='base' takes none"),
        (lambda c: c["methods"]["base"].update(settings={"r": 1}), r"only for kind='peft'"),
        (lambda c: c.update(seeds=[]), r"seeds = \[\]: .*at least 1"),
    ],
)
def test_a_wrong_field_is_named_with_its_value_and_the_rule(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_profile(changed(tmp_path, change))


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
