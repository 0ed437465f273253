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


_PLAIN = {"hidden_size": 32, "max_position_embeddings": 64}
LEARNED = {  # architectures that learn their positions
    "GPT2": {},
    "OPT": {},
    "GPTNeo": _PLAIN
    | {"num_layers": 4, "num_heads": 4, "attention_types": [[["global", "local"], 2]]},
    "BioGpt": _PLAIN | {"num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 48},
    "GPTBigCode": ARCHITECTURES["GPT2"],
    "OpenAIGPT": ARCHITECTURES["GPT2"],
}
learned = pytest.mark.parametrize("architecture", LEARNED)
WRITE = {"do_sample": False, "pad_token_id": 0}


def by_peft(model):
    return memory_model(model=model)


def by_transformers(model):
    """Without PEFT's wrapper: only what is in the model itself can refuse anything."""
    model.add_adapter(memory_config())
    return model


insertions = pytest.mark.parametrize("insert", [by_peft, by_transformers])


def write(model, length, total, **settings):
    """A text of `total` tokens that begins with `length` given ones."""
    ends = {"max_length": total, "min_length": total, "eos_token_id": None}
    return model.generate(input_ids=tokens(1, length), **ends, **settings)


def too_long(length, before=0):
    cached = f" after {before} in the cache" if before else ""
    return pytest.raises(
        ValueError,
        match=f"has {length} tokens a row{cached}, .* learned 64 positions; .*max_length=64",
    )


@learned
@insertions
def test_texts_longer_than_learned_positions_are_refused(insert, architecture):
    model = insert(tiny_model(architecture, **LEARNED[architecture]))
    model(input_ids=tokens(1, 64))
    embeds = torch.zeros(1, 65, 32)
    for inputs in ({"input_ids": tokens(1, 65)}, {"inputs_embeds": embeds}):
        with too_long(65):
            model(**inputs)
    with too_long(65):
        model.generate(input_ids=tokens(1, 65), max_new_tokens=1, **WRITE)


@learned
@insertions
def test_text_that_is_written_up_to_learned_positions_and_past_them(insert, architecture):
    """The last token that is written is not read."""
    model = insert(tiny_model(architecture, **LEARNED[architecture]))
    cached = architecture != "OpenAIGPT"
    for length, num_beams, use_cache in ((64, 1, True), (62, 2, True), (62, 1, False)):
        settings = WRITE | {"num_beams": num_beams, "use_cache": use_cache and cached}

        assert write(model, length, 65, **settings).shape == (1, 65)
        with too_long(1, 64) if settings["use_cache"] else too_long(65):
            write(model, length, 66, **settings)


@pytest.mark.parametrize("architecture", ["GPT2", "OPT"])
def test_a_cache_of_fixed_size_is_counted_too(architecture):
    model = by_peft(tiny_model(architecture))
    settings = WRITE | {"cache_implementation": "static"}
    assert write(model, 60, 65, **settings).shape == (1, 65)
    with too_long(1, 64):
        write(model, 60, 66, **settings)


@pytest.mark.parametrize("architecture", ["GPT2", "OPT"])
@insertions
def test_padding_takes_no_learned_position(insert, architecture):
    """Of 70 columns at most 60 are text; the model itself counts those, and the memory too."""
    base, model = (tiny_model(architecture) for _ in range(2))
    model = insert(model)
    mask = (torch.arange(70) >= torch.tensor([10, 30])[:, None]).long()
    inputs = {"input_ids": tokens(2, 70), "attention_mask": mask, "max_new_tokens": 4}
    written = model.generate(**inputs, min_new_tokens=4, **WRITE)
    assert torch.equal(written, base.generate(**inputs, min_new_tokens=4, **WRITE))
    inputs["max_new_tokens"] = 6
    with too_long(1, 74):
        model.generate(**inputs, min_new_tokens=6, **WRITE)


@pytest.mark.parametrize("settings", [{"modules_to_save": ["wpe"]}, {"target_modules": ["wpe"]}])
def test_positions_that_are_trained_too_are_still_counted(settings):
    """PEFT has put a module of its own in their place before the memory comes."""
    lora = LoraConfig(**{"target_modules": ["c_attn"], "fan_in_fan_out": True} | settings)
    model = memory_model(
        model=get_peft_model(tiny_model("GPT2"), lora, "low_rank").base_model.model
    )
    with too_long(65):
        model(input_ids=tokens(1, 65))


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "OPT"])
def test_adapter_names_are_refused_where_nothing_would_follow_them(architecture):
    model = by_transformers(tiny_model(architecture))
    with pytest.raises(ValueError, match="adapter_names=.*'__base__'.*peft.get_peft_model"):
        model(input_ids=IDS, adapter_names=["__base__"] * 3)


def test_texts_may_be_longer_where_positions_are_computed():
    assert memory_model()(input_ids=tokens(1, 65)).logits.shape[1] == 65


def test_memories_are_not_added_up():
    model = memory_model()
    model.add_adapter("other", memory_config(seed=1))
    with pytest.raises(ValueError, match="cannot be added up.*smf_lib.compose"):
        model.add_weighted_adapter(["default", "other"], [0.5, 0.5], "both")
