"""Whether the model can read all that it will be measured on, asked before anything is trained.

What is read in windows (prose) or cut (texts of the base model) is not looked at here. A token
stands for at least a byte, so a text is tokenized only if it has more bytes than the model has
positions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from .evaluation.evaluate import ANSWER_TOKENS
from .evaluation.harness import find_task
from .evaluation.lm import Generation
from .evaluation.protocols import TRIVIA_TOKENS
from .metrics import metric_names
from .task_rows import check_rows
from .tasks.exam import prompt
from .tasks.formats import FORMATS, encode_text
from .tasks.hub import locate

if TYPE_CHECKING:
    from .materials import Materials

OF_A_SCORE = -1  # positions that a scored text needs beyond its tokens: the last is not read


@dataclasses.dataclass(frozen=True)
class Reading:
    """A text that is read at once.

    Attributes:
        where: what of the profile it belongs to, and which item it is.
        text: all of it.
        more: positions beyond its own tokens: as many as are generated after it.
        remedy: what to do if it is too long.
    """

    where: str
    text: str
    more: int
    remedy: str


def check_readings(study: Materials, tokenizer: PreTrainedTokenizerBase, longest: float) -> None:
    """Raise ValueError for the first text of a study that has more tokens than the model takes.

    It is raised as well for a task of lm-eval that asks for more than greedy decoding, and for one
    of the user's own with a row that asks nothing or has no right answer.

    longest: positions of the model.
    """
    special = tokenizer.num_special_tokens_to_add()
    for reading in readings(study):
        if len(reading.text.encode()) + special + reading.more <= longest:
            continue
        needed = len(encode_text(tokenizer, reading.text)) + reading.more
        if needed > longest:
            raise ValueError(
                f"{reading.where} needs {needed} positions, more than the model's {longest}; "
                f"{reading.remedy}"
            )


def readings(study: Materials) -> Iterator[Reading]:
    """Every text of a study's questions: of its exam and tasks, of knowledge, of lm-eval's."""
    for task in study.profile.task_names:
        yield from _exam(study, task)
    metrics = metric_names(study.profile)
    if "knowledge_accuracy" in metrics:
        yield from _knowledge(study)
    if "exact_match" in metrics:  # lm-eval's own task puts one more sign behind every question
        yield from _knowledge(study, "?")
    for named in study.profile.evaluation.lm_eval_tasks:
        yield from _lm_eval_task(study, named)


def _exam(study: Materials, task: str) -> Iterator[Reading]:
    exam, place = study.exam_of(task), f"tasks.{task}" if task in study.profile.tasks else "exam"
    form: Any = FORMATS[exam.format]
    for question in exam.split(study.profile.evaluation.split):
        for text in form.continuations(question):
            yield Reading(
                f"{place}: question {question.id!r} with an option",
                form.prompt(question) + text,
                OF_A_SCORE,
                "leave it out of the data, or choose a model that reads more",
            )


def _knowledge(study: Materials, sign: str = "") -> Iterator[Reading]:
    triviaqa, (questions, shown) = study.profile.probes.triviaqa, study.knowledge
    field = "probes.knowledge_shots" if triviaqa is None else "probes.triviaqa.shots"
    for question, shots in zip(questions, shown):
        *before, last = (
            prompt(dataclasses.replace(q, question=q.question + sign)) for q in (*shots, question)
        )
        examples = [f"{text} {shot.answer}\n\n" for text, shot in zip(before, shots)]
        yield Reading(
            f"knowledge: question {question.id!r} with {len(shots)} examples and its answer",
            "".join(examples) + last,
            ANSWER_TOKENS if triviaqa is None else TRIVIA_TOKENS,
            f"lower {field}, or choose a model that reads more",
        )


def _lm_eval_task(study: Materials, named: str) -> Iterator[Reading]:
    task = find_task(named, study.root)
    if Path(locate(named, study.root)).is_file():  # one's own: rows of others cannot be mended
        check_rows(named, task)
    with contextlib.redirect_stderr(io.StringIO()):  # lm-eval draws a bar
        task.build_all_requests()
    for request in task.instances:
        where = f"evaluation.lm_eval_tasks: row {request.doc_id} of {named!r}"
        remedy = "lower the task's num_fewshot, or leave the row out"
        if request.request_type == "loglikelihood":
            context, rest = request.args
            yield Reading(where, context + rest, OF_A_SCORE if context else 0, remedy)
        elif request.request_type == "generate_until":
            try:
                generation = Generation.from_kwargs(request.args[1])
            except ValueError as error:
                raise ValueError(f"evaluation.lm_eval_tasks: {named!r}: {error}") from None
            yield Reading(where, request.args[0], generation.max_tokens, remedy)
