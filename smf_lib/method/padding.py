"""Which tokens are padding: read from the attention mask, so that padding never reads a memory."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .text_part import check_length

MASK = "smf_mask"


@dataclass
class PaddingMask:
    """Which tokens of a forward pass are real. Shared by all memories of a model.

    It is itself the forward pre-hook of the decoder, which sees the attention mask of every pass,
    whoever calls the model; so it also refuses what the decoder cannot do.

    Reentrant gradient checkpointing runs a layer without gradients first, and again in the
    backward pass, when the decoder may long have run on other tokens. So the mask is also left
    where only that repetition finds it: at the pass's nodes of the autograd graph.

    Attributes:
        mask: (batch, length), true for a real token, or None where every token is real; of the
            decoder's last pass.
        trains: whether that pass runs with gradients.
        repeats: whether a memory in it ran without, and so will run again.
        repeated: whether any pass so far was such a one.
        positions: how many positions the decoder has learned, or None, see `known_positions`.
    """

    mask: Tensor | None = None
    trains: bool = False
    repeats: bool = False
    repeated: bool = False
    positions: int | None = None

    def __call__(self, decoder: nn.Module, args: tuple, kwargs: dict) -> None:
        """Note the mask of a forward pass that begins.

        Raises:
            ValueError: the mask is of a kind that says nothing (see `token_mask`); the text is
                longer than the decoder can read (see `check_length`); or there are
                `adapter_names`, which only PEFT's wrapper follows, and then keeps to itself.
        """
        bound = inspect.signature(decoder.forward).bind_partial(*args, **kwargs).arguments
        given = kwargs | bound
        if given.get("adapter_names") is not None:
            raise ValueError(
                f"adapter_names={given['adapter_names']!r} needs PEFT's wrapper, without which it "
                "is passed over; use peft.get_peft_model(model, SparseMemoryConfig(...))"
            )
        check_length(self.positions, given)
        self.mask = token_mask(given.get("attention_mask"))
        self.trains, self.repeats = torch.is_grad_enabled(), False

    def after(self, decoder: nn.Module, args: tuple, output: Any) -> None:
        """The decoder's forward hook: leaves the mask in the graph for layers that run again."""
        if not self.repeats:
            return
        nodes: list[Any] = [output[0].grad_fn]
        seen: set[Any] = set()
        while nodes:
            node = nodes.pop()
            if node is not None and node not in seen:
                seen.add(node)
                node.metadata[MASK] = self.mask
                nodes += [below for below, _ in node.next_functions]

    def of_this_pass(self) -> Tensor | None:
        """The mask of the pass that the calling memory runs in, also if that is a repetition."""
        if self.trains and not torch.is_grad_enabled():
            self.repeats = self.repeated = True
        if self.repeated:
            node = running_node()
            if node is not None and MASK in node.metadata:
                return node.metadata[MASK]
        return self.mask


def running_node() -> Any:
    """The node of the autograd graph whose backward runs now, or None outside of a backward pass.

    torch has no public name for it; its own `torch.utils.checkpoint` and compiler use this one.
    """
    return torch._C._current_autograd_node()


def token_mask(mask: Tensor | dict | None) -> Tensor | None:
    """The (batch, length) bool mask of real tokens behind an attention mask, or None.

    Args:
        mask: (batch, length), nonzero for real tokens; (batch, heads, length, keys), bool or added
            to the scores, where a token that may not attend to itself is padding; a dict of such
            masks, one per kind of layer; or None.

    Raises:
        ValueError: any other kind of mask.
    """
    found: object = mask
    if isinstance(mask, dict):
        found = next((m for m in mask.values() if m is not None), None)
    if found is None:
        return None
    if not isinstance(found, Tensor) or found.dim() not in (2, 4):
        raise ValueError(
            f"attention_mask={type(found).__name__} does not say which tokens are padding; pass a "
            "tensor of shape (batch, length) or (batch, heads, length, keys)"
        )
    if found.dim() == 4:
        own = found[:, 0].diagonal(offset=found.shape[-1] - found.shape[-2], dim1=1, dim2=2)
        return own if own.dtype == torch.bool else own == 0
    return found.bool()


def real_tokens(mask: Tensor | None, n_tokens: int) -> Tensor | None:
    """The mask of a forward pass's `n_tokens` flattened tokens, shape (n_tokens,), or None.

    Raises:
        ValueError: the mask is of another shape than the tokens.
    """
    if mask is None:
        return None
    if len(mask) == 1 and n_tokens % mask.shape[1] == 0:  # one mask for the whole batch
        mask = mask.expand(max(n_tokens // mask.shape[1], 1), -1)
    length = n_tokens // len(mask)
    if length * len(mask) != n_tokens or length > mask.shape[1]:
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} does not fit {n_tokens} tokens; pass a "
            "(batch, length) mask of the tokens that are fed to the model"
        )
    return mask[:, -length:].reshape(-1)  # with a key-value cache only the last columns
