"""What a run leaves behind: how large its change is, and its record."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence

from torch import nn

from ..method.background import memories
from ..method.sites import layer_number
from .evaluation.parts import source
from .files import short_hash
from .keys import Key, RunKeys
from .materials import Materials
from .methods import MethodSettings
from .metrics import METRICS, describe_data, task_metric
from .precision import resolve_precision
from .profiles import RunSpec
from .records.record import DataPart
from .records.results import Metric, Record
from .settings import BackgroundSettings, RetrofitSettings
from .tasks.exam import ExamQuestion
from .tasks.floors import floors
from .training.train import TrainingOutcome

NO_FOOTPRINT = {
    "trainable_parameters": 0,
    "updated_parameters": 0,
    "saved_bytes": 0,
    "selection": {},
}


def footprint(model: nn.Module) -> dict:
    """What training a model changed: parameters trainable and updated, bytes to keep, rows.

    A memory's table counts with the rows that were updated: these are what a finetune has to keep
    (`smf_lib.method.patches.patch`); other trainable parameters count whole.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    sparse = {id(m.table): m.table for m in memories(model).values() if m.rule is not None}
    tables = {id(t.values) for t in sparse.values()}
    anchors = {id(m.anchor) for m in memories(model).values()}
    dense = [p for p in trainable if id(p) not in tables | anchors]
    rows = [int((t.row_updates > 0).sum()) for t in sparse.values()]
    width = next(iter(sparse.values())).values.shape[1] if sparse else 0
    selection = {}
    for name, memory in memories(model).items():
        if memory.table is memory and memory.rule is not None:
            selection[str(layer_number(name))] = {
                "rows": memory.num_rows,
                "rows_touched": int((memory.row_updates > 0).sum()),
                "updates": int(memory.row_updates.sum()),
            }
    return {
        "trainable_parameters": sum(p.numel() for p in trainable if id(p) not in anchors),
        "updated_parameters": sum(p.numel() for p in dense) + sum(rows) * width,
        "saved_bytes": sum(p.numel() * p.element_size() for p in dense)
        + sum(rows) * (4 * width + 8),  # float32 values and an int64 row id
        "selection": selection,
    }


def right_by_answer(
    questions: Sequence[ExamQuestion], items: Sequence[float]
) -> list[tuple[int, int]]:
    """[right, asked] for each place that the right option can have.

    `items`, the outcomes, are those of the first of the questions, in their order.
    """
    counts = [[0, 0] for _ in range(max(len(question.options) for question in questions))]
    for question, item in zip(questions, items):
        counts[question.answer][0] += item == 1
        counts[question.answer][1] += 1
    return [(right, asked) for right, asked in counts]


def build_record(
    study: Materials,
    spec: RunSpec,
    outcome: TrainingOutcome,
    metrics: dict[str, Metric],
    size: dict,
    seconds: float,
    provenance: dict,
    keys: RunKeys,
) -> Record:
    """The record of a finished run.

    `size` is its `footprint`, `seconds` what training and measuring took, `provenance` where and
    with what it was run, `keys` what it depends on.
    """
    profile, exam, own = study.profile, study.exam, study.at(spec)  # own: with the run's own rows
    method = spec.settings
    goes_on = method.kind == "peft" and method.start is not None and method.task is None
    retrofitted = method.stage == "retrofit" or goes_on
    parts = ("exam", "probes", "memory", "evaluation")
    files = study.model_files
    questions = exam.split(profile.evaluation.split)
    accuracies = [
        name for name in metrics
        if METRICS[name].data == "exam" and METRICS[name].unit == "accuracy"
    ]  # fmt: skip
    return Record(
        schema_version=1,
        run_id=spec.run_id,
        profile=profile.name,
        study=study.STUDY,
        method=spec.method,
        label=spec.settings.label,
        seed=spec.seed,
        status="complete",
        settings={
            "method": spec.settings.model_dump(),
            **{name: getattr(profile, name).model_dump() for name in parts},
            "background": profile.background_of(method).model_dump(),
            "training": spec.settings.trained_with(profile.training).model_dump(),
            **(
                {"retrofit": profile.retrofit.model_dump()}
                if retrofitted and profile.retrofit is not None
                else {}
            ),
            "precision": resolve_precision(profile.training.precision),
        },
        keys={
            "training": _key(keys.training),
            "metrics": {name: _key(keys.metrics[name]) for name in metrics},
        },
        model={
            "name": files.name,
            "source": files.source,
            "sha256": files.sha256,
            "parameters": study.empty_model().num_parameters(),
        },
        data=_data(study, own, method, metrics, retrofitted),
        metrics=metrics,
        by_answer={name: right_by_answer(questions, metrics[name].items) for name in accuracies},
        answers={name: [q.answer for q in questions[: metrics[name].n]] for name in accuracies},
        baselines=_baselines(own.of_task(profile.exam.name), metrics["exam_accuracy"].n),
        task_baselines={
            task: _baselines(own.of_task(task), metrics[task_metric(task)].n)
            for task in profile.tasks
        },
        cost={
            "train_seconds": outcome.seconds,
            "train_tokens": outcome.tokens,
            "steps": outcome.steps,
            "tokens_per_second": outcome.tokens / outcome.seconds if outcome.seconds else 0.0,
            "peak_memory_bytes": outcome.peak_memory_bytes if outcome.steps else 0,
            "total_seconds": seconds,
            **{name: value for name, value in size.items() if name != "selection"},
        },
        selection=size["selection"],
        training_log=outcome.log,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **provenance,
    )


def _baselines(study: Materials, rows: int) -> dict:
    found = dataclasses.asdict(floors(study.exam, study.profile.evaluation.split, rows))
    return {name: value for name, value in found.items() if name != "n"}


def _key(key: Key) -> dict:
    return {"key": key.digest, "parts": dict(key.parts)}


def _data(
    study: Materials,
    drawn: Materials,
    method: MethodSettings,
    metrics: dict[str, Metric],
    retrofitted: bool,
) -> dict:
    """Identity and size of everything that was measured on, and of the texts that `drawn` has."""
    found = describe_data(study, list(metrics))
    parts = {name: part for name, part in found.items() if name in DataPart.model_fields}
    parts["other"] = {name: part for name, part in found.items() if name not in parts}
    if study.left_out("prose") and "prose" in parts:
        parts["prose"]["source"] += study.left_out("prose")
    settings: dict[str, BackgroundSettings | RetrofitSettings | None] = {
        "background": study.profile.background_of(method)
    }
    if retrofitted:
        settings["retrofit"] = study.profile.retrofit
    for field, own in settings.items():
        texts = drawn.texts(field, own)
        if own is not None and texts is not None:
            parts[field] = {
                "sha256": short_hash(texts),
                "rows": len(texts),
                "source": source(own.text) + drawn.left_out(field, own),
            }
    return parts
