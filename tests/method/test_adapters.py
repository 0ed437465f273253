"""Names of adapters, and batches of which each row has an adapter of its own."""

from __future__ import annotations

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    VOCABULARY,
    adamw,
    memory_config,
    memory_model,
    tiny_model,
    tokens,
    train_step,
)
from peft import IA3Config, LoraConfig, PeftModel, TrainableTokensConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoModelForSequenceClassification, LlamaConfig

from smf_lib.method.mlp import MemoryMLP

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


BESIDE = {  # what is trained whole beside `default`, and beside `other`; `instead` has nothing
    "head": ("Llama", {"modules_to_save": ["lm_head"]}, {"modules_to_save": ["lm_head"]}),
    "head of one": ("OPT", {}, {"modules_to_save": ["lm_head"]}),
    "embeddings and norm": ("Llama", {"modules_to_save": ["embed_tokens", "model.norm"]}, {}),
    "positions": ("OPT", {"modules_to_save": ["embed_positions"]}, {}),
    "one row of positions": ("GPT2", {"modules_to_save": ["wpe"]}, {}),
    "tokens": (
        "Llama",
        {"trainable_token_indices": [3, 4, 5, 40]},
        {"trainable_token_indices": [*range(5, 40)]},
    ),
    "tied tokens": ("GPT2", {"trainable_token_indices": {"wte": [*range(3, 40)]}}, {}),
    "tokens and head": (
        "Llama",
        {"trainable_token_indices": [*range(3, 40)]},
        {"modules_to_save": ["lm_head"]},
    ),
}


def trained_beside(model, of_default, of_other):
    """Three adapters, each with numbers of its own in all that PEFT saves of it."""
    settings = {"default": of_default, "other": of_other, "instead": {}}
    model = memory_model(model=model, **ADAPTERS["default"], **of_default)
    for name in list(ADAPTERS)[1:]:
        model.add_adapter(name, memory_config(**ADAPTERS[name], **settings[name]))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(f".{part}." in name for part in ("modules_to_save", "trainable_tokens_delta")):
                parameter += 0.3 * torch.randn_like(parameter)
            elif name.endswith(".values"):
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


def assert_each_row_has_its_own(model, call, distinct=4):
    """Whichever adapter is active, and afterwards none of it is left."""
    expected = {name: alone(model, name, call) for name in set(ROWS)}
    assert len({tuple(x[1].flatten().tolist()) for x in expected.values()}) == distinct
    for active in ADAPTERS:
        model.set_adapter(active)
        mixed = call(adapter_names=ROWS)
        for row, name in enumerate(ROWS):
            assert torch.equal(mixed[row], expected[name][row]), (active, name)
        assert torch.equal(call(), expected[active])


@pytest.mark.parametrize("beside", BESIDE)
def test_each_row_has_what_is_trained_whole_beside_its_adapter(beside):
    architecture, *settings = BESIDE[beside]
    model = trained_beside(tiny_model(architecture), *settings)

    @torch.no_grad()
    def logits(**names):
        return model(input_ids=IDS, attention_mask=MASK, **names).logits

    assert_each_row_has_its_own(model, logits)


@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_text_is_written_with_what_is_trained_whole_beside_each_adapter(num_beams, beside):
    architecture, *settings = BESIDE[beside]
    model = trained_beside(tiny_model(architecture), *settings)

    def scores(**names):
        written = model.generate(
            input_ids=IDS,
            attention_mask=torch.ones_like(IDS),
            max_new_tokens=4,
            min_new_tokens=4,
            do_sample=False,
            num_beams=num_beams,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
            **names,
        )
        last = written.logits[-1].unflatten(0, (len(IDS), num_beams)).flatten(1)
        return torch.cat([written.sequences.float(), last], dim=1)

    assert_each_row_has_its_own(model, scores)


def test_each_row_has_its_own_head_of_a_classifier():
    config = LlamaConfig(**ARCHITECTURES["Llama"], vocab_size=VOCABULARY, pad_token_id=0)
    torch.manual_seed(0)
    base = AutoModelForSequenceClassification.from_config(config).eval()
    model = trained_beside(base, {"task_type": "SEQ_CLS"}, {"task_type": "SEQ_CLS"})

    @torch.no_grad()
    def logits(**names):
        return model(input_ids=IDS, attention_mask=MASK, **names).logits

    assert_each_row_has_its_own(model, logits)


def test_a_whole_layer_of_modules_to_save_is_not_kept_apart():
    model = memory_model(modules_to_save=["layers.3.self_attn"]).eval()
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="layers.3.self_attn, a whole LlamaAttention.*once"):
            call(input_ids=IDS, adapter_names=ROWS[1:3] * 2 + ROWS[1:2])


OTHERS = [
    LoraConfig(target_modules=["q_proj"], init_lora_weights=False),
    IA3Config(target_modules=["q_proj"], feedforward_modules=[], init_ia3_weights=False),
    TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[*range(3, 40)]),
]


@pytest.mark.parametrize("other", OTHERS, ids=lambda config: config.peft_type.value.lower())
def test_another_tuners_layers_are_not_kept_apart(other):
    """They would be active in all rows; off, they are in none, and rows are told apart again."""
    base = get_peft_model(tiny_model(), other, "beside").base_model.model
    model = memory_model(model=base, initial_values="random", adapter_name="memory").eval()
    names = ["memory", "__base__", "memory", "__base__", "memory"]
    kind = other.peft_type.value.lower()
    message = f"adapter_names=.*apart from beside of {kind} at .*once for each"
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=message):
            call(input_ids=IDS, adapter_names=names)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, MemoryMLP):
            module.enable_adapters(False)
    with torch.no_grad():
        expected = {"memory": model(input_ids=IDS).logits, "__base__": tiny_model()(IDS).logits}
        mixed = model(input_ids=IDS, adapter_names=names).logits
    assert not torch.equal(*expected.values())
    assert all(torch.equal(mixed[row], expected[name][row]) for row, name in enumerate(names))


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
