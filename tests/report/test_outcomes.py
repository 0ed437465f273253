"""What came out of a study with one rate a method: both references, both signs, in words."""

import math

import pytest
from helpers_records import simulated

from smf_lib.report.analysis import outcomes
from smf_lib.report.analysis.interval import Interval

NAMES = ("SMF, TF-IDF", "SMF, KL")


def records(**effects):
    """The base model, LoRA, full finetuning and one memory: (gain, log perplexity, loss, KL)."""
    usual = {
        "base": (0.0, 0.0, 0.0, 0.0),
        "full": (0.2, 0.05, 0.05, 0.05),
        "lora": (0.2, 0.10, 0.10, 0.11),
        "smf-kl": (0.2, 0.01, 0.0, 0.005),
    }
    return [simulated(name, effect) for name, effect in (usual | effects).items()]


def test_gains_and_both_references_are_told():
    told = outcomes.came_out(records())
    assert told[0].startswith("Study quick/local, gain on the exam in points: ")
    assert len(told) == 4 and "against LoRA" in told[2] and "against Full" in told[3]
    assert "what they learned is not told apart (" in told[2] and "; drifted less by" in told[2]


def several():
    """Two memories beside LoRA and full finetuning; that of the first page comes second."""
    return records(**{"smf-tfidf": (0.1, 0.0, 0.0, 0.002)})


@pytest.mark.parametrize(
    ("first", "others"),
    [
        (outcomes.came_out, outcomes.others_beside),
        (lambda found: outcomes.cost_came_out(found, None), outcomes.costs_beside),
    ],
)
def test_one_memory_is_told_first_and_every_other_one_after_it(first, others):
    shown, folded = first(several()), others(several())
    of = [[t for t in told if f"{name} against" in t] for told in (shown, folded) for name in NAMES]
    assert [len(texts) for texts in of] == [2, 0, 0, 2]
    assert not others(records()) and sum("SMF, KL against" in t for t in first(records())) == 2


def test_what_is_lost_is_told_as_well():
    told = " ".join(outcomes.came_out(records(**{"smf-kl": (0.02, 0.3, 0.3, 0.5)})))
    assert "learned less" in told and "; more by Prose perplexity" in told
    assert "drifted less" not in told


def test_less_drift_after_less_learning_is_no_merit():
    told = outcomes.came_out(records(**{"smf-kl": (0.02, 0.0, 0.0, 0.001)}))
    assert all(text.endswith("drifting less is no merit by itself.") for text in told[2:])


def test_studies_are_told_apart():
    other = [record.model_copy(update={"study": "reference"}) for record in records()]
    told = " ".join(outcomes.came_out([*records(), *other]))
    assert "Study quick/local" in told and "Study quick/reference" in told


@pytest.mark.parametrize("told", [outcomes.came_out([]), outcomes.cost_came_out([], None)])
def test_nothing_on_record_is_said(told):
    assert told == [outcomes.NOTHING]


def test_costs_stand_beside_both_references():
    ratio = {"median": 0.5, "least": 0.4, "most": 0.75}
    steps = {"results": {"8 x 36": {"smf_against_lora": ratio, "smf_against_full": ratio}}}
    told = outcomes.cost_came_out(records(), steps)
    assert "0.50 [0.40, 0.75] of one of LoRA" in told[0]
    assert len(told) == 3 and all("training time" in text for text in told[1:])


def test_a_run_that_diverged_is_told_so_and_ranked_nowhere():
    found = records()
    (lora,) = (record for record in found if record.method == "lora")
    for metric in lora.metrics.values():
        metric.items[:] = [float("nan")] * metric.n
        metric.value = float("nan")
    told = outcomes.came_out(found)
    assert "LoRA" not in told[0] and "nan" not in " ".join(told)
    assert told[2].endswith("against LoRA r 16**: some items are not finite: the run diverged.")


def test_where_there_is_no_interval_that_is_said():
    single = Interval(12.126, math.nan, math.nan, 1)
    assert outcomes._numbers(single, 2, "% of perplexity") == "+12.13 % of perplexity, no interval"
    assert outcomes._numbers(Interval(1.0, -1.0, 3.0, 9), 1, "points") == "+1.0 [-1.0, +3.0] points"
    assert outcomes._numbers(Interval(1.0, -1.0, 3.0, 9), 1) == "+1.0 [-1.0, +3.0]"
