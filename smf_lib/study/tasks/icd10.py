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
import re
from collections import Counter
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from ..model_cache import cached_folder
from .exam import Exam, content_sha256
from .options import Item, make_questions, rows_of, runs, split_by

if TYPE_CHECKING:
    from ..settings import ExamSettings

WORDING = 'In which ICD-10-CM block is "{}" classified?'
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
    parts = split_by(titles(), lambda title: title.category, settings.seed, "categories")
    found = {
        name: make_questions(_items(part), settings.seed, WORDING) for name, part in parts.items()
    }
    found = rows_of("icd10", settings, found)
    splits = found["train"], found["validation"], found["test"]
    chapters = {title.block: title.chapter for part in parts.values() for title in part}
    return Exam("icd10", *splits, content_sha256(*splits), groups=chapters)


def _items(part: list[Title]) -> list[Item]:
    return [Item(title.code, title.text, title.block, title.chapter) for title in part]


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
        and not runs(title.text) & runs(title.block)
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
