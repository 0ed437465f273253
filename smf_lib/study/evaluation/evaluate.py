"""What a run is measured by: the new task (exam) and three probes of forgetting.

The exam and the knowledge probe are lm-eval tasks, made here and run by lm-eval on
`smf_lib.study.evaluation.lm.SharedContextLM`, which holds the model. Each item's outcome is kept,
so that runs can be compared by item.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ..tasks.exam import ExamQuestion, continuation, prompt
from .harness import MEAN, make_task, multiple_choice, run_task
from .lm import SharedContextLM
from .measurement import Measurement
from .reading import RowReader, batches, inference

WINDOW = 512  # tokens of prose that are read at once
ANSWER_TOKENS = 12  # most tokens of a generated answer
ARTICLES = {"a", "an", "the"}


def measure_exam(lm: SharedContextLM, questions: Sequence[ExamQuestion]) -> Measurement:
    """Accuracy in multiple choice, lm-eval's `acc_norm`.

    The model answers with the option of the largest log-likelihood per character after the prompt.

    Args:
        lm: the model; beyond rounding, results do not depend on its `batch_tokens`.
        questions: objects with `question`, `options` and `answer`, the right option's index.

    Raises:
        ValueError: no questions, a question without a right option, a text longer than the
            model's maximum.
    """
    check_not_empty("questions", questions)
    for q in questions:
        if not 0 <= q.answer < len(q.options) or not all(q.options):
            raise ValueError(
                f"questions: {q.id} has answer={q.answer} and options={q.options}; the answer "
                "must be the index of an option, and no option empty"
            )
    rows = [{"prompt": prompt(q), "options": q.options, "answer": q.answer} for q in questions]
    config = {
        "task": "exam",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "options",
        "doc_to_target": "answer",
        "target_delimiter": continuation(""),
        "metric_list": [{"metric": "acc_norm", **MEAN}],
    }
    return multiple_choice("exam_accuracy", "acc_norm", run_task(lm, make_task(config, rows)))


def measure_knowledge(
    lm: SharedContextLM, questions: Sequence, shown: Sequence[Sequence]
) -> Measurement:
    """Share of questions that greedy decoding answers right after few-shot examples.

    The answer is what is generated up to the end of the line, at most 12 tokens; it is right if
    it equals one of the aliases after `normalise`.

    Args:
        lm: the model.
        questions: objects with `question` and `aliases`, the list of all right answers.
        shown: for each question the examples before it, in this order; objects with `question`
            and `answer`. Questions after the same examples are asked together.

    Raises:
        ValueError: no questions, other numbers of questions and of `shown`, a question without
            aliases, a text longer than the model's maximum.
    """
    check_not_empty("questions", questions)
    if len(shown) != len(questions):
        raise ValueError(
            f"shown has {len(shown)} lists of examples for {len(questions)} questions; give one "
            "list a question"
        )
    for q in questions:
        if not q.aliases or not all(normalise(alias) for alias in q.aliases):
            raise ValueError(
                f"questions: {q.id} has aliases={q.aliases}; it needs one or more, none empty"
            )
    asked: dict[tuple, list[int]] = {}  # numbers of the questions after each prompt
    for number, examples in enumerate(shown):
        key = tuple((prompt(example), example.answer) for example in examples)
        asked.setdefault(key, []).append(number)
    items = [math.nan] * len(questions)
    for examples, numbers in asked.items():
        rows = [
            {"prompt": prompt(q), "answer": q.aliases[0], "aliases": q.aliases}
            for q in (questions[number] for number in numbers)
        ]
        samples = run_task(lm, make_task(_knowledge_task(examples), rows))
        for number, sample in zip(numbers, samples, strict=True):
            items[number] = float(sample["exact_match"])
    return Measurement.of_mean("knowledge_accuracy", items)


def _knowledge_task(examples: Sequence[tuple[str, str]]) -> dict:
    """Questions after these (prompt, answer) pairs, as lm-eval's YAML would have it."""
    shots = [{"prompt": text, "answer": answer} for text, answer in examples]
    return {
        "task": "knowledge",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "num_fewshot": len(shots),
        "fewshot_config": {"sampler": "first_n", "samples": shots} if shots else None,
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": ANSWER_TOKENS, "do_sample": False},
        "process_results": _grade,
        "metric_list": [{"metric": "exact_match", **MEAN}],
    }


def measure_prose(lm: SharedContextLM, sections: Sequence, window: int = WINDOW) -> Measurement:
    """Perplexity a token over sections: exp(summed negative log-likelihood / tokens).

    Each section is read from its own start, after a BOS token if the tokenizer adds one (without
    one its first token is not scored). A section longer than `window` is read in windows that
    overlap by half, so that every later token has at least window / 2 tokens of context. The
    standard error is that of a ratio over sections, carried through exp (delta method).

    Args:
        lm: the model.
        sections: objects with `text`; window: most tokens of context and scored text together.

    Raises:
        ValueError: no sections, a section of fewer than two tokens, a window that is odd, below
            two or longer than the model's maximum.
    """
    check_not_empty("sections", sections)
    check_window(window, lm.max_length)
    texts = []
    for number, section in enumerate(sections):
        tokens = lm.tok_encode(section.text)
        if len(tokens) < 2:
            raise ValueError(f"sections: number {number} has {len(tokens)} tokens; two are needed")
        texts.append(list(windows(tokens, window)))
    return perplexity("prose_perplexity", lm, texts)


