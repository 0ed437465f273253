"""Memories beside quantised MLPs: bitsandbytes' 4 and 8 bits, torchao's 8."""

from __future__ import annotations

import pytest
import torch
from helpers_models import VOCABULARY, tiny_model
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torchao.quantization import Int8WeightOnlyConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from smf_lib import SparseMemoryConfig, collect_background, export
from smf_lib.method.background import memories

IDS = torch.arange(3, VOCABULARY).repeat(2)[:96].view(8, 12)
QUANTISED = {
    "nf4": lambda: BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    ),
    "nf4, twice": lambda: BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True),
    "int8": lambda: BitsAndBytesConfig(load_in_8bit=True),
    "torchao int8": lambda: TorchAoConfig(Int8WeightOnlyConfig()),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    tiny_model(hidden_size=64, intermediate_size=128).save_pretrained(folder)
    return folder


@pytest.fixture(params=QUANTISED)
def base(request, folder):
    """Loads the quantised base model."""
    return lambda: AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=QUANTISED[request.param]()
    )


def with_memory(model):
    config = SparseMemoryConfig(
        task_type="CAUSAL_LM",
        layers=[1, 2],
        num_subkeys=8,
        num_heads=2,
        top_k=4,
        key_dim=16,
        rows_per_step=8,
    )
    return get_peft_model(model, config)


def logits(model):
    """Of the model in eval mode: bitsandbytes' int8 maps put out something else in training."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def train(model, steps=6):
    losses = []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(steps):
        model.train()
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    return losses


def test_a_memory_beside_a_quantised_mlp_learns_is_saved_and_taken_out(base, tmp_path):
    model = base()
    before = logits(model)
    model = with_memory(model)
    assert torch.equal(logits(model), before)
    collect_background(model, IDS[:4].tolist())
    losses = train(model)
    assert losses[-1] < losses[0] - 0.2
    touched = [int((m.row_updates > 0).sum()) for m in memories(model).values()]
    assert all(0 < rows <= 6 * 8 for rows in touched)
    trained = logits(model)
    assert not torch.equal(trained, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(PeftModel.from_pretrained(base(), tmp_path)), trained)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model.unload()), before)


def test_with_its_base_quantised_a_memory_is_not_exported(base, tmp_path):
    model = with_memory(base())
    with pytest.raises(ValueError, match="weights that export cannot write .* it is quantised"):
        export(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []


def test_prepared_for_training_with_checkpoints_it_learns_the_same(base):
    """PEFT's `prepare_model_for_kbit_training`: float32 norms, inputs that require a gradient."""
    plain, checkpointed = base(), base()
    plain = prepare_model_for_kbit_training(plain, use_gradient_checkpointing=False)
    checkpointed = prepare_model_for_kbit_training(checkpointed)
    found = []
    for model in (plain, checkpointed):
        model = with_memory(model)
        collect_background(model, IDS[:4].tolist())
        found.append((train(model, 3), logits(model)))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)
