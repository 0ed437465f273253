"""What the chapter on limits says of own texts that begin alike is what the benchmark recorded."""

import json

from smf_lib.report.analysis import findings
from smf_lib.report.analysis.arms import REFERENCES
from smf_lib.report.analysis.conditions import MET, conditions_at_gain
from smf_lib.report.analysis.frontier import read_frontier, share_text
from smf_lib.report.analysis.interval import Interval, Verdict
from smf_lib.study.files import find_root
from smf_lib.study.records.results import records_folder


def limits():
    return " ".join((find_root() / "book" / "limits.md").read_text("utf-8").split())


def test_the_numbers_are_those_of_the_record():
    record = json.loads((records_folder() / "benchmarks" / "own_text_positions.json").read_text())
    settings, results = record["settings"], record["results"]
    bf16, fp32 = (results["moved_by_0.0001"][precision] for precision in ("bf16", "fp32"))
    second, others = (
        [found[part]["at"][1] for found in (bf16, fp32)] for part in ("group", "others")
    )
    later = [found["others"]["from_the_fourth_on"] for found in (bf16, fp32)]
    group = settings["group"]["texts"]
    for said in (
        f"{settings['texts']} texts that the base model wrote for the divergence {group} begin",
        f"{second[0]:.1f} nats in bfloat16 and {second[1]:.2f} in 32-bit floats",
        f"it is {others[0]:.2f} and {others[1]:.3f}, from the fourth token on {later[0]:.3f} ",
        f" {later[0]:.3f} and {later[1]:.5f} (",
        f"adds {second[0] / settings['tokens']:.3f} nats to the mean of its text",
        f"By the other {settings['texts'] - group} texts alone",
    ):
        assert said in limits(), said
    parts = [
        share_text(Interval(*results["frontier"]["without_group"][name], settings["texts"]))
        for name in REFERENCES
    ]
    said = f"{parts[0]} as far as LoRA and {parts[1]} as far as full finetuning"
    assert said in limits(), said


def test_all_texts_of_the_record_give_what_the_frontier_says():
    record = json.loads((records_folder() / "benchmarks" / "own_text_positions.json").read_text())
    recorded, frontier = record["results"]["frontier"], read_frontier("frontier")
    for name, numbers in recorded["all"].items():
        found = frontier.ratio(("smf-tfidf", name), recorded["gain"])
        assert share_text(found) == share_text(Interval(*numbers, 64)), name


def test_the_caption_of_the_first_page_says_which_multiple_prose_does_not_confirm():
    first = (find_root() / "book" / "intro.md").read_text("utf-8")
    said = findings.found_on_record("frontier")
    unconfirmed = "as far as Full finetuning (on prose " in said and said.count(Verdict.LEVEL) == 1
    assert ("on prose full finetuning's is not told apart from one" in first) is unconfirmed


def test_the_chapter_says_which_condition_has_come_true():
    frontier = read_frontier("frontier")
    at = frontier.common_gain(["smf-tfidf", *REFERENCES])
    said = conditions_at_gain(frontier, "smf-tfidf", list(REFERENCES), at)
    probes = "at the same gain with no more drift on all three probes"
    assert (f"Full finetuning {probes}: {MET}" in said) is (
        "The first has come true for full finetuning" in limits()
    )
    assert f"LoRA r 16 {probes}: not met" in said