def check_window(window: int, longest: int | None) -> None:
    """Raise ValueError unless a window is even, at least two tokens, and fits the model."""
    if window < 2 or window % 2 or window > (longest or window):
        raise ValueError(
            f"window={window} must be an even number from 2 to the model's {longest} tokens"
        )


def windows(tokens: list[int], window: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, scored) pairs that score every token but the first once.

    From the second on, a pair is `window` tokens of which the second half is scored.
    """
    yield tokens[:1], tokens[1:window]
    for start in range(window, len(tokens), window // 2):
        yield tokens[start - window // 2 : start], tokens[start : start + window // 2]


def perplexity(
    name: str, lm: SharedContextLM, texts: Sequence[Sequence[tuple[list[int], list[int]]]]
) -> Measurement:
    """Perplexity a token over texts, each given as (context, scored) pairs of token ids.

    An item is [summed negative log-likelihood in nats, scored tokens] of a text.
    """
    pairs = [pair for text in texts for pair in text]
    owners = [number for number, text in enumerate(texts) for _ in text]
    losses, counts = np.zeros(len(texts)), np.zeros(len(texts), dtype=int)
    for number, (_, scored), (log_probability, _) in zip(owners, pairs, lm.score(pairs)):
        losses[number] -= log_probability
        counts[number] += len(scored)
    return perplexity_of(name, losses, counts)


def perplexity_of(name: str, losses, counts, task_version: str | None = None) -> Measurement:
    """exp(sum of losses / sum of counts), with the delta method's standard error over items."""
    items = [[float(loss), int(count)] for loss, count in zip(losses, counts)]
    mean = Measurement.of_ratio(name, losses, counts, items)
    with np.errstate(over="ignore"):
        value = float(np.exp(mean.value))
    return Measurement(mean.name, value, value * mean.stderr, mean.n, items, task_version)


def measure_divergence(
    name: str,
    model: nn.Module,
    base_model: nn.Module,
    sequences: Sequence[Sequence[int]],
    batch_tokens: int = 1536,
    precision: str = "fp32",
) -> Measurement:
    """Mean KL(p_base || p_model) of the next-token distributions, in nats a token.

    Each token's softmax is taken in float32. An item is the mean over a sequence's tokens, the
    value the mean over sequences.

    Args:
        name: of the measurement.
        model, base_model: causal models with the same vocabulary, on any devices.
        sequences: token ids, one list a sequence.
        batch_tokens: most tokens, with padding, that one forward pass reads (one sequence is
            never cut).
        precision: "bf16" (autocast) or "fp32" (the type of the weights), for both models.

    Raises:
        ValueError: no sequences, an empty one or one longer than the models' maximum,
            batch_tokens below one, an unknown precision.
    """
    check_not_empty("sequences", sequences)
    readers = RowReader(base_model), RowReader(model)
    limit = min(reader.max_length or math.inf for reader in readers)
    lengths = [len(sequence) for sequence in sequences]
    if not 1 <= min(lengths) <= max(lengths) <= limit:
        raise ValueError(
            f"sequences have {min(lengths)} to {max(lengths)} tokens; allowed: 1 to {limit}"
        )
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens={batch_tokens} must be at least 1")
    items = [math.nan] * len(sequences)
    cut = list(batches(lengths, batch_tokens, readers[0].equal_lengths))
    with inference(base_model, precision), inference(model, precision):
        for batch in tqdm(cut, desc="comparing", unit="batch"):
            texts = [sequences[i] for i in batch]
            base_logits, logits = (_read_from_start(reader, texts) for reader in readers)
            for i, p, q in zip(batch, base_logits, logits):
                log_p = p[-lengths[i] :].float().log_softmax(-1)
                log_q = q[-lengths[i] :].to(p.device).float().log_softmax(-1)
                total = F.kl_div(log_q, log_p, reduction="sum", log_target=True).item()
                items[i] = total / lengths[i]
    return Measurement.of_mean(name, items)


def normalise(text: str) -> str:
    """A short answer as it is compared: lower case, no punctuation or articles, single spaces.

    As TriviaQA is graded, and with the signs that TriviaQA has no rule for: subscripts and
    superscripts are digits ("H₂O", "H2O"), a dash before a number is a minus sign and counts
    ("-273", "−273", "minus 273"), a degree sign is the word, and digits are not parted ("1,000").
    A text of nothing but articles keeps them.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<!\w)[-‐‑‒–—−]\s*(?=\.?\d)", " minus ", text)
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).replace("°", " degrees ")
    text = "".join(" " if c == "−" or unicodedata.category(c)[0] == "P" else c for c in text)
    words = re.findall(r"\S+", text)
    return " ".join([word for word in words if word not in ARTICLES] or words)


def _grade(doc: dict, results: Sequence[str]) -> dict[str, float]:
    given = normalise(results[0])
    return {"exact_match": float(any(given == normalise(alias) for alias in doc["aliases"]))}


def _read_from_start(reader: RowReader, texts: Sequence[Sequence[int]]) -> Tensor:
    """Logits (texts, longest, vocabulary), where a text's tokens are the last columns."""
    return reader.read(reader.start().select([0] * len(texts)), texts, all_logits=True)


def check_not_empty(name: str, items: Sequence) -> None:
    """Raise ValueError, naming them, if there are no items."""
    if not len(items):
        raise ValueError(f"{name} is empty; give at least one")
