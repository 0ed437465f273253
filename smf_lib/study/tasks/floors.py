"""What an exam's accuracy has to beat: rules that learn nothing, and bags of words that do learn.

A rule reads a question and its options and scores each option without ever having seen an answer.
A bag of words is a multinomial naive Bayes classifier (Manning, Raghavan and Schuetze 2008,
*Introduction to Information Retrieval*, chapter 13) over the exam's own training questions. Both
are deterministic, and options that tie for the highest score share the credit.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .exam import Exam, ExamQuestion

SMOOTHING = (
    0.1  # added to each count of the bags of words; the best of 0.1, 0.3 and 1 on validation
)
COMMON = 0.5  # words of more than this share of training questions are of the form of the question

Scores = Callable[[ExamQuestion], Sequence[float]]


@dataclass(frozen=True)
class Floors:
    """Accuracies on the same `n` questions, between 0 and 1.

    chance: guessing. majority: the answer that was right most often in training, see
    `Exam.majority`. rules: each rule that learns nothing. bags: each bag of words ("words",
    "letters"), none where nothing is trained on.
    """

    n: int
    chance: float
    majority: float
    rules: dict[str, float]
    bags: dict[str, float]


def floors(exam: Exam, split: str = "test", rows: int | None = None) -> Floors:
    """The floors of an exam on a split, or on its first so many rows.

    Raises:
        ValueError: an unknown split, or no question in it.
    """
    questions = exam.split(split)[:rows]
    if not questions:
        raise ValueError(f"split={split!r} of exam {exam.name!r} has no question to answer")
    return Floors(
        n=len(questions),
        chance=exam.chance(split, rows),
        majority=exam.majority(split, rows),
        rules={name: accuracy(questions, rule) for name, rule in rules(exam, questions).items()},
        bags={
            name: accuracy(questions, bag_of_words(exam.train, parts))
            for name, parts in (("words", words), ("letters", letters))
            if exam.train
        },
    )


def accuracy(questions: Sequence[ExamQuestion], scores: Scores) -> float:
    """The share of questions whose right option scores highest; k that tie count 1 / k each."""
    credit = 0.0
    for question in questions:
        found = scores(question)
        best = max(found)
        credit += (found[question.answer] == best) / sum(score == best for score in found)
    return credit / len(questions)


def rules(exam: Exam, questions: Sequence[ExamQuestion]) -> dict[str, Scores]:
    """Rules that learn nothing, by name; "commonest group" where the exam groups its options.

    questions: the split to answer, whose options (without the answers) a rule may count.
    """
    offered = Counter(option for question in questions for option in question.options)

    def options(score: Callable[[str, str], float]) -> Scores:
        return lambda q: [score(q.question, option) for option in q.options]

    found = {
        "shared words": options(lambda text, option: len(words(text) & words(option))),
        "shared stems": options(lambda text, option: len(_cut(text, 4) & _cut(option, 4))),
        "shared beginnings": options(lambda text, option: len(_cut(text, 3) & _cut(option, 3))),
        "shared endings": options(lambda text, option: len(_cut(text, -3) & _cut(option, -3))),
        "shared pairs of letters": options(lambda text, option: _overlap(text, option, 2)),
        "shared threes of letters": options(lambda text, option: _overlap(text, option, 3)),
        "shared fours of letters": options(lambda text, option: _overlap(text, option, 4)),
        "longest": options(lambda text, option: len(option)),
        "shortest": options(lambda text, option: -len(option)),
        "as long as the question": options(lambda text, option: -abs(len(option) - len(text))),
        "offered most": options(lambda text, option: offered[option]),
        "offered least": options(lambda text, option: -offered[option]),
        "first": lambda q: [-place for place in range(len(q.options))],
        "last": lambda q: list(range(len(q.options))),
    }
    if exam.groups:
        found["commonest group"] = lambda q: [
            sum(exam.groups[other] == exam.groups[option] for other in q.options)
            for option in q.options
        ]
    return found


def bag_of_words(train: Sequence[ExamQuestion], parts: Callable[[str], set[str]]) -> Scores:
    """Naive Bayes: the log-likelihood of a question's parts under each option's training questions.

    Each option is a class with the same prior; its counts are those of the questions that it was
    the answer of. Parts that stand in more than half of the training questions, or in none, do not
    count.

    Args:
        train: the questions to learn from.
        parts: what a text is a bag of, such as `words`.
    """
    bags = [parts(question.question) for question in train]
    times = Counter(part for bag in bags for part in bag)
    known = {part for part, n in times.items() if n <= COMMON * len(train)}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for question, bag in zip(train, bags):
        counts[question.options[question.answer]].update(bag & known)
    totals = {option: counted.total() for option, counted in counts.items()}
    unseen: Counter[str] = Counter()

    def scores(question: ExamQuestion) -> list[float]:
        # sorted, since sums of floats depend on their order and sets of text have none
        bag = sorted(parts(question.question) & known)
        found = []
        for option in question.options:
            counted = counts.get(option, unseen)
            whole = totals.get(option, 0) + SMOOTHING * len(known)
            found.append(sum(math.log((counted[part] + SMOOTHING) / whole) for part in bag))
        return found

    return scores


def words(text: str) -> set[str]:
    """The words of a text in lower case, and its numbers."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def letters(text: str, length: int = 4) -> set[str]:
    """Every so many letters in a row within a word; a word's two ends count as letters."""
    ended = (f"^{word}$" for word in words(text))
    return {w[start : start + length] for w in ended for start in range(len(w) - length + 1)}


def _cut(text: str, length: int) -> set[str]:
    """The first (or, if negative, last) so many letters of each word that has more than three."""
    part = slice(length) if length > 0 else slice(length, None)
    return {word[part] for word in words(text) if len(word) > 3}


def _overlap(text: str, option: str, length: int) -> float:
    """The Jaccard similarity of two texts' runs of letters."""
    one, other = letters(text, length), letters(option, length)
    return len(one & other) / max(len(one | other), 1)
