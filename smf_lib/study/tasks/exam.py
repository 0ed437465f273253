"""The exam: questions of 2 to 10 options, by default about how diagnoses are coded in ICD-10-CM.

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
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings import ExamSettings

OPTIONS = 4  # of a question of the exam that is made here
MOST_OPTIONS = 10  # of any question; fewest are two
SPLITS = ("train", "validation", "test")
_CODE_RANGE = re.compile(r"\s*\([A-Z0-9]{3}(-[A-Z0-9]{3})?\)$")


@dataclass(frozen=True)
class ExamQuestion:
    """One question: its id, text, 2 to 10 options and the right one's index, from 0."""

    id: str
    question: str
    options: list[str]
    answer: int


@dataclass(frozen=True)
class Exam:
    """An exam's three disjoint splits; ``sha256`` names the content of all of them.

    `format` names how questions become text (`smf_lib.study.tasks.formats`), `notes` says in words
    which rows these are, where there is more to say than how many, `groups` gives the group (such
    as a chapter) of each option where options have one.
    """

    name: str
    train: list[ExamQuestion]
    validation: list[ExamQuestion]
    test: list[ExamQuestion]
    sha256: str
    format: str = "cloze"
    notes: str = ""
    groups: dict[str, str] = field(default_factory=dict)

    def chance(self, split: str = "test", rows: int | None = None) -> float:
        """The accuracy of guessing at random: the mean of 1 / options over a split's questions.

        rows: of the split's first so many questions, where not all of them are scored.
        """
        questions = self.split(split)[:rows]
        return sum(1 / len(question.options) for question in questions) / max(len(questions), 1)

    def split(self, name: str) -> list[ExamQuestion]:
        """The questions of one split. Raises ValueError for a name that is not in ``SPLITS``."""
        if name not in SPLITS:
            raise ValueError(f"split {name!r} is unknown; choose one of {', '.join(SPLITS)}")
        return getattr(self, name)

    def majority(self, split: str = "test", rows: int | None = None) -> float:
        """Accuracy of picking, unread, the option that was right most often in training.

        Options tied for most often share the credit.

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


def build_icd10(settings: ExamSettings, root: Path | None = None) -> Exam:
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


def make_exam(
    name: str,
    train: list[ExamQuestion],
    validation: list[ExamQuestion],
    test: list[ExamQuestion],
    format: str = "cloze",
    notes: str = "",
) -> Exam:
    """An exam of these questions, each of them checked; what a builder of one's own returns.

    Raises:
        ValueError: a question that `fault` finds one with, or an id that two questions have.
    """
    seen: set[str] = set()
    for question in (*train, *validation, *test):
        found = fault(question.question, question.options, question.answer)
        if found or question.id in seen:
            raise ValueError(
                f"exam {name!r}: question {question.id!r}: {found or 'its id is used'}"
            )
        seen.add(question.id)
    sha = content_sha256(train, validation, test)
    return Exam(name, train, validation, test, sha, format, notes)


def fault(question: object, options: object, answer: object) -> str | None:
    """Why this is no question with one right option, in words; None if it is one."""
    if not isinstance(question, str) or not question.strip():
        return "no text"
    if not isinstance(options, (list, tuple)) or not 2 <= len(options) <= MOST_OPTIONS:
        return f"not 2 to {MOST_OPTIONS} options"
    if not all(isinstance(option, str) and option.strip() for option in options):
        return "an empty option"
    if len({option.strip().casefold() for option in options}) < len(options):
        return "two equal options"
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
        return f"answer={answer!r} is not the index of an option"
    return None


def question_key(question: ExamQuestion) -> tuple:
    """What makes two questions the same: words and options, whatever their order and case."""

    def plain(text: str) -> str:
        return " ".join(re.findall(r"\w+", text.casefold()))

    return plain(question.question), tuple(sorted(map(plain, question.options)))


def without_repeats(questions: list, others: Iterable = ()) -> tuple[list, int]:
    """The questions, each once and none that is among `others`; and how many were left out."""
    known = {question_key(question) for question in others}
    kept = []
    for question in questions:
        key = question_key(question)
        if key not in known:
            kept.append(question)
        known.add(key)
    return kept, len(questions) - len(kept)


def take(field: str, questions: list, wanted: int | None, split: str) -> list:
    """The first `wanted` questions (None: all). Raises ValueError if there are fewer."""
    if wanted is not None and wanted > len(questions):
        raise ValueError(
            f"exam.{field}={wanted} is more than the {len(questions)} questions that {split!r} "
            f"has left; lower exam.{field}, or set it to null for all of them"
        )
    return questions[:wanted]


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
