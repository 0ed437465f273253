"""The baselines that the library brings; `study.baselines` says what a baseline may change."""

from __future__ import annotations

import copy
import random
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from pydantic import Field
from torch import Tensor, nn

from ...method.row_adam import RowSGD
from ..baselines import Change, Start
from ..precision import autocast
from ..tasks.formats import IGNORED, training_row


def replay(
    start: Start,
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5,
    text: Literal["background", "retrofit"] = "background",
) -> Change:
    """General text among the rows: `share` of all rows are text, each trained on whole.

    Rehearsal (Robins 1995), with the profile's text in the place of old data: "background" is what
    the base model writes itself, unless the profile names a source; "retrofit" the texts of stage
    1. Texts are drawn from the seed, each as often as any other. The loss is a mean over tokens,
    so that a text of 128 tokens weighs more than an answer of ten.

    Raises:
        ValueError: the profile has no such text.
    """
    texts = [ids for ids in start.text(text) if len(ids) > 1]
    if not texts:
        raise ValueError(f"baseline_settings.text={text!r}: the profile has no such text")
    wanted = round(len(start.rows) * share / (1 - share))
    rng = random.Random(f"replay {start.seed}")
    drawn: list[list[int]] = []
    while len(drawn) < wanted:
        drawn += rng.sample(texts, len(texts))
    return Change(rows=[*start.rows, *(training_row(ids, ids) for ids in drawn[:wanted])])


def kl_to_base(start: Start, weight: Annotated[float, Field(gt=0)] = 1.0) -> Change:
    """Adds weight * KL(p_base || p_model) over the batch's tokens that bear loss.

    Distillation from the untrained model on the new task's own rows, as in Learning without
    Forgetting (Li and Hoiem, arXiv 1606.09282), in nats a token and at temperature 1. Full
    finetuning keeps a frozen copy of the base model for it; an adapter is switched off instead.
    """
    frozen = None
    if not isinstance(start.model, PeftModel):
        frozen = copy.deepcopy(start.model).eval().requires_grad_(False)

    def loss(model: nn.Module, batch: dict, output) -> Tensor:
        known = {name: value for name, value in batch.items() if name not in _LABELS}
        with torch.no_grad(), autocast(output.logits.device.type, start.precision):
            if frozen is None:
                plain = extract_model_from_parallel(model)
                training = plain.training
                with plain.disable_adapter():
                    base = plain.eval()(**known).logits  # without the dropout of training
                plain.train(training)
            else:
                base = frozen(**known).logits
        ours, theirs = scored(batch, output.logits), scored(batch, base)
        divergence = F.kl_div(
            ours.float().log_softmax(-1),
            theirs.float().log_softmax(-1),
            reduction="batchmean",
            log_target=True,
        )
        return weight * divergence

    return Change(loss=loss)


def l2_to_base(start: Start, weight: Annotated[float, Field(gt=0)] = 0.01) -> Change:
    """Adds weight / 2 * the squared distance of the weights from those of the base model.

    L2-SP (Li, Grandvalet and Davoine, arXiv 1802.01483); a weight's gradient is weight * (w - w0).
    """
    trained = {name: p for name, p in start.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in trained.items()}

    def loss(model: nn.Module, batch: dict, output) -> Tensor:
        distances = [(p - before[name]).float().square().sum() for name, p in trained.items()]
        return weight / 2 * torch.stack(distances).sum()

    return Change(loss=loss)


def wise_ft(start: Start, alpha: Annotated[float, Field(ge=0, le=1)] = 0.5) -> Change:
    """Weights on the line from the base model (alpha 0) to a full finetuning (alpha 1).

    WiSE-FT (Wortsman et al., arXiv 2109.01903). Nothing is trained: `start` names the method whose
    trained weights are used, those of the same seed.
    """

    def finish(model: nn.Module) -> None:
        trained = dict(start.parent().named_parameters())
        with torch.no_grad():
            for name, value in model.named_parameters():  # tied weights once
                value.copy_(torch.lerp(value, trained[name].to(value), alpha))

    return Change(finish=finish, trains=False)


def sgd(start: Start) -> Change:
    """Plain gradient descent in the place of Adam, also for the rows of a memory.

    No momentum and no weight decay; Lin et al. (arXiv 2510.15103) train rows with it. Its steps are
    as large as the gradients, so that it wants other learning rates than Adam.
    """
    return Change(optimizer=RowSGD)


def scored(batch: dict, logits: Tensor) -> Tensor:
    """The logits, (tokens, vocabulary), that stand before the tokens of a batch that bear loss.

    logits: (texts, positions, vocabulary), at all positions or at the batch's `logits_to_keep`.
    """
    labels = batch.get("shift_labels")
    if labels is None:
        labels = F.pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
    return logits[labels != IGNORED]


_LABELS = ("labels", "shift_labels", "num_items_in_batch")
