"""Finds the decoder layers of a transformers model and the MLP in each of them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

MLP_NAMES = ("mlp", "feed_forward", "ffn", "feedforward", "block_sparse_moe")
EXPERT_NAMES = ("experts", "router", "block_sparse_moe", "moe", "shared_expert")


@dataclass(frozen=True)
class MLPSite:
    """Where a layer's MLP begins and ends, as module names from the model's root.

    For most architectures both are the MLP module itself; where its two linear maps stand in the
    decoder layer directly (OPT), `entry` is the first and `exit` the second. `experts`: whether it
    is a mixture of experts.
    """

    layer: int
    entry: str
    exit: str
    experts: bool = False


def decoder_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and list of the decoder layers: the ModuleList as long as `config.num_hidden_layers`.

    Raises:
        ValueError: not a decoder-only transformers model, or no such list.
    """
    config = getattr(model, "config", None)
    depth = getattr(config, "num_hidden_layers", None)
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"model={type(model).__name__} is an encoder-decoder; sparse memory needs a "
            "decoder-only transformers model"
        )
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise ValueError(
        f"model={type(model).__name__} has no list of decoder layers of the length "
        f"config.num_hidden_layers={depth}; sparse memory needs a decoder-only transformers model"
    )


def layer_number(name: str) -> int:
    """The decoder layer that a module stands in, by the module's name ("model.layers.8.mlp": 8)."""
    return int(next(part for part in name.split(".") if part.isdigit()))


def find_mlps(model: nn.Module, layers: list[int]) -> list[MLPSite]:
    """The MLP of each of the given layers.

    Raises:
        ValueError: a layer number out of range, or a layer in which no MLP can be recognised; the
            message names the layer and its modules.
    """
    prefix, blocks = decoder_layers(model)
    beyond = [i for i in layers if i >= len(blocks)]
    if beyond:
        raise ValueError(
            f"layers={beyond} do not exist: {type(model).__name__} has {len(blocks)} layers, "
            f"numbered 0 to {len(blocks) - 1}"
        )
    return [_site(prefix, i, blocks[i]) for i in layers]


def default_layers(depth: int) -> list[int]:
    """Three layers at one quarter, half and three quarters of the depth (fewer if too shallow)."""
    return sorted({depth // 4, depth // 2, depth * 3 // 4})


def _site(prefix: str, index: int, block: nn.Module) -> MLPSite:
    block = getattr(block, "base_layer", block)
    children = dict(block.named_children())
    where = f"{prefix}.{index}"
    names = {name.rsplit(".", 1)[-1] for name, _ in block.named_modules()}
    experts = bool(names & set(EXPERT_NAMES))
    for name in MLP_NAMES:
        if name in children:
            return MLPSite(index, f"{where}.{name}", f"{where}.{name}", experts)
    if {"fc1", "fc2"} <= children.keys():
        return MLPSite(index, f"{where}.fc1", f"{where}.fc2")
    raise ValueError(
        f"layers={index}: no MLP recognised in {type(block).__name__}, which has "
        f"{', '.join(children)}; known names are {', '.join(MLP_NAMES)}, or fc1 and fc2"
    )
