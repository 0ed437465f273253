"""The exam: four-option questions, by default about how diagnoses are coded in ICD-10-CM.

The classification (public domain, United States) comes from the package ``simple-icd-10-cm``.
Every three-character category gives one question, whose right answer is the block that the
category stands in. Categories, and so questions, are in one split only.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import ExamSettings

OPTIONS = 4
SPLITS = ("train", "validation", "test")
_CODE_RANGE = re.compile(r"\s*\([A-Z0-9]{3}(-[A-Z0-9]{3})?\)$")


@dataclass(frozen=True)
class ExamQuestion:
    """One question: its id (the category code), text, four options and the right one's index."""

    id: str
    question: str
    options: list[str]
    answer: int


@dataclass(frozen=True)
class Exam:
    """An exam's three disjoint splits; ``sha256`` names the content of all of them.

    ``format`` names how questions become text (``smf_lib.study.tasks.formats``), ``notes`` says in words which
    rows these are, where there is more to say than how many.
    """

    name: str
    train: list[ExamQuestion]
    validation: list[ExamQuestion]
    test: list[ExamQuestion]
    sha256: str
    format: str = "cloze"
    notes: str = ""

    @property
    def chance(self) -> float:
        """The accuracy of guessing at random."""
        return 1 / OPTIONS

    def split(self, name: str) -> list[ExamQuestion]:
        """The questions of one split. Raises ValueError for a name that is not in ``SPLITS``."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; choose one of {', '.join(SPLITS)}")
        return getattr(self, name)

    def majority(self, split: str = "test", rows: int | None = None) -> float:
        """Accuracy of picking, unread, the option that was right most often in training.

        Options tied for most often share the credit. Right answers stand equally often in each
        of the four places, so always picking one place scores 1/4.

        rows: of the split's first so many questions, where not all of them are scored.
        """
        seen = Counter(question.options[question.answer] for question in self.train)
        score = 0.0
        questions = self.split(split)[:rows]
        for question in questions:
            counts = [seen[option] for option in question.options]
            best = [place for place, count in enumerate(counts) if count == max(counts)]
            score += (question.answer in best) / len(best)
        return score / max(len(questions), 1)


@dataclass(frozen=True)
class _Category:
    code: str
    title: str
    block: str
    chapter: str


def build_exam(settings: ExamSettings) -> Exam:
    """Make the exam that ``settings`` describes: ``name``, ``seed`` and the rows of each split.

    The same seed gives the same questions, whatever the number of rows: the test split is taken
    from the front of one shuffled list, the training split from its end, validation after test.
    Raises ValueError, naming the field, if the exam is unknown or has fewer questions than asked.
    """
    if settings.name != "icd10":
        raise ValueError(f"exam.name {settings.name!r} is unknown; there is only 'icd10'")
    categories = _categories()
    _check_rows(settings, len(categories))
    questions = _questions(categories, settings.seed)
    test = questions[: settings.test_rows]
    validation = questions[settings.test_rows : settings.test_rows + settings.validation_rows]
    train = questions[::-1][: settings.train_rows]
    return Exam("icd10", train, validation, test, content_sha256(train, validation, test))


def prompt(question: ExamQuestion) -> str:
    """What the model reads before an option."""
    return f"Question: {question.question}\nAnswer:"


def continuation(option: str) -> str:
    """What the model is scored on, and trained on, for one option."""
    return " " + option


def _categories() -> list[_Category]:
    """The categories that make a fair question, in the order of their codes.

    Left out: titles that occur twice, and titles that contain, or are contained in, the title
    of their own block (they would be answered by comparing two strings).
    """
    import simple_icd_10_cm as icd

    codes = sorted({code for code in icd.get_all_codes(True) if icd.is_category(code)})
    found = []
    for code in codes:
        block, *_, chapter = icd.get_ancestors(code)
        title = _CODE_RANGE.sub("", icd.get_description(block, prioritize_blocks=True)).strip()
        found.append(_Category(code, icd.get_description(code).strip(), title, chapter))
    repeated = Counter(category.title.lower() for category in found)
    return [
        category
        for category in found
        if repeated[category.title.lower()] == 1 and not _nested(category.title, category.block)
    ]


def _nested(one: str, other: str) -> bool:
    one, other = one.lower(), other.lower()
    return one in other or other in one


def _check_rows(settings: ExamSettings, available: int) -> None:
    left = available
    for split in ("test", "validation", "train"):
        rows = getattr(settings, f"{split}_rows")
        if not 0 <= rows <= left:
            raise ValueError(
                f"exam.{split}_rows {rows} must be from 0 to {left}: the exam 'icd10' has "
                f"{available} questions, and {available - left} of them go to other splits"
            )
        left -= rows


def _questions(categories: list[_Category], seed: int) -> list[ExamQuestion]:
    """All questions, in an order drawn from the seed; each run of four has one answer a place."""
    order = random.Random(f"order {seed}").sample(categories, len(categories))
    questions, places = [], []
    for category in order:
        rng = random.Random(f"options {seed} {category.code}")
        if not places:
            places = rng.sample(range(OPTIONS), OPTIONS)
        answer = places.pop()
        options = _distractors(category, categories, rng)
        options.insert(answer, category.block)
        text = f'In which ICD-10-CM block is "{category.title}" classified?'
        questions.append(ExamQuestion(category.code, text, options, answer))
    return questions


def _distractors(category: _Category, categories: list[_Category], rng: random.Random) -> list[str]:
    """Three other blocks, one or two of them (equally likely) of the category's own chapter.

    A block is drawn by drawing a category in it, so that a block is offered as a wrong answer
    about as often as its size makes it a right one, and size does not give the answer away.
    """
    wanted_near = rng.choice([1, 2])
    chosen: list[str] = []
    near = [other for other in categories if other.chapter == category.chapter]
    far = [other for other in categories if other.chapter != category.chapter]
    for pool, size in ((near, wanted_near), (far, OPTIONS - 1)):
        for other in rng.sample(pool, len(pool)):
            if len(chosen) == size:
                break
            if other.block not in (*chosen, category.block) and not _nested(
                category.title, other.block
            ):
                chosen.append(other.block)
    return rng.sample(chosen, len(chosen))


def content_sha256(*splits: list[ExamQuestion]) -> str:
    """The sum that names the content of these splits."""
    rows = [[asdict(question) for question in split] for split in splits]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
