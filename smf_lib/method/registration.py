"""Makes PEFT know a method that is defined outside of it.

PEFT looks methods up by a member of the enum `peft.PeftType`, which is closed: this file adds one
member and then calls PEFT's own `register_peft_method`. Nothing else in PEFT is touched.
"""

from __future__ import annotations

from typing import Any

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils import register_peft_method

NAME = "SPARSE_MEMORY"
PREFIX = "smf_"


def _add_peft_type(name: str) -> PeftType:
    if name in PeftType.__members__:
        return PeftType[name]
    member: Any = str.__new__(PeftType, name)
    member._name_ = name
    member._value_ = name
    member._sort_order_ = len(PeftType._member_names_)
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)
    return member


PEFT_TYPE = _add_peft_type(NAME)


def register(config_cls: type, model_cls: type) -> None:
    """Register the method's configuration and tuner classes with PEFT.

    PEFT refuses a second registration; classes of a reloaded module take the place of the earlier.
    """
    if PEFT_TYPE in PEFT_TYPE_TO_TUNER_MAPPING:
        PEFT_TYPE_TO_CONFIG_MAPPING[PEFT_TYPE] = config_cls
        PEFT_TYPE_TO_TUNER_MAPPING[PEFT_TYPE] = model_cls
        return
    register_peft_method(
        name=NAME.lower(), config_cls=config_cls, model_cls=model_cls, prefix=PREFIX
    )
