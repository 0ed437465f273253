"""What a result depends on, in one place: the key of a training, of a metric, of counted reads.

A key is made of named parts, so that two keys can be compared and the difference said: "training
rows changed". Snakemake repeats a run when its key changes, `work/` keeps what is finished under
its key, a record holds its keys, and pages compare them with today's (`record_state`).

`study` is everywhere a `materials.Materials`, whose data and model are found and read, but never a
model loaded. (It names its own files by these keys, so it is not imported here.)

What is in no key changes no number: a label, which probes are measured, `batch_tokens` (scores do
not depend on it beyond rounding), `checkpoint_every`, comments, docstrings, the texts of errors.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

from ..method.config import SparseMemoryConfig
from ..method.registration import NAME as SPARSE_MEMORY
from ..method.rules import RULES
from .baselines import BASELINES
from .code import code_digest, function_digest, rule_digest
from .files import short_hash
from .metrics import COMMON_CODE, METRICS, metric_names
from .precision import resolve_precision
from .profiles import Profile, RunSpec
from .records.record import KeysPart, Record
from .registry import load_function
from .sequences import OF_STAGES
from .settings import BackgroundSettings
from .tasks.formats import Cloze

METHOD = tuple(  # what decides the numbers; settings count by their values
    f"method/{name}.py"
    for name in (
        "background", "kernels", "layer", "mlp", "operators", "padding", "row_adam",
        "row_steps", "rules", "sites", "tape", "text_part", "tuner",
    )
)  # fmt: skip
TRAINING = (
    "method/row_adam.py",  # the optimizer of every method
    "method/row_steps.py",
    "study/build.py",
    "study/models.py",
    "study/precision.py",
    "study/tasks/formats.py",
    "study/training/[!b]*.py",
)
PRECISIONS = ("bf16", "fp32")  # what `resolve_precision` gives
WRITING = ("study/precision.py", "study/tasks/own_text.py")
Parts = dict[
    str, Callable[[], str]
]  # the digest of each part's content, found when it is asked for
# fields of a model's configuration that say how it was found and written
OF_WRITING = {"transformers_version", "is_local", "local_files_only", "name_or_path"}
DATA = {"training rows", "background", "questions", "questions of knowledge", "articles"}


@dataclasses.dataclass(frozen=True)
class Key:
    """What something depends on: the digest of each part's content, by the part's name."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """A short name for all parts together."""
        return short_hash(self.parts)

    def changed(self, earlier: Mapping[str, str]) -> list[str]:
        """Names of the parts that are not what they were."""
        names = [*self.parts, *(name for name in earlier if name not in self.parts)]
        return [name for name in names if self.parts.get(name) != earlier.get(name)]


@dataclasses.dataclass(frozen=True)
class RunKeys:
    """The key of a run's training, and of each of its metrics (which hold the former)."""

    training: Key
    metrics: Mapping[str, Key]

    @property
    def digest(self) -> str:
        """A short name for all keys of the run."""
        return short_hash(self.training.digest, {n: k.digest for n, k in self.metrics.items()})


# ---------------------------------------------------------------------- the keys


def training_key(study: Any, spec: RunSpec) -> Key:
    """What the weights of a run depend on."""
    return _key(_training_parts(study, spec))


def metric_key(study: Any, spec: RunSpec, metric: str, training: Key | None = None) -> Key:
    """What one metric of a run depends on. `training` is the run's training key, if it is known."""
    training = training or training_key(study, spec)
    return _key({"training": lambda: training.digest, **_metric_parts(study, metric)})


def run_keys(study: Any, spec: RunSpec) -> RunKeys:
    """The keys of a run and of the metrics that its profile asks for."""
    training = training_key(study, spec)
    names = metric_names(study.profile)
    return RunKeys(training, {n: metric_key(study, spec, n, training) for n in names})


