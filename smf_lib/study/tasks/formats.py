"""How an exam question becomes text: what a model reads, is scored on, and is trained on.

`Cloze` shows no options: a small model cannot bind a letter to an option, but each option can be
scored by its own likelihood. `Lettered` is the format of arXiv 2605.03229. Both give the same
three things, so that training and evaluation need not know which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from .exam import ExamQuestion, continuation, prompt

BLANK = "\u2581"  # as SentencePiece writes it
IGNORED = -100  # label of a token that bears no loss
LETTERS = "ABCDEFGHIJ"  # of a question's options, as many as it has


@dataclass(frozen=True)
class Cloze:
    """`Question: ...` and `Answer:`, then the option's own words. Only the answer bears loss.

    The answer ends with the end-of-text token, so that the model learns to stop.
    """

    name = "cloze"

    def prompt(self, question: ExamQuestion) -> str:
        """What the model reads before an option."""
        return prompt(question)

    def continuations(self, question: ExamQuestion) -> list[str]:
        """What the model is scored on, one text an option."""
        return [continuation(option) for option in question.options]

    def encode(
        self, question: ExamQuestion, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict:
        """Token ids, labels and attention mask of the question with its right answer.

        Raises:
            ValueError: the question and answer are longer than max_length.
        """
        right = self.continuations(question)[question.answer]
        context, answer = encode_pair(tokenizer, self.prompt(question), right)
        answer.append(tokenizer.eos_token_id)
        _check_length(question, len(context) + len(answer), max_length)
        return training_row(context + answer, [IGNORED] * len(context) + answer)


@dataclass(frozen=True)
class Lettered:
    """The format of arXiv 2605.03229: options behind letters, the answer a letter and its option.

    Trained on is the whole text, with the explanation where the question has one; every token
    bears loss, and no end-of-text token follows. The words are those of the paper's released code.
    Its tokens too, but where a tokenizer joins the answer's end with the line break after it: here
    the answer keeps the tokens that are scored (`encode_after`).
    """

    name = "lettered"

    def prompt(self, question: ExamQuestion) -> str:
        """What the model reads before an option."""
        options = "".join(f"{a}. {text}\n" for a, text in zip(LETTERS, question.options))
        return f"Medical exam question:\nQuestion: {question.question}\n{options}Answer:"

    def continuations(self, question: ExamQuestion) -> list[str]:
        """What the model is scored on, one text an option."""
        return [f" {letter}. {option}" for letter, option in zip(LETTERS, question.options)]

    def encode(
        self, question: ExamQuestion, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> dict:
        """Token ids, labels and attention mask of the whole text, cut after max_length tokens.

        Raises:
            ValueError: even without the explanation the text is longer than max_length.
        """
        text, right = self.prompt(question), self.continuations(question)[question.answer]
        ids = [token for part in encode_pair(tokenizer, text, right) for token in part]
        _check_length(question, len(ids), max_length)
        explanation = getattr(question, "explanation", "")
        if explanation:
            ids += encode_after(tokenizer, text + right, f"\nExplanation: {explanation}", ids)
        return training_row(ids[:max_length], ids[:max_length])


FORMATS = {"cloze": Cloze(), "lettered": Lettered()}


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text that goes on: what the tokenizer puts before it, but no end token.

    A BOS token that the text begins with is not doubled.
    """
    bos = tokenizer.bos_token
    ids = tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos)))
    if ids and ids[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id):
        plain = tokenizer.encode(text, add_special_tokens=False)
        if plain and ids[-len(plain) :] != plain:  # else the text itself says so
            return ids[:-1]
    return ids


def encode_pair(
    tokenizer: PreTrainedTokenizerBase, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """Token ids of a context and of what follows it, cut out of one tokenization of both.

    Training and scoring alike. Blanks that end the context go to the continuation, and so does a
    token that reaches over the boundary: the context's ids are those that it has in common with
    the whole. Where the context's own ids begin the whole, this is what lm-eval does.
    """
    stripped = context.rstrip()
    whole = encode_text(tokenizer, context + continuation)
    alone = encode_text(tokenizer, stripped)
    limit = min(len(alone), len(whole))
    cut = next((i for i in range(limit) if alone[i] != whole[i]), limit)
    return whole[:cut], whole[cut:]


def encode_after(
    tokenizer: PreTrainedTokenizerBase, text: str, more: str, ids: list[int]
) -> list[int]:
    """Token ids of what goes on after a text, whose own ids stay as they are.

    They are cut out of one tokenization of both, or, where a token would reach over the boundary,
    they are those of `more` alone, without the blank that SentencePiece puts before every text.

    ids: of the text.
    """
    whole = encode_text(tokenizer, text + more)
    if whole[: len(ids)] == ids:
        return whole[len(ids) :]
    pieces = tokenizer.tokenize(more)
    return tokenizer.convert_tokens_to_ids(pieces[1:] if pieces[0] == BLANK else pieces)


def training_row(ids: list[int], labels: list[int]) -> dict:
    """One training text as the collator wants it."""
    return {"input_ids": ids, "labels": list(labels), "attention_mask": [1] * len(ids)}


def _check_length(question: ExamQuestion, length: int, max_length: int) -> None:
    if length > max_length:
        raise ValueError(
            f"training.max_length={max_length} is too short: question {question.id} has "
            f"{length} tokens; raise training.max_length"
        )
