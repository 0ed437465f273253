"""Whether each row of a user's own task of lm-eval asks something and has a right answer.

lm-eval scores a row without one as wrong, and writes a missing cell as "None" into what is asked,
both without a word.
"""

from __future__ import annotations

import re
from typing import Any

from lm_eval.api.task import Task

from .tasks.exam import as_text

PRINTED = re.compile(r"\{\{\s*(\w+)\s*\}\}")  # a column that a template prints as it is


def check_rows(named: str, task: Task) -> None:
    """Raise ValueError for the first row of a task that asks nothing or has no right answer.

    named: what the profile calls the task.
    """
    for number, row in enumerate(task.eval_docs):
        fault = _fault(task, dict(row))
        if fault:
            raise ValueError(
                f"evaluation.lm_eval_tasks: row {number} of {named!r} has {fault}; mend the row or "
                "leave it out"
            )


def _fault(task: Any, row: dict) -> str | None:
    asked = task.config.doc_to_text
    for template in (asked, task.config.doc_to_target):
        if isinstance(template, str) and "{%" not in template:  # else it may ask for what is there
            for name in PRINTED.findall(template):
                if name in row and not as_text(row[name]):
                    return f"{name}={row[name]!r}"
    query, target = task.doc_to_text(row), task.doc_to_target(row)
    if query is None or (isinstance(asked, str) and asked.strip() and not as_text(query)):
        return f"the question {query!r}"
    if task.config.output_type != "multiple_choice":
        answers = target if isinstance(target, list) else [target]
        return None if any(map(as_text, answers)) else f"the answer {target!r}"
    choices = task.doc_to_choice(row) or []
    empty = [choice for choice in choices if not as_text(choice)]
    if empty or not choices:
        return f"the choices {choices!r}"
    answers = target if isinstance(target, list) else [target]
    if isinstance(query, int):  # each choice is what stands before the one target
        right = 0 <= query < len(choices) and any(map(as_text, answers))
    else:
        right = bool(answers) and all(_is_choice(answer, choices) for answer in answers)
    return None if right else f"the answer {target!r}, which is none of its {len(choices)} choices"


def _is_choice(answer: object, choices: list[str]) -> bool:
    return 0 <= answer < len(choices) if isinstance(answer, int) else answer in choices
