"""`SparseMemoryConfig` belongs to the user: nothing changes it, and `help` explains all of it."""

from __future__ import annotations

import copy
import inspect
import json
import re
from dataclasses import fields
from typing import get_args

import pytest
from helpers_models import memory_config, memory_model, tiny_model, tokens, train_step
from peft import PeftConfig, PeftModel, get_peft_model

from smf_lib import RowAdamW, SparseMemoryConfig, memories

OWN = {f.name: f for f in fields(SparseMemoryConfig)}
for general in fields(PeftConfig):
    del OWN[general.name]


def layers_of(model) -> list[int]:
    return [int(name.split(".")[4]) for name in memories(model)]


def test_one_configuration_serves_models_of_different_depths(tmp_path):
    config = memory_config(layers=None)
    before = copy.deepcopy(config)
    shallow = get_peft_model(tiny_model(), config)
    deep = get_peft_model(tiny_model(num_hidden_layers=12), config)
    assert layers_of(shallow) == [1, 2, 3] and layers_of(deep) == [3, 6, 9]
    changed = {name for name in vars(before) if getattr(before, name) != getattr(config, name)}
    assert changed <= {"base_model_name_or_path"}  # PEFT notes there which model it was
    assert config.layers is None and config.target_modules is None

    shallow.add_adapter("other", config)
    deep.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert saved["layers"] == [3, 6, 9] and len(saved["target_modules"]) == 3
    assert SparseMemoryConfig.from_pretrained(tmp_path).layers == [3, 6, 9]
    loaded = PeftModel.from_pretrained(tiny_model(num_hidden_layers=12), tmp_path)
    assert layers_of(loaded) == [3, 6, 9]


def test_the_model_keeps_to_what_it_was_built_with():
    config = memory_config()
    model = get_peft_model(tiny_model(), config)
    config.layers, config.trainable = [0], "memory"
    assert model.peft_config["default"].layers == [1, 2]
    model.set_adapter("default")
    trained = [n.rpartition(".")[2] for n, p in model.named_parameters() if p.requires_grad]
    assert set(trained) == {"values", "anchor"}
    train_step(model, RowAdamW([p for p in model.parameters() if p.requires_grad]), tokens(2, 9))


@pytest.mark.parametrize("name", OWN)
def test_every_setting_is_explained(name):
    text = inspect.getdoc(SparseMemoryConfig)
    assert text is not None
    explained = re.search(rf"^    {name}: (\S.*(?:\n        .*)*)", text, re.MULTILINE)
    assert explained and len(explained[1].split()) >= 5
    for choice in get_args(OWN[name].type):
        if isinstance(choice, str):
            assert f'"{choice}"' in explained[1]


def test_a_rule_that_is_not_registered_is_refused_unless_for_inference():
    with pytest.raises(ValueError, match="rule='klx' is unknown"):
        SparseMemoryConfig(rule="klx")
    config = SparseMemoryConfig(rule="klx", inference_mode=True)
    config.inference_mode = False
    with pytest.raises(ValueError, match="rule='klx' is unknown"):
        get_peft_model(tiny_model(), config)


def test_layers_start_differently_and_the_same_each_time():
    first, again, other = (memory_model(seed=seed) for seed in (1, 1, 2))
    keys = [[m.keys for m in memories(model).values()] for model in (first, again, other)]
    assert all((a == b).all() for a, b in zip(keys[0], keys[1]))
    assert not (keys[0][0] == keys[0][1]).all() and not (keys[0][0] == keys[2][0]).all()
