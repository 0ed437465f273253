"""What one shipped profile trains on, or chooses its settings by, no other profile tests on."""

import re
from itertools import combinations

import pytest
from helpers_hub import medmcqa_row, write_rows

from smf_lib.study.exams import EXAMS, build_exam
from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.tasks import icd10
from smf_lib.study.tasks.exam import SPLITS, question_key

MOST_TRAINED = 1000  # rows of MedMCQA, of which the stand-in has few


def fact(question):
    return re.search('"(.+)"', question.question)[1], question.options[question.answer]


# What keeps questions of an exam apart: two that have it in common ask about the same thing.
APART = {
    "icd10": lambda question: question.id[:3],  # the category
    "airports": lambda question: question.question,
    "cities": lambda question: question.question,  # its facts are trained and tested, see below
    "medmcqa": question_key,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, datasets_cache):
    """Every exam and task of the shipped profiles by its name, data and seed."""
    stand_in = write_rows(
        tmp_path_factory.mktemp("stand-in") / "medmcqa",
        train=[medmcqa_row(n) for n in range(2800)],
        validation=[medmcqa_row(n) for n in range(3000, 3100)],
    )
    titles, found = icd10.titles(), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(icd10, "titles", lambda: titles)  # read once
        for path in sorted(PROFILE_DIR.glob("*.yaml")):
            profile = load_profile(path)
            for wanted in (profile.exam, *profile.tasks.values()):
                place = wanted.name, getattr(wanted, "source", ""), wanted.seed
                if wanted.name == "medmcqa":
                    rows = min(wanted.train_rows or MOST_TRAINED, MOST_TRAINED)
                    seed = 0 if wanted.train_seed == "run" else wanted.train_seed
                    changes = {"train_rows": rows, "test_rows": None, "train_seed": seed}
                    wanted = wanted.model_copy(update={"source": str(stand_in), **changes})
                found.setdefault(place, []).append(build_exam(wanted, "/nowhere"))
    return found


def union(exams, split, key):
    return {key(question) for exam in exams for question in exam.split(split)}


def test_splits_are_apart_over_all_shipped_profiles(made):
    names = {name for name, _, _ in made}
    assert names == set(APART) == {n for n, spec in EXAMS.items() if spec.code} - {"choice"}
    for (name, *_), exams in made.items():
        parts = [union(exams, split, APART[name]) for split in SPLITS]
        assert all(parts), name
        assert not any(one & other for one, other in combinations(parts, 2)), name


def test_facts_that_settings_are_chosen_by_are_not_tested_on(made):
    """Facts of `cities` are trained and tested, by design; validation has others than the test."""
    exams = [exam for (name, *_), found in made.items() if name == "cities" for exam in found]
    validation, test = (union(exams, split, fact) for split in ("validation", "test"))
    assert validation and test and not validation & test
    assert validation | test <= union(exams, "train", fact)
