"""Profiles: everything that a run depends on, in one YAML file that pydantic checks.

A profile names the model, the exam, the probes, the memory, the training settings and the methods
to compare; its parts are described in `settings`. `Profile.runs()` lists the runs that it stands
for.
"""

from __future__ import annotations

import dataclasses
import math
import re
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, cast

import yaml
from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from .baselines import BASELINES
from .exams import EXAMS
from .files import KEPT
from .imports import import_file
from .methods import MemorySettings, MethodSettings
from .metrics import register_task
from .names import Name, check_name, check_text, texts_in
from .sequences import stages
from .settings import (
    BackgroundSettings,
    EvaluationSettings,
    ExamSettings,
    ModelSettings,
    NamedSettings,
    ProbeSettings,
    RetrofitSettings,
    Seed,
    Settings,
    TrainingSettings,
)

TAKEN = ("published", "benchmarks")  # folders of other things below work/ and results/
OWN_FIELDS = ("settings.", "training.", "background.")  # of a method
MOST_BYTES = 1_000_000  # of a profile's file; the largest of those here has 5,000
MOST_ENTRIES = 100_000  # with each alias of YAML counted as often as it stands for something
PACKAGE = Path(__file__).resolve().parents[1]
# At the repository's top; a wheel carries them inside the package.
PROFILE_DIR = next(d for d in (PACKAGE / "profiles", PACKAGE.parent / "profiles") if d.is_dir())


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """One run: a method with one learning rate and one seed."""

    run_id: str
    method: str
    settings: MethodSettings
    seed: int

    @property
    def learning_rate(self) -> float | None:
        """The run's learning rate, None for the base model."""
        return cast("float | None", self.settings.learning_rate)  # `Profile.run` chose one


def _of_its_kind(value: Any) -> Any:
    """The settings of an exam, of the class that goes with its name."""
    if not isinstance(value, dict):
        return value
    named = NamedSettings(name=value.get("name", "icd10"))
    return EXAMS.find(named.name).settings.model_validate({**value, "name": named.name})


ExamOfItsKind = Annotated[SerializeAsAny[NamedSettings], BeforeValidator(_of_its_kind)]


