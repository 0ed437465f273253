"""Writes a model with its memories as a plain folder of transformers, which needs no `smf_lib`.

The folder has one file of code (`modeling_sparse_memory.py`) that `trust_remote_code=True` lets
transformers, and what is built on it, run.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from .arguments import MODEL, check_kind, check_path
from .files import whole
from .layer import ProductKeyMemory
from .mlp import MemoryMLP

CODE = Path(__file__).with_name("modeling_sparse_memory.py")
AUTO_MAP = {
    "AutoConfig": "modeling_sparse_memory.MemoryConfig",
    "AutoModel": "modeling_sparse_memory.MemoryModel",
    "AutoModelForCausalLM": "modeling_sparse_memory.MemoryForCausalLM",
}


@torch.no_grad()
def export(model: nn.Module, folder: str | Path, tokenizer: Any = None) -> Path:
    """Write the base model and the active adapter's memories as one model; returns the folder.

    Whoever has transformers loads it, on a processor to the same bits (on a GPU PEFT's model reads
    rows by a kernel of its own, the folder's by torch's operations, which round otherwise):

        AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

    Of a table it holds the rows that are not zero, and beside them keys and queries.

    Args:
        model: a PEFT model with a sparse memory, of a causal language model of transformers.
        folder: where to; an earlier folder of that name is replaced.
        tokenizer: what belongs to the model; saved beside it. None: nothing is.

    Raises:
        ValueError: the model is none of those; two memories are active; it has something else that
            is trained beside them (LoRA, single tokens), or quantised weights; or its MLP is no
            module of its own (OPT).
    """
    check_kind("model", model, nn.Module, MODEL)
    check_path("folder", folder)
    if tokenizer is not None and not hasattr(tokenizer, "save_pretrained"):
        raise ValueError(f"tokenizer={tokenizer!r:.80} cannot be saved; give one of transformers")
    base = _base(model)
    layers = {n: m for n, m in base.named_modules() if isinstance(m, MemoryMLP)}
    names = {name for layer in layers.values() for name in layer.active_adapters}
    names &= {name for layer in layers.values() for name in layer.smf_memory}
    if len(names) != 1:
        raise ValueError(
            f"active adapters={sorted(names)} are {len(names)} memories; export writes one: choose "
            "it with model.set_adapter(name)"
        )
    adapter = names.pop()
    layers = {name: layer for name, layer in layers.items() if adapter in layer.smf_memory}
    state, places = _base_state(base, adapter, layers), []
    prefix = f"{base.base_model_prefix}."
    for name, layer in layers.items():
        if layer.tap is not None:
            raise ValueError(
                f"{name}: the MLP of {type(base).__name__} is no module of its own, so export "
                "cannot write a memory beside it; keep the adapter"
            )
        tensors, shape = _memory(layer.smf_memory[adapter])
        scale = layer.smf_scale[adapter] if adapter in layer.smf_scale else torch.zeros(())
        tensors["scale"] = scale.detach().float()
        state |= {f"{name}.memory.{key}": tensor for key, tensor in tensors.items()}
        replaces = adapter not in layer.smf_scale
        places.append({"at": name.removeprefix(prefix), "replaces": replaces, **shape})
        if replaces:
            state = {k: t for k, t in state.items() if not k.startswith(f"{name}.mlp.")}
    folder = Path(folder)
    with whole(folder) as scratch:
        scratch.mkdir()
        code = _write_code(base, scratch)
        settings = base.config.to_dict() | {"memories": places, "auto_map": AUTO_MAP}
        del settings["model_type"]
        config = code.MemoryConfig(**settings)
        with torch.device("meta"):
            exported = code.MemoryForCausalLM(config)
        _fill(exported, state)
        exported.generation_config = base.generation_config
        exported.save_pretrained(scratch)
        if tokenizer is not None:
            tokenizer.save_pretrained(scratch)
    return folder


def _base(model: nn.Module) -> Any:
    """The model of transformers in a PEFT model with a memory."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not any(isinstance(module, MemoryMLP) for module in base.modules()):
        raise ValueError(f"model={type(model).__name__} has no memory; use save_pretrained")
    if MODEL_FOR_CAUSAL_LM_MAPPING.get(type(base.config), None) is not type(base):
        raise ValueError(
            f"model={type(base).__name__} is no causal language model that transformers itself "
            "brings; export can write no other"
        )
    return base


def _base_state(base: nn.Module, adapter: str, layers: Collection[str]) -> dict[str, Tensor]:
    """The base model's weights by the names of the exported model.

    layers: where it has a memory; of other adapters' memories only the MLP stays.
    """
    state = {}
    for key, tensor in base.state_dict().items():
        if ".smf_memory." in key or ".smf_scale." in key or ".original_module." in key:
            continue
        if f".modules_to_save.{adapter}." in key:  # stands in for the original
            key = key.replace(f".modules_to_save.{adapter}.", ".")
        place, inside, rest = key.partition(".base_layer.")
        state[f"{place}{'.mlp.' if place in layers else '.'}{rest}" if inside else key] = tensor
    return state


def _memory(memory: ProductKeyMemory) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A memory's weights and shape in the exported model."""
    values = memory.table.values.detach().float()
    rows = values.any(1).nonzero().squeeze(1)
    digits = torch.stack([rows // 65536, rows // 256 % 256, rows % 256], 1)
    tensors = {
        "query_weight": memory.query_weight,
        "keys": memory.keys,
        "row_digits": digits,
        "values": torch.cat([values[rows], values.new_zeros(1, values.shape[1])]),
        "gate_weight": memory.gate_weight,
        "output_weight": memory.output_weight,
    }
    shape = {
        "rows": len(rows),
        "num_subkeys": memory.num_subkeys,
        "num_heads": memory.num_heads,
        "top_k": memory.top_k,
        "key_dim": 2 * memory.keys.shape[-1],
        "query_norm": memory.query_norm,
        "gated": memory.gate_weight is not None,
    }
    if memory.table.values_dtype != torch.float32:
        shape["values_dtype"] = "bfloat16"
    return {k: t.detach().float() for k, t in tensors.items() if t is not None}, shape


def _write_code(base: Any, folder: Path) -> ModuleType:
    """Put the file of code into the folder, for the classes of this model, and import it."""
    text = CODE.read_text("utf-8")
    bases = (base.config_class, type(base), type(base.base_model))
    for kind, found in zip(("Config", "ForCausalLM", "Model"), bases, strict=True):
        text = re.sub(rf"\bLlama{kind}\b", found.__name__, text)
    place = folder / CODE.name
    place.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location("smf_lib_exported", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _fill(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give the model its weights; refused if they are not, one for one, those it has."""
    odd = {k for k, t in state.items() if not t.is_floating_point()} - {
        k for k, t in model.state_dict().items() if not t.is_floating_point()
    }
    odd |= model.state_dict().keys() ^ state.keys()
    # torchao's tensors say that they are of floating point
    odd |= {k for k, t in state.items() if type(t) not in (Tensor, nn.Parameter)}
    if odd:
        named = sorted(odd)
        raise ValueError(
            f"the model has weights that export cannot write ({', '.join(named[:3])}, "
            f"{len(named)} in all): it is quantised, or something else than a memory is trained "
            "beside it; load the base model in float32 or bfloat16, with the memory alone"
        )
    model.load_state_dict(state, assign=True)