def reads_key(
    study: Any,
    config: SparseMemoryConfig,
    parent: RunSpec | None = None,
    background: BackgroundSettings | None = None,
) -> Key:
    """What the background reads of a memory depend on.

    `parent` is the run that trained the memory before, None for a new memory; `background` the
    settings of the text, None for the profile's.
    """
    unread = ("rule", "rows_per_step", "max_grad_norm", "trainable", "update")
    shape = {n: v for n, v in _memory_settings(config).items() if n not in unread}
    return Key(
        {
            "memory settings": short_hash(shape),
            "background": _background(study, background or study.profile.background),
            "model": _model(study),
            "precision": _precision(study),
            "run that it goes on from": training_key(study, parent).digest if parent else "",
            "code of the method": code_digest(*METHOD),
        }
    )


def memory_key(study: Any) -> Key:
    """What the notebooks that look at the profile's untrained memory depend on."""
    config = SparseMemoryConfig(**study.profile.memory.model_dump())
    parts = dict(reads_key(study, config).parts)
    parts["memory settings"] = short_hash(_memory_settings(config))
    parts["code of the rules"] = short_hash({name: rule_digest(name) for name in RULES})
    return Key({**parts, "training rows": _training_rows(study, False)})


def own_text_key(study: Any, sequences: int, tokens: int, seed: int) -> Key:
    """What a text that the base model writes depends on."""
    return Key(
        {
            "model": _model(study),
            "text of the base model": short_hash(sequences, tokens, seed),
            "code of writing": code_digest(*WRITING),
        }
    )


def parent_of(profile: Profile, spec: RunSpec) -> RunSpec | None:
    """The run whose trained memory or weights this one goes on from, or None."""
    start = spec.settings.start
    if start is None:
        return None
    rate = spec.learning_rate if spec.settings.kind == "full" else None
    if spec.settings.task is not None:
        swept = isinstance(profile.methods[start].learning_rate, list)
        rate = spec.learning_rate if swept else None
    return profile.run(start, spec.seed, rate)


# ---------------------------------------------------------------------- comparing


def record_state(record: Record, study: Any) -> str:
    """What has changed since a record was made.

    Args:
        record: a `Record` of the study's profile.
        study: today's settings, data and model; the model itself is not loaded.

    Returns:
        "current", "before keys were kept", or "other ..." with what is not as it was: code, data,
        model, settings ("other code and data").
    """
    if record.keys is None:
        return "before keys were kept"
    try:
        spec = study.profile.run(record.method, record.seed, record.learning_rate)
    except ValueError:
        return "other settings"
    found = {about(part) for part in changed_parts(record.keys, study, spec)}
    return f"other {' and '.join(sorted(found))}" if found else "current"


def about(part: str) -> str:
    """What a part of a key is about: "code", "data", "model" or "settings"."""
    if part.startswith("code of "):
        return "code"
    if part in DATA or part.startswith(("data of ", "text of ")):
        return "data"
    return "model" if part == "model" else "settings"


def changed_parts(keys: KeysPart, study: Any, spec: RunSpec) -> list[str]:
    """Names of the parts of a record's `keys` that are not what they are today.

    Not compared are a precision that the profile leaves to the machine ("auto"), metrics that the
    record or today's profile does not have, and data or a model that cannot be found here.
    """
    left_open = study.profile.training.precision == "auto"
    if left_open:
        study = _in_precision_of(study, keys)
    found = _changed(_training_parts(study, spec), keys.training.parts)
    for name in metric_names(study.profile):
        if name in keys.metrics:
            kept = dict(keys.metrics[name].parts)
            kept.pop("training")
            found += _changed(_metric_parts(study, name), kept)
    if left_open:
        found = [part for part in found if part != "precision"]
    return list(dict.fromkeys(found))


def _in_precision_of(study: Any, keys: KeysPart) -> Any:
    """The study with the precision of a record, in which the run that it goes on from was, too."""
    for precision in PRECISIONS:
        if short_hash(precision) == keys.training.parts.get("precision"):
            views = study.__dict__.setdefault("in_precision", {})
            if precision not in views:
                training = study.profile.training.model_copy(update={"precision": precision})
                profile = study.profile.model_copy(update={"training": training})
                views[precision] = dataclasses.replace(study, profile=profile)
            return views[precision]
    return study


