"""Whether the conditions for dropping the claim are met: each answer, where it is the right one."""

import pytest
from helpers_records import FRONTIER, curve_records, frontier_records, simulated

from smf_lib.report.analysis.conditions import MET, conditions_as_run, conditions_at_gain
from smf_lib.report.analysis.frontier import frontier_of, read_frontier

METHOD, REFERENCES = "smf-tfidf", ("lora", "full")


def states(said):
    """What the sentence says of each condition, by the words that it begins with."""
    said = said.partition("claim**: ")[2]
    parts = [part.rpartition(": ") for part in said.split(";")]
    return {words.strip().split(" at the same")[0].split(" as good")[0]: s for words, _, s in parts}


def curves(**changed):
    """Curves of the invented study with other (rate, gain, KL) for some; count beside random."""
    usual = {name: FRONTIER[name] for name in ("full", "lora", "smf-kl", METHOD, "smf-random")}
    usual["smf-count"] = FRONTIER["smf-random"]
    return frontier_of(curve_records(usual | changed, "frontier", "reference", (0, 1, 2)))


def test_rivals_and_plain_rules_that_drift_farther_do_not_meet_the_conditions():
    found = states(conditions_at_gain(curves(), METHOD, REFERENCES, 11))
    assert found["LoRA r 16"] == found["Full finetuning"] == "not met"
    assert found["random rows"] == found["the rows read most"] == "not met"
    assert "not run" in found["an advantage that shrinks in larger models, and a probe that nobody had looked at"]  # fmt: skip  # noqa: E501


def test_a_rival_and_a_rule_that_do_as_well_meet_them():
    same = FRONTIER[METHOD]
    found = curves(**{"lora": same, "smf-random": same, "smf-kl": same})
    found = states(conditions_at_gain(found, METHOD, REFERENCES, 11))
    assert found["LoRA r 16"] == found["random rows"] == MET
    assert found["Full finetuning"] == found["the rows read most"] == "not met"


def test_to_be_as_good_as_one_of_both_rules_is_not_enough():
    found = curves(**{"smf-kl": FRONTIER["smf-random"]})
    assert states(conditions_at_gain(found, METHOD, REFERENCES, 11))["random rows"] == "not met"


@pytest.mark.parametrize("at", [18.3, float("nan")])
def test_where_nothing_is_compared_it_cannot_be_told(at):
    found = states(conditions_at_gain(curves(), METHOD, REFERENCES, at))
    assert found["LoRA r 16"] == found["random rows"] == "cannot be told"
    missing = frontier_of(frontier_records(methods=(METHOD, "full")))
    found = states(conditions_at_gain(missing, METHOD, REFERENCES, 11))
    assert found["lora"] == found["the rows read most"] == "cannot be told"
    nothing = states(conditions_at_gain(read_frontier(None), METHOD, REFERENCES, at))
    assert nothing["random rows"] == nothing["lora"] == "cannot be told"


def run(**effects):
    """What one rate each tells; (gain, log perplexity, loss, KL) by method."""
    records = []
    for name, effect in effects.items():
        method = name.replace("_", "-")
        made = simulated(method, effect)
        if method.startswith("smf"):
            made.settings["method"] |= {
                "peft_type": "SPARSE_MEMORY", "settings": {"rule": method.split("-")[1]}
            }  # fmt: skip
        records.append(made)
    return states(conditions_as_run(records))


GENTLE, HARSH = (0.2, 0.0, 0.0, 0.004), (0.2, 0.1, 0.1, 0.1)
BASE = (0.0, 0.0, 0.0, 0.0)


def test_one_rate_each_is_told_where_both_learned_as_much():
    found = run(base=BASE, lora=HARSH, full=GENTLE, smf_kl=GENTLE, smf_tfidf=GENTLE,
                smf_random=HARSH)  # fmt: skip
    assert found["LoRA"] == found["random rows"] == "not met"
    assert found["full finetuning"] == MET
    assert found["the rows read most"] == "cannot be told"  # not run


def test_one_rate_each_tells_nothing_where_one_learned_less_or_more_for_more():
    less = (0.02, 0.0, 0.0, 0.001)
    found = run(base=BASE, lora=less, full=(0.35, 0.1, 0.1, 0.1), smf_kl=GENTLE, smf_tfidf=GENTLE)
    assert found["LoRA"] == found["full finetuning"] == "cannot be told"
