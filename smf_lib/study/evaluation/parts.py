"""What a record says of the data that its metrics were measured on: identity and size."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import TYPE_CHECKING

from ..files import short_hash
from ..tasks.corpora import pages

if TYPE_CHECKING:
    from ..materials import Materials
    from ..settings import Settings
    from ..tasks.exam import ExamQuestion


def scored_questions(study: Materials) -> list[ExamQuestion]:
    """The questions that the exam is scored on: those of the split, or as many as are asked for."""
    exam, settings = study.exam, study.profile.exam
    questions = exam.split(study.profile.evaluation.split)
    if exam.format == "cloze":
        return questions
    return questions[: getattr(settings, "option_rows", None)]


def exam(study: Materials) -> dict:
    """The record's part about the exam."""
    found = study.exam
    return {
        "name": found.name,
        "sha256": found.sha256,
        "split": study.profile.evaluation.split,
        "train_rows": len(found.train),
        "rows": len(scored_questions(study)),
        "notes": found.notes,
    }


def prose(study: Materials) -> dict:
    """The record's part about prose."""
    wikitext = study.profile.probes.wikitext
    if wikitext is None:
        sections = Counter(section.article for section in study.prose)
        return {
            "sha256": short_hash([[s.article, s.text] for s in study.prose]),
            "articles": len(sections),
            "sections": list(sections.values()),
            "words": sum(len(section.text.split()) for section in study.prose),
        }
    articles = pages(study.prose)
    return {
        "sha256": short_hash(articles),
        "articles": len(articles),
        "words": sum(len(text.split()) for text in articles),
        "source": source(wikitext),
    }


def knowledge(study: Materials) -> dict:
    """The record's part about the questions of general knowledge."""
    questions, shown = study.knowledge
    return {
        "sha256": short_hash(
            [
                [dataclasses.asdict(q) for q in (question, *shots)]
                for question, shots in zip(questions, shown)
            ]
        ),
        "questions": len(questions),
        "shots": len(shown[0]),
        "source": source(study.profile.probes.triviaqa),
    }


def self_text(study: Materials) -> dict:
    """The record's part about the text that the base model wrote."""
    settings = study.profile.probes
    return {
        "sha256": short_hash(study.self_text()),
        "sequences": settings.self_text_sequences,
        "tokens": settings.self_text_tokens,
    }


def source(settings: Settings | None) -> str:
    """Where data came from, as the profile names it; "" for what is shipped."""
    return "" if settings is None else f"{settings.source}, {settings.split}"