class Profile(Settings):
    """A whole study."""

    name: Name
    title: str
    description: str
    means_nothing: bool = False  # for pipelines under test: pages say that the numbers mean nothing
    model: ModelSettings = ModelSettings()
    imports: list[str] = Field(
        []
    )  # a user's Python files, from this profile's folder; see `imports`
    exam: ExamOfItsKind = ExamSettings()
    tasks: dict[Name, ExamOfItsKind] = Field(default_factory=dict)  # beside `exam`
    sequences: list[list[Name]] = Field(default_factory=list)  # see `sequences`
    probes: ProbeSettings = ProbeSettings()
    background: BackgroundSettings = BackgroundSettings()
    memory: MemorySettings = MemorySettings()
    training: TrainingSettings = TrainingSettings()
    retrofit: RetrofitSettings | None = None
    evaluation: EvaluationSettings = EvaluationSettings()
    methods: dict[Name, MethodSettings] = Field(min_length=1)
    seeds: list[Seed] = Field([0], min_length=1)
    keep: Literal["adapters", "full"] = "adapters"  # "full": also the weights of full finetuning

    @model_validator(mode="before")
    @classmethod
    def _one_after_another(cls, content: Any) -> Any:
        """Each arm as the methods of its stages; what has a task is one already."""
        if not isinstance(content, dict) or not content.get("sequences"):
            return content
        methods, sequences = content.get("methods"), content["sequences"]
        if not isinstance(methods, dict) or all(map(_is_stage, methods.values())):
            return content
        if not _lists_names(sequences) or not all(isinstance(m, dict) for m in methods.values()):
            return content  # as the checks of these fields say
        for name, method in methods.items():
            if not isinstance(method.get("first"), (str, NoneType)):
                raise ValueError(  # noqa: TRY004
                    f"methods.{name}.first={method['first']!r} must be the name of a method"
                )
        return content | {"methods": stages(methods, sequences)}

    @field_validator("tasks")
    @classmethod
    def _measured(cls, value: dict[str, NamedSettings]) -> dict[str, NamedSettings]:
        for name in value:
            register_task(name)
        return value

    @field_validator("seeds")
    @classmethod
    def _different(cls, value: list[int]) -> list[int]:
        if len(set(value)) < len(value):
            raise ValueError(f"seeds={value} must differ; leave out what stands twice")
        return value

    @model_validator(mode="after")
    def _sequences_are_of_tasks(self) -> Self:
        if self.exam.name in self.tasks:
            raise ValueError(f"tasks.{self.exam.name} has the name of the exam; choose another")
        for tasks in self.sequences:
            unknown = [task for task in tasks if task not in self.task_names]
            if unknown or not tasks or len(set(tasks)) < len(tasks):
                raise ValueError(
                    f"sequences: {tasks} must be one or more different tasks of "
                    f"{', '.join(self.task_names)}"
                )
        return self

    @model_validator(mode="after")
    def _methods_build(self) -> Self:
        for name, method in self.methods.items():
            try:
                if method.stage == "retrofit" and self.retrofit is None:
                    raise ValueError("stage='retrofit' needs the profile's `retrofit` settings")
                self._check_start(method)
                self._check_own(method)
                if method.baseline_settings.get("text") == "retrofit" and self.retrofit is None:
                    raise ValueError("text='retrofit' needs the profile's `retrofit` settings")
                if method.kind == "peft":
                    self.complete(method).peft_config(self.memory)
            except ValueError as error:
                between = "." if str(error).startswith(OWN_FIELDS) else ": "
                raise ValueError(f"methods.{name}{between}{error}") from None
        return self

    def _check_own(self, method: MethodSettings) -> None:
        """Raise ValueError, naming them, unless the fields of a method's own can be."""
        for part, of_method in (("training", self.training_of), ("background", self.background_of)):
            try:
                of_method(method)
            except ValidationError as error:
                said = [
                    f"{'.'.join(map(str, (part, *e['loc'])))} = {e['input']!r}: {e['msg']}"
                    for e in error.errors()
                ]
                raise ValueError("; ".join(said)) from None

    def _check_start(self, method: MethodSettings) -> None:
        if method.task is not None and method.task not in self.task_names:
            raise ValueError(f"task={method.task!r} must be one of {', '.join(self.task_names)}")
        if method.start is None:
            return
        seen, before = {method.start}, self.methods.get(method.start)
        while before is not None and before.start is not None:
            if before.start in seen:
                raise ValueError(f"start={method.start!r} goes round in a circle; name another")
            seen.add(before.start)
            before = self.methods.get(before.start)
        parent = self.methods.get(method.start)
        if method.task is not None:
            if parent is None or (parent.kind, parent.peft_type) != (method.kind, method.peft_type):
                raise ValueError(f"start={method.start!r} must name a stage of the same kind")
            return
        if method.baseline is not None and BASELINES.find(method.baseline).needs_start:
            self._check_finetuning(method, parent)
            return
        retrofits = [name for name, m in self.methods.items() if m.stage == "retrofit"]
        if parent is None or parent.stage != "retrofit" or isinstance(parent.learning_rate, list):
            raise ValueError(
                f"start={method.start!r} must name a method of stage 'retrofit' with one learning "
                f"rate; this profile has {', '.join(retrofits) or 'none'}"
            )

    def _check_finetuning(self, method: MethodSettings, parent: MethodSettings | None) -> None:
        """Raise ValueError unless `start`, and the learning rate, name a full finetuning."""
        if parent is None or parent.kind != "full" or parent.start is not None:
            raise ValueError(f"start={method.start!r} must name a full finetuning")
        rates, own = _listed(parent.learning_rate), _listed(method.learning_rate)
        if not own and len(rates) > 1:
            raise ValueError(
                f"start={method.start!r} is swept over {rates}; name one of them as this method's "
                "learning_rate"
            )
        if not set(own) <= set(rates):
            raise ValueError(
                f"learning_rate={method.learning_rate} must be of start={method.start!r}, which "
                f"has {rates}"
            )

    @property
    def task_names(self) -> list[str]:
        """What can be learned: the exam, by its own name, and `tasks`."""
        return [self.exam.name, *self.tasks]

    def exam_of(self, task: str | None) -> NamedSettings:
        """The settings of a task, by default of the profile's exam."""
        return self.exam if task is None else self.tasks.get(task, self.exam)

    @cached_property
    def draws_rows(self) -> bool:
        """Whether what runs are trained on, or their background, is drawn from their own seeds."""
        exams = [getattr(exam, "train_seed", None) for exam in (self.exam, *self.tasks.values())]
        texts = [self.background_of(method).text for method in self.methods.values()]
        texts += [self.retrofit.text] if self.retrofit else []
        return "run" in exams or any(text is not None and text.seed == "run" for text in texts)

    def training_of(self, method: MethodSettings) -> TrainingSettings:
        """The training settings of a method: those of its stage, with its own put over them."""
        retrofit = self.retrofit if method.stage == "retrofit" else None
        return method.trained_with(retrofit.training if retrofit else self.training)

    def background_of(self, method: MethodSettings) -> BackgroundSettings:
        """The background settings of a method: the profile's, with its own put over them."""
        return method.background_with(self.background)

    def seeds_of(self, method: str) -> list[int]:
        """The seeds of a method: its own, or the profile's; the base model has one."""
        settings = self.methods[method]
        return [0] if settings.kind == "base" else settings.seeds or self.seeds

    def is_kept(self, spec: RunSpec) -> bool:
        """Whether a run keeps what it trained.

        Adapters always do. Weights of full finetuning are kept where the profile says so, and where
        another method starts from them (of seeds that no one listed, all of them).
        """
        if spec.settings.kind != "full" or self.keep == "full":
            return True
        return any(
            method.start == spec.method
            and (
                method.task is not None
                or spec.learning_rate in _listed(self.complete(method).learning_rate)
            )
            and (spec.seed in self.seeds_of(name) or spec.seed not in self.seeds_of(spec.method))
            for name, method in self.methods.items()
        )

    def complete(self, method: MethodSettings) -> MethodSettings:
        """The method with the settings that it takes over from the one it starts from."""
        return method if method.start is None else method.after(self.methods[method.start])

    def stages_of(self, named: str) -> list[str]:
        """The methods that a name stands for: itself, or an arm's stages with all before them."""
        if named in self.methods or not self.sequences:
            return [named]
        wanted = {name for name in self.methods if name.startswith(f"{named}.")}
        for name in reversed(self.methods):
            start = self.methods[name].start
            if name in wanted and start is not None:
                wanted.add(start)
        return [name for name in self.methods if name in wanted] or [named]

    @property
    def is_like_the_paper(self) -> bool:
        """Whether it has the paper's exam, probes, texts and stage 1, and can stand beside it."""
        needed = (self.probes.wikitext, self.probes.triviaqa, self.retrofit, self.background.text)
        return self.exam.name == "medmcqa" and None not in needed

    def runs(self) -> list[RunSpec]:
        """Every run of this profile: base once, all others for each seed and learning rate.

        Methods come in the profile's order, of each its seeds, of each seed its learning rates.
        """
        runs = []
        for name, method in self.methods.items():
            rates = method.learning_rate
            for seed in self.seeds_of(name):
                for rate in rates if isinstance(rates, list) else [rates]:
                    runs.append(self.run(name, seed, rate))
        return runs

    def run(self, method: str, seed: int = 0, learning_rate: float | None = None) -> RunSpec:
        """One run, with another seed or learning rate than the profile's where given.

        Raises:
            ValueError: unknown method, or a sweep's method without a learning rate.
        """
        if not isinstance(method, str) or method not in self.methods:
            raise ValueError(
                f"method={method!r} is not in profile {self.name!r}; it has "
                f"{', '.join(self.methods)}"
            )
        settings = self.complete(self.methods[method])
        if settings.kind == "base":
            if learning_rate is not None:
                raise ValueError(f"learning_rate={learning_rate}: the base model is not trained")
            return RunSpec(method, method, settings, 0)
        rates = settings.learning_rate
        if learning_rate is None:
            if isinstance(rates, list):
                raise ValueError(
                    f"method={method!r} is swept over {rates} in profile {self.name!r}; "
                    "name one learning_rate"
                )
            learning_rate = rates
        if (
            not isinstance(learning_rate, (int, float))
            or isinstance(learning_rate, bool)
            or not 0 < learning_rate < math.inf
        ):
            raise ValueError(f"learning_rate={learning_rate!r} must be a positive number")
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
            raise ValueError(f"seed={seed!r} must be a whole number of at least 0, below 2**32")
        default = learning_rate == rates
        run_id = f"{method}-seed{seed}" if default else f"{method}-lr{learning_rate:g}-seed{seed}"
        return RunSpec(
            run_id, method, settings.model_copy(update={"learning_rate": learning_rate}), seed
        )


