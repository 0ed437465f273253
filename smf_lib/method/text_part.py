"""The part of a model that reads text: all of it, or one tower of a multimodal model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

LEARNED_POSITIONS = {
    "wpe",
    "embed_positions",
    "position_embeddings",
    "position_embedding",
    "positions_embed",
}


def text_part(model: nn.Module) -> tuple[str, nn.Module]:
    """The text decoder's name in `model`, with a dot after it, and the decoder.

    It is ("", model) where text is all that the model reads.
    """
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "get_text_config"):
        return "", model
    if config.get_text_config() is config:
        return "", model
    decoder = model.get_decoder()  # type: ignore[operator]
    name = next(name for name, module in model.named_modules() if module is decoder)
    return f"{name}.", decoder


def known_positions(text: nn.Module) -> int | None:
    """How many positions the decoder has learned by heart; None where it computes them."""
    for name, module in text.named_modules():
        wrapped_too = LEARNED_POSITIONS & {*name.split(".")}  # by PEFT, where they are trained
        if wrapped_too and isinstance(module, nn.Embedding):
            return getattr(text.config, "max_position_embeddings", None)
    return None


def check_length(positions: int | None, given: Mapping[str, Any]) -> None:
    """Refuse texts that are longer than a decoder's learned positions, at which it only fails.

    Args:
        positions: how many it has learned, see `known_positions`.
        given: what the decoder is called with, by name.

    Raises:
        ValueError: there are more tokens than positions, those in the cache included, and no
            `position_ids` that say otherwise (which do not count padding).
    """
    if positions is None:
        return
    batches = (given.get(name) for name in ("input_ids", "inputs_embeds"))
    lengths = (b.shape[1] if b.dim() > 1 else len(b) for b in batches if isinstance(b, Tensor))
    length, cache = next(lengths, 0), given.get("past_key_values")
    before = 0 if cache is None else cache.get_seq_length()
    if isinstance(before, Tensor):  # of a cache of fixed size, which a compiled model cannot ask
        before = 0 if torch.compiler.is_compiling() else int(before)
    if before + length <= positions:
        return
    said = given.get("position_ids")
    if said is None or int(said.max()) >= positions:
        raise ValueError(
            f"input_ids has {length} tokens a row{f' after {before} in the cache' * bool(before)}, "
            f"and the model has learned {positions} positions; cut texts to that "
            f"(max_length={positions})"
        )
