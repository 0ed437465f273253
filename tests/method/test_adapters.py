"""Names of adapters, and batches of which each row has an adapter of its own."""

from __future__ import annotations

import pytest
import torch
from helpers_models import adamw, memory_config, memory_model, tiny_model, tokens, train_step
from peft import LoraConfig, PeftModel, get_peft_model

IDS = tokens(5, 7)
MASK = (torch.arange(7) < torch.tensor([7, 4, 6, 7, 2])[:, None]).long()
ADAPTERS = {
    "default": {},
    "other": {"layers": [2, 3], "seed": 1, "gated": True, "initial_values": "random"},
    "instead": {"integration": "replacement", "initial_values": "random", "seed": 2},
}
ROWS = ["other", "__base__", "default", "instead", "other"]


def three_adapters(architecture="Llama"):
    model = memory_model(architecture)
    train_step(model, adamw(model, 1e-1), IDS)
    for name in list(ADAPTERS)[1:]:
        model.add_adapter(name, memory_config(**ADAPTERS[name]))
    return model.eval()


def alone(model, name, call):
    """What `call` gives where all rows have one adapter."""
    if name == "__base__":
        with model.disable_adapter():
            return call()
    model.set_adapter(name)
    return call()


@pytest.mark.parametrize("architecture", ["Llama", "OPT", "GPT2"])
def test_each_row_of_a_mixed_batch_has_its_adapter(architecture):
    model = three_adapters(architecture)

    @torch.no_grad()
    def logits(**names):
        return model(input_ids=IDS, attention_mask=MASK, **names).logits

    expected = {name: alone(model, name, logits) for name in set(ROWS)}
    assert len({float(x[1].abs().sum()) for x in expected.values()}) == 4
    model.set_adapter("default")
    mixed = logits(adapter_names=ROWS)
    for row, name in enumerate(ROWS):
        assert torch.equal(mixed[row], expected[name][row])
    assert torch.equal(logits(), expected["default"])


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=str)
def test_generation_with_an_adapter_for_each_row(settings):
    model = three_adapters()

    def generate(**names):
        ids = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
        made = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
        return model.generate(**ids, **made, **settings, **names)

    expected = {name: alone(model, name, generate) for name in set(ROWS)}
    model.set_adapter("default")
    mixed = generate(adapter_names=ROWS)
    for row, name in enumerate(ROWS):
        assert torch.equal(mixed[row], expected[name][row])


@pytest.mark.parametrize(
    "names, training, message",
    [
        (
            ["default", "defualt", "x", "x", "x"],
            False,
            r"holds defualt, x; choose from __base__, d",
        ),
        (["default"] * 4, False, "4 names for 5 rows"),
        (["default"], False, "1 names for 5 rows"),
        ("default", False, "adapter_names='default' must be a list"),
        ([None] * 5, False, "must be a list of names"),
        (["default"] * 5, True, r"cannot be trained with.*set_adapter"),
    ],
)
def test_names_that_fit_no_row_are_refused(names, training, message):
    model = memory_model().train(training)
    with pytest.raises(ValueError, match=message):
        model(input_ids=IDS, adapter_names=names)
    with pytest.raises(ValueError, match=message):
        model.generate(input_ids=IDS, adapter_names=names, max_new_tokens=1)
    assert model(input_ids=IDS).logits.shape[0] == 5


REFUSED = [
    "keys",
    "values",
    "items",
    "training",
    "layers",
    "mlp",
    "model",
    "base_layer",
    "a.b",
    "",
    "2",
]


@pytest.mark.parametrize("name", REFUSED)
def test_a_name_that_peft_could_not_find_again_is_refused(name):
    with pytest.raises(ValueError, match=f"adapter_name={name!r} cannot name an adapter"):
        get_peft_model(tiny_model(), memory_config(), adapter_name=name)
    model = memory_model()
    with pytest.raises(ValueError, match=f"adapter_name={name!r} cannot name an adapter"):
        model.add_adapter(name, memory_config())


@pytest.mark.parametrize("active", ["default", "memory"])
def test_the_name_of_another_methods_adapter_is_refused_active_or_not(active):
    lora = LoraConfig(target_modules=["q_proj"])
    model = get_peft_model(tiny_model(), lora)
    model.add_adapter("memory", lora)
    model.set_adapter(active)
    with pytest.raises(ValueError, match="adapter_name='memory' is that of lora"):
        get_peft_model(model.get_base_model(), memory_config(), adapter_name="memory")


NAMES = ["a", "lay", "smf", "memory", "scale", "anchor", "table", "query_weight", "no space ä"]


@pytest.mark.parametrize("name", NAMES)
def test_an_adapter_of_any_other_name_is_saved_and_loaded(name, tmp_path):
    model = get_peft_model(tiny_model(), memory_config(), adapter_name=name)
    train_step(model, adamw(model, 1e-1), IDS)
    model.save_pretrained(tmp_path)
    folder = tmp_path / name
    loaded = PeftModel.from_pretrained(tiny_model(), folder, adapter_name=name)
    expected = model.eval()(input_ids=IDS).logits
    assert torch.equal(loaded(input_ids=IDS).logits, expected)
    assert not torch.equal(tiny_model()(input_ids=IDS).logits, expected)
