"""How questions become text: every character, which tokens bear loss, and what is cut."""

import pytest
from helpers_hub import medmcqa_row
from helpers_models import tiny_model
from lm_eval.api.instance import Instance
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.tasks.exam import ExamQuestion
from smf_lib.study.tasks.formats import (
    FORMATS,
    IGNORED,
    Cloze,
    Lettered,
    encode_pair,
    encode_text,
    training_row,
)
from smf_lib.study.tasks.medmcqa import MedMCQAQuestion

OPTIONS = ["Aspirin", "Iron", "Zinc", "Gold"]
LETTERED = (
    "Medical exam question:\nQuestion: Which one?\nA. Aspirin\nB. Iron\nC. Zinc\nD. Gold\nAnswer:"
)


@pytest.fixture(scope="module")
def tokenizer(qwen2):
    return AutoTokenizer.from_pretrained(qwen2)


def question(answer=2, explanation="It is light."):
    return MedMCQAQuestion("q1", "Which one?", OPTIONS, answer, explanation)


def test_both_formats_are_found_by_the_name_they_have():
    assert {name: type(found) for name, found in FORMATS.items()} == {
        "cloze": Cloze,
        "lettered": Lettered,
    }
    assert all(found.name == name for name, found in FORMATS.items())


def test_what_the_model_reads_and_is_scored_on():
    assert Cloze().prompt(question()) == "Question: Which one?\nAnswer:"
    assert Cloze().continuations(question()) == [" Aspirin", " Iron", " Zinc", " Gold"]
    assert Lettered().prompt(question()) == LETTERED
    assert Lettered().continuations(question()) == [
        " A. Aspirin",
        " B. Iron",
        " C. Zinc",
        " D. Gold",
    ]


@pytest.mark.parametrize("answer, option", list(enumerate(OPTIONS)))
def test_cloze_trains_on_the_answer_and_the_end_of_text_alone(tokenizer, answer, option):
    row = Cloze().encode(question(answer), tokenizer, 64)
    text = f"Question: Which one?\nAnswer: {option}"
    assert row["input_ids"] == [*tokenizer(text).input_ids, tokenizer.eos_token_id]
    read = len("Question: Which one?\nAnswer:")
    assert row["labels"] == [IGNORED] * read + row["input_ids"][read:]
    assert row["attention_mask"] == [1] * len(row["input_ids"])


@pytest.mark.parametrize("answer", range(4))
def test_lettered_trains_on_every_token_and_ends_without_the_end_of_text(tokenizer, answer):
    row = Lettered().encode(question(answer), tokenizer, 1024)
    right = f"{'ABCD'[answer]}. {OPTIONS[answer]}"
    text = f"{LETTERED} {right}\nExplanation: It is light."
    assert tokenizer.decode(row["input_ids"]) == text
    assert row["labels"] == row["input_ids"] and row["labels"] is not row["input_ids"]
    assert tokenizer.eos_token_id not in row["input_ids"]


@pytest.mark.parametrize(
    "bare", [question(explanation=""), ExamQuestion("q1", "Which one?", OPTIONS, 2)]
)
def test_without_an_explanation_the_text_ends_with_the_answer(tokenizer, bare):
    row = Lettered().encode(bare, tokenizer, 1024)
    assert tokenizer.decode(row["input_ids"]) == LETTERED + " C. Zinc"


def test_the_explanation_is_cut_but_never_the_answer(tokenizer):
    whole = LETTERED + " C. Zinc"
    for limit in (len(whole), len(whole) + 5):
        row = Lettered().encode(question(), tokenizer, limit)
        assert tokenizer.decode(row["input_ids"]) == (whole + "\nExplanation:")[:limit]
        assert len(row["labels"]) == len(row["attention_mask"]) == limit
    with pytest.raises(
        ValueError,
        match=rf"training.max_length={len(whole) - 1} is too short: question q1 has "
        rf"{len(whole)} tokens",
    ):
        Lettered().encode(question(), tokenizer, len(whole) - 1)


def test_a_cloze_text_that_is_too_long_is_refused(tokenizer):
    length = len("Question: Which one?\nAnswer: Zinc") + 1
    assert len(Cloze().encode(question(), tokenizer, length)["input_ids"]) == length
    with pytest.raises(ValueError, match=rf"max_length={length - 1} is too short: question q1"):
        Cloze().encode(question(), tokenizer, length - 1)


def test_what_is_trained_on_is_what_is_scored(tokenizer):
    row = medmcqa_row(7)
    options = [row[f"op{letter}"] for letter in "abcd"]
    asked = MedMCQAQuestion("q", row["question"], options, row["cop"], row["exp"])
    for text_format in FORMATS.values():
        text = tokenizer.decode(text_format.encode(asked, tokenizer, 1024)["input_ids"])
        right = text_format.continuations(asked)[asked.answer]
        assert text.startswith(text_format.prompt(asked) + right)


