"""How an exam question becomes text: what a model reads, is scored on, and is trained on.

`Cloze` shows no options: a small model cannot bind a letter to an option, but each option can be
scored by its own likelihood. `Lettered` is the format of arXiv 2605.03229. Both give the same
three things, so that training and evaluation need not know which it is.
"""

from __future__ import annotations

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from .exam import ExamQuestion, continuation, prompt

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
        context = tokenizer(self.prompt(question)).input_ids
        right = self.continuations(question)[question.answer]
        answer = tokenizer(right, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
        _check_length(question, len(context) + len(answer), max_length)
        return training_row(context + answer, [IGNORED] * len(context) + answer)


@dataclass(frozen=True)
class Lettered:
    """The format of arXiv 2605.03229: options behind letters, the answer a letter and its option.

    Trained on is the whole text, with the explanation where the question has one; every token
    bears loss, and no end-of-text token follows. The words are those of the paper's released code.
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
        text = self.prompt(question) + self.continuations(question)[question.answer]
        _check_length(question, len(tokenizer(text).input_ids), max_length)
        explanation = getattr(question, "explanation", "")
        if explanation:
            text += f"\nExplanation: {explanation}"
        ids = tokenizer(text).input_ids[:max_length]
        return training_row(ids, ids)


FORMATS = {"cloze": Cloze(), "lettered": Lettered()}


def training_row(ids: list[int], labels: list[int]) -> dict:
    """One training text as the collator wants it."""
    return {"input_ids": ids, "labels": list(labels), "attention_mask": [1] * len(ids)}


def _check_length(question: ExamQuestion, length: int, max_length: int) -> None:
    if length > max_length:
        raise ValueError(
            f"training.max_length={max_length} is too short: question {question.id} has "
            f"{length} tokens; raise training.max_length"
        )
