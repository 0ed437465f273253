"""Background that the model itself writes: text of its own distribution."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from tqdm import tqdm  # type: ignore[import-untyped]

BATCH = 64


@torch.no_grad()
def write_text(
    model: nn.Module, tokenizer: Any, sequences: int, tokens: int, seed: int
) -> list[list[int]]:
    """Texts of at most `tokens` token ids that the model writes with its adapters switched off.

    Drawn from its own distribution (temperature 1, nothing cut off), beginning with the token that
    parts documents; a text ends where the model ends it. The random numbers of the training that
    follows are left as they were.

    Raises:
        ValueError: the tokenizer has no token to begin a text with, or `tokens` is more than the
            model reads.
    """
    start = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.bos_token_id)
    start = tokenizer.eos_token_id if start is None else start
    if start is None:
        raise ValueError(
            "background='model' needs a token to begin a text with and the tokenizer has none; "
            "set its bos_token or eos_token, or give texts"
        )
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None and tokens > longest:
        raise ValueError(
            f"tokens={tokens} is more than the {longest} positions of the model, which is to write "
            "the background; take fewer"
        )
    device = next(model.parameters()).device
    on_cpu = device.type == "cpu"
    forked = {} if on_cpu else {"device_type": device.type}
    was_training, written = model.training, []
    model.eval()
    try:
        with (
            torch.random.fork_rng([] if on_cpu else [device], **forked),
            model.disable_adapter() if isinstance(model, PeftModel) else nullcontext(),
        ):
            torch.manual_seed(seed)
            for begin in tqdm(range(0, sequences, BATCH), desc="writing text"):
                ids = torch.full((min(BATCH, sequences - begin), 1), start, device=device)
                texts = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=True,
                    temperature=1.0,
                    top_k=0,
                    top_p=1.0,
                    repetition_penalty=1.0,
                    max_new_tokens=tokens - 1,
                    eos_token_id=start,
                    pad_token_id=start,
                )
                written += [_up_to(text, start) for text in texts.tolist()]
    finally:
        model.train(was_training)
    return written


def _up_to(text: list[int], end: int) -> list[int]:
    """The text without what stands after its end token, the first of which begins it."""
    return text[: text.index(end, 1)] if end in text[1:] else text
