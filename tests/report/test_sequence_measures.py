"""Measures of continual learning against sums by hand, and what they are told as."""

import re

import numpy as np
import pytest
from helpers_sequences import LORA, SMF, TASKS, N, record, way

from smf_lib.report.analysis.frontier import NotOnRecord
from smf_lib.report.analysis.sequence_findings import (
    NOTHING,
    accuracy_table,
    beside,
    came_out,
    floors_table,
    further,
    measures_table,
)
from smf_lib.report.analysis.sequences import compared, courses, measures
from smf_lib.report.figures import task_matrices
from smf_lib.study.files import find_root
from smf_lib.study.records.record import Record
from smf_lib.study.records.results import ResultsError, read_records


@pytest.fixture
def records():
    return [record("base"), *way("lora", LORA), *way("smf", SMF), *way("smf", SMF, seed=1)]


def test_measures_are_those_of_the_papers(records):
    lora, smf = courses(records)
    assert (lora.label, lora.tasks, lora.seeds, smf.seeds) == ("LORA", TASKS, 1, 2)
    values = {name: round(found.value, 6) for name, found in measures(lora).items()}
    assert values == {
        "average": pytest.approx(100 * (0.4 + 0.45 + 0.8) / 3, abs=1e-4),
        "learned": pytest.approx(100 * (0.5 + 0.45 + 0.55) / 3, abs=1e-4),
        "backward": pytest.approx(100 * (-0.35 - 0.25) / 2, abs=1e-4),
        "forgetting": pytest.approx(100 * (0.35 + 0.25) / 2, abs=1e-4),
    }


def test_forgetting_is_from_the_best_that_was_known_not_from_when_it_was_trained():
    levels = [(0.5, 0.3, 0.3), (0.75, 0.6, 0.3), (0.5, 0.6, 0.6)]
    (found,) = courses([record("base"), *way("lora", levels)])
    assert compared("backward", found).value == pytest.approx(0)
    assert compared("forgetting", found).value == pytest.approx(12.5)


def test_an_arm_that_shares_its_first_stage_is_followed_to_it(records):
    records += way("lora-replay", LORA, first="lora")[1:]
    found = {course.method: course for course in courses(records)}
    assert found["lora-replay"].stages[0].first.method == "lora.icd10"
    assert found["lora-replay"].accuracy(1, "icd10").value == 75


def test_a_way_that_is_not_on_record_to_its_end_is_shown_as_far_as_it_goes(records):
    (found,) = courses(records[:3])
    assert (found.tasks, found.order, found.done) == (TASKS[:2], TASKS, False)
    with pytest.raises(ResultsError, match="LORA has learned 2 of 3 tasks"):
        compared("average", found)
    assert courses(records[:2]) == [] == courses([]) == courses(records[1:4])
    without = [r for r in records if r.method != "smf.icd10-airports"]
    assert [(c.method, len(c.tasks)) for c in courses(without)] == [("lora", 3), ("smf", 1)]


ARMS = {"smf-tfidf": SMF, "lora": LORA, "full": LORA, "smf-grown": SMF}
BACK = TASKS[::-1]


def half_made():
    """Records of one seed and four arms in both orders, as runs make them, one after another."""
    found = [record("base")]
    for arm, levels in ARMS.items():
        first = "smf-tfidf" if arm == "smf-grown" else None
        for order in (TASKS, BACK):
            found += way(arm, levels, order=order, first=first)[bool(first) :]
    return found


