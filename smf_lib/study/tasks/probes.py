"""What forgetting is measured on: shipped prose and shipped questions.

Both were written for this project (CC0) and have nothing to do with medicine. The third probe needs
no corpus: it is text that the base model writes itself, see `tasks.own_text`.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parent.parent / "data"


@dataclass(frozen=True)
class Article:
    """One piece of encyclopedic prose; paragraphs are parted by an empty line."""

    title: str
    text: str


@dataclass(frozen=True)
class KnowledgeQuestion:
    """A question with a short factual answer; ``aliases`` are all the answers that count."""

    id: str
    subject: str
    question: str
    answer: str
    aliases: list[str]


def load_prose(n_articles: int | None = None, seed: int = 0) -> list[Article]:
    """The shipped articles, or ``n_articles`` of them drawn from the seed, in shipped order.

    Raises ValueError if there are fewer than ``n_articles``.
    """
    articles = [
        Article(**row) for path in sorted(DATA.glob("prose_*.jsonl")) for row in _rows(path)
    ]
    if n_articles is None:
        return articles
    _check_count("probes.prose_articles", n_articles, len(articles))
    places = list(range(len(articles)))
    random.Random(f"prose {seed}").shuffle(places)
    return [articles[place] for place in sorted(places[:n_articles])]


def load_knowledge(
    n: int | None = None, seed: int = 0
) -> tuple[list[KnowledgeQuestion], list[KnowledgeQuestion]]:
    """The shipped questions to score and, apart from them, those to show as examples.

    With ``n``, that many scored questions are drawn from the seed, equally many of each subject
    (give or take one). A smaller ``n`` gives a part of what a larger one gives. Raises ValueError
    if there are fewer than ``n``.
    """
    scored = [KnowledgeQuestion(**row) for row in _rows(DATA / "knowledge.jsonl")]
    examples = [KnowledgeQuestion(**row) for row in _rows(DATA / "knowledge_fewshot.jsonl")]
    if n is None:
        return scored, examples
    _check_count("probes.knowledge_questions", n, len(scored))
    kept = {question.id for question in _by_turns(scored, random.Random(f"knowledge {seed}"))[:n]}
    return [question for question in scored if question.id in kept], examples


def _rows(path: Path) -> Iterator[dict]:
    with path.open(encoding="utf-8") as stream:
        yield from (json.loads(line) for line in stream if line.strip())


def _check_count(field: str, wanted: int, available: int) -> None:
    if not 1 <= wanted <= available:
        raise ValueError(f"{field} {wanted} must be from 1 to {available}, as many as are shipped")


def _by_turns(questions: list[KnowledgeQuestion], rng: random.Random) -> list[KnowledgeQuestion]:
    """All questions, shuffled, so that the subjects take turns."""
    subjects: dict[str, list[KnowledgeQuestion]] = defaultdict(list)
    for question in rng.sample(questions, len(questions)):
        subjects[question.subject].append(question)
    names = rng.sample(sorted(subjects), len(subjects))
    turns = range(max(len(group) for group in subjects.values()))
    return [subjects[name][turn] for turn in turns for name in names if turn < len(subjects[name])]
