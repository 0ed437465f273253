"""The names that users import: changing one breaks their code, so it is made here too."""

from __future__ import annotations

import inspect
import re

import pytest

import smf_lib

NAMES = {
    "ProductKeyMemory",
    "RowAdamW",
    "RowPatch",
    "RowSGD",
    "SparseMemoryCallback",
    "SparseMemoryConfig",
    "TrainingState",
    "collect_background",
    "compose",
    "export",
    "memories",
    "read_rows",
    "register_rule",
    "save_touched",
    "select_rows",
    "shard_base",
}
LATER = {"SparseMemoryCallback", "TrainingState", "export", "shard_base"}  # when asked for


def test_the_public_names_are_these_and_no_others():
    assert set(smf_lib.__all__) == NAMES and len(smf_lib.__all__) == len(NAMES)
    there = {
        name
        for name, value in vars(smf_lib).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert there <= NAMES == {*dir(smf_lib)}
    assert NAMES - there <= LATER
    with pytest.raises(AttributeError, match="no attribute 'SparseMemory'"):
        smf_lib.SparseMemory  # noqa: B018


@pytest.mark.parametrize("name", sorted(NAMES))
def test_help_explains_every_argument(name):
    thing = getattr(smf_lib, name)
    text = inspect.getdoc(thing)
    assert text and thing.__doc__  # its own and not that of a parent
    if name in ("RowAdamW", "RowSGD"):
        assert f"arguments of `torch.optim.{name.removeprefix('Row')}`" in text
        return
    arguments = {"self", "kwargs", "task_type", "peft_type", "auto_mapping", "peft_version"}
    arguments |= {"base_model_name_or_path", "revision", "inference_mode"}  # PEFT's
    for argument in inspect.signature(thing).parameters.keys() - arguments:
        assert re.search(rf"^ +(\w+, )*{argument}(, \w+)*: |`{argument}`", text, re.MULTILINE), (
            argument
        )
