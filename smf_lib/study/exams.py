"""The exams of a study: what is learned, and what is tested.

Questions in a file of one's own need no code: the exam `choice` reads them. Where they have to be
made, write one function in a file of your own and name that file in the profile's `imports`; then
`exam: {name: sums, test_rows: 50}` is it:

    from smf_lib.study.exams import register_exam
    from smf_lib.study.tasks.exam import ExamQuestion, make_exam

    @register_exam("sums")
    def sums(settings, root):
        found = [
            ExamQuestion(f"sum-{n}", f"What is {n} + 2?", [str(n + 1), str(n + 2), str(n + 3)], 1)
            for n in range(200)
        ]
        return make_exam("sums", found[50:], [], found[: settings.test_rows])
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .registry import Registry, load_function
from .settings import (
    AirportsSettings,
    ChoiceSettings,
    CitiesSettings,
    ExamSettings,
    MedMCQASettings,
    NamedSettings,
    OwnExamSettings,
)

if TYPE_CHECKING:
    from .tasks.exam import Exam

Build = TypeVar("Build", bound=Callable)


@dataclass(frozen=True)
class ExamSpec:
    """One exam.

    Attributes:
        name: what a profile calls it.
        settings: class of the profile's `exam` fields.
        build: function of (settings, the study's root folder) that gives an `Exam`.
        code: modules of `smf_lib.study` that make its questions.
    """

    name: str
    settings: type[NamedSettings]
    build: Callable[[NamedSettings, Path], Exam] | str
    code: tuple[str, ...] = ()


EXAMS: Registry[ExamSpec] = Registry("exam.name")


def register_exam(
    name: str, settings: type[NamedSettings] = OwnExamSettings
) -> Callable[[Build], Build]:
    """Decorator that makes a function known as the exam `name`; see `ExamSpec`.

    settings: by default `OwnExamSettings`: the rows of each split and a seed.

    Raises:
        ValueError: settings that are none of an exam, or a name that another function has.
    """
    if not issubclass(settings, NamedSettings):
        raise ValueError(  # noqa: TRY004
            f"settings={settings.__name__} has no name for an exam; derive it from "
            "smf_lib.study.settings.OwnExamSettings, or from NamedSettings there"
        )

    def register(build: Build) -> Build:
        EXAMS.add(name, ExamSpec(name, settings, build), build)
        return build

    return register


def build_exam(settings: NamedSettings, root: str | Path) -> Exam:
    """The exam that a profile's settings describe.

    Raises:
        ValueError: no such exam, no right number of questions, or what its builder refuses.
    """
    exam = load_function(EXAMS.find(settings.name).build)(settings, Path(root))
    if not exam.train:
        raise ValueError(f"exam.name={settings.name!r} has no question to train on")
    return exam


def _ship(name: str, settings: type[NamedSettings], build: str, *code: str) -> None:
    EXAMS.add(name, ExamSpec(name, settings, build, code), build)


OPTIONS = ("tasks.options", "tasks.exam")
_ship("icd10", ExamSettings, "tasks.icd10:build_icd10", "tasks.icd10", *OPTIONS)
_ship("airports", AirportsSettings, "tasks.airports:build_airports", "tasks.airports", *OPTIONS)
_ship("cities", CitiesSettings, "tasks.airports:build_cities", "tasks.airports", *OPTIONS)
_ship("medmcqa", MedMCQASettings, "tasks.medmcqa:build_medmcqa", "tasks.medmcqa", "tasks.exam")
_ship("choice", ChoiceSettings, "tasks.choice:build_choice", "tasks.choice", "tasks.exam")