@pytest.mark.parametrize("n", range(len(half_made()) + 1))
def test_of_a_study_that_is_half_made_all_that_is_told_is_true(n):
    records = half_made()[:n]
    stages = {record.method: record for record in records}
    reached = {
        (arm, order): sum(
            f"{arm}.{'-'.join(order[:k])}" in stages or (arm == "smf-grown" and k == 1)
            for k in (1, 2, 3)
        )
        for arm in ARMS
        for order in (TASKS, BACK)
    }
    reached = {way: k for way, k in reached.items() if k > (way[0] == "smf-grown")}
    orders = [o for o in (TASKS, BACK) if any(k > 1 for w, k in reached.items() if w[1] == o)]
    said, more = came_out(records), further(records)
    tables = measures_table(records), accuracy_table(records)
    assert "nan" not in " ".join([*said, *more, *(table.to_string() for table in tables)])
    if not orders:
        assert said == [NOTHING] and not more and all(table.empty for table in tables)
        return
    left = said[-1]
    assert left.startswith("**What this leaves out.** One seed: brackets are 95 % intervals over")
    levels = {
        order: [s for s in said if s.startswith(f"**{', then '.join(order)}**")] for order in orders
    }
    for (arm, order), k in reached.items():
        if order not in orders:
            continue
        ended = any(f" {arm.upper()} " in sentence for sentence in levels[order])
        assert ended == (k == 3), (arm, order)
        assert k == 3 or f"{arm.upper()} ({k} of 3 tasks)" in left
    assert "SMF (random rows); " in left or "; SMF (random rows)" in left
    assert len(tables[0]) == sum(k == 3 for w, k in reached.items() if w[1] in orders)
    assert len(tables[1]) == sum(1 + k for w, k in reached.items() if w[1] in orders)
    for place, order in enumerate(orders):
        drawn = task_matrices(courses(records), place)
        begun = [k for w, k in reached.items() if w[1] == order]
        cells = [3 * (1 + k) + 3 for k in begun]  # the last are of no model
        assert sorted(len(ax.texts) for ax in drawn.fig.axes) == sorted(cells)
        assert f"in the order {', then '.join(order)}." in drawn.caption
        assert ("not on record yet" in drawn.caption) == any(k < 3 for k in begun)


def test_a_study_of_four_arms_and_one_seed_says_what_it_leaves_out():
    said = came_out(half_made())
    assert said[-1].endswith(
        "Not on record to the end: SMF (random rows); LoRA r 16, replay; LoRA r 16, one a task, "
        "merged; OSF."
    )
    both = "Learned when trained, and of earlier tasks forgotten since, in points"
    path = "icd10, then airports, then cities"
    assert [s.split(":")[0] for s in said[:2]] == [f"**{path}**", both] and len(said) == 5
    assert re.search(r" LORA 50\.0 \[\S+ \S+\] and \d", said[1])
    more = further(half_made())
    assert more[0].startswith(f"*{path}*: gained on each task when it was trained, in points: ")
    assert "LORA icd10 +50, airports +45, cities +55" in more[0]
    assert more[-len(beside(half_made())) :] == beside(half_made())


def test_orders_are_those_of_the_profile_however_records_are_sorted():
    found = sorted(half_made(), key=lambda record: record.run_id)
    assert list(dict.fromkeys(course.order for course in courses(found))) == [TASKS, BACK]
    other = [r.model_copy(update={"profile": "nowhere"}) for r in found]
    assert {course.order for course in courses(other)} == {TASKS, BACK}


def test_whoever_shares_a_first_stage_is_set_beside_whom_it_shares_it_with():
    (pair, back) = (s for s in beside(half_made()) if "SMF-GROWN against SMF-TFIDF" in s)
    assert pair.startswith("*icd10, then airports, then cities*: **SMF-GROWN against SMF-TFIDF**")
    assert "what they learned is not told apart (+0.0 [" in pair
    assert back.startswith("*cities, then airports, then icd10*")


def test_seeds_of_two_arms_are_compared_on_the_same_questions(records):
    lora, smf = courses(records)
    apart = compared("average", smf, lora)
    assert apart.value == pytest.approx(100 * (1.9 - 1.65) / 3) and apart.seeds == 1
    assert apart.low < apart.value < apart.high
    other = courses([record("base"), *way("lora", LORA, order=TASKS[::-1])])[0]
    with pytest.raises(ResultsError, match="learned in other orders"):
        compared("average", smf, other)


def test_intervals_cover_the_truth():
    """Answers drawn with luck of questions and of seeds; 95 % intervals of the average."""
    rng, hits, rounds, truth = np.random.default_rng(0), 0, 200, 0.5
    for _ in range(rounds):
        easy = rng.normal(0, 0.15, (3, N))
        runs = [record("base")]
        for seed in range(3):
            luck = rng.normal(0, 0.03)
            chance = np.clip(truth + easy + luck, 0, 1)
            drawn = (rng.random((3, N)) < chance).astype(int)
            for run in way("lora", [(0.5, 0.5, 0.5)] * 2 + [(0.5, 0.5, 0.5)], seed):
                for task, items in zip(("exam_accuracy", "task:airports", "task:cities"), drawn):
                    run.metrics[task].items = items.tolist()
                runs.append(run)
        found = compared("average", courses(runs)[0])
        hits += found.low <= 100 * truth <= found.high
    assert hits / rounds >= 0.92