def load_profile(name_or_path: str | Path, directory: Path = PROFILE_DIR) -> Profile:
    """Load `profiles/<name>.yaml`, or a YAML file by its path.

    A profile that says `extends: other` is that other profile (a name, or a path from its own
    folder) with its own fields put over it: mappings are merged, everything else is replaced, and
    null takes an entry out. A mapping that names all entries below it has them in its own order.

    Raises:
        ValueError: no such profile (the message lists those there are), not YAML, profiles that
            extend each other, an import that fails, a name that is not the file's, a text with
            control characters, or a field that is unknown, twice there or out of range (the message
            names each field, its value and the rule).
    """
    if not isinstance(name_or_path, (str, Path)) or not str(name_or_path):
        raise ValueError(
            f"profile={name_or_path!r} must be the name of a profile, or the path of its YAML file"
        )
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = directory / f"{name_or_path}.yaml"
    content = _read_profile(path, directory, ())
    for place, text in texts_in(content):
        try:
            check_text(text, lines=place in ("title", "description"))
        except ValueError as error:
            raise ValueError(f"profile {path}: {place} = {error}") from None
    for file in content.get("imports", ()):
        import_file(Path(file))
    try:
        profile = Profile.model_validate(content)
    except ValidationError as error:
        lines = [_error_line(e["loc"], e["input"], e["msg"]) for e in error.errors()]
        raise ValueError(f"profile {path} has invalid fields:\n" + "\n".join(lines)) from None
    except (TypeError, AttributeError) as error:  # of settings that a user's file brings
        raise ValueError(
            f"profile {path} has a value of the wrong kind ({error}); see profiles/quick.yaml"
        ) from None
    if profile.name in (KEPT, *TAKEN):
        raise ValueError(
            f"name={profile.name!r} in profile {path} is that of a folder that all profiles "
            "share; choose another"
        )
    if profile.name != path.stem:
        raise ValueError(
            f"name={profile.name!r} in profile {path}: the name must be that of the file, "
            f"{path.stem!r}, since results are kept under it"
        )
    return profile


