"""Work that a training step can leave out without changing what is learned, for every method alike.

Logits are made only where a token bears loss (`AnswerCollator`), and short texts on a processor are
attended to by plain matrix products (`plain_attention`), which are faster there than the fused
kernel with its backward pass. `kept_casts` (in `frozen`) is the third.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from ..tasks.formats import IGNORED

SHORT = 256  # tokens; up to here plain attention is the faster on a processor


class AnswerCollator:
    """Pads texts to a batch; where answers alone bear loss, it asks for logits only there.

    The model makes logits at the positions that some text of the batch is scored at
    (`logits_to_keep`), and takes its own loss on the labels that belong to them (`shift_labels`,
    already moved by one). The loss is that of the whole batch: all other labels are ignored.

    Args:
        tokenizer: pads, on the right.
        model: a causal transformers model, plain or wrapped by PEFT; one that cannot choose its
            logits gets ordinary batches.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: nn.Module):
        self.pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
        takes = inspect.signature(_base(model).forward).parameters
        prompted = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
        self.chooses = "logits_to_keep" in takes and not prompted

    def __call__(self, rows: Sequence[dict]) -> dict[str, Tensor]:
        """The batch of these rows."""
        batch = self.pad(rows)
        if self.chooses:
            shifted = F.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
            keep = (shifted != IGNORED).any(0).nonzero()[:, 0]
            batch |= {"logits_to_keep": keep, "shift_labels": shifted[:, keep]}
        return batch


@contextlib.contextmanager
def plain_attention(model: nn.Module, longest: int) -> Iterator[None]:
    """While this lasts, a model on a processor attends to texts of up to `SHORT` tokens plainly.

    Args:
        model: a transformers model, plain or wrapped by PEFT.
        longest: tokens of the longest text; longer ones leave the model as it is.
    """
    base = _base(model)
    before = getattr(base.config, "_attn_implementation", None)
    fused = before == "sdpa" and next(base.parameters()).device.type == "cpu"
    if not fused or longest > SHORT:
        yield
        return
    base.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.set_attn_implementation(before)


def _base(model: nn.Module) -> nn.Module:
    return model.get_base_model() if isinstance(model, PeftModel) else model
