"""The luck of a run: its spread over seeds, and a run held against the one on record."""

import numpy as np
import pytest
from helpers_records import make_record

from smf_lib.report.analysis.repeats import repeats_table, spread, spread_sentence


def runs(method, rate, seeds, exam=60, kl=0.02, study="reference", luck=2.0, rng=None):
    """Runs whose right answers of 1,000 and whose divergence differ by luck."""
    rng = rng or np.random.default_rng(0)
    found = []
    for seed in range(seeds):
        right = round(10 * (exam + luck * rng.standard_normal()))
        items = [1] * right + [0] * (1000 - right)
        level = kl * np.exp(0.05 * luck * rng.standard_normal())
        found.append(make_record(method, rate, seed, study, exam=items, kl=[level] * 4))
    return found


def test_the_spread_is_that_of_the_seeds_pooled_over_settings():
    """By simulation: 2 points and 10 %, whatever the level of a setting."""
    rng = np.random.default_rng(1)
    records = [make_record("base", rate=None)]
    for place in range(60):
        exam, kl = 40 + place % 20, 10 ** (-1 - place % 3)
        records += runs("full", 10.0**-place, 2 + place % 2, exam, kl, rng=rng)
    assert spread(records, "exam_accuracy").error == pytest.approx(2.0, rel=0.15)
    assert spread(records, "self_kl").error == pytest.approx(10.0, rel=0.15)
    assert (found := spread(records, "exam_accuracy")).settings == 60 and found.freedom == 90
    assert "(from 150 runs of 60 settings)" in spread_sentence(records)


def test_single_runs_have_no_spread():
    records = runs("full", 1e-4, 1) + runs("lora", 1e-3, 1)
    assert spread(records, "exam_accuracy") is None
    assert spread_sentence(records).startswith("No setting is on record with several seeds")


def test_a_limit_is_exceeded_once_in_twenty():
    rng = np.random.default_rng(2)
    seeds = [r for n in range(40) for r in runs("full", 10.0**-n, 2, rng=rng)]
    limit = spread(seeds, "exam_accuracy").limit(1, 2)
    pairs = 2.0 * (rng.standard_normal(20_000) - rng.standard_normal((20_000, 2)).mean(1))
    assert np.mean(np.abs(pairs) > limit) == pytest.approx(0.05, abs=0.03)


def test_a_run_is_held_against_the_one_on_record():
    rng = np.random.default_rng(3)
    seeds = [r for n in range(40) for r in runs("full", 10.0**-n, 2, rng=rng)]
    recorded = runs("lora", 1e-4, 1, luck=0) + runs("full", 1e-5, 1, luck=0)
    near = runs("lora", 1e-4, 1, exam=61, study="local", luck=0)
    far = runs("full", 1e-5, 1, exam=80, study="local", luck=0)
    other_rate = runs("smf-kl", 1e-2, 1, study="local", luck=0)
    table = repeats_table([*recorded, *near, *far, *other_rate], seeds).set_index("Method")
    assert list(table.index) == ["Full finetuning", "LoRA r 16"]
    assert table.loc["LoRA r 16", "Exam (points)"].startswith("+1.0 (limit 5.")
    assert table.loc["LoRA r 16", "Within the limits"] == "4 of 4"
    assert table.loc["Full finetuning", "Within the limits"] == "3 of 4"
    assert repeats_table(recorded, seeds).empty


def test_what_is_given_in_per_cent_is_per_cent():
    """A divergence of 0.03 is 50 % above one of 0.02, and limits are as far apart as ratios are."""
    rng = np.random.default_rng(5)
    seeds = [r for n in range(40) for r in runs("full", 10.0**-n, 2, luck=8.0, rng=rng)]
    recorded = runs("lora", 1e-4, 1, kl=0.02, luck=0)
    own = runs("lora", 1e-4, 1, kl=0.03, study="local", luck=0)
    table = repeats_table([*recorded, *own], seeds).set_index("Method")
    limit = np.exp(spread(seeds, "self_kl").limit(1, 1) / 100)
    assert limit > 2
    told = f"+50.0 (limits {100 / limit - 100:+.1f} and {100 * limit - 100:+.1f})"
    assert told in list(table.loc["LoRA r 16"])
    assert f" {100 * limit - 100:.2g} %" in spread_sentence(seeds)


def test_a_limit_on_fewer_questions_is_wider_by_what_seeds_do_to_single_ones():
    """Seeds that flip one question in ten, alike on the whole: by simulation on 250 of 1,000."""
    rng = np.random.default_rng(4)

    def answers(n):
        easy = rng.random(n) < 0.6
        return [np.where(rng.random(n) < 0.1, ~easy, easy).astype(int) for _ in range(2)]

    seeds, apart = [], []
    for place in range(80):
        for seed, items in enumerate(answers(1000)):
            record = make_record("full", 10.0**-place, seed, exam=items.tolist())
            seeds.append(record)
        first, second = answers(250)
        apart.append(100 * (first.mean() - second.mean()))
    found = spread(seeds, "exam_accuracy")
    assert found.items == 1000
    assert found.limit(1, 1, 250) == pytest.approx(2 * found.limit(1, 1), rel=0.1)
    assert np.std(apart) * 1.96 == pytest.approx(found.limit(1, 1, 250), rel=0.25)
