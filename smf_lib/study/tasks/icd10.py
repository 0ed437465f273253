"""The exam of the default study: in which block of ICD-10-CM does a title stand?

Titles of categories and of four-character codes come from the package `simple-icd-10-cm` (public
domain, United States). Two of the four options are blocks of the right chapter, two are blocks of
one other chapter. Nothing but what training teaches gives the answer away:

- no option shares four letters in a row, within a word, with the title;
- in each split every block is a wrong option three times as often as it is right, so neither its
  frequency nor its length tells anything: the second option is the answer of another question of
  the chapter, the other two are the first two of a question of another chapter, each used once;
- all codes of a category are in one split.
"""

from __future__ import annotations

import json
import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..model_cache import cached_folder
from .exam import Exam, ExamQuestion, content_sha256

if TYPE_CHECKING:
    from ..settings import ExamSettings

SHARED_LETTERS = 4  # so many in a row may not stand in a title and in one of its options
SHARES = {"test": 0.46, "validation": 0.12, "train": 0.42}  # of the titles
_CODE_RANGE = re.compile(r"\s*\([A-Z0-9]{3}(-[A-Z0-9]{3})?\)$")
_VAGUE = re.compile(r"\b(other|unspecified|not)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Title:
    """A title of ICD-10-CM with its code, the title of its block and the number of its chapter."""

    code: str
    text: str
    block: str
    chapter: str

    @property
    def category(self) -> str:
        """The category that the code is, or is part of: its first three characters."""
        return self.code[:3]


def build_icd10(settings: ExamSettings, root: Path | None = None) -> Exam:
    """The exam that `settings` describes: `seed` and the rows of each split.

    The seed alone decides which questions a split has and in which order; a split's rows are
    taken from its front, so the size of one split changes no other.

    Raises:
        ValueError: a split has fewer questions than asked for; the message names the field.
    """
    parts = _split(settings.seed)
    found = {name: _questions(part, settings.seed) for name, part in parts.items()}
    for name, questions in found.items():
        rows = getattr(settings, f"{name}_rows")
        if not 0 <= rows <= len(questions):
            raise ValueError(
                f"exam.{name}_rows {rows} must be from 0 to {len(questions)}, the questions that "
                f"the exam 'icd10' has in this split; set exam.{name}_rows to a number between"
            )
        found[name] = questions[:rows]
    splits = found["train"], found["validation"], found["test"]
    chapters = {title.block: title.chapter for part in parts.values() for title in part}
    return Exam("icd10", *splits, content_sha256(*splits), groups=chapters)


def titles() -> list[Title]:
    """The titles that make a fair question, in the order of their codes.

    Left out: titles that occur twice, that say "other", "unspecified" or "not", or that share
    four letters in a row with the title of their own block.
    """
    found = all_titles()
    times = Counter(title.text.lower() for title in found)
    return [
        title
        for title in found
        if times[title.text.lower()] == 1
        and not _VAGUE.search(title.text)
        and not _runs(title.text) & _runs(title.block)
    ]


def all_titles() -> list[Title]:
    """Every category and four-character code, in the order of their codes.

    Parsing the package's 98,000 codes takes seconds, so the titles are kept in the user's cache.
    """
    name = f"icd-10-cm-{metadata.version('simple-icd-10-cm')}"
    folder, _ = cached_folder(name, _write_titles)
    rows = json.loads((folder / "titles.json").read_text(encoding="utf-8"))
    return [
        Title(code, text, _CODE_RANGE.sub("", block).strip(), chapter)
        for code, text, block, chapter in rows
    ]


def _write_titles(folder: Path) -> None:
    import simple_icd_10_cm as icd

    rows = []
    for code in sorted(set(icd.get_all_codes(True))):
        if icd.is_category(code) or (icd.is_subcategory(code) and len(code) == len("A00.0")):
            *_, block, chapter = icd.get_ancestors(code)
            name = icd.get_description(block, prioritize_blocks=True)
            rows.append([code, icd.get_description(code).strip(), name, chapter])
    (folder / "titles.json").write_text(json.dumps(rows), encoding="utf-8")


def _runs(text: str) -> frozenset[str]:
    """Every four letters that stand in a row within a word."""
    return frozenset(
        word[start : start + SHARED_LETTERS]
        for word in re.findall(r"[^\W\d_]+", text.lower())
        for start in range(len(word) - SHARED_LETTERS + 1)
    )


def _split(seed: int) -> dict[str, list[Title]]:
    """The titles of each split: categories in an order drawn from the seed, cut at fixed shares."""
    by_category: dict[str, list[Title]] = {}
    for title in titles():
        by_category.setdefault(title.category, []).append(title)
    order = random.Random(f"categories {seed}").sample(sorted(by_category), len(by_category))
    total = sum(map(len, by_category.values()))
    parts: dict[str, list[Title]] = {name: [] for name in SHARES}
    for category in order:
        open_parts = (name for name in SHARES if len(parts[name]) < SHARES[name] * total)
        parts[next(open_parts, "train")] += by_category[category]
    return {
        name: random.Random(f"order {name} {seed}").sample(part, len(part))
        for name, part in parts.items()
    }


def _questions(part: Sequence[Title], seed: int) -> list[ExamQuestion]:
    """The questions of a split, in its order; each run of four has one answer a place."""
    questions: list[ExamQuestion] = []
    places: list[int] = []
    for title, others in _with_wrong_options(part, seed):
        rng = random.Random(f"options {seed} {title.code}")
        if not places:
            places = rng.sample(range(4), 4)
        answer = places.pop()
        options = rng.sample(others, len(others))
        options.insert(answer, title.block)
        text = f'In which ICD-10-CM block is "{title.text}" classified?'
        questions.append(ExamQuestion(title.code, text, options, answer))
    return questions


def _with_wrong_options(part: Sequence[Title], seed: int) -> list[tuple[Title, list[str]]]:
    """Each title with its three wrong options; titles that cannot be given any are left out.

    A title gets the block of another title of its chapter, and then the pair of blocks that a
    title of another chapter has got: both are permutations, drawn from the seed, of what there is.
    """
    left = list(part)
    while True:
        blocks = sorted({title.block for title in left})
        place = np.array([blocks.index(title.block) for title in left])
        chapter = np.array([title.chapter for title in left])
        apart = ~_share_letters([title.text for title in left], blocks)  # (titles, blocks)
        same = chapter[:, None] == chapter
        near = _permute(same & (place[:, None] != place) & apart[:, place], seed)
        if (near >= 0).all():
            far = _permute(~same & apart[:, place] & apart[:, place[near]], seed)
            if (far >= 0).all():
                break
            near = far
        left = [title for title, other in zip(left, near) if other >= 0]
    return [
        (title, [left[other].block for other in (near[i], far[i], near[far[i]])])
        for i, title in enumerate(left)
    ]


def _share_letters(texts: Sequence[str], blocks: Sequence[str]) -> np.ndarray:
    """Whether each text shares letters with each block, bool (texts, blocks)."""
    block_runs = [_runs(block) for block in blocks]
    column = {run: i for i, run in enumerate(sorted(frozenset().union(*block_runs)))}

    def table(rows: Sequence[frozenset[str]]) -> np.ndarray:
        marks = np.zeros((len(rows), len(column)), dtype=np.float32)
        for row, runs in enumerate(rows):
            marks[row, [column[run] for run in runs if run in column]] = 1
        return marks

    return table([_runs(text) for text in texts]) @ table(block_runs).T > 0


def _permute(allowed: np.ndarray, seed: int) -> np.ndarray:
    """A partner for each row, each used once, drawn from the seed; -1 for a row left without one.

    The assignment of the smallest sum of random costs: as many rows as can be get a partner.
    allowed: bool (n, n), which partners a row may get.
    """
    rng = np.random.RandomState(zlib.crc32(f"partners {seed}".encode()))  # its stream is frozen
    costs = np.where(allowed, rng.random_sample(allowed.shape), 1e4)
    _, partners = linear_sum_assignment(costs)
    return np.where(allowed[np.arange(len(allowed)), partners], partners, -1)
