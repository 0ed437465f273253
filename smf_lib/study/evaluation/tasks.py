"""Accuracy on each task of a profile, whichever of them a run was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..files import short_hash
from ..tasks.formats import FORMATS
from . import evaluate, protocols

if TYPE_CHECKING:
    from ..materials import Materials
    from .lm import SharedContextLM
    from .measurement import Measurement


def measure_task(study: Materials, lm: SharedContextLM, task: str) -> Measurement:
    """The accuracy on a task's questions, in its own format."""
    exam = study.exam_of(task)
    questions = exam.split(study.profile.evaluation.split)
    if exam.format == "cloze":
        return evaluate.measure_exam(lm, questions)
    return protocols.measure_options(lm, questions, FORMATS[exam.format])


def describe_task(study: Materials, task: str) -> dict:
    """The record's part about a task's questions."""
    exam = study.exam_of(task)
    questions = exam.split(study.profile.evaluation.split)
    form: Any = FORMATS[exam.format]
    content = [[q.id, form.prompt(q), form.continuations(q), q.answer] for q in questions]
    return {"sha256": short_hash(content), "rows": len(questions), "source": exam.name}
