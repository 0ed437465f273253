"""A run that diverged is interrupted, recorded, measured again and gone on from like any other."""

import math

import pytest
import yaml

from smf_lib.study.profiles import PROFILE_DIR
from smf_lib.study.study import Study, run
from smf_lib.study.talk import answer

RATE = 1e38  # two steps leave the range of 32-bit floats
METHODS = ["full", "lora", "smf-kl", "smf-tfidf"]


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Every method of `smoke` learns two tasks one after the other, at a rate that is too high."""
    root = tmp_path_factory.mktemp("root")
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text()) | {"name": "mine"}
    rows = {"train_rows": 16, "validation_rows": 8, "test_rows": 8}
    content["exam"] |= rows
    content["tasks"] = {"airports": {"name": "airports"} | rows}
    content["sequences"] = [["icd10", "airports"]]
    content["evaluation"] = {"probes": ["self_text"]}
    for method in METHODS:
        content["methods"][method]["learning_rate"] = RATE
    profile = root / "mine.yaml"
    profile.write_text(yaml.safe_dump(content, sort_keys=False))
    return Study.load(profile, root)


def end_before_the_weights_are_kept(*_):
    raise KeyboardInterrupt


def numbers(record):
    """All that was measured, with NaN as a text, so that it equals itself."""
    return {name: list(map(str, metric.items)) for name, metric in record.metrics.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_diverged_is_one_like_any_other(method, study, monkeypatch):
    for tasks in ("icd10", "icd10-airports"):
        spec = study.profile.run(f"{method}.{tasks}")
        with monkeypatch.context() as ended, pytest.raises(KeyboardInterrupt):
            ended.setattr("smf_lib.study.study.save_weights", end_before_the_weights_are_kept)
            ended.setattr("smf_lib.study.study.footprint", end_before_the_weights_are_kept)
            run(study, spec)
        assert list(study.files(spec).folder.glob("checkpoint-*"))
        record = run(study, spec)
        assert not all(math.isfinite(metric.value) for metric in record.metrics.values())
        files = study.files(spec)
        assert not files.patch.exists()

        if method != "full":  # whose weights are not all kept
            files.metric("self_kl").unlink()
            with monkeypatch.context() as without:
                without.setattr("smf_lib.study.study.finetune", None)
                again = run(Study.load(study.root / "mine.yaml", study.root), spec)
            assert numbers(again) == numbers(record)
            assert isinstance(answer(*study.trained(spec.method), "A question"), str)