def _lists_names(content: Any) -> bool:
    """Whether content is a list of lists of texts."""
    return isinstance(content, list) and all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in content
    )


def _is_stage(method: Any) -> bool:
    """Whether a method, a mapping or settings, is a stage of a sequence, or the base model."""
    fields = method if isinstance(method, dict) else getattr(method, "__dict__", {})
    return fields.get("task") is not None or fields.get("kind") == "base"


def with_memory(profile: Profile, **settings: Any) -> Profile:
    """The profile with other settings of its memory; those that are None stay as they are.

    It has a name that says so, under which its runs are recorded: `quick-top_k-8`.

    Raises:
        ValueError: a setting that the memory does not have, or that cannot work.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if not given:
        return profile
    told = ", ".join(f"{name}={value!r}" for name, value in given.items())
    name = "-".join([profile.name, *(f"{name}-{value}" for name, value in given.items())])
    try:
        memory = MemorySettings.model_validate(profile.memory.model_dump() | given)
        return profile.model_copy(update={"name": check_name(name), "memory": memory})
    except ValueError as error:
        errors = error.errors() if isinstance(error, ValidationError) else [{"msg": str(error)}]
        why = "; ".join(str(one["msg"]) for one in errors)
        raise ValueError(f"{told} in the memory of profile {profile.name!r}: {why}") from None


def load_profiles(names: list[str]) -> list[Profile]:
    """Several profiles. Raises ValueError as `load_profile`, or if it is given no list."""
    if not isinstance(names, (list, tuple)):
        raise ValueError(f"{names!r} must be a list of names of profiles")  # noqa: TRY004
    return [load_profile(name) for name in names]


def _listed(rates: float | list[float] | None) -> list[float]:
    """One learning rate, several or none as a list."""
    return rates if isinstance(rates, list) else [] if rates is None else [rates]


def _error_line(place: tuple, value: object, message: str) -> str:
    """A field with dots, its value and the rule, from what pydantic says of an invalid profile."""
    if not place:  # of the whole profile; the message names the field
        return f"  {message}"
    return f"  {'.'.join(map(str, place))} = {value!r}: {message}"


class _Loader(yaml.SafeLoader):
    """YAML in which `5e-2` is a number, as in YAML 1.2 and JSON, and no field stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """A mapping, refused if a key is in it twice: only one of the values would count."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"{', '.join(twice)} stands twice in a mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), "-+0123456789"
)


def _read_profile(path: Path, directory: Path, extending: tuple[Path, ...]) -> dict:
    """The content of a profile file, with what it extends filled in."""
    if not _is_file(path):
        known = ", ".join(sorted(p.stem for p in directory.glob("*.yaml")))
        raise ValueError(
            f"profile={path.stem!r:.60} does not exist ({path!s:.200}); choose one of {known}, or "
            "give the path of a .yaml file"
        )
    if path.resolve() in extending:
        raise ValueError(f"extends={path.stem!r} goes round in a circle; take it out of {path}")
    content = _yaml_of(path)
    _resolve_imports(path, content)
    other = content.pop("extends", None)
    if other is None:
        return content
    if not isinstance(other, str):
        raise ValueError(  # noqa: TRY004
            f"profile {path}: extends={other!r} must be the name of a profile"
        )
    below = (
        path.parent / other if other.endswith((".yaml", ".yml")) else directory / f"{other}.yaml"
    )
    lower = _read_profile(below, directory, (*extending, path.resolve()))
    files = [*lower.get("imports", ()), *content.get("imports", ())]
    return _merged(lower, content) | ({"imports": files} if files else {})


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long
        return False


def _yaml_of(path: Path) -> dict:
    """The fields that a YAML file holds."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"profile {path} has {size} bytes; at most {MOST_BYTES} can be")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        entries = _entries(content, {})
    except UnicodeDecodeError as error:
        raise ValueError(
            f"profile {path} is not text in UTF-8 ({error.reason} at byte {error.start}); save it "
            "in UTF-8"
        ) from None
    except OSError as error:
        raise ValueError(f"profile {path} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"profile {path} is not YAML: {reason}") from None
    except RecursionError:
        raise ValueError(f"profile {path} is nested too deeply, or in itself") from None
    if not isinstance(content, dict):
        raise ValueError(f"profile {path} must be a YAML mapping of fields")  # noqa: TRY004
    if entries > MOST_ENTRIES:
        raise ValueError(
            f"profile {path} has {entries:.3g} entries, with its aliases written out; at most "
            f"{MOST_ENTRIES} can be"
        )
    return content


def _entries(content: object, known: dict[int, int]) -> int:
    """How many values a mapping or list holds, at any depth. RecursionError if it holds itself."""
    if not isinstance(content, (dict, list)):
        return 1
    if id(content) not in known:
        below = content.values() if isinstance(content, dict) else content
        known[id(content)] = 1 + sum(_entries(value, known) for value in below)
    return known[id(content)]


def _resolve_imports(path: Path, content: dict) -> None:
    """Make the files that a profile imports absolute, from its own folder."""
    files = content.get("imports") or []
    if not isinstance(files, list) or not all(isinstance(file, str) for file in files):
        raise ValueError(f"profile {path}: imports={files!r} must be a list of paths")
    if "imports" in content:
        content["imports"] = [str((path.parent / file).resolve()) for file in files]


def _merged(below: dict, above: dict) -> dict:
    """`below` with `above` put over it, mapping by mapping; null takes an entry out.

    Where `above` names all entries of a mapping, they stand in its order.
    """
    result = dict(below)
    for name, value in above.items():
        if value is None and isinstance(below.get(name), dict):
            result.pop(name)
        elif isinstance(value, dict) and isinstance(below.get(name), dict):
            result[name] = _merged(below[name], value)
        else:
            result[name] = value
    if below.keys() <= above.keys():
        return {name: result[name] for name in above if name in result}
    return result
