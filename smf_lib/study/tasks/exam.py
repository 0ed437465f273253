"""The exam: questions of 2 to 10 options in three splits, whatever they are about."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field

MOST_OPTIONS = 10  # of any question; fewest are two
EXPECTED_FIRST = 12  # right first options that chance gives; with that many, none is no chance
SPLITS = ("train", "validation", "test")
EQUAL_OPTIONS = "two equal options"


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
        return EQUAL_OPTIONS
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(options):
        return f"answer={answer!r} is not the index of an option"
    return None


def as_text(value: object) -> str:
    """What a cell of a table says, without blanks around it; "" if it is missing (None or NaN)."""
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return "" if missing else str(value).strip()


def counts_from_one(questions: Sequence[ExamQuestion]) -> bool:
    """Whether answers look like indices from 1: of many questions the first option is never right.

    Where no question has the last option right, none is out of range, and nothing else tells.
    """
    expected = math.fsum(1 / len(question.options) for question in questions)
    return expected >= EXPECTED_FIRST and all(question.answer > 0 for question in questions)


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


def take(
    field: str, questions: list, wanted: int | None, split: str, *, may_be_all: bool = True
) -> list:
    """The first `wanted` questions (None: all). Raises ValueError if there are fewer.

    may_be_all: whether the profile's field may be null.
    """
    if wanted is not None and wanted > len(questions):
        raise ValueError(
            f"exam.{field}={wanted} is more than the {len(questions)} questions that {split!r} "
            f"has left; lower exam.{field}" + ", or set it to null for all of them" * may_be_all
        )
    return questions[:wanted]


def prompt(question: ExamQuestion) -> str:
    """What the model reads before an option."""
    return f"Question: {question.question}\nAnswer:"


def continuation(option: str) -> str:
    """What the model is scored on, and trained on, for one option."""
    return " " + option


def content_sha256(*splits: list[ExamQuestion]) -> str:
    """The sum that names the content of these splits."""
    rows = [[asdict(question) for question in split] for split in splits]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