def _changed(today: Parts, kept: Mapping[str, str]) -> list[str]:
    found = [name for name in kept if name not in today]
    for name, digest in today.items():
        try:
            if kept.get(name) != digest():
                found.append(name)
        except ValueError:  # not here, so not known to be another
            continue
    return found


# ---------------------------------------------------------------------- the parts


def _key(parts: Parts) -> Key:
    return Key({name: digest() for name, digest in parts.items()})


def _training_parts(study: Any, spec: RunSpec) -> Parts:
    study = study.at(spec)
    profile, method = study.profile, spec.settings
    if method.kind == "base":
        return {"method settings": lambda: short_hash("base"), "model": lambda: _model(study)}
    retrofit = method.stage == "retrofit"
    training = profile.training_of(method)
    sparse = method.peft_type == SPARSE_MEMORY
    background = profile.background_of(method)
    apart = {"label", "curve", "seeds", "start", "training", "background"} | {*OF_STAGES}
    own = method.model_dump(exclude=apart | ({"settings"} if sparse else set()))
    shared = training.model_dump(exclude={"checkpoint_every", "precision"})
    parts = {
        "method settings": lambda: short_hash(own),
        "training settings": lambda: short_hash(shared),
        "training rows": lambda: _training_rows(study, retrofit),
        "model": lambda: _model(study),
        "seed": lambda: short_hash(spec.seed),
        "precision": lambda: _precision(study),
        "code of training": lambda: code_digest(*TRAINING),
    }
    if sparse:
        config = method.peft_config(profile.memory, training.max_grad_norm)
        parts["memory settings"] = lambda: short_hash(_memory_settings(config))
        parts["code of the method"] = lambda: code_digest(*METHOD)
        if config.update == "sparse":
            parts["background"] = lambda: _background(study, background)
            parts["code of the rule"] = lambda: rule_digest(config.rule)
    if method.baseline is not None:
        baseline = BASELINES.find(method.baseline)
        text = baseline.settings(method.baseline_settings).get("text")
        parts["code of the baseline"] = lambda: _baseline_code(baseline.apply)
        if text == "retrofit":
            parts["text of the baseline"] = lambda: _training_rows(study, True)
        elif text == "background":
            parts["text of the baseline"] = lambda: _background(study, background)
        elif not isinstance(baseline.apply, str):  # a user's may ask for either
            parts["text of the baseline"] = lambda: short_hash(
                _background(study, background),
                _training_rows(study, True) if profile.retrofit else "",
            )
    parent = parent_of(profile, spec)
    if parent is not None:
        parts["run that it goes on from"] = lambda: training_key(study, parent).digest
        if method.task is not None:
            parts["code of sequences"] = lambda: code_digest("study/sequences.py")
    return parts


def _baseline_code(apply: Callable | str) -> str:
    if not isinstance(apply, str):  # a user's
        return function_digest(apply)
    module = apply.partition(":")[0].replace(".", "/")
    return code_digest("study/baselines.py", f"study/{module}.py")


def _metric_parts(study: Any, metric: str) -> Parts:
    spec = METRICS.find(metric)
    data, content = _DATA.get(spec.data) or (f"data of {spec.data}", load_function(spec.describe))
    modules = [f"study/{module.replace('.', '/')}.py" for module in (*COMMON_CODE, *spec.code)]
    parts = {
        data: lambda: _once(study, f"data {spec.data}", lambda: content(study)),
        "metric settings": lambda: short_hash([_setting(study, name) for name in spec.settings]),
        "precision": lambda: _precision(study),
        "code of measuring": lambda: code_digest(*modules),
    }
    if METRICS.source_of(metric) is not None:  # a user's
        parts[f"code of {metric}"] = lambda: function_digest(load_function(spec.measure))
    return parts


def _setting(study: Any, place: str) -> Any:
    """The value of a field of the profile, named with dots; None where a part of it is not set."""
    value = study.profile
    for name in place.split("."):
        value = getattr(value, name, None)
    return value


