"""Texts and questions of public data sets, in the Hub's columns: WikiText, TriviaQA, replies.

The paper (arXiv 2605.03229) measures forgetting on WikiText and TriviaQA, and takes assistant
replies (OpenAssistant) for stage 1 and for the background reads.
"""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .hub import load_rows
from .probes import KnowledgeQuestion, load_prose

if TYPE_CHECKING:
    from ..settings import TextSettings, TriviaQASettings, WikiTextSettings

PAGE_HEADING = re.compile(
    r"^\s*=\s[^=](?:.*[^=])?\s=\s*$"
)  # " = Title = ", not " = = Section = = "


def load_wikitext(settings: WikiTextSettings, root: str | Path) -> tuple[list[str], int]:
    """The first `lines` lines that are not empty, in order, as they stand in the source.

    And how many rows of the source hold no text at all, not even an empty line.

    Raises:
        ValueError: see `hub.load_rows`; fewer lines than asked for.
    """
    rows = load_rows(
        "probes.wikitext.source",
        settings.source,
        settings.split,
        {"text"},
        root,
        settings.config,
        settings.revision,
    )
    texts = [text for text in rows["text"] if isinstance(text, str)]
    lines = [line for line in texts if line.strip()]
    return _first("probes.wikitext.lines", lines, settings.lines), len(rows) - len(texts)


def pages(lines: list[str]) -> list[str]:
    """Join lines of WikiText into articles: each begins with a heading of the first level.

    An article that the lines end within is kept as far as it goes. Lines are put together as in
    the data set of whole documents that lm-eval reads, without the empty lines.
    """
    found: list[list[str]] = []
    for line in lines:
        if PAGE_HEADING.match(line) or not found:
            found.append([])
        found[-1].append(line if line.endswith("\n") else line + "\n")
    return ["".join(page) for page in found]


def load_triviaqa(
    settings: TriviaQASettings, root: str | Path
) -> tuple[list[KnowledgeQuestion], list[KnowledgeQuestion]]:
    """The questions to score, in file order or drawn from the seed, and the examples to show.

    An example's answer is the `value` that the source picked from the aliases.

    Raises:
        ValueError: see `hub.load_rows`; fewer questions than asked for; a row without a question,
            an answer or an alias, as all rows of the Hub's hidden test split are.
    """

    def read(split: str) -> list[KnowledgeQuestion]:
        rows = load_rows(
            "probes.triviaqa.source",
            settings.source,
            split,
            {"question_id", "question", "answer"},
            root,
            settings.config,
            settings.revision,
        )
        return [_trivia(row, number, split) for number, row in enumerate(rows)]

    found, shots = read(settings.split), []
    if settings.shots:
        pool = read(settings.shots_split)
        if settings.shots > len(pool):
            raise ValueError(
                f"probes.triviaqa.shots={settings.shots} is more than the {len(pool)} questions of "
                f"{settings.shots_split!r}; lower probes.triviaqa.shots"
            )
        shots = random.Random(f"shots {settings.seed}").sample(pool, settings.shots)
    if settings.order == "shuffled":
        found = random.Random(f"triviaqa {settings.seed}").sample(found, len(found))
    return _first("probes.triviaqa.questions", found, settings.questions), shots


def _trivia(row: dict, number: int, split: str) -> KnowledgeQuestion:
    answer = row["answer"] if isinstance(row["answer"], dict) else {}
    named = answer.get("aliases")
    aliases = [alias for alias in named if _is_text(alias)] if isinstance(named, list) else []
    if not (_is_text(row["question"]) and _is_text(answer.get("value")) and aliases):
        raise ValueError(
            f"probes.triviaqa: row {number} of {split!r} has question={row['question']!r} and "
            f"answer={row['answer']!r}; a question is a text and an answer holds a text `value` "
            "and a list of texts `aliases`, without which none can be right: name a split with "
            "answers (the test split on the Hub hides them)"
        )
    return KnowledgeQuestion(
        row["question_id"], "trivia", row["question"], answer["value"], aliases
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def load_texts(
    field: str, settings: TextSettings, root: str | Path, rows_field: str | None = None
) -> tuple[list[str], int]:
    """`rows` texts drawn from the seed: assistant replies, or whatever the column `text` holds.

    And how many of the rows that they are drawn from hold no text.

    The source "shipped" stands for the paragraphs of the prose that comes with the library.

    In the columns of OpenAssistant (`role`, `lang`, `rank`), the paper's choice: English replies
    of the assistant ranked first or second, of at least `min_characters`. In those of Dolly, the
    column `response`.

    Args:
        field: where the profile names these settings, for error messages ("background.text").
        rows_field: where it says how many texts, if that is not `rows` of these settings.

    Raises:
        ValueError: see `hub.load_rows`; none of these columns, or fewer texts than asked for.
    """
    given = _shipped() if settings.source == "shipped" else _column(field, settings, root)
    texts = [text for text in given if isinstance(text, str)]
    found = [text for text in texts if len(text) >= settings.min_characters]
    found = random.Random(f"texts {settings.seed}").sample(found, len(found))
    found = _first(rows_field or f"{field}.rows", found, settings.rows, rows_field is None)
    return found, len(given) - len(texts)


def _shipped() -> list[str]:
    return [paragraph for article in load_prose() for paragraph in article.text.split("\n\n")]


def _column(field: str, settings: TextSettings, root: str | Path) -> list[str]:
    rows = load_rows(
        f"{field}.source", settings.source, settings.split, set(), root, revision=settings.revision
    )
    names = set(rows.column_names)
    if {"text", "role", "lang"} <= names:
        return [
            row["text"]
            for row in rows
            if row["role"] == "assistant"
            and row["lang"] == "en"
            and row.get("rank", 0) in (0.0, 1.0)
        ]
    if names & {"response", "text"}:
        return list(rows["response" if "response" in names else "text"])
    raise ValueError(
        f"{field}.source={settings.source!r} has the columns {', '.join(sorted(names))}; "
        "texts are taken from `text` or `response`"
    )


def _first(field: str, items: list, wanted: int | None, may_be_null: bool = True) -> list:
    if wanted is not None and wanted > len(items):
        raise ValueError(
            f"{field}={wanted} is more than the {len(items)} that the source has; lower {field}"
            + (", or set it to null for all of them" if may_be_null else "")
        )
    return items[:wanted]