def test_labels_of_a_training_row_are_its_own():
    ids = [1, 2, 3]
    row = training_row(ids, ids)
    row["labels"][0] = IGNORED
    assert row == {"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "attention_mask": [1, 1, 1]}


# ---------------------------------------------------------------------- scoring is training


def tokenizer_of(merges=(), before="", after="", blank=None):
    """One token a byte, or a character behind blanks as Phi-3 and Mistral have them; and merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", "</s>", *alphabet, "▁", "\n", *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({t: n for n, t in enumerate(tokens)}, list(merges)))
    if blank:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=blank, split=False)
        backend.decoder = decoders.Metaspace(prepend_scheme=blank, split=False)
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
    if before or after:
        template = " ".join(part for part in (before, "$A", after) if part)
        special = [("<s>", 0), ("</s>", 1)]
        backend.post_processor = processors.TemplateProcessing(template, None, special)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


TOKENIZERS = {
    "a blank before every piece": {"blank": "always", "before": "<s>"},
    "a blank before every text": {"blank": "first"},
    "begins": {"before": "<s>"},
    "ends": {"after": "</s>"},
    "begins and ends": {"before": "<s>", "after": "</s>"},
    "joins": {"merges": [(":", "Ġ")]},
    "joins and ends": {"merges": [(":", "Ġ"), (":Ġ", "Z")], "after": "</s>"},
    "joins a line break": {"merges": [("c", "Ċ")], "before": "<s>", "after": "</s>"},
    "joins a line break behind a blank": {"merges": [("c", "\n")], "blank": "always"},
}


@pytest.fixture(params=TOKENIZERS)
def other(request):
    return tokenizer_of(**TOKENIZERS[request.param])


def scored(tokenizer, text_format, asked):
    """(context, continuation) ids of each option, as they come to be scored."""
    lm = SharedContextLM(tiny_model(), tokenizer)
    requests = [
        Instance("loglikelihood", {}, (text_format.prompt(asked), text), 0)
        for text in text_format.continuations(asked)
    ]
    found = []
    lm._loglikelihood_tokens = lambda pairs, **kwargs: found.extend(p[1:] for p in pairs)
    lm.loglikelihood(requests)
    return found


@pytest.mark.parametrize("text_format", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("answer", range(4))
@pytest.mark.parametrize("explanation", ["", "It is light.", "\nc\n"])
def test_a_training_row_has_the_tokens_that_are_scored(other, text_format, answer, explanation):
    asked = question(answer, explanation=explanation)
    row = text_format.encode(asked, other, 1024)
    context, continuation = scored(other, text_format, asked)[answer]
    ids, length = row["input_ids"], len(context + continuation)
    assert ids[:length] == context + continuation
    if text_format.name == "cloze":
        assert ids[length:] == [other.eos_token_id]
        assert row["labels"] == [IGNORED] * len(context) + ids[len(context) :]
        return
    after = f"\nExplanation: {explanation}" if explanation else ""
    whole = text_format.prompt(asked) + text_format.continuations(asked)[answer] + after
    assert row["labels"] == ids and other.eos_token_id not in ids
    assert other.decode(ids, skip_special_tokens=True) == whole
    assert bool(ids[length:]) == bool(explanation)
    if not explanation:
        assert ids == context + continuation


@pytest.mark.parametrize("text_format", FORMATS.values(), ids=FORMATS)
def test_a_pair_is_one_text_and_its_end_is_in_the_continuation(other, text_format):
    asked = question()
    for right in text_format.continuations(asked):
        context, continuation = encode_pair(other, text_format.prompt(asked), right)
        whole = other.encode(text_format.prompt(asked) + right)
        ended = whole[-1] == other.eos_token_id
        assert context + continuation == (whole[:-1] if ended else whole)
        assert other.decode(continuation).endswith(right.strip())
        assert len(other.decode(continuation)) <= len(right) + 1


def test_a_token_over_the_boundary_is_scored():
    tokenizer = tokenizer_of(merges=[(":", "Ġ"), (":Ġ", "Z")])
    context, continuation = encode_pair(tokenizer, "Answer:", " Zinc")
    assert tokenizer.decode(context) == "Answer" and tokenizer.decode(continuation) == ": Zinc"
    assert len(continuation) == 4


def test_an_explanation_is_trained_on_without_an_end(other):
    row = Lettered().encode(question(), other, 1024)
    assert row["input_ids"][-1] != other.eos_token_id
    assert other.decode(row["input_ids"]).endswith("C. Zinc\nExplanation: It is light.")


def test_what_a_tokenizer_puts_after_a_text_is_left_out_and_bos_is_not_doubled():
    tokenizer = tokenizer_of(before="<s>", after="</s>")
    plain = tokenizer.encode("ab", add_special_tokens=False)
    assert encode_text(tokenizer, "ab") == [0, *plain]
    assert encode_text(tokenizer, "<s>ab") == [0, *plain]
    assert encode_text(tokenizer, "ab</s>")[-2:] == [plain[-1], 1]
    assert encode_pair(tokenizer, "a ", "b") == encode_pair(tokenizer, "a", " b")
