"""Rows of tokens that a causal model reads piece by piece, keeping what it has read.

A row can be copied at any point, so what several texts begin with is read once and each of them
goes on from there. New tokens are padded on the left: the last column of a row is always its last
token.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, DynamicCache

PRECISIONS = ("bf16", "fp32")
ENOUGH_TOKENS = 256  # a forward pass over fewer spends its time on reading the weights


@contextlib.contextmanager
def inference(model: nn.Module, precision: str) -> Iterator[None]:
    """Evaluation mode without gradients, under bfloat16 autocast if `precision` is "bf16".

    With "fp32" the model computes in the type of its weights. The weights and the model's mode are
    afterwards what they were. Raises ValueError for another precision.
    """
    check_precision(precision)
    training = model.training
    model.eval()
    # Autocast keeps the bfloat16 copy of a weight from one forward pass to the next only if the
    # weight requires a gradient; without this, frozen weights are converted in every pass.
    frozen = [p for p in model.parameters() if p.is_floating_point() and not p.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    device = next(model.parameters()).device.type
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
    try:
        with torch.no_grad(), autocast:
            yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.train(training)


def check_precision(precision: str) -> None:
    """Raise ValueError for a precision that is not one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision={precision!r} is unknown; choose one of {PRECISIONS}")


@dataclass
class Rows:
    """Token rows that a model has read: its cache, and which columns hold real tokens.

    mask: (rows, columns) int64, 1 for a real token and 0 for padding.
    """

    cache: Cache
    mask: Tensor

    def select(self, rows: Sequence[int]) -> Rows:
        """The given rows, each as often as it is named; this object stays as it is."""
        index = torch.tensor(rows, device=self.mask.device)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        cache.batch_select_indices(index)  # makes new tensors
        return Rows(cache, self.mask[index])


