"""The metrics of a study, in the order in which they are measured, tabulated and drawn.

A metric is a number about a model with an outcome for each item: the exam's accuracy, or a probe
of what was forgotten. To add a probe, write one function in a file of your own, name that file in
the profile's `imports` and the metric in its `evaluation.probes`:

    from smf_lib.study.evaluation.evaluate import measure_prose
    from smf_lib.study.files import short_hash
    from smf_lib.study.metrics import register_metric
    from smf_lib.study.tasks.probes import Article

    CODE = ["def double(x): return 2 * x", "for i in range(3): print(i)"]

    def describe(study):
        return {"sha256": short_hash(CODE), "rows": len(CODE), "source": "my_probe.py"}

    @register_metric("code_perplexity", "Perplexity of code", "perplexity", describe=describe)
    def code_perplexity(study, lm):
        return measure_prose(lm, [Article("", text) for text in CODE], window=64)

It is then measured for every run, recorded with its title and unit, tabulated and drawn. Nothing
heavy is imported here: a measure of the library is named as "module:function" and loaded when used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath
from typing import Any, Literal, TypeVar

from .registry import Registry, load_function

Unit = Literal["accuracy", "perplexity", "nats"]
Measure = TypeVar("Measure", bound=Callable)


@dataclass(frozen=True)
class MetricSpec:
    """One metric.

    Attributes:
        name: its key in records.
        title: its name in tables and figures.
        unit: "accuracy" (an item is 0 or 1, more is better), "perplexity" (an item is [summed
            negative log-likelihood in nats, tokens or words]) or "nats" (a divergence, an item is
            nats a token); of the last two less is better.
        data: what it is measured on, a part of the record's `data`: "exam", "prose", "knowledge",
            "self_text", or a probe's own name. Metrics of the same data are paired by item.
        measure: function of (`Materials`, `SharedContextLM`) that gives a `Measurement`. The
            model is `lm.model`, its tokenizer `lm.tokenizer`.
        describe: function of `Materials` that gives the record's part about the data; for a probe
            of one's own {"sha256": ..., "rows": ..., "source": ...}.
        wanted: function of a `Profile`: whether it is measured; None: if `evaluation.probes` names
            the metric or its data.
        settings: fields of the profile, with dots, that decide the number beside model and data.
        code: modules of `smf_lib.study` that decide it beside the common ones of `evaluation`.
    """

    name: str
    title: str
    unit: Unit
    data: str
    measure: Callable[[Any, Any], Any] | str = ""
    describe: Callable[[Any], dict] | str = ""
    wanted: Callable[[Any], bool] | None = None
    settings: tuple[str, ...] = ()
    code: tuple[str, ...] = ()

    @property
    def more_is_better(self) -> bool:
        """Whether a larger number is a better one."""
        return self.unit == "accuracy"

    @property
    def is_shipped(self) -> bool:
        """Whether it is one of the library's own, which records need not explain."""
        return isinstance(self.measure, str)

    def is_wanted(self, profile: Any) -> bool:
        """Whether a profile's runs are measured by it."""
        if self.wanted is not None:
            return self.wanted(profile)
        return not {self.name, self.data}.isdisjoint(profile.evaluation.probes)


METRICS: Registry[MetricSpec] = Registry("metric")
COMMON_CODE = (
    "tasks.formats",
    *(
        f"evaluation.{name}"
        for name in ("measuring", "measurement", "evaluate", "harness", "lm", "reading")
    ),
)


def register_metric(
    name: str,
    title: str,
    unit: Unit,
    *,
    describe: Callable[[Any], dict],
    data: str | None = None,
    wanted: Callable[[Any], bool] | None = None,
) -> Callable[[Measure], Measure]:
    """Decorator that makes a function known as the metric `name`; see `MetricSpec`.

    data: by default the metric's own name.

    Raises:
        ValueError: an unknown unit, or a name that another function has.
    """
    if unit not in ("accuracy", "perplexity", "nats"):
        raise ValueError(f"unit={unit!r} is unknown; choose accuracy, perplexity or nats")

    def register(measure: Measure) -> Measure:
        spec = MetricSpec(name, title, unit, data or name, measure, describe, wanted)
        METRICS.add(name, spec, measure)
        return measure

    return register


def register_lm_eval_task(named: str) -> None:
    """Make a task of lm-eval known as the metric `lm_eval:<task>`; it is an accuracy.

    What is measured is what the study's own profile names so: files of one name in two profiles
    are two tasks.

    named: what a profile's `evaluation.lm_eval_tasks` says: a task's name or its YAML file.
    """

    def measure(study: Any, lm: Any) -> Any:
        harness = load_function("evaluation.harness:measure_task")
        return harness(lm, name, _lm_eval_task(study, task))

    def describe(study: Any) -> dict:
        named = _lm_eval_tasks(study.profile)[task]
        return load_function("evaluation.harness:describe_task")(named, _lm_eval_task(study, task))

    task = PurePath(named).stem
    name = f"lm_eval:{task}"
    wanted = partial(_has_lm_eval_task, task)
    METRICS.add(name, MetricSpec(name, task, "accuracy", name, measure, describe, wanted), measure)


