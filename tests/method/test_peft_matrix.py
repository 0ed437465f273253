"""What PEFT's own tests ask of each method (its `tests/testing_common.py`), of every architecture.

Some of its questions stand elsewhere for the promised architectures: nothing changes on insertion,
when the adapter is off and after `unload` (test_sites.py).
"""

from __future__ import annotations

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    FURTHER,
    adamw,
    memory_config,
    memory_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import (
    AutoPeftModelForCausalLM,
    PeftModel,
    get_peft_model_state_dict,
    inject_adapter_in_model,
    set_peft_model_state_dict,
)
from transformers import AutoModelForCausalLM

IDS = tokens(2, 9)
every = pytest.mark.parametrize("architecture", ARCHITECTURES | FURTHER)


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def trained(architecture, steps=1, **settings):
    model = memory_model(architecture, **settings)
    optimizer = adamw(model, 0.1)
    for _ in range(steps):
        train_step(model, optimizer, IDS)
    return model.eval()


@every
def test_saved_and_loaded_in_each_way_it_gives_the_same_bits(architecture, tmp_path):
    model = trained(architecture)
    expected = logits(model)
    model.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    for settings in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path, **settings)
        assert torch.equal(logits(loaded.eval()), expected)
        assert any(p.requires_grad for p in loaded.parameters()) == ("is_trainable" in settings)
    model.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    names = {path.name for path in (tmp_path / "pickled").iterdir()}
    assert names == {"README.md", "adapter_config.json", "adapter_model.bin"}
    loaded = PeftModel.from_pretrained(tiny_model(architecture), tmp_path / "pickled")
    assert torch.equal(logits(loaded.eval()), expected)
    state = get_peft_model_state_dict(model)
    fresh = memory_model(architecture)
    assert not set_peft_model_state_dict(fresh, state).unexpected_keys
    assert torch.equal(logits(fresh.eval()), expected)
    bare = inject_adapter_in_model(memory_config(), tiny_model(architecture))
    assert not set_peft_model_state_dict(bare, state).unexpected_keys
    assert torch.equal(logits(bare.eval()), expected)


@every
def test_several_adapters_are_kept_apart(architecture, tmp_path):
    model = trained(architecture)
    expected = logits(model)
    model.add_adapter("second", memory_config(seed=1))
    assert torch.equal(logits(model), expected)
    model.set_adapter("second")
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n
        for n, _ in model.named_parameters()
        if ".second." in n and n.endswith(("values", "anchor"))
    }
    assert torch.equal(logits(model), logits(tiny_model(architecture)))
    model.save_pretrained(tmp_path, selected_adapters=["second"])
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["second"]
    model.load_adapter(tmp_path / "second", "third")
    model.set_adapter("default")
    model.delete_adapter("second")
    assert set(model.peft_config) == {"default", "third"}
    assert not [n for n, _ in model.named_parameters() if ".second" in n]
    assert torch.equal(logits(model), expected)
    with pytest.raises(ValueError, match="nonexistent|does not exist"):
        model.delete_adapter("nonexistent")
    model.delete_adapter("default")
    assert torch.equal(logits(model), logits(tiny_model(architecture)))


@every
def test_it_is_loaded_onto_a_base_that_a_device_map_placed(architecture, tmp_path):
    tiny_model(architecture).save_pretrained(tmp_path / "base")

    def base(**settings):
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", **settings)

    model = memory_model(model=base())
    train_step(model, adamw(model, 0.1), IDS)
    expected = logits(model.eval())
    assert not torch.equal(expected, logits(base()))
    model.save_pretrained(tmp_path / "adapter")
    for settings in ({}, {"device_map": {"": "cpu"}}):
        placed = base(device_map="cpu")
        loaded = PeftModel.from_pretrained(placed, tmp_path / "adapter", **settings)
        assert torch.equal(logits(loaded), expected)
    both = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", device_map="cpu")
    assert torch.equal(logits(both), expected)


@every
def test_rows_of_a_batch_have_adapters_of_their_own(architecture):
    model = trained(architecture)
    model.add_adapter("other", memory_config(seed=1, layers=[2, 3]))
    model.set_adapter("other")
    train_step(model, adamw(model, 0.1), IDS)
    model.eval()
    alone = {"other": logits(model)}
    with model.disable_adapter():
        alone["__base__"] = logits(model)
    model.set_adapter("default")
    alone["default"] = logits(model)
    names = list(alone)
    for first in names:
        for second in names:
            with torch.no_grad():
                mixed = model(input_ids=IDS, adapter_names=[first, second]).logits
            wanted = torch.stack([alone[first][0], alone[second][1]])
            torch.testing.assert_close(mixed, wanted, rtol=1e-4, atol=1e-5)
    for first, second in (("default", "other"), ("default", "__base__"), ("other", "__base__")):
        assert not torch.allclose(alone[first], alone[second], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_training_equals_plain(architecture, reentrant):
    plain, checkpointed = memory_model(architecture), memory_model(architecture)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed.enable_input_require_grads()
    for model in (plain, checkpointed):
        train_step(model.train(), adamw(model, 0.1), IDS)
    for one, other in zip(tables(plain), tables(checkpointed), strict=True):
        assert one.row_updates.sum() == 6 and torch.equal(one.row_updates, other.row_updates)
        torch.testing.assert_close(one.values, other.values, rtol=1e-3, atol=1e-5)


@every
def test_text_is_written_from_ids_and_read_from_embeddings(architecture):
    model = trained(architecture)
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
    written = model.generate(IDS, **settings)
    assert written.shape == (2, 12) and torch.equal(
        written, model.generate(input_ids=IDS, **settings)
    )
    with torch.no_grad():
        embedded = model.get_input_embeddings()(IDS)
        own = model.base_model if architecture == "Mpt" else model  # PEFT hands MPT no embeddings
        read = own(inputs_embeds=embedded).logits
    assert torch.equal(read, logits(model))
    half = memory_model(model=tiny_model(architecture).bfloat16())
    assert half.generate(IDS, **settings).shape == (2, 12)
    with torch.autocast("cpu", torch.bfloat16):
        assert model.generate(IDS, **settings).shape == (2, 12)


@every
def test_its_state_is_told_and_what_has_no_meaning_refused(architecture, capsys):
    model = memory_model(architecture)
    status = model.get_model_status()
    assert (status.peft_types, status.enabled) == ({"default": "SPARSE_MEMORY"}, True)
    assert status.trainable_params == 2 * (64 * 32 + 1) and status.active_adapters == ["default"]
    assert [layer.available_adapters for layer in model.get_layer_status()] == [["default"]] * 2
    model.print_trainable_parameters()
    assert "trainable params: 4,098" in capsys.readouterr().out
    for refused in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(ValueError, match="cannot be merged"):
            refused()
    assert torch.equal(logits(model.unload()), logits(tiny_model(architecture)))