def _once(study: Any, name: str, content: Callable[[], Any]) -> str:
    """The digest of some content of a study, computed once for a study."""
    kept = study.__dict__.setdefault("digests", {})
    if name not in kept:
        try:
            kept[name] = short_hash(content())
        except ValueError as error:  # what is not here is looked for once
            kept[name] = error
    if isinstance(kept[name], ValueError):
        raise kept[name]
    return kept[name]


def _precision(study: Any) -> str:
    return short_hash(resolve_precision(study.profile.training.precision))


def _memory_settings(config: SparseMemoryConfig) -> dict:
    """The settings of a memory that are its own, without those of every PEFT configuration.

    What is None is left out, so that a new setting that changes nothing changes no key; and so are
    `values_dtype` where tables are in float32, as all were before there was a choice, and
    `save_rows`, which changes how a folder is written and no number.
    """
    inherited = {f.name for f in dataclasses.fields(type(config).__mro__[1])} | {"target_modules"}
    return {
        name: value
        for name, value in vars(config).items()
        if value is not None
        and name not in inherited
        and not name.startswith("_")
        and (name, value) != ("values_dtype", "float32")
        and name != "save_rows"
    }


def _model(study: Any) -> str:
    """Weights, configuration and tokenizer; not with what and where they were written."""

    def content() -> list:
        files = study.model_files
        sums = [files.sha256]
        for path in sorted(files.path.iterdir()):
            if path.suffix not in (".json", ".jinja", ".model", ".txt"):
                continue
            if path.name == "manifest.json" or path.name.endswith(".index.json"):
                continue
            text = path.read_bytes().decode("utf-8", "surrogateescape")
            if path.name in ("config.json", "generation_config.json", "tokenizer_config.json"):
                text = {n: v for n, v in json.loads(text).items() if n not in OF_WRITING}
            sums.append([path.name, short_hash(text)])
        return sums

    return _once(study, "model", content)


def _training_rows(study: Any, retrofit: bool) -> str:
    if retrofit:
        return _once(study, "retrofit rows", lambda: study.texts("retrofit"))
    return _once(study, "training rows", lambda: _questions(study, study.exam.train))


def _questions(study: Any, questions: list) -> list:
    """Exam questions as they are read and answered."""
    form = study.format
    return [[dataclasses.asdict(q), form.prompt(q), form.continuations(q)] for q in questions]


def _background(study: Any, settings: BackgroundSettings) -> str:
    if settings.learned and study.learned:
        return short_hash(
            _background(study, settings.model_copy(update={"learned": False})),
            [_training_rows(study.of_task(task), False) for task in study.learned],
        )
    if settings.text is None:
        return own_text_key(study, settings.sequences, settings.tokens, settings.seed).digest
    name = f"background {short_hash(settings.model_dump())}"
    return short_hash(
        _once(study, name, lambda: study.texts("background", settings)), settings.tokens
    )


def _exam(study: Any) -> list:
    return _questions(study, study.exam.split(study.profile.evaluation.split))


def _prose(study: Any) -> list:
    return [a if isinstance(a, str) else dataclasses.asdict(a) for a in study.prose]


def _knowledge(study: Any) -> list:
    form = Cloze()
    questions, shown = study.knowledge
    asked = [[dataclasses.asdict(q), form.prompt(q)] for q in questions]
    return [asked, [[[form.prompt(q), q.answer] for q in shots] for shots in shown]]


def _self_text(study: Any) -> str:
    s = study.profile.probes
    return own_text_key(study, s.self_text_sequences, s.self_text_tokens, s.self_text_seed).digest


# What metrics are measured on: what that is called among the parts of a key, and its content. A
# probe of one's own describes its data itself.
_DATA: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "exam": ("questions", _exam),
    "prose": ("articles", _prose),
    "knowledge": ("questions of knowledge", _knowledge),
    "self_text": ("text of the base model", _self_text),
}
