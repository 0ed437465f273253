"""A memory beside LoRA, in multimodal models, for TRL's reference adapters, and for long texts."""

from __future__ import annotations

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    VOCABULARY,
    adamw,
    memory_config,
    memory_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

IDS = tokens(3, 9)


@torch.no_grad()
def logits(model, **inputs):
    return model(input_ids=IDS, **inputs).logits


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


def with_lora():
    """The base model with LoRA in it, which PEFT's wrapper leaves where it was."""
    return get_peft_model(tiny_model(), LoraConfig(**LORA), "lora").base_model.model


def test_lora_and_a_memory_are_trained_saved_and_loaded_on_one_model(tmp_path):
    """LoRA inside, the memory outside. To switch adapters off switches off both."""
    model = memory_model(model=with_lora(), adapter_name="memory")
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.requires_grad_(True)
    base, optimizer = logits(tiny_model()), adamw(model, 0.1)
    assert torch.equal(logits(model), base)
    losses = [train_step(model, optimizer, IDS) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(table.row_updates.sum() == 4 * 6 for table in tables(model))
    with model.disable_adapter():
        assert torch.equal(logits(model), base)
    model.save_pretrained(tmp_path)
    lora = PeftModel.from_pretrained(tiny_model(), tmp_path / "lora", adapter_name="lora")
    with_one = logits(lora)
    both = PeftModel.from_pretrained(
        lora.base_model.model, tmp_path / "memory", adapter_name="memory"
    )
    assert torch.equal(logits(both), logits(model))
    assert not torch.equal(with_one, logits(model)) and not torch.equal(with_one, base)


def test_a_memory_with_the_name_of_another_methods_adapter_is_refused():
    with pytest.raises(ValueError, match="adapter_name='lora' is that of lora.*another"):
        memory_model(model=with_lora(), adapter_name="lora")
    base = get_peft_model(tiny_model(), LoraConfig(**LORA)).unload()
    assert len(tables(memory_model(model=base))) == 2  # what was taken out has no name


TEXT = ARCHITECTURES["Llama"] | {"vocab_size": VOCABULARY, "pad_token_id": 0}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 4,  # as many as the text part
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}


def llava():
    text, vision = LlamaConfig(**TEXT), CLIPVisionConfig(**VISION)
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=1)
    return LlavaForConditionalGeneration(config)


def gemma3():
    vision = SiglipVisionConfig(**VISION)
    config = Gemma3Config(
        text_config=TEXT | {"head_dim": 8}, vision_config=vision, mm_tokens_per_image=4
    )
    return Gemma3ForConditionalGeneration(config)


@pytest.mark.parametrize("make", [llava, gemma3])
def test_of_a_multimodal_model_the_text_part_has_the_memory(make, tmp_path):
    torch.manual_seed(0)
    model = make().eval()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    expected = logits(model)
    model = memory_model(model=model, rule="kl")
    names = [n for n, _ in model.named_modules() if n.endswith("smf_memory.default")]
    assert len(names) == 2 and all(".language_model.layers." in name for name in names)
    assert torch.equal(logits(model), expected)
    optimizer = adamw(model, 0.1)
    losses = [train_step(model, optimizer, IDS) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert all(table.row_updates.sum() == 3 * 6 for table in tables(model))
    trained = logits(model)
    model.save_pretrained(tmp_path)
    again = make().eval()
    again.load_state_dict(state)
    assert torch.equal(logits(PeftModel.from_pretrained(again, tmp_path)), trained)


def test_a_reference_made_as_trl_makes_it_begins_where_the_adapter_is():
    """The reference adapter of TRL's DPO, KTO, GRPO and RLOO trainers, by their own lines."""
    model = memory_model(trainable="values+scale", share_values=True)
    optimizer = adamw(model, 0.1)
    for _ in range(2):
        train_step(model, optimizer, IDS)
    trained = logits(model)
    model.add_adapter("ref", model.peft_config["default"])
    for name, parameter in model.named_parameters():
        if ".default." in name:
            model.get_parameter(name.replace(".default.", ".ref.")).data.copy_(parameter.data)
    model.set_adapter("ref")
    assert torch.equal(logits(model), trained)
    model.set_adapter("default")
    train_step(model, optimizer, IDS)
    model.set_adapter("ref")
    assert torch.equal(logits(model), trained)
    model.add_adapter("other", memory_config(trainable="values+scale", initial_scale=0.5))
    scales = {n: float(p) for n, p in model.named_parameters() if n.endswith("smf_scale.other")}
    assert set(scales.values()) == {0.5}


@pytest.mark.parametrize("architecture", ["GPT2", "OPT"])
def test_texts_longer_than_learned_positions_are_refused(architecture):
    model = memory_model(architecture)
    model(input_ids=tokens(1, 64))
    embeds = torch.zeros(1, 65, 32)
    for inputs in ({"input_ids": tokens(1, 65)}, {"inputs_embeds": embeds}):
        with pytest.raises(
            ValueError, match="65 tokens a row.*learned 64 positions.*max_length=64"
        ):
            model(**inputs)


def test_texts_may_be_longer_where_positions_are_computed():
    assert memory_model()(input_ids=tokens(1, 65)).logits.shape[1] == 65


def test_memories_are_not_added_up():
    model = memory_model()
    model.add_adapter("other", memory_config(seed=1))
    with pytest.raises(ValueError, match="cannot be added up.*smf_lib.compose"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both")
