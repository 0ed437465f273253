"""What a training step leaves out changes neither its loss nor its gradients."""

from __future__ import annotations

import pytest
import torch
from helpers_models import tiny_model
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq

from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.tasks.formats import IGNORED
from smf_lib.study.training.shortcuts import SHORT, AnswerCollator, plain_attention


@pytest.fixture(scope="module")
def loaded():
    return load_model(tiny_random_model())


def rows(silent=(6, 3, 8), lengths=(9, 12, 10)):
    """Texts of byte tokens whose first `silent` tokens bear no loss."""
    random = torch.Generator().manual_seed(1)
    found = []
    for quiet, length in zip(silent, lengths):
        ids = torch.randint(256, (length,), generator=random).tolist()
        labels = [IGNORED] * quiet + ids[quiet:]
        found.append({"input_ids": ids, "labels": labels, "attention_mask": [1] * length})
    return found


def loss_and_gradient(model, batch):
    model.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    return loss, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("silent", [(6, 3, 8), (0, 0, 0)])
def test_logits_at_the_answers_alone_give_the_loss_and_gradients_of_all(loaded, silent):
    model, tokenizer = loaded
    whole = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)(rows(silent))
    batch = AnswerCollator(tokenizer, model)(rows(silent))
    wanted, gradients = loss_and_gradient(model, whole)
    loss, found = loss_and_gradient(model, batch)
    torch.testing.assert_close(loss, wanted)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_logits_are_made_where_some_text_is_scored_and_nowhere_else(loaded):
    model, tokenizer = loaded
    batch = AnswerCollator(tokenizer, model)(rows())
    assert batch["logits_to_keep"].tolist() == list(range(2, 11))
    assert model(**batch).logits.shape[1] == 9
    silent_later = AnswerCollator(tokenizer, model)(rows(silent=(8, 8, 8), lengths=(9, 10, 9)))
    assert silent_later["logits_to_keep"].tolist() == [7, 8]


def test_the_loss_may_be_a_mean_over_a_whole_accumulated_batch(loaded):
    model, tokenizer = loaded
    batch = AnswerCollator(tokenizer, model)(rows())
    n = int((batch["labels"] != IGNORED).sum())
    alone = model(**batch).loss
    torch.testing.assert_close(model(**batch, num_items_in_batch=2 * n).loss, alone / 2)


def test_it_works_behind_peft(loaded):
    model = get_peft_model(
        tiny_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    )
    _, tokenizer = loaded
    small = [
        {
            **row,
            "input_ids": [i % 50 for i in row["input_ids"]],
            "labels": [i if i < 0 else i % 50 for i in row["labels"]],
        }
        for row in rows()
    ]
    pad = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)(small)
    pad["input_ids"] = pad["input_ids"].clamp(max=50)
    batch = AnswerCollator(tokenizer, model)(small)
    batch["input_ids"] = batch["input_ids"].clamp(max=50)
    assert "logits_to_keep" in batch
    torch.testing.assert_close(model(**batch).loss, model(**pad).loss)


def test_short_texts_are_attended_to_plainly_and_the_model_is_put_back(loaded):
    model, tokenizer = loaded
    batch = AnswerCollator(tokenizer, model)(rows())
    assert model.config._attn_implementation == "sdpa"
    wanted = model(**batch).loss
    with plain_attention(model, longest=12):
        assert model.config._attn_implementation == "eager"
        torch.testing.assert_close(model(**batch).loss, wanted)
    assert model.config._attn_implementation == "sdpa"
    with plain_attention(model, longest=SHORT + 1):
        assert model.config._attn_implementation == "sdpa"
