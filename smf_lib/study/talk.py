"""What a model says to a text: the shortest way to see what finetuning changed."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def answer(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, prompt: str, tokens: int = 32
) -> str:
    """What a model writes after a prompt, greedily: at most `tokens` tokens, up to the line's end.

    Raises:
        ValueError: an empty prompt.
    """
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    if not ids.shape[1]:
        raise ValueError(f"prompt={prompt!r} is empty; give at least one word")
    written = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=torch.ones_like(ids, device=model.device),
        max_new_tokens=tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
    return text.lstrip().partition("\n")[0].rstrip()