class RowReader:
    """A causal transformers model, plain or wrapped by PEFT, that reads `Rows`.

    The virtual tokens of PEFT's prompt-learning methods stand before every text; they are read
    here, once, and then the model inside the wrapper reads on.

    Attributes:
        equal_lengths: whether the rows of a `read` must have equally many new tokens, since
            padding would shift what they attend to (`attends_by_column`).

    Raises:
        ValueError: a model that cannot be read piece by piece (`check_readable`).
    """

    def __init__(self, model: nn.Module):
        wrapped = isinstance(model, PeftModel)
        base = model.get_base_model() if wrapped else model
        check_readable(base)
        prompted = wrapped and model.active_peft_config.is_prompt_learning
        self.model, self.base = model, base
        self.virtual_tokens = model.active_peft_config.num_virtual_tokens if prompted else 0
        self.device = next(model.parameters()).device
        self.config = base.config.get_text_config()
        self._forward = base if prompted else model
        self._takes_positions = "position_ids" in inspect.signature(base.forward).parameters
        self.equal_lengths = attends_by_column(base)

    @property
    def max_length(self) -> int | None:
        """Longest text in tokens; None if the model's configuration has no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else limit - self.virtual_tokens

    def start(self, tokens: Sequence[int] = ()) -> Rows:
        """One row that has read these tokens."""
        cache = DynamicCache(config=self.config)
        if self.virtual_tokens:
            virtual = self.model.get_prompt(batch_size=1)
            if isinstance(virtual, Cache):  # prefix tuning gives keys and values
                cache = virtual
            else:
                self._forward(inputs_embeds=virtual, past_key_values=cache, use_cache=True)
        mask = torch.ones(1, self.virtual_tokens, dtype=torch.int64, device=self.device)
        rows = Rows(cache, mask)
        if tokens:
            self.read(rows, [tokens])
        return rows

    def read(self, rows: Rows, tokens: Sequence[Sequence[int]], all_logits: bool = False) -> Tensor:
        """Let each row read on by its tokens, at least one; `rows` grows by them in place.

        Returns:
            logits (rows, 1, vocabulary) after each row's last token, or with all_logits (rows,
            longest, vocabulary), where a row's tokens are the last columns.
        """
        longest = max(len(row) for row in tokens)
        ids = torch.zeros(len(tokens), longest, dtype=torch.int64)
        real = torch.zeros_like(ids)
        for row, new in enumerate(tokens):
            ids[row, longest - len(new) :] = torch.tensor(new)
            real[row, longest - len(new) :] = 1
        rows.mask = torch.cat([rows.mask, real.to(self.device)], dim=1)
        inputs = {"input_ids": ids.to(self.device), "attention_mask": rows.mask}
        if self._takes_positions:
            inputs["position_ids"] = (rows.mask.cumsum(1) - 1).clamp_(min=0)[:, -longest:]
        return self._forward(
            **inputs,
            past_key_values=rows.cache,
            use_cache=True,
            logits_to_keep=0 if all_logits else 1,
        ).logits


# kinds of layers whose state is no cache of keys and values
RECURRENT = {
    "conv", "hybrid", "hybrid_sliding", "linear_attention", "mamba", "mamba2", "recurrent",
}  # fmt: skip


def check_readable(model: nn.Module) -> None:
    """Raise ValueError for a model (with or without weights) that `RowReader` cannot read.

    That is one with a recurrent state, which cannot be cut and padded like a key-value cache; one
    without such a cache, which would read each piece as a text of its own; an encoder, to which
    what comes later would change what came before; and one of RoBERTa's kind, whose first position
    is not 0.
    """
    config = model.config
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ())
    needed = "a model whose layers all have a key-value cache"
    if getattr(model, "_is_stateful", False) or kinds & RECURRENT:
        reason = "keeps a recurrent state"
    elif "past_key_values" not in inspect.signature(model.forward).parameters:
        reason = "has no key-value cache"
    elif hasattr(config, "add_cross_attention") and getattr(config, "is_decoder", True) is False:
        reason, needed = "attends to both sides of a token", "a model that attends to what was read"
    elif any(hasattr(part, "create_position_ids_from_input_ids") for part in model.modules()):
        reason, needed = "counts positions from its padding token", "one that counts them from 0"
    else:
        return
    raise ValueError(f"model={type(model).__name__} {reason}; evaluation needs {needed}")


def attends_by_column(model: nn.Module) -> bool:
    """Whether what a token attends to depends on the column it stands in, so on padding before it.

    So it is with windows and chunks of attention (Mistral, Gemma 3, GPT-Neo, Llama 4) and with
    ALiBi (Press et al., arXiv 2108.12409; Bloom, MPT, Falcon), and it is taken to be so where a
    model cannot be told the position of a token.
    """
    config = model.config.get_text_config()
    windows = ("sliding_window", "attention_chunk_size", "window_size")
    return (
        any(getattr(config, name, None) for name in windows)
        or bool(getattr(config, "alibi", False))
        or "position_ids" not in inspect.signature(model.forward).parameters
    )


def common_prefix(texts: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all texts begin with, but never the whole of one: its last token is left."""
    first, last = min(texts), max(texts)
    limit = min(len(text) for text in texts) - 1
    length = 0
    while length < limit and first[length] == last[length]:
        length += 1
    return list(first[:length])


def batches(lengths: Sequence[int], budget: int, equal: bool = False) -> Iterator[list[int]]:
    """Cut texts, longest first, into batches of their indices of at most `budget` tokens.

    equal: whether all texts of a batch must have the same length. Padding counts. A batch that is
    large enough to be computed well also ends where more than a fifth of the next row would be
    padding. A text longer than the budget is a batch of its own.
    """
    batch: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else 0
        full = (len(batch) + 1) * longest > budget
        padded = lengths[item] < 0.8 * longest and len(batch) * longest >= ENOUGH_TOKENS
        differs = equal and lengths[item] != longest
        if batch and (full or padded or differs):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
