"""Text that the base model writes itself: for counting reads, and for measuring divergence.

Other hardware rounds differently and writes something else, and without a GPU the writing takes
minutes. So what the embedded model writes for the shipped profiles comes with the library, under
the key that it was written with; a text of another key is written when it is first asked for.
"""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..precision import native_bfloat16

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "own_text"
WRITING_BATCH = 64


def shipped(digest: str) -> Path | None:
    """The JSON file of a text that comes with the library, by its key's digest; None: not there."""
    path = SHIPPED / f"{digest}.json"
    return path if path.is_file() else None


def document_start(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token after which the model has learned to begin a new text.

    ``<|endoftext|>`` where the vocabulary has it (SmolLM2, Qwen2.5 and GPT-2 parted their
    pretraining documents with it; the tokens that SmolLM2 and Qwen2.5 name as begin and end mark
    chat turns), otherwise the beginning-of-text token, otherwise the end-of-text token.
    """
    named = tokenizer.get_vocab().get("<|endoftext|>")
    for token in (named, tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise ValueError(
        "the tokenizer has no token to begin a text with; set its bos_token or eos_token"
    )


def write_self_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: int,
    tokens: int,
    seed: int,
) -> list[list[int]]:
    """Let the model write: ``sequences`` lists of exactly ``tokens`` token ids each.

    Each list begins with the document-start token; every further token is drawn from the model's
    own distribution (temperature 1, nothing cut off) given those before it. An end token does not
    stop the writing: what follows it is another text, as in pretraining. Sequence i depends on
    the seed and on i only: batches always have the same size inside, so that asking for fewer
    sequences gives the first ones of asking for more. Other hardware rounds differently and may
    write something else. On a CPU with bfloat16 instructions the writing is done in bfloat16.

    Raises ValueError for fewer than 1 sequence or 2 tokens, or more tokens than the model reads.
    """
    longest = getattr(model.config, "max_position_embeddings", None) or tokens
    if sequences < 1:
        raise ValueError(f"sequences {sequences} must be at least 1")
    if not 2 <= tokens <= longest:
        raise ValueError(f"tokens {tokens} must be from 2 to {longest}, what the model can read")
    start = document_start(tokenizer)
    writer = _fast_writer(model)
    starts = range(0, sequences, WRITING_BATCH)
    written: list[list[int]] = []
    with tqdm(total=len(starts) * (tokens - 1), desc="Writing text", unit="step") as bar:
        for first in starts:
            draws = _uniform_draws(range(first, first + WRITING_BATCH), tokens - 1, seed)
            batch = _write_batch(writer, start, draws.to(writer.device), len(tokenizer), bar)
            written += batch.tolist()
    return written[:sequences]


def _uniform_draws(indices: range, steps: int, seed: int) -> torch.Tensor:
    """Uniform numbers in [0, 1), float32 (len(indices), steps), one stream a sequence."""
    streams = [random.Random(f"self text {seed} {index}") for index in indices]
    return torch.tensor([[stream.random() for _ in range(steps)] for stream in streams])


def _fast_writer(model: PreTrainedModel) -> PreTrainedModel:
    """A copy to sample from: bfloat16 with plain attention, twice as fast where the CPU has it.

    Anywhere else (and for a model that is not in float32) the model itself.
    """
    is_plain = model.device.type == "cpu" and model.dtype == torch.float32
    if not (is_plain and native_bfloat16("cpu")):
        return model
    writer = copy.deepcopy(model).to(torch.bfloat16)
    writer.set_attn_implementation("eager")
    return writer


@torch.inference_mode()
def _write_batch(
    model: PreTrainedModel, start: int, draws: torch.Tensor, vocabulary: int, bar: tqdm
) -> torch.Tensor:
    """Token ids (batch, steps + 1) by inverting the distribution at the numbers in ``draws``."""
    was_training = model.training
    model.eval()
    ids = [torch.full_like(draws[:, :1], start, dtype=torch.long)]
    cache = None
    for draw in draws.split(1, dim=1):
        output = model(input_ids=ids[-1], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        ids.append(_sample(output.logits[:, -1, :vocabulary], draw))
        bar.update()
    model.train(was_training)
    return torch.cat(ids, dim=1)


def _sample(logits: torch.Tensor, draw: torch.Tensor) -> torch.Tensor:
    """One token id a row, (batch, 1), from logits (batch, vocabulary) and draws (batch, 1)."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(cumulative, draw * cumulative[:, -1:], right=True)
    return drawn.clamp(max=logits.shape[-1] - 1)
