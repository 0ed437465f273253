"""The PEFT surface: insert, train, save, load, switch, disable, take out; and what is refused."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from helpers_models import (
    adamw,
    bits,
    memory_config,
    memory_model,
    paper_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from peft import PeftModel, get_peft_model
from torch import nn

from smf_lib import SparseMemoryConfig
from smf_lib.method.background import memories
from smf_lib.method.layer import ProductKeyMemory
from smf_lib.method.mlp import MemoryMLP

IDS = tokens(3, 9)


@torch.no_grad()
def logits(model, ids=IDS, **inputs):
    return model(input_ids=ids, **inputs).logits


def trained(steps=3, **settings):
    model = memory_model(**settings)
    optimizer = adamw(model)
    for step in range(steps):
        train_step(model, optimizer, tokens(3, 9, seed=step))
    return model


def trained_names(model) -> set[str]:
    return {n.split("mlp.")[1] for n, p in model.named_parameters() if p.requires_grad}


SHAPES = [
    {},
    {"gated": True},
    {"integration": "replacement", "initial_values": "random"},
    {"share_values": True},
    {"trainable": "values+scale", "initial_values": "random", "initial_scale": 0.01},
    {"trainable": "memory", "gated": True, "rule": "kl"},
    {"update": "dense", "trainable": "memory"},
    {"values_dtype": "bfloat16", "initial_values": "random"},
]


@pytest.mark.parametrize("settings", SHAPES, ids=str)
@pytest.mark.parametrize("low_memory", [False, True])
def test_saved_and_loaded_adapter_gives_the_same_logits(settings, low_memory, tmp_path):
    model = trained(**settings)
    expected = logits(model)
    assert not torch.equal(expected, logits(tiny_model()))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, low_cpu_mem_usage=low_memory)
    assert torch.equal(logits(loaded), expected)
    own, other = dict(model.named_buffers()), dict(loaded.named_buffers())
    assert all(torch.equal(own[n], other[n]) for n in own if "smf_memory" in n)
    assert SparseMemoryConfig.from_pretrained(tmp_path).layers == [1, 2]
    assert not any(p.requires_grad for p in loaded.parameters())


def test_loaded_adapter_can_be_trained_further(tmp_path):
    model = trained()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    for each in (model, loaded):
        train_step(each, adamw(each), tokens(3, 9, seed=7))
    assert torch.equal(logits(model), logits(loaded))


def test_dense_stage_then_sparse_stage(tmp_path):
    dense = memory_model(update="dense", trainable="memory", initial_values="random")
    before = [t.values.detach().clone() for t in tables(dense)]
    loss = dense(input_ids=IDS, labels=IDS).loss
    loss.backward()
    assert all(t.values.grad.shape == t.values.shape for t in tables(dense))
    assert all(not t.tape.entries for t in tables(dense))
    adamw(dense, weight_decay=0.1).step()
    for table, values in zip(tables(dense), before):
        assert (table.values != values).any(1).all()  # plain AdamW: its decay moves every row
        assert (table.row_updates == 0).all()
    dense.save_pretrained(tmp_path)
    config = SparseMemoryConfig.from_pretrained(tmp_path)
    config.update, config.trainable = "sparse", "values"
    sparse = PeftModel.from_pretrained(tiny_model(), tmp_path, config=config, is_trainable=True)
    assert torch.equal(logits(sparse), logits(dense))
    assert trained_names(sparse) == {"smf_memory.default.values", "smf_memory.default.anchor"}
    train_step(sparse, adamw(sparse), IDS)
    assert all((t.row_updates > 0).sum() == 6 for t in tables(sparse))


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_insertion_leaves_every_bit_of_the_logits(gated, base):
    expected = logits(tiny_model().to(base))
    model = memory_model(model=tiny_model().to(base), gated=gated)
    assert torch.equal(logits(model), expected)
    assert all(t.values.dtype == torch.float32 for t in tables(model))


def test_random_values_enter_at_their_scale():
    model = memory_model(initial_values="random", initial_scale=0.01, layers=[1])
    (memory,) = tables(model)
    seen = {}
    memory.register_forward_hook(lambda m, args, out: seen.update(x=args[0], out=out))
    mlp = model.base_model.model.model.layers[1].mlp
    mlp.register_forward_hook(lambda m, args, out: seen.update(sum=out))
    logits(model)
    expected = mlp.base_layer(seen["x"]) + 0.01 * seen["out"]
    torch.testing.assert_close(seen["sum"], expected)
    assert not torch.equal(logits(model), logits(tiny_model()))


def test_replacement_drops_the_mlp():
    model = memory_model(integration="replacement", initial_values="random", layers=[1])
    mlp = model.base_model.model.model.layers[1].mlp
    expected = logits(model)
    for parameter in mlp.base_layer.parameters():
        parameter.data.fill_(float("nan"))
    assert torch.equal(logits(model), expected)


def test_disabled_adapter_is_the_base_model_to_the_bit():
    base = logits(tiny_model())
    for settings in SHAPES:
        model = trained(steps=1, **settings)
        after = logits(model)
        with model.disable_adapter():
            assert torch.equal(logits(model), base)
        assert torch.equal(logits(model), after)


SCOPES = {
    "values": {"values", "anchor"},
    "values+scale": {"values", "anchor", "scale"},
    "memory": {"values", "anchor", "scale", "query_weight", "keys", "gate_weight", "output_weight"},
}


@pytest.mark.parametrize("scope", SCOPES)
def test_scope_names_what_is_trained(scope, capsys):
    model = memory_model(trainable=scope, gated=True)
    names = {
        n: "smf_scale.default" if n == "scale" else f"smf_memory.default.{n}" for n in SCOPES[scope]
    }
    for _ in range(2):
        assert trained_names(model) == set(names.values())
        with model.disable_adapter():
            pass
        model.set_adapter("default")
    model.print_trainable_parameters()
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable params: {count:,}" in capsys.readouterr().out
    before = {n: bits(p) for n, p in model.named_parameters()}
    optimizer = adamw(model, weight_decay=0.1)
    for step in range(3):  # values are zero at first, so that nothing else has a gradient
        train_step(model, optimizer, tokens(3, 9, seed=step))
    changed = {n for n, p in model.named_parameters() if not torch.equal(bits(p), before[n])}
    assert {n.split("mlp.")[1] for n in changed} == set(names.values()) - {names["anchor"]}


def test_two_adapters_are_trained_apart_and_together():
    model = trained(steps=2)
    first = [bits(t.values) for t in tables(model)]
    alone = logits(model)
    model.add_adapter("other", memory_config(layers=[2, 3], seed=1, trainable="values+scale"))
    assert torch.equal(logits(model), alone)
    model.set_adapter("other")
    assert torch.equal(logits(model), logits(tiny_model()))
    optimizer = adamw(model)
    train_step(model, optimizer, IDS)
    other = {n: m for n, m in memories(model).items() if n.endswith("other")}
    assert all((m.row_updates > 0).sum() == 6 for m in other.values())
    default = [m for n, m in memories(model).items() if n.endswith("default")]
    assert all(torch.equal(bits(m.values), b) for m, b in zip(default, first))
    second = logits(model)

    model.base_model.set_adapter(["default", "other"])
    before = [m.row_updates.sum() for m in memories(model).values()]
    train_step(model, adamw(model), IDS)
    after = [m.row_updates.sum() for m in memories(model).values()]
    assert [int(a - b) for a, b in zip(after, before)] == [6, 6, 6, 6]

    model.set_adapter("other")
    assert not torch.equal(logits(model), second)
    second = logits(model)
    model.delete_adapter("default")
    assert torch.equal(logits(model), second)
    assert all(name.endswith("other") for name in memories(model))
    model.set_adapter("other")
    train_step(model, adamw(model), IDS)


def test_a_replacing_adapter_stands_alone():
    model = memory_model(integration="replacement", initial_values="random")
    model.add_adapter("other", memory_config())
    model.base_model.set_adapter(["default", "other"])
    with pytest.raises(ValueError, match=r"\['default'\] replace the MLP.*set_adapter"):
        logits(model)


def test_sharing_one_table():
    model = memory_model(share_values=True, layers=[0, 1, 3])
    assert len(tables(model)) == 1 and len(memories(model)) == 3
    assert sum(n.endswith("values") for n, _ in model.named_parameters()) == 1
    train_step(model, adamw(model), IDS)
    assert (tables(model)[0].row_updates > 0).sum() == 6
    copied = copy.deepcopy(model)
    train_step(copied, adamw(copied), IDS)
    assert tables(copied)[0].row_updates.sum() == 12 and tables(model)[0].row_updates.sum() == 6


@pytest.mark.parametrize("architecture", ["Llama", "OPT"])
def test_a_deep_copy_is_a_model_of_its_own(architecture):
    model = memory_model(architecture)
    mask = torch.ones_like(IDS)
    mask[0, 4:] = 0
    train_step(model, adamw(model), IDS, attention_mask=mask)
    expected = logits(model)
    copied = copy.deepcopy(model)
    longer = tokens(2, 12)
    mask = torch.ones_like(longer)
    mask[0, 5:] = 0
    copied(input_ids=longer, attention_mask=mask, labels=longer).loss.backward()
    assert all(sum(len(e[0]) for e in t.tape.entries) == 17 for t in tables(copied))
    assert not any(t.tape.entries for t in tables(model))
    copied.zero_grad()
    train_step(copied, adamw(copied), longer, attention_mask=mask)
    assert torch.equal(logits(model), expected) and not torch.equal(logits(copied), expected)


def test_a_whole_model_can_be_pickled_after_training():
    model = trained(steps=1)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(logits(torch.load(file, weights_only=False)), logits(model))


def test_merging_is_refused_with_the_reason():
    model = trained(steps=1)
    expected = logits(model)
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged into dense weights.*depends on the"):
            merge()
    with pytest.raises(ValueError, match="nothing to unmerge"):
        model.unmerge_adapter()
    assert torch.equal(logits(model), expected)


class QuantisedLinear(nn.Module):
    """Stands in for a quantised linear map, whose weight is a parameter or, packed, a buffer."""

    def __init__(self, dtype, packed):
        super().__init__()
        weight = torch.ones(48, 32).to(dtype)
        if packed:
            self.register_buffer("qweight", weight)
        else:
            self.weight = nn.Parameter(weight, requires_grad=False)


def quantised_model(dtype, packed):
    model = tiny_model()
    mlp = model.model.layers[2].mlp
    mlp.gate_proj = mlp.up_proj = mlp.down_proj = QuantisedLinear(dtype, packed)
    return model


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn, torch.int32], ids=str
)
def test_a_quantised_mlp_is_not_replaced(dtype, packed):
    with pytest.raises(ValueError, match=f"layers.2.mlp holds {dtype}.*integration='additive'"):
        memory_model(model=quantised_model(dtype, packed), integration="replacement")


def test_an_mlp_of_buffers_alone_is_refused():
    """As GPTQ and AWQ keep theirs: where its device would be read from, there is nothing."""
    with pytest.raises(ValueError, match="layers.2.mlp has no parameters.*bitsandbytes or torchao"):
        memory_model(model=quantised_model(torch.int32, packed=True))


def test_layers_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"layers=\[4, 9\] do not exist.*numbered 0 to 3"):
        memory_model(layers=[0, 4, 9])


@pytest.mark.parametrize(
    "setting, message",
    [
        ({"layers": []}, r"layers=\[\]"),
        ({"layers": 8}, "layers=8 must be a list"),
        ({"layers": [1, 1]}, r"layers=\[1, 1\]"),
        ({"layers": [-1]}, r"layers=\[-1\]"),
        (
            {"integration": "add"},
            "integration='add' is unknown; choose one of additive, replacement",
        ),
        ({"initial_values": "one"}, "initial_values='one'.*zero, random"),
        ({"update": "no"}, "update='no'.*sparse, dense"),
        ({"values_dtype": "float16"}, "values_dtype='float16' is unknown; .*float32, bfloat16"),
        ({"values_dtype": "bfloat16", "update": "dense"}, "values_dtype='bfloat16' needs update"),
        ({"trainable": "all"}, r"trainable='all'.*values, values\+scale, memory"),
        ({"rows_per_step": 0}, "rows_per_step=0 must be a whole number of at least 1"),
        ({"num_heads": 1.5}, "num_heads=1.5 must be a whole number"),
        ({"top_k": 9}, "top_k=9 must be at most num_subkeys=8"),
        ({"key_dim": 7}, "key_dim=7 must be even"),
        ({"num_subkeys": 5000}, "num_subkeys=5000 makes 25000000 rows"),
        ({"max_grad_norm": 0}, "max_grad_norm=0 must be positive, or None"),
        ({"max_grad_norm": "1"}, "max_grad_norm='1' must be a number"),
        ({"initial_scale": None}, "initial_scale=None must be a number"),
        ({"initial_scale": float("nan")}, "initial_scale=nan must be a number"),
        ({"gated": 1}, "gated=1 is unknown; choose one of True, False"),
        ({"query_norm": "no"}, "query_norm='no' is unknown"),
        ({"initial_scale": float("inf")}, "initial_scale=inf must be a finite number"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": 10**16}, "seed=10000000000000000 must lie within"),
        (
            {"integration": "replacement", "trainable": "values+scale"},
            "trainable='values.scale' needs",
        ),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        memory_config(**setting)


def test_default_layers_are_spread_over_the_depth():
    assert [n.split(".")[4] for n in memories(memory_model(layers=None))] == ["1", "2", "3"]


def test_parameter_count_of_the_paper_from_the_configuration_alone():
    """arXiv 2605.03229: about 52 M memory parameters at Qwen2.5-0.5B, 44 M of them values."""
    base = paper_model()
    base_parameters = sum(p.numel() for p in base.parameters())
    model = get_peft_model(
        base,
        SparseMemoryConfig(
            task_type="CAUSAL_LM",
            layers=[6, 12, 18],
            num_subkeys=128,
            num_heads=4,
            top_k=16,
            key_dim=256,
            gated=True,
            trainable="memory",
        ),
        low_cpu_mem_usage=True,
    )
    assert [t.num_rows for t in tables(model)] == [16_384] * 3
    values = sum(t.values.numel() for t in tables(model))
    total = sum(p.numel() for p in model.parameters()) - base_parameters
    assert values == 3 * 16_384 * 896 == 44_040_192
    linear_maps = 4 * 256 * 896 + 4 * 2 * 128 * 128 + 2 * 896**2
    assert total == values + 3 * (linear_maps + 2) == 52_002_822  # and two scalars a layer


@pytest.mark.parametrize("settings", SHAPES, ids=str)
def test_an_adapter_moves_as_a_whole_and_alone(settings):
    """The device that every machine has beside the CPU is meta."""
    model = memory_model(model=tiny_model().bfloat16(), **settings)
    model.add_adapter("second", memory_config(**settings))
    for layer in model.modules():
        if isinstance(layer, MemoryMLP):
            layer._move_adapter_to_device_of_base_layer("default", torch.device("meta"))
    named = [*model.named_parameters(), *model.named_buffers()]
    devices = {n: str(t.device) for n, t in named if "smf_" in n}
    assert devices == {n: "meta" if ".default" in n else "cpu" for n in devices}
    kept = [
        t.dtype for n, t in named if "smf_" in n and t.is_floating_point() and "values" not in n
    ]
    assert {*kept} == {torch.float32}


@pytest.mark.parametrize("base", ["cpu", "meta"])
def test_a_loaded_adapter_is_moved_to_the_device_of_its_layer(base, tmp_path, monkeypatch):
    """PEFT reads a file onto a GPU where there is one, wherever the model is, and then moves it.

    Where the layer is on meta, its weights are offloaded: the adapter stays where it is.
    """
    memory_model().save_pretrained(tmp_path)
    moves = []
    monkeypatch.setattr(ProductKeyMemory, "to", lambda self, *place: moves.append(place))
    model = PeftModel.from_pretrained(tiny_model().to(base), tmp_path, low_cpu_mem_usage=True)
    assert moves == ([(torch.device("cpu"),)] * 2 if base == "cpu" else [])
    assert all(t.values.device.type == "cpu" for t in tables(model))


@pytest.mark.parametrize("parallel", [False, True])
def test_a_replacing_memory_where_the_decoder_adds_in_place(parallel):
    shape = {"hidden_size": 32, "ffn_hidden_size": 48}
    shape |= {"num_hidden_layers": 4, "num_attention_heads": 4}
    base = tiny_model("Falcon", parallel_attn=parallel, **shape)
    model = memory_model(model=base, integration="replacement", initial_values="random")
    expected = logits(model)
    losses = [train_step(model, adamw(model, 1e-1), IDS) for _ in range(3)]
    assert losses[2] < losses[0] and not torch.equal(logits(model), expected)
    assert all((t.row_updates > 0).any() for t in tables(model))
