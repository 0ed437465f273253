"""What a finetune's rows belong to: one base model, with one memory in it.

The base model is identified by its configuration and by the sha256 of *all* its weights, not of a
sample: a base in which only some tensors differ (a merged adapter, a new token's embedding) is
another base. That costs a pass over the weights, about half a second per gigabyte of float32,
whenever a row patch is made, applied or reverted.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields

from peft.config import PeftConfig
from torch import Tensor, nn

from ..arguments import check_kind
from ..config import SparseMemoryConfig
from ..mlp import MemoryMLP
from ..registration import PREFIX
from ..sums import sha256_of
from ..tuner import SparseMemoryModel

# settings of the base model that do not change what its weights compute, or that trainers edit
BASE_SETTINGS_IGNORED = {
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "architectures",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
}
# settings of the memory that say how it is trained or saved and not what it is
TRAINING_SETTINGS = {
    "update",
    "trainable",
    "rule",
    "rows_per_step",
    "max_grad_norm",
    "values_dtype",
    "modules_to_save",
    "trainable_token_indices",
    "save_rows",
    "target_modules",
    "format_version",
}


def smf_tuner(model: nn.Module, adapter: str) -> SparseMemoryModel:
    """The tuner of a PEFT model that holds a sparse memory of that name.

    Raises:
        ValueError: not such a model, or no adapter of that name; the message lists the names.
    """
    tuner = getattr(model, "base_model", None)
    if not isinstance(tuner, SparseMemoryModel) or not tuner.peft_config:
        raise ValueError(
            f"model={type(model).__name__} has no sparse memory; insert one with "
            "peft.get_peft_model(model, SparseMemoryConfig(...))"
        )
    check_kind("adapter", adapter, str, f"one of {', '.join(tuner.peft_config)}")
    if adapter not in tuner.peft_config:
        raise ValueError(
            f"adapter={adapter!r} is unknown; the model has {', '.join(tuner.peft_config)}"
        )
    return tuner


def memory_mlps(model: nn.Module, adapter: str) -> dict[str, MemoryMLP]:
    """The layers with a memory of that adapter, by module name in the base model, by depth."""
    modules = smf_tuner(model, adapter).model.named_modules()
    return {
        name: module
        for name, module in modules
        if isinstance(module, MemoryMLP) and adapter in module.smf_memory
    }


@dataclass(frozen=True)
class Identity:
    """A base model and the memory in it, as far as trained rows depend on them.

    Attributes:
        base_config: the base model's settings, as plain JSON.
        base_weights: sha256 of all its parameters.
        memory_config: the memory's settings that shape it, as plain JSON.
        memory_weights: sha256 of its queries, keys and gates.
    """

    base_config: dict
    base_weights: str
    memory_config: dict
    memory_weights: str

    @classmethod
    def of(cls, model: nn.Module, adapter: str) -> Identity:
        """Identity of a PEFT model and its sparse memory. Raises ValueError, see `smf_tuner`."""
        tuner = smf_tuner(model, adapter)
        base = tuner.model
        base_config = {
            name: value
            for name, value in base.config.to_diff_dict().items()
            if name not in BASE_SETTINGS_IGNORED and not name.startswith("_")
        }
        return cls(
            json.loads(json.dumps(base_config, default=str)),
            sha256_of(_base_parameters(base)),
            _memory_config(tuner.peft_config[adapter]),
            sha256_of(_fixed_parameters(model, adapter)),
        )

    def differences(self, other: Identity, mine: str, theirs: str) -> list[str]:
        """One sentence for each thing that differs, with both values; `mine`, `theirs` name them.

        A setting of the base model that only one of them has is passed over: releases of
        transformers add settings, and the weights decide.
        """
        both = self.base_config.keys() & other.base_config.keys()
        pairs = [
            (f"base model {key}", self.base_config[key], other.base_config[key])
            for key in sorted(both)
        ]
        pairs.append(("base model weights (sha256)", self.base_weights, other.base_weights))
        pairs += [
            (f"memory {key}", self.memory_config.get(key), other.memory_config.get(key))
            for key in sorted(self.memory_config.keys() | other.memory_config.keys())
        ]
        pairs.append(("memory keys (sha256)", self.memory_weights, other.memory_weights))
        return [f"{what}: {a!r} in {mine}, {b!r} in {theirs}" for what, a, b in pairs if a != b]


def _base_parameters(base: nn.Module) -> list[tuple[str, Tensor]]:
    """The base model's own parameters by the names they have without adapters, sorted."""
    own = [
        (".".join(part for part in name.split(".") if part != "base_layer"), parameter)
        for name, parameter in base.named_parameters()
        if not any(part.startswith(PREFIX) for part in name.split("."))
    ]
    return sorted(own, key=lambda item: item[0])


def _fixed_parameters(model: nn.Module, adapter: str) -> list[tuple[str, Tensor]]:
    """Queries, keys and gates of every memory: what decides which rows are read, and how."""
    return [
        (f"{layer}.{name}", parameter)
        for layer, mlp in memory_mlps(model, adapter).items()
        for name, parameter in sorted(mlp.smf_memory[adapter].named_parameters())
        if name not in ("values", "anchor")
    ]


def _memory_config(config: SparseMemoryConfig) -> dict:
    general = {field.name for field in fields(PeftConfig)}
    own = [f.name for f in fields(config) if f.name not in general | TRAINING_SETTINGS]
    return json.loads(json.dumps({name: getattr(config, name) for name in own}, default=str))
