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
PROMPTS = 8  # of the knowledge probe; each is read once, and more of them would take longer


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


@dataclass(frozen=True)
class Section:
    """A paragraph of an article, read from its own start; `article` is that article's title."""

    article: str
    text: str


def sections(articles: list[Article]) -> list[Section]:
    """The paragraphs of the articles, in order."""
    return [
        Section(article.title, paragraph)
        for article in articles
        for paragraph in article.text.split("\n\n")
    ]


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


def load_knowledge(n: int | None = None, seed: int = 0) -> list[KnowledgeQuestion]:
    """The shipped questions to score.

    With ``n``, that many are drawn from the seed, equally many of each subject (give or take one).
    A smaller ``n`` gives a part of what a larger one gives. Raises ValueError if there are fewer
    than ``n``.
    """
    scored = [KnowledgeQuestion(**row) for row in _rows(DATA / "knowledge.jsonl")]
    if n is None:
        return scored
    _check_count("probes.knowledge_questions", n, len(scored))
    kept = {question.id for question in _by_turns(scored, random.Random(f"knowledge {seed}"))[:n]}
    return [question for question in scored if question.id in kept]


def load_examples() -> list[KnowledgeQuestion]:
    """The shipped questions that are shown as examples; none is about the fact of a scored one."""
    return [KnowledgeQuestion(**row) for row in _rows(DATA / "knowledge_fewshot.jsonl")]


def shown_before(questions: list[KnowledgeQuestion], shots: int) -> list[list[KnowledgeQuestion]]:
    """For each of the shipped questions the ``shots`` examples that it is asked after.

    There are ``PROMPTS`` draws of examples, without repetition and in random order; the questions
    of each subject are dealt out to them equally (give or take one), so that the luck of a prompt
    is part of what makes answers differ. It is the same whichever other questions are asked.
    Raises ValueError for more ``shots`` than there are examples.
    """
    examples = load_examples()
    if not 0 <= shots <= len(examples):
        raise ValueError(
            f"probes.knowledge_shots {shots} must be from 0 to {len(examples)}, as many as are "
            "shipped"
        )
    prompts = [random.Random(f"prompt {n}").sample(examples, shots) for n in range(PROMPTS)]
    dealt = load_knowledge()
    random.Random("prompts").shuffle(dealt)
    dealt.sort(key=lambda question: question.subject)
    turn = {question.id: number % PROMPTS for number, question in enumerate(dealt)}
    return [prompts[turn[question.id]] for question in questions]


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
