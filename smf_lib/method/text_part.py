"""The part of a model that reads text: all of it, or one tower of a multimodal model."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

LEARNED_POSITIONS = ("wpe", "embed_positions", "position_embeddings", "position_embedding")


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
        if name.rpartition(".")[2] in LEARNED_POSITIONS and isinstance(module, nn.Embedding):
            return getattr(text.config, "max_position_embeddings", None)
    return None


def check_length(positions: int | None, args: tuple, kwargs: dict) -> None:
    """Refuse texts that are longer than a decoder's learned positions, at which it only fails.

    Args:
        positions: how many it has learned, see `known_positions`.
        args, kwargs: what the model is called with.

    Raises:
        ValueError: there are more tokens than positions.
    """
    if positions is None:
        return
    given = [*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
    lengths = (b.shape[1] if b.dim() > 1 else len(b) for b in given if isinstance(b, Tensor))
    length = next(lengths, 0)
    if length > positions:
        raise ValueError(
            f"input_ids has {length} tokens a row, and the model has learned {positions} "
            f"positions; cut texts to that (max_length={positions})"
        )