def test_what_came_out_stands_beside_lora_with_what_was_learned(records):
    content = [r.model_dump(mode="json") for r in records]
    for entry in content:
        if entry["method"].startswith("smf"):
            entry["selection"] = {"8": {"rows": 9, "rows_touched": 3, "updates": 4}}
    records = [Record.model_validate(entry) for entry in content]
    said = came_out(records)
    assert said[0].startswith("**icd10, then airports, then cities**: average accuracy in per cent")
    assert "the base model 25.0" in said[0] and said[0].index("SMF") < said[0].index("LORA")
    assert said[1].index("SMF") < said[1].index("LORA")  # who forgot least first
    gained, drifted, floors, *pairs = further(records)
    assert gained.index("LORA") < gained.index("SMF")  # who learned most first
    assert ": drift from the base model, in nats a token (KL on its own text): " in drifted
    assert floors == (
        "Without a language model, on average over icd10, airports and cities: guessing 25.0 and "
        f"the most frequent option {(2 * 26 + 27) / 3:.1f} %."
    )
    assert "Of one seed are LORA: brackets are 95 % intervals over questions alone" in said[2]
    assert pairs == beside(records)
    (pair,) = pairs
    assert "**SMF against LORA**: learned less (-8.3 [" in pair
    assert "ends higher on average" in pair and "forgot less (-25.0 [" in pair
    assert pair.endswith("having learned less, forgetting less is no merit by itself.")
    assert came_out([]) == [NOTHING] and further([]) == []


def test_tables_have_a_row_a_way_and_a_row_a_stage(records):
    table = measures_table(records)
    assert list(table["Order"]) == ["icd10 → airports → cities"] * 2
    assert table["Forgetting (points)"][0].startswith("30.0 [")
    assert "KL from the base (nats a token)" in table
    stages = accuracy_table(records)
    assert list(stages["After"]) == ["base model", *TASKS] * 2
    assert stages["cities"][3].startswith("80.0 [")
    assert list(floors_table(records)["Task"]) == list(TASKS)
    assert measures_table([]).empty and accuracy_table([]).empty


def test_the_figure_has_a_matrix_for_each_method_and_frames_what_was_trained(records):
    drawn = task_matrices(courses(records))
    panels = [ax for ax in drawn.fig.axes if ax.has_data()]
    assert [ax.get_title(loc="left") for ax in panels] == [
        "SMF: average 63 %", "LORA: average 55 %",  # the best first
    ]  # fmt: skip
    texts = [text.get_text() for text in panels[1].texts]
    assert texts == [
        *("25", "75", "50", "40", "25", "30", "70", "45", "25", "25", "25", "80"),
        *("27", "26", "26"),  # without a language model
    ]
    assert [label.get_text() for label in panels[1].get_yticklabels()] == list(TASKS)
    after = [label.get_text().split("\n")[-1] for label in panels[1].get_xticklabels()]
    assert after == ["base", *TASKS, "a model"]
    assert [patch.get_xy() for patch in panels[0].patches] == [(0.5, -0.5), (1.5, 0.5), (2.5, 1.5)]
    assert "63.3 per cent" in drawn.alt and "55.0" in drawn.alt
    assert "icd10 27.0 (the most frequent option), airports 26.0" in drawn.alt
    assert "in grey: the highest of what needs no language model; on" in drawn.caption


def test_a_task_whose_floors_are_not_on_record_has_no_number_without_a_model(records):
    for made in records:
        made.task_baselines.clear()
    panel = task_matrices(courses(records)).fig.axes[0]
    assert [text.get_text() for text in panel.texts][12:] == ["27"]


def test_a_matrix_of_nothing_or_of_no_such_order_is_refused(records):
    with pytest.raises(NotOnRecord, match="No sequence of tasks is on record yet"):
        task_matrices([])
    with pytest.raises(ValueError, match="order=1 must be from 0 to 0"):
        task_matrices(courses(records), 1)


def test_of_cities_only_lora_learns_fifteen_points_on_record():
    """As the chapter says where it presents the tasks."""
    runs = read_records(find_root() / "results/sequence/reference")
    (base,) = (run for run in runs if run.kind == "base")
    gains = {}
    for run in runs:
        arm, _, stages = run.method.partition(".")
        if stages.endswith("cities"):
            gain = 100 * (run.metrics["task:cities"].value - base.metrics["task:cities"].value)
            gains.setdefault(arm, []).append(gain)
    assert min(gains["lora"]) >= 15 > max(gains["full"])
    memories = [gain for arm, found in gains.items() if arm.startswith("smf") for gain in found]
    assert max(memories) < 11