def register_task(task: str) -> None:
    """Make a profile's task known as the metric `task:<name>`; it is an accuracy."""

    def measure(study: Any, lm: Any) -> Any:
        return load_function("evaluation.tasks:measure_task")(study, lm, task)

    def describe(study: Any) -> dict:
        return load_function("evaluation.tasks:describe_task")(study, task)

    name = task_metric(task)
    spec = MetricSpec(
        name,
        f"Accuracy, {task}",
        "accuracy",
        name,
        measure,
        describe,
        partial(_has_task, task),
        code=("evaluation.tasks", "evaluation.protocols"),
    )
    METRICS.add(name, spec, measure)


def task_metric(task: str) -> str:
    """The metric of a task beside the profile's exam."""
    return f"task:{task}"


def _has_task(task: str, profile: Any) -> bool:
    return task in profile.tasks


def _lm_eval_tasks(profile: Any) -> dict[str, str]:
    """What a profile names as tasks of lm-eval, by the tasks' names."""
    return {PurePath(named).stem: named for named in profile.evaluation.lm_eval_tasks}


def _has_lm_eval_task(task: str, profile: Any) -> bool:
    return task in _lm_eval_tasks(profile)


def _lm_eval_task(study: Any, task: str) -> Any:
    named = _lm_eval_tasks(study.profile)[task]
    return load_function("evaluation.harness:find_task")(named, study.root)


def metric_names(profile: Any) -> list[str]:
    """The metrics of a `Profile`, in the order in which they are measured."""
    return [name for name, spec in METRICS.items() if spec.is_wanted(profile)]


def probe_names() -> list[str]:
    """What `evaluation.probes` may name: the data of the library's metrics, and own metrics."""
    names = [spec.data if spec.is_shipped else spec.name for spec in METRICS.values()]
    return [
        n for n in dict.fromkeys(names) if n != "exam" and not n.startswith(("lm_eval:", "task:"))
    ]


def describe_data(study: Any, names: list[str]) -> dict[str, dict]:
    """The parts about data of a study (`Materials`) that these metrics are measured on, by name."""
    return {
        METRICS[name].data: load_function(METRICS[name].describe)(study) for name in reversed(names)
    }


def _ship(name: str, title: str, unit: Unit, data: str, measure: str, **more: Any) -> None:
    measure, describe = f"evaluation.measuring:{measure}", f"evaluation.parts:{data}"
    METRICS.add(name, MetricSpec(name, title, unit, data, measure, describe, **more), measure)


def _beside_the_papers(probe: str, source: str) -> Callable[[Any], bool]:
    """Whether a profile measures a probe on a source of the paper's, and lm-eval's protocol too."""
    return lambda profile: (
        profile.evaluation.standard
        and probe in profile.evaluation.probes
        and getattr(profile.probes, source) is not None
    )


_ship(
    "exam_accuracy", "Exam accuracy", "accuracy", "exam", "exam",
    wanted=lambda profile: True,
    settings=("evaluation.split", "exam.option_rows"),
    code=("evaluation.protocols",),
)  # fmt: skip
_ship(
    "letter_accuracy", "Exam accuracy, letters", "accuracy", "exam", "letters",
    wanted=lambda profile: (
        profile.evaluation.standard
        and profile.exam.name == "medmcqa"
        and profile.exam.format == "lettered"
    ),
    settings=("evaluation.split",),
    code=("evaluation.protocols",),
)  # fmt: skip
_ship(
    "prose_perplexity", "Prose perplexity", "perplexity", "prose", "prose",
    settings=("probes.wikitext.window",),
    code=("evaluation.protocols",),
)  # fmt: skip
_ship(
    "word_perplexity", "Prose perplexity, a word", "perplexity", "prose", "words",
    wanted=_beside_the_papers("prose", "wikitext"),
    code=("evaluation.protocols", "tasks.corpora"),
)  # fmt: skip
_ship(
    "knowledge_accuracy", "Knowledge accuracy", "accuracy", "knowledge", "knowledge",
    code=("evaluation.protocols",),
)  # fmt: skip
_ship(
    "exact_match", "Knowledge, exact match", "accuracy", "knowledge", "exact_match",
    wanted=_beside_the_papers("knowledge", "triviaqa"),
    code=("evaluation.protocols",),
)  # fmt: skip
_ship("self_kl", "KL from the base", "nats", "self_text", "self_kl")
_ship(
    "prose_kl", "KL from the base on prose", "nats", "prose", "prose_kl",
    settings=("probes.wikitext.window",),
    code=("tasks.corpora",),
)  # fmt: skip
