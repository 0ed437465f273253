"""MedMCQA as an exam: four-option questions of Indian medical entrance examinations.

Pal, Umapathi and Sankarasubbu 2022 (arXiv 2203.14371). Rows come in the columns of
`openlifescienceai/medmcqa` on the Hub. Four things are dealt with here, and counted in the exam's
`notes`: a label outside 0 to 3 (the hidden test split has -1) is an error and never an answer, and
so are labels that count from 1; a row without a question or an option asks nothing; a question of
two equal options has no single answer, so it is trained on alone; and a test question whose words
and options stand in the training rows as well would test memory of the letter.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .exam import (
    EQUAL_OPTIONS,
    Exam,
    ExamQuestion,
    as_text,
    content_sha256,
    counts_from_one,
    fault,
    question_key,
    take,
    without_repeats,
)
from .hub import load_rows

if TYPE_CHECKING:
    from ..settings import MedMCQASettings

OPTION_COLUMNS = ("opa", "opb", "opc", "opd")
COLUMNS = {"question", "cop", *OPTION_COLUMNS}
FIRST_TRAINED = 200  # where in the shuffled questions training begins, whatever is held out


@dataclass(frozen=True)
class MedMCQAQuestion(ExamQuestion):
    """A question with the explanation that its source gives, "" where there is none."""

    explanation: str = ""


@dataclass(frozen=True)
class MedMCQA(Exam):
    """The exam whose majority baseline is a letter: the one most often right in training."""

    def majority(self, split: str = "test", rows: int | None = None) -> float:
        """Accuracy of always answering the letter that was right most often in training.

        rows: of the split's first so many questions, where not all of them are scored.
        """
        best = self.majority_place
        questions = self.split(split)[:rows]
        return sum(q.answer == best for q in questions) / max(len(questions), 1)

    @property
    def majority_place(self) -> int:
        """The place (0 for A) of the right answer that is most frequent in training."""
        seen = Counter(question.answer for question in self.train)
        return max(range(len(OPTION_COLUMNS)), key=lambda place: (seen[place], -place))


def build_medmcqa(settings: MedMCQASettings, root: str | Path) -> MedMCQA:
    """The exam that the settings describe.

    The size of a split moves no other: training rows are the first of one line of questions,
    validation rows the last (`_line`). Where training rows have a seed of their own, those that are
    held out are passed over.

    Raises:
        ValueError: rows cannot be had (see `hub.load_rows`), a label is not 0 to 3, labels count
            from 1, or a split has fewer questions than asked for; the message names the field of
            the profile.
    """

    def read(field: str, split: str) -> list[ExamQuestion]:
        rows = load_rows(
            "exam.source", settings.source, split, COLUMNS, root, revision=settings.revision
        )
        found, without = _questions(field, rows, settings.single_choice)
        if counts_from_one(found):
            raise ValueError(
                f"exam.{field}={split!r}: none of {len(found)} rows of {settings.source!r} has "
                "cop=0, as if its labels counted from 1, by which every answer would be the option "
                "after the right one; labels are 0 to 3, so subtract 1 from each"
            )
        if not found:
            kind = "single-choice question" if settings.single_choice else "question"
            raise ValueError(
                f"exam.{field}={split!r}: no row of {settings.source!r} has a {kind} with four "
                "options; name another split or source"
                + (", or set exam.single_choice to false" if settings.single_choice else "")
            )
        dropped.update(without)
        return found

    dropped: Counter[str] = Counter()
    pool, test = read("train_split", settings.train_split), read("test_split", settings.test_split)
    train, repeated = without_repeats(pool)
    test, ambiguous = _clear(test)
    test, seen = without_repeats(test, train)
    train = _shuffled(train, settings.seed)
    if settings.order == "shuffled":
        test = _shuffled(test, settings.seed)
    wanted = settings.validation_rows
    line = _line(train)
    held_out = take("validation_rows", line[::-1], wanted, settings.train_split, may_be_all=False)
    if len(held_out) == len(line):
        raise ValueError(f"exam.validation_rows={wanted} leaves no question to train on; lower it")
    if settings.train_seed is not None:
        line = _shuffled(line, settings.train_seed)
    kept_apart = {question_key(question) for question in held_out}
    train = [question for question in line if question_key(question) not in kept_apart]
    validation = _clear(held_out)[0]
    train = take("train_rows", train, settings.train_rows, settings.train_split)
    test = take("test_rows", test, settings.test_rows, settings.test_split)
    left_out = ", ".join(f"{number} {reason}" for reason, number in dropped.items())
    notes = (
        f"{settings.source}: trained on {len(train)} of {len(pool)} rows of {settings.train_split}"
        f" ({repeated} repeats left out), tested on {len(test)} rows of {settings.test_split} "
        f"({ambiguous} with equal options and {seen} repeats or also in training left out)"
        + (f"; rows left out: {left_out}" if dropped else "")
        + ("; single-choice questions only" if settings.single_choice else "")
    )
    sha = content_sha256(train, validation, test)
    return MedMCQA("medmcqa", train, validation, test, sha, settings.format, notes)


def _questions(
    field: str, rows: Iterable[dict], single_choice: bool
) -> tuple[list[ExamQuestion], Counter[str]]:
    """The questions of rows; and how many rows were left out for which reason.

    Those of equal options are kept: recorded studies were trained on them.
    """
    found: list[ExamQuestion] = []
    dropped: Counter[str] = Counter()
    for number, row in enumerate(rows):
        if single_choice and row.get("choice_type") != "single":
            continue
        label = row["cop"]
        if type(label) is not int or not 0 <= label < len(OPTION_COLUMNS):
            raise ValueError(
                f"exam.{field}: row {number} has cop={label!r}; labels are 0 to 3, so name a "
                "split with answers (the test split on the Hub hides them)"
            )
        question, *options = (as_text(row[name]) for name in ("question", *OPTION_COLUMNS))
        reason = fault(question, options, label)
        if reason and reason != EQUAL_OPTIONS:
            dropped[reason] += 1
            continue
        name = as_text(row.get("id")) or f"{field}-{number}"
        explanation = as_text(row.get("exp"))
        found.append(MedMCQAQuestion(name, question, options, label, explanation))
    return found, dropped


def _clear(questions: list) -> tuple[list, int]:
    """The questions whose options all differ; and how many do not."""
    kept = [q for q in questions if fault(q.question, q.options, q.answer) is None]
    return kept, len(questions) - len(kept)


def _line(questions: list) -> list:
    """Shuffled questions as training takes them from the front and validation from the back.

    The front is not their own beginning but place 200, since recorded studies, which held the
    first 200 out, were trained on those from there on; the back is those first ones, turned.
    """
    return questions[FIRST_TRAINED:] + questions[:FIRST_TRAINED][::-1]


def _shuffled(questions: list, seed: int | str) -> list:
    """In an order that depends on the seed and on what the questions are, not on their rows."""
    ordered = sorted(questions, key=question_key)
    return random.Random(f"medmcqa {seed}").sample(ordered, len(ordered))
