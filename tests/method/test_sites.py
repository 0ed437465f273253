"""Every architecture that is promised: found, unchanged by insertion, trained sparsely."""

from __future__ import annotations

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    adamw,
    bits,
    memory_model,
    row_state,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import PeftModel
from transformers import T5Config, T5ForConditionalGeneration


@torch.no_grad()
def logits(model, **inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_insertion_training_and_removal(architecture):
    ids = tokens(3, 9)
    mask = torch.ones_like(ids)
    mask[1, 6:], mask[2, 3:] = 0, 0
    expected = logits(tiny_model(architecture), input_ids=ids, attention_mask=mask)
    model = memory_model(architecture, rule="kl")
    assert torch.equal(logits(model, input_ids=ids, attention_mask=mask), expected)

    frozen = {n: bits(p) for n, p in model.named_parameters() if not n.endswith("values")}
    optimizer = adamw(model)
    train_step(model, optimizer, ids, labels=ids.masked_fill(mask == 0, -100), attention_mask=mask)
    for table in tables(model):
        selected = table.row_updates > 0
        assert selected.sum() == 6
        assert (table.values[~selected] == 0).all() and (table.values[selected] != 0).any()
        assert (row_state(optimizer, table)["row_steps"] == selected).all()
    assert all(torch.equal(bits(dict(model.named_parameters())[n]), b) for n, b in frozen.items())
    with model.disable_adapter():
        assert torch.equal(logits(model, input_ids=ids, attention_mask=mask), expected)

    base = model.unload()
    assert base.state_dict().keys() == tiny_model(architecture).state_dict().keys()
    assert not any(module._forward_pre_hooks for module in base.modules())
    assert torch.equal(logits(base, input_ids=ids, attention_mask=mask), expected)
    again = memory_model(model=base)  # the model can be wrapped anew
    assert torch.equal(logits(again, input_ids=ids, attention_mask=mask), expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_padding_does_not_read(architecture):
    padded, alone = memory_model(architecture), memory_model(architecture)
    ids, mask = tokens(2, 9), torch.ones(2, 9, dtype=torch.int64)
    mask[1, 5:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    optimizers = adamw(padded), adamw(alone)
    train_step(padded, optimizers[0], ids, labels=labels, attention_mask=mask)
    for sequence in (ids[:1], ids[1:, :5]):
        share = (sequence.shape[1] - 1) / 12
        (alone(input_ids=sequence, labels=sequence).loss * share).backward()
    optimizers[1].step()
    for one, other in zip(tables(padded), tables(alone)):
        assert torch.equal(one.row_updates, other.row_updates)
        for name, value in row_state(optimizers[0], one).items():
            torch.testing.assert_close(
                value, row_state(optimizers[1], other)[name], rtol=1e-3, atol=1e-6
            )


@pytest.mark.parametrize("architecture", ["Llama", "GPT2", "OPT"])
def test_generation_with_a_cache_equals_generation_without(architecture):
    model = memory_model(architecture, initial_values="random").eval()
    ids, mask = tokens(2, 6), torch.ones(2, 6, dtype=torch.int64)
    mask[0, :2] = 0
    texts = [
        model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=5,
            do_sample=False,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(*texts)


EXPERTS = {
    "Mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "GraniteMoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "Qwen2Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
    },
    "Qwen3Moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "head_dim": 8,
    },
    "Olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "DeepseekV3": {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "first_k_dense_replace": 1,
        "n_group": 2,
        "topk_group": 1,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 8,
    },
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},  # puts out a pair
}


def model_of_experts(architecture):
    return tiny_model(architecture, **ARCHITECTURES["Llama"] | EXPERTS[architecture])


@pytest.mark.parametrize("architecture", EXPERTS)
def test_a_memory_beside_experts_changes_nothing_then_learns_and_is_loaded(architecture, tmp_path):
    ids = tokens(4, 9)
    expected = logits(model_of_experts(architecture), input_ids=ids)
    model = memory_model(model=model_of_experts(architecture))
    assert torch.equal(logits(model, input_ids=ids), expected)
    optimizer = adamw(model, 0.1)
    losses = [train_step(model, optimizer, ids) for _ in range(4)]
    assert losses[-1] < losses[0]
    assert all(0 < (table.row_updates > 0).sum() <= 4 * 6 for table in tables(model))
    trained = logits(model, input_ids=ids)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(model_of_experts(architecture), tmp_path)
    assert torch.equal(logits(again, input_ids=ids), trained)
    model.eval()
    names = ["default", "__base__", "default", "__base__"]
    mixed = logits(model, input_ids=ids, adapter_names=names)
    torch.testing.assert_close(mixed[::2], trained[::2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mixed[1::2], expected[1::2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", EXPERTS)
def test_a_mixture_of_experts_is_not_replaced(architecture):
    with pytest.raises(ValueError, match="is a mixture of experts.*integration='additive'"):
        memory_model(model=model_of_experts(architecture), integration="replacement")


def test_a_dense_layer_among_experts_takes_a_memory():
    settings = {
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "mlp_only_layers": [1],
    }
    model = tiny_model("Qwen2Moe", **ARCHITECTURES["Llama"], **settings)
    assert len(tables(memory_model(model=model, layers=[1]))) == 1


def test_an_mlp_that_adds_its_own_residual_is_not_replaced():
    shape = {"hidden_size": 32, "n_layer": 4, "n_head": 4}
    ids = tokens(2, 9)
    expected = logits(tiny_model("Bloom", **shape), input_ids=ids)
    additive = memory_model(model=tiny_model("Bloom", **shape))
    assert torch.equal(logits(additive, input_ids=ids), expected)
    replacing = memory_model(model=tiny_model("Bloom", **shape), integration="replacement")
    with pytest.raises(ValueError, match="cannot stand in for BloomMLP.*integration='additive'"):
        logits(replacing, input_ids=ids)


def test_models_without_a_recognisable_mlp_are_refused():
    encoder_decoder = T5ForConditionalGeneration(
        T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=4, num_heads=2)
    )
    with pytest.raises(ValueError, match="T5ForConditionalGeneration is an encoder-decoder"):
        memory_model(model=encoder_decoder)
    unknown = tiny_model()
    for layer in unknown.model.layers:
        layer.mixer = layer.mlp
        del layer.mlp
    with pytest.raises(ValueError, match="layers=1: no MLP recognised.*mixer.*known names are mlp"):
        memory_model(model=unknown)
    with pytest.raises(ValueError, match="no list of decoder layers"):
        memory_model(model=torch.nn.Sequential(torch.nn.Linear(2, 2)))
