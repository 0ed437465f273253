"""An exam from questions of one's own, in a file, a folder or on the Hub.

A row has the columns `question`, `options` (a list of 2 to 10 texts; in CSV a JSON list) and
`answer` (the right option's index from 0, or its text), and may have `id` and `explanation`. Rows
without one of them, with an empty option or with two equal options are left out and counted in the
exam's `notes`; an answer that is no option is an error, and so is a file of many answers none of
which is 0, since a file that counts from 1 would make all answers wrong without a word.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ..names import first_line
from .exam import (
    Exam,
    ExamQuestion,
    as_text,
    counts_from_one,
    fault,
    make_exam,
    question_key,
    take,
    without_repeats,
)
from .hub import EXTENSIONS, check_cache, load_rows, locate, read_files

if TYPE_CHECKING:
    from ..settings import ChoiceSettings

COLUMNS = {"question", "options", "answer"}
FIRST_HALF, SECOND_HALF = "the first half of the file", "the second half of the file"
Splits: TypeAlias = tuple[list, list, list, str]


@dataclass(frozen=True)
class ChoiceQuestion(ExamQuestion):
    """A question with the explanation that its source gives, "" where there is none."""

    explanation: str = ""


def build_choice(settings: ChoiceSettings, root: str | Path) -> Exam:
    """The exam that the settings describe.

    One or more files are one pool of questions, in an order that depends on the seed and on what
    the questions are. Its first half is for testing, from the front; validation is taken from the
    front of the second half, and the training split from its end. Only where all that is left is
    trained on, or nothing is for validation, does training go on in the first half. A folder or a
    Hub id has splits: those named are taken, and validation, unless it is named, from the front of
    the shuffled training questions, whose end is trained on. So the size of one split moves no
    other.

    Raises:
        ValueError: rows cannot be had or lack a column, an answer is no option, or there are fewer
            questions than asked for where a split has its place; the message names the field of
            the profile.
    """
    sources = [settings.source] if isinstance(settings.source, str) else settings.source
    places = [Path(locate(source, root)) for source in sources]
    if all(place.is_file() for place in places):
        train, validation, test, notes = _from_pool(settings, sources, places)
    elif len(sources) == 1:
        train, validation, test, notes = _from_splits(settings, sources[0], root)
    else:
        missing = [s for s, place in zip(sources, places) if not place.is_file()]
        raise ValueError(f"exam.source: {', '.join(missing)} is no file; give files, or one folder")
    if not train:
        raise ValueError("exam: no question is left to train on; lower the rows of other splits")
    train = take("train_rows", train, settings.train_rows, "train")
    return make_exam("choice", train, validation, test, settings.format, notes)


def _from_pool(settings: ChoiceSettings, sources: list[str], places: list[Path]) -> Splits:
    """Train, validation and test questions of files, and a note on what was left out."""
    if settings.test_rows is None:
        raise ValueError(
            "exam.test_rows=None: say how many of the file's questions are for testing, or give a "
            "folder with one file a split"
        )
    kinds = {EXTENSIONS.get(place.suffix.lower(), "") for place in places}
    if len(kinds) != 1 or "" in kinds:
        raise ValueError(
            f"exam.source={settings.source!r}: files must all be of one kind: "
            f"{', '.join(EXTENSIONS)}"
        )
    try:
        rows = read_files(kinds.pop(), {"train": [str(place) for place in places]}, "train")
    except Exception as error:
        check_cache(error, places[0])
        reason = first_line(error.__cause__ or error)
        raise ValueError(f"exam.source={settings.source!r} cannot be read: {reason}") from error
    _check_columns(settings.source, rows.column_names)
    pool, dropped = _questions(", ".join(sources), rows)
    pool, repeated = without_repeats(pool)
    pool = _shuffled(pool, settings.seed)
    first, second = pool[: len(pool) // 2], pool[len(pool) // 2 :]
    test = take("test_rows", first, settings.test_rows, FIRST_HALF, may_be_all=False)
    validation = take(
        "validation_rows", second, settings.validation_rows, SECOND_HALF, may_be_all=False
    )
    train = second[len(validation) :][::-1]
    if validation:  # training that passed over it would move with its size
        take("train_rows", train, settings.train_rows, SECOND_HALF)
    train += first[len(test) :][::-1]
    return train, validation, test, _notes(settings, dropped, repeated, 0)


def _from_splits(settings: ChoiceSettings, source: str, root: str | Path) -> Splits:
    """Train, validation and test questions of a folder or the Hub, and a note."""

    def read(split: str) -> tuple[list[ChoiceQuestion], Counter]:
        rows = load_rows(
            "exam.source", source, split, COLUMNS, root, settings.config, settings.revision
        )
        return _questions(split, rows)

    (pool, dropped), (test, dropped_too) = read(settings.train_split), read(settings.test_split)
    train, repeated = without_repeats(pool)
    test, seen = without_repeats(test, train)
    train, test = _shuffled(train, settings.seed), _shuffled(test, settings.seed)
    wanted = settings.validation_rows
    if settings.validation_split is None:
        validation = take("validation_rows", train, wanted, settings.train_split, may_be_all=False)
        train = train[len(validation) :][::-1]
    else:
        found, more = read(settings.validation_split)
        dropped += more
        validation, shared = without_repeats(found, [*train, *test])
        seen += shared
        validation = _shuffled(validation, settings.seed)
        validation = take("validation_rows", validation, wanted or None, settings.validation_split)
    test = take("test_rows", test, settings.test_rows, settings.test_split)
    return train, validation, test, _notes(settings, dropped + dropped_too, repeated, seen)


def _check_columns(source: object, columns: Iterable[str]) -> None:
    missing = sorted(COLUMNS - set(columns))
    if missing:
        raise ValueError(
            f"exam.source={source!r} has the columns {', '.join(columns)} and lacks "
            f"{', '.join(missing)}"
        )


def _questions(place: str, rows: Iterable[dict]) -> tuple[list[ChoiceQuestion], Counter]:
    """The questions of rows, and how many rows were left out for which reason."""
    found: list[ChoiceQuestion] = []
    dropped: Counter[str] = Counter()
    by_index = 0
    for number, row in enumerate(rows):
        options = _options(row["options"])
        text, answer = as_text(row["question"]), row["answer"]
        reason = fault(text, options, 0) or (None if as_text(answer) else "no answer")
        if reason:
            dropped[reason] += 1
            continue
        options = [option.strip() for option in options]
        index = _index(answer, options)
        if index is None:
            raise ValueError(
                f"exam.source: row {number} of {place} has answer={answer!r} and the options "
                f"{options}; give the right option's index from 0, or its text"
            )
        name = as_text(row.get("id")) or _name(text, options)
        explanation = as_text(row.get("explanation"))
        found.append(ChoiceQuestion(name, text, options, index, explanation))
        by_index += not isinstance(answer, str)
    if by_index == len(found) and counts_from_one(found):
        raise ValueError(
            f"exam.source: none of {len(found)} rows of {place} has answer=0, as if the file "
            "counted from 1; give the right option's index from 0, or its text"
        )
    return found, dropped


def _options(given: object) -> Any:
    """A row's options; a text (a cell of CSV) is read as a JSON list."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except ValueError:
        return None


def _index(answer: object, options: list[str]) -> int | None:
    """The index that an answer means, an index itself or an option's text; None if neither."""
    if isinstance(answer, str):
        return options.index(answer.strip()) if answer.strip() in options else None
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)  # a column of CSV in which some are missing
    return answer if isinstance(answer, int) and not fault("?", options, answer) else None


def _name(text: str, options: list[str]) -> str:
    return hashlib.sha256(json.dumps([text, options]).encode()).hexdigest()[:12]


def _shuffled(questions: list, seed: int) -> list:
    """In an order that depends on the seed and on what the questions are, not on their rows."""
    ordered = sorted(questions, key=question_key)
    return random.Random(f"choice {seed}").sample(ordered, len(ordered))


def _notes(settings: ChoiceSettings, dropped: Counter, repeated: int, seen: int) -> str:
    counts = {**dropped, "repeated": repeated, "also in another split": seen}
    left_out = [f"{count} {reason}" for reason, count in counts.items() if count]
    named = settings.source if isinstance(settings.source, str) else ", ".join(settings.source)
    return named + (f"; rows left out: {', '.join(left_out)}" if left_out else "")
