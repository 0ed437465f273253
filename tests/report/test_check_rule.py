"""The marking script of the book's assignment, on invented studies with known effects."""

import importlib.util
from pathlib import Path

import pytest
from helpers_records import simulated

from smf_lib.study.records.results import write_record

SCRIPT = Path(__file__).resolve().parents[2] / "book" / "teachers" / "check_rule.py"
spec = importlib.util.spec_from_file_location("check_rule", SCRIPT)
check_rule = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_rule)
RATES = {1e-2: 0.08, 3e-2: 0.16, 1e-1: 0.24}  # rate and true gain


def study(folder, factor, seeds=(0, 1, 2), rates=tuple(RATES)):
    """Records in which the rule `smf-mine` drifts `factor` times as much as smf-tfidf."""
    records = [simulated("base", (0.0, 0.0, 0.0, 0.0), profile="mine")]
    for method, times in (("smf-tfidf", 1.0), ("smf-mine", factor)):
        for rate in rates:
            gain = RATES[rate]
            effect = (gain, 0.02 * times * gain / 0.24, 0.0, 0.1 * times * gain / 0.24)
            records += [
                simulated(method, effect, seed=seed, rate=rate, profile="mine") for seed in seeds
            ]
    for record in records:
        write_record(folder / f"{record.run_id}.json", record)
    return folder


def test_a_rule_that_drifts_less_passes(tmp_path, capsys):
    assert check_rule.main([str(study(tmp_path, 0.3)), "smf-mine"]) == 0
    assert "FAILS" not in capsys.readouterr().out


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_a_rule_that_drifts_as_much_or_more_does_not(tmp_path, capsys, factor):
    assert check_rule.main([str(study(tmp_path, factor)), "smf-mine"]) == 1
    assert "FAILS  self_kl" in capsys.readouterr().out


@pytest.mark.parametrize("change", [{"seeds": (0, 1)}, {"rates": (1e-2, 1e-1)}, {"rates": (1e-1,)}])
def test_too_few_runs_do_not(tmp_path, capsys, change):
    assert check_rule.main([str(study(tmp_path, 0.3, **change)), "smf-mine"]) == 1
    assert "asked for: 3 and 3" in capsys.readouterr().out


@pytest.mark.parametrize(
    "method, said", [("smf-other", "no record of smf-other"), ("smf-tfidf", "name your own")]
)
def test_a_study_that_cannot_be_marked_says_why(tmp_path, capsys, method, said):
    assert check_rule.main([str(study(tmp_path, 0.3)), method]) == 2
    assert said in capsys.readouterr().err
