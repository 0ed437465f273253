"""Wrong options that tell nothing: what the library's own exams share.

In each split every answer is a wrong option as often as any other, relative to how often it is
right, so that neither its frequency nor its length gives it away, and no option shares four letters
in a row, within a word, with what is asked about.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from .exam import ExamQuestion

SHARED_LETTERS = 4  # so many in a row may not stand in what is asked about and in an option
SHARES = {"test": 0.46, "validation": 0.12, "train": 0.42}  # of what there is to ask about
Part = TypeVar("Part")


@dataclass(frozen=True)
class Item:
    """What one question is about: its id, what it names, the right answer, the answer's group."""

    id: str
    text: str
    answer: str
    group: str


def runs(text: str) -> frozenset[str]:
    """Every four letters that stand in a row within a word, in lower case."""
    return frozenset(
        word[start : start + SHARED_LETTERS]
        for word in re.findall(r"[^\W\d_]+", text.lower())
        for start in range(len(word) - SHARED_LETTERS + 1)
    )


def split_by(
    found: Iterable[Part], cluster: Callable[[Part], Hashable], seed: int, what: str
) -> dict[str, list[Part]]:
    """The parts of each split: clusters in an order drawn from the seed, cut at fixed shares.

    The seed alone decides which parts a split has and in which order.

    Args:
        found: what is split, in an order of its own.
        cluster: what keeps a part together with others in one split; sortable.
        seed: of the draws.
        what: what the clusters are called, which names their draw.
    """
    clusters: dict[Hashable, list[Part]] = {}
    for part in found:
        clusters.setdefault(cluster(part), []).append(part)
    names = sorted(clusters)  # type: ignore[type-var]
    order = random.Random(f"{what} {seed}").sample(names, len(clusters))
    total = sum(map(len, clusters.values()))
    parts: dict[str, list[Part]] = {name: [] for name in SHARES}
    for key in order:
        open_parts = (name for name in SHARES if len(parts[name]) < SHARES[name] * total)
        parts[next(open_parts, "train")] += clusters[key]
    return {
        name: random.Random(f"order {name} {seed}").sample(part, len(part))
        for name, part in parts.items()
    }


def make_questions(items: Sequence[Item], seed: int, wording: str) -> list[ExamQuestion]:
    """The questions of a split, in its order; each run of four has one answer a place.

    wording: the question, with "{}" for what it asks about.
    """
    questions: list[ExamQuestion] = []
    places: list[int] = []
    for item, others in _with_wrong_options(items, seed):
        rng = random.Random(f"options {seed} {item.id}")
        if not places:
            places = rng.sample(range(4), 4)
        answer = places.pop()
        options = rng.sample(others, len(others))
        options.insert(answer, item.answer)
        questions.append(ExamQuestion(item.id, wording.format(item.text), options, answer))
    return questions


def rows_of(exam: str, settings: object, found: dict[str, list]) -> dict[str, list]:
    """The first so many questions of each split as the settings ask for.

    Raises:
        ValueError: a split has fewer questions than asked for; the message names the field.
    """
    taken = {}
    for name, questions in found.items():
        rows = getattr(settings, f"{name}_rows")
        if not 0 <= rows <= len(questions):
            raise ValueError(
                f"exam.{name}_rows {rows} must be from 0 to {len(questions)}, the questions that "
                f"the exam {exam!r} has in this split; set exam.{name}_rows to a number between"
            )
        taken[name] = questions[:rows]
    return taken


def _with_wrong_options(part: Sequence[Item], seed: int) -> list[tuple[Item, list[str]]]:
    """Each item with its three wrong options; items that cannot be given any are left out.

    An item gets the answer of another item of its group, and then the pair of answers that an
    item of another group has got: both are permutations, drawn from the seed, of what there is.
    """
    left = list(part)
    while True:
        answers = sorted({item.answer for item in left})
        place = np.array([answers.index(item.answer) for item in left])
        group = np.array([item.group for item in left])
        apart = ~_share_letters([item.text for item in left], answers)  # (items, answers)
        same = group[:, None] == group
        near = _permute(same & (place[:, None] != place) & apart[:, place], seed)
        if (near >= 0).all():
            far = _permute(~same & apart[:, place] & apart[:, place[near]], seed)
            if (far >= 0).all():
                break
            near = far
        left = [item for item, other in zip(left, near) if other >= 0]
    return [
        (item, [left[other].answer for other in (near[i], far[i], near[far[i]])])
        for i, item in enumerate(left)
    ]


def _share_letters(texts: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Whether each text shares letters with each answer, bool (texts, answers)."""
    answer_runs = [runs(answer) for answer in answers]
    column = {run: i for i, run in enumerate(sorted(frozenset().union(*answer_runs)))}

    def table(rows: Sequence[frozenset[str]]) -> np.ndarray:
        marks = np.zeros((len(rows), len(column)), dtype=np.float32)
        for row, found in enumerate(rows):
            marks[row, [column[run] for run in found if run in column]] = 1
        return marks

    return table([runs(text) for text in texts]) @ table(answer_runs).T > 0


def _permute(allowed: np.ndarray, seed: int) -> np.ndarray:
    """A partner for each row, each used once, drawn from the seed; -1 for a row left without one.

    The assignment of the smallest sum of random costs: as many rows as can be get a partner.
    allowed: bool (n, n), which partners a row may get.
    """
    rng = np.random.RandomState(zlib.crc32(f"partners {seed}".encode()))  # its stream is frozen
    costs = np.where(allowed, rng.random_sample(allowed.shape), 1e4)
    _, partners = linear_sum_assignment(costs)
    return np.where(allowed[np.arange(len(allowed)), partners], partners, -1)
