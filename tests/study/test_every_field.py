"""Every field of a profile refuses values of other kinds, in lines that name its path and value.

The table is made of the settings' own types, so that a field that comes to them is in it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from typing import Annotated, Any, get_args

import peft
import pytest
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from smf_lib import SparseMemoryConfig
from smf_lib.study import profiles
from smf_lib.study.exams import EXAMS
from smf_lib.study.profiles import PROFILE_DIR, Profile, load_profile
from smf_lib.study.settings import Settings

SMOKE = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
WRONG = [[], math.nan, {"a": 1}, "text", True]
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
ONE_OF_MANY = {"methods": "methods.lora"}  # a mapping of such settings: the one that is tried
# What decides which settings there are, or is looked at before them: see `test_wrong_values.py`.
OTHERS = {"exam", "exam.name", "tasks", "sequences", "memory", "imports"}


def wrong_values(annotation: Any, metadata: tuple | list = ()) -> list:
    """Those of `WRONG` that a type does not take."""
    kind = Annotated[(annotation, *metadata)] if metadata else annotation
    # settings have a configuration of their own
    own = None if isinstance(annotation, type) and issubclass(annotation, Settings) else STRICT
    adapter: TypeAdapter = TypeAdapter(kind, config=own)
    found = []
    for value in WRONG:
        try:
            adapter.validate_python(value)
        except ValidationError:
            found.append(value)
    return found


def settings_in(annotation: Any) -> type[Settings] | None:
    """The settings that a field holds, in a mapping or beside None too."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    return next(filter(None, map(settings_in, get_args(annotation))), None)


def leaves(settings: type[Settings], path: str = "") -> list[tuple[str, list]]:
    """The path of each field of settings, at any depth, and what it must refuse."""
    found = []
    for name, field in settings.model_fields.items():
        place = f"{path}{name}"
        if place in OTHERS:
            continue
        inner = settings_in(field.annotation)
        if inner is None:
            found.append((place, wrong_values(field.annotation, field.metadata)))
        else:
            found += leaves(inner, f"{ONE_OF_MANY.get(place, place)}.")
    return found


def exam_leaves() -> list[tuple[str, str, list]]:
    return [
        (name, *leaf)
        for name in ("icd10", "airports", "cities", "medmcqa", "choice")
        for leaf in leaves(EXAMS.find(name).settings, "exam.")
    ]


def memory_leaves() -> list[tuple[str, list]]:
    general = {field.name for field in dataclasses.fields(peft.PeftConfig)} | {"target_modules"}
    own = [f for f in dataclasses.fields(SparseMemoryConfig) if f.name not in general]
    return [(f"memory.{field.name}", wrong_values(field.type)) for field in own]


TABLE = [("icd10", *leaf) for leaf in leaves(Profile) + memory_leaves()] + exam_leaves()


def test_the_table_has_what_there_is():
    paths = {path for _, path, _ in TABLE}
    assert paths >= {"retrofit.text.split", "probes.triviaqa.shots_split", "exam.wordings",
                     "background.text.seed", "methods.lora.training", "memory.gated"}  # fmt: skip
    assert len(TABLE) > 100 and sum(len(values) for *_, values in TABLE) > 300
    assert all(len(values) >= 2 for *_, values in TABLE)


@pytest.mark.parametrize(("exam", "path", "values"), TABLE, ids=[f"{e}-{p}" for e, p, _ in TABLE])
def test_a_field_refuses_values_of_other_kinds(exam, path, values, monkeypatch):
    for value in values:
        content = copy.deepcopy(SMOKE) | {"name": "mine"}
        if exam != "icd10":
            content["exam"] = {"name": exam} | ({"source": "x.csv"} if exam == "choice" else {})
        place = content
        *above, last = path.split(".")
        for name in above:
            place = place.setdefault(name, {})
        place[last] = value
        monkeypatch.setattr(profiles, "_read_profile", lambda *_, made=content: made)
        with pytest.raises(ValueError, match=r"profile mine|profiles/mine") as raised:
            load_profile("mine")
        named = ".*".join(map(re.escape, [*above, last, repr(value)]))
        assert any(re.search(named, line) for line in str(raised.value).splitlines()), raised.value
