"""How PEFT knows the method: by a member of its own enum and its own registration."""

import peft
from helpers_models import memory_config

from smf_lib.method import registration
from smf_lib.method.config import SparseMemoryConfig
from smf_lib.method.tuner import SparseMemoryModel


def test_the_member_added_to_the_enum_is_like_those_that_peft_has():
    member = peft.PeftType[registration.NAME]
    assert member is peft.PeftType(registration.NAME) is peft.PeftType.SPARSE_MEMORY
    assert isinstance(member, peft.PeftType) and member == "SPARSE_MEMORY"
    assert list(peft.PeftType).count(member) == 1 and member in set(peft.PeftType)
    assert memory_config().peft_type is member
    assert peft.PeftType.LORA is peft.PeftType("LORA") and len(set(peft.PeftType)) > 10


def test_registering_again_puts_the_new_classes_in_place_of_the_old():
    class Config(SparseMemoryConfig):
        pass

    tuners = peft.mapping.PEFT_TYPE_TO_TUNER_MAPPING
    try:
        registration.register(Config, SparseMemoryModel)
        assert type(peft.get_peft_config({"peft_type": "SPARSE_MEMORY"})) is Config
    finally:
        registration.register(SparseMemoryConfig, SparseMemoryModel)
    assert type(peft.get_peft_config({"peft_type": "SPARSE_MEMORY"})) is SparseMemoryConfig
    assert tuners[registration.PEFT_TYPE] is SparseMemoryModel
