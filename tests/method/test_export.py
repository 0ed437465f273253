"""A model written as a plain folder of transformers: the same bits without this library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from helpers_models import (
    ARCHITECTURES,
    Called,
    adamw,
    bits,
    memory_config,
    memory_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from smf_lib import export

IDS = tokens(3, 9)
ALONE = """
import sys
import torch
import transformers
model = transformers.AutoModelForCausalLM.from_pretrained("exported", trust_remote_code=True)
ids = torch.load("ids.pt")
torch.save([model(input_ids=ids).logits, model.generate(ids, max_new_tokens=4)], "out.pt")
assert not {"smf_lib", "peft"} & sys.modules.keys(), "needs more than transformers"
"""


def trained(base=None, **settings):
    model = memory_model(model=base, **settings)
    optimizer = adamw(model, 0.1)
    for _ in range(2):
        train_step(model, optimizer, IDS)
    return model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def load(folder, **settings):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **settings)


MODELS = [a for a in ARCHITECTURES if a != "OPT"]


@pytest.mark.parametrize("architecture", MODELS)
def test_the_loaded_folder_gives_the_same_bits(architecture, tmp_path):
    model = trained(tiny_model(architecture))
    assert export(model, tmp_path / "exported") == tmp_path / "exported"
    loaded = load(tmp_path / "exported")
    assert torch.equal(bits(logits(loaded)), bits(logits(model)))
    assert not torch.equal(logits(loaded), logits(tiny_model(architecture)))
    inner = AutoModel.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    hidden = model.get_base_model().base_model(input_ids=IDS).last_hidden_state
    assert torch.equal(bits(inner(input_ids=IDS).last_hidden_state), bits(hidden))


SETTINGS = [
    {"integration": "replacement", "initial_values": "random"},
    {"gated": True},
    {"share_values": True, "query_norm": False},
    {"trainable": "values+scale", "initial_scale": 0.5},
    {"trainable": "memory", "update": "dense"},
    {"num_subkeys": 300, "top_k": 5, "num_heads": 3},
    {"modules_to_save": ["lm_head"]},
    {"values_dtype": "bfloat16", "initial_values": "random"},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_kind_of_memory_gives_the_same_bits(settings, tmp_path):
    model = trained(**settings)
    export(model, tmp_path / "exported")
    assert torch.equal(bits(logits(load(tmp_path / "exported"))), bits(logits(model)))


@pytest.mark.parametrize("settings", [{}, SETTINGS[0]], ids=str)
def test_beside_a_base_in_bfloat16_the_memory_stays_in_float32(settings, tmp_path):
    tiny_model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16)
    model = trained(base, **settings)
    export(model, tmp_path / "exported")
    loaded = load(tmp_path / "exported", dtype=torch.bfloat16)
    assert torch.equal(bits(logits(loaded)), bits(logits(model)))
    assert {p.dtype for n, p in loaded.named_parameters() if ".memory." in n} == {torch.float32}


def test_it_makes_every_tensor_on_the_device_and_waits_for_none(tmp_path):
    """A GPU records a graph of it (vLLM does), in which nothing is copied to it or asked of it."""
    export(trained(gated=True), tmp_path / "exported")
    exported = load(tmp_path / "exported")
    memories = [m for m in exported.modules() if type(m).__name__ == "Memory"]
    with torch.no_grad(), Called() as called:
        for memory in memories:
            memory(torch.randn(2, 5, memory.values.shape[1]))
    assert memories and "topk" in called.names
    assert not called.names & {"lift_fresh", "_local_scalar_dense", "nonzero"}


def test_tied_embeddings_and_experts_give_the_same_bits(tmp_path):
    tied = tiny_model(tie_word_embeddings=True)
    experts = tiny_model("Mixtral", **ARCHITECTURES["Llama"], num_local_experts=4)
    for number, base in enumerate((tied, experts)):
        model = trained(base)
        export(model, tmp_path / str(number))
        assert torch.equal(bits(logits(load(tmp_path / str(number)))), bits(logits(model)))


def test_it_needs_transformers_alone(tmp_path):
    model = trained()
    export(model, tmp_path / "exported")
    torch.save(IDS, tmp_path / "ids.pt")
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    loaded, written = torch.load(tmp_path / "out.pt")
    assert torch.equal(bits(loaded), bits(logits(model)))
    assert torch.equal(written, model.generate(input_ids=IDS, max_new_tokens=4))


def test_it_holds_the_touched_rows_and_says_what_it_is(tmp_path):
    model = trained()
    export(model, tmp_path / "exported")
    weights = load_file(tmp_path / "exported" / "model.safetensors")
    for layer, table in zip((1, 2), tables(model)):
        rows = (table.row_updates > 0).nonzero().squeeze(1)
        place = f"model.layers.{layer}.mlp.memory"
        assert 6 <= len(rows) < 64
        assert torch.equal(weights[f"{place}.row_digits"][:, 2].long(), rows)
        assert torch.equal(weights[f"{place}.values"][:-1], table.values[rows])
        assert not weights[f"{place}.values"][-1].any()
    # what vLLM asks of a model that it is to run by its Transformers backend
    config = json.loads((tmp_path / "exported" / "config.json").read_text("utf-8"))
    assert {"AutoConfig", "AutoModel"} <= config["auto_map"].keys()
    inner = AutoModel.from_pretrained(tmp_path / "exported", trust_remote_code=True)
    assert inner.is_backend_compatible()


def test_without_leave_to_run_its_code_nothing_is_loaded(tmp_path):
    export(trained(), tmp_path / "exported")
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoConfig.from_pretrained(tmp_path / "exported", trust_remote_code=False)


def test_of_adapters_in_different_layers_the_active_one_is_written(tmp_path):
    alone = trained(layers=[1])
    both = trained(layers=[1])
    both.add_adapter("other", memory_config(layers=[1, 3]))
    both.set_adapter("default")
    export(both, tmp_path / "exported")
    assert torch.equal(bits(logits(load(tmp_path / "exported"))), bits(logits(alone)))
    with pytest.raises(ValueError, match="cannot be replaced as a whole"):
        export(alone, ".")


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    place = tmp_path / "exported"
    both = trained()
    both.add_adapter("other", memory_config())
    both.base_model.set_adapter(["default", "other"])
    with_tokens = trained(trainable_token_indices=[5])
    lora = get_peft_model(tiny_model(), LoraConfig(target_modules=["q_proj"])).get_base_model()
    cases = [
        (tiny_model(), "has no memory"),
        (both, r"active adapters=\['default', 'other'\] are 2 memories"),
        (with_tokens, "weights that export cannot write"),
        (memory_model(model=lora, adapter_name="memory"), "weights that export cannot write"),
        (memory_model("OPT"), "is no module of its own"),
    ]
    for model, says in cases:
        with pytest.raises(ValueError, match=says):
            export(model, place)
    assert list(tmp_path.iterdir()) == []


class Packed(torch.Tensor):
    """A tensor that says it is of floating point and holds something else, as torchao's do."""


def packed_bytes(weight):
    return torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)  # as bitsandbytes' 4 bits


@pytest.mark.parametrize(
    "quantise", [packed_bytes, torch.Tensor.char, lambda weight: weight.as_subclass(Packed)]
)
@pytest.mark.parametrize("place", ["mlp.up_proj", "self_attn.q_proj"])
def test_a_quantised_base_is_refused(quantise, place, tmp_path):
    model = memory_model()
    layer = model.get_base_model().model.layers[0].get_submodule(place)
    layer.weight = torch.nn.Parameter(quantise(layer.weight.detach()), requires_grad=False)
    with pytest.raises(ValueError, match=rf"cannot write .*{place}.* it is quantised"):
        export(model, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
