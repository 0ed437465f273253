"""The protocols of arXiv 2605.03229 and, beside each, the field's standard one (lm-eval's).

| what | the paper's | lm-eval's |
|---|---|---|
| MedMCQA | `measure_options`: mean log-probability of " A. option" | `measure_letters`: of " A" |
| WikiText | `measure_wikitext`: 1,024 tokens, stride 512 | `measure_words`: a word's perplexity |
| TriviaQA | `measure_trivia`: an alias is a substring | `measure_trivia_exact`: equal to an alias |

The tasks of lm-eval are its own YAML (`medmcqa`, `wikitext`, `triviaqa`), on rows given here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from ..tasks.corpora import pages
from ..tasks.exam import ExamQuestion
from .evaluate import check_not_empty, check_window, perplexity, perplexity_of, windows
from .harness import MEAN, bundled_task, make_task, multiple_choice, run_task, version_of
from .lm import SharedContextLM
from .measurement import Measurement

TRIVIA_TOKENS = 32  # new tokens of an answer in the paper's protocol
WORDS_WINDOW = 2048  # tokens read at once for the perplexity a word


def measure_options(
    lm: SharedContextLM, questions: Sequence[ExamQuestion], text_format
) -> Measurement:
    """MedMCQA by the paper's score: the option of the largest mean log-probability a token.

    Args:
        lm: the model.
        questions: objects with `options` and `answer`, the right option's index.
        text_format: gives `prompt(question)` and `continuations(question)`, see `tasks.formats`.

    Raises:
        ValueError: no questions, a text longer than the model's maximum.
    """
    check_not_empty("questions", questions)
    pairs = [
        lm.encode_pair(text_format.prompt(question), text)
        for question in questions
        for text in text_format.continuations(question)
    ]
    scores = iter(lm.score(pairs))
    lengths = iter(len(continuation) for _, continuation in pairs)
    items = []
    for question in questions:
        means = [next(scores)[0] / next(lengths) for _ in question.options]
        right = float(np.argmax(means) == question.answer)
        items.append(right if np.isfinite(means).all() else math.nan)
    return Measurement.of_mean("exam_accuracy", items)


def measure_letters(lm: SharedContextLM, questions: Sequence[ExamQuestion]) -> Measurement:
    """MedMCQA as lm-eval's task `medmcqa` scores it: the letter of the largest log-probability.

    Arguments and errors are those of `measure_options`.
    """
    check_not_empty("questions", questions)
    columns = ("question", "opa", "opb", "opc", "opd", "cop")
    rows = [dict(zip(columns, (q.question, *q.options, q.answer), strict=True)) for q in questions]
    task = bundled_task("medmcqa", rows)
    return multiple_choice("letter_accuracy", "acc", run_task(lm, task), version_of(task))


def measure_wikitext(lm: SharedContextLM, lines: Sequence[str], window: int = 1024) -> Measurement:
    """Perplexity a token of one running text, in windows that overlap by half.

    Lines are stripped and joined by an empty line; every token but the first is scored once, with
    at least window / 2 tokens before it from the second window on. An item is a window's
    [summed negative log-likelihood in nats, scored tokens], so the standard error is over windows.

    Raises:
        ValueError: no lines, fewer than two tokens, a window that is odd, below two or longer
            than the model's maximum.
    """
    check_not_empty("lines", lines)
    check_window(window, lm.max_length)
    tokens = lm.tok_encode("\n\n".join(line.strip() for line in lines), add_special_tokens=False)
    if len(tokens) < 2:
        raise ValueError(f"lines hold {len(tokens)} tokens; two are needed")
    return perplexity("prose_perplexity", lm, [[pair] for pair in windows(tokens, window)])


def measure_words(lm: SharedContextLM, lines: Sequence[str]) -> Measurement:
    """Perplexity a word of whole articles, as lm-eval's task `wikitext` counts it.

    Articles are detokenised and read from the end-of-text token on, in windows of `lm.window`
    tokens that do not overlap; words are those of the original text. lm-eval takes the model's
    maximum for a window, or 2,048 where a model names none; the studies always take `WORDS_WINDOW`
    (or the maximum, if that is smaller), which bounds the memory needed. An item is an article's
    [summed negative log-likelihood in nats, words].

    Raises:
        ValueError: no lines.
    """
    check_not_empty("lines", lines)
    task = bundled_task("wikitext", [{"page": page} for page in pages(list(lines))])
    samples = run_task(lm, task)
    losses, words = zip(*((-s["word_perplexity"][0], s["word_perplexity"][1]) for s in samples))
    return perplexity_of("word_perplexity", losses, words, version_of(task))


def paper_normalise(text: str) -> str:
    """TriviaQA text as the paper's code compares it: lower case, no articles, letters a to z.

    Everything but a-z, 0-9, full stop and hyphen counts as a space, accented letters too.
    """
    without = re.sub(r"\b(?:a|an|the)\b", " ", text.lower())
    return " ".join(re.sub(r"[^a-z0-9.\-]", " ", without).split())


def measure_trivia(lm: SharedContextLM, questions: Sequence, fewshot: Sequence = ()) -> Measurement:
    """TriviaQA by the paper's rule: some alias is a substring of 32 greedily decoded tokens.

    The rule is lenient: a short alias may stand within an unrelated word. It is kept as it is, so
    that numbers compare with the paper's; `measure_trivia_exact` is strict. After examples, which
    the paper does not show, the answer ends with its line.

    Args:
        lm: the model.
        questions: objects with `question` and `aliases`, the list of all right answers.
        fewshot: objects with `question` and `answer`, shown in this order before every question.

    Raises:
        ValueError: no questions, a text longer than the model's maximum.
    """

    def grade(doc: dict, results: Sequence[str]) -> dict[str, float]:
        given = paper_normalise(results[0])
        known = [alias for alias in map(paper_normalise, doc["answer"]["aliases"]) if alias]
        return {"contains_alias": float(any(alias in given for alias in known))}

    check_not_empty("questions", questions)
    config = {
        "task": "triviaqa_paper",
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer.aliases}}",
        "generation_kwargs": {
            "until": ["\n"] if fewshot else [],
            "max_gen_toks": TRIVIA_TOKENS,
            "do_sample": False,
        },
        "process_results": grade,
        "metric_list": [{"metric": "contains_alias", **MEAN}],
    }
    task = make_task(config | _shown(fewshot), _trivia_rows(questions))
    items = [float(sample["contains_alias"]) for sample in run_task(lm, task)]
    return Measurement.of_mean("knowledge_accuracy", items)


def measure_trivia_exact(
    lm: SharedContextLM, questions: Sequence, fewshot: Sequence = ()
) -> Measurement:
    """TriviaQA as lm-eval's task `triviaqa` grades it: equal to an alias.

    The answer ends at a full stop, comma or line end; case and punctuation do not count. At most
    32 tokens are generated. Arguments and errors are those of `measure_trivia`.
    """
    check_not_empty("questions", questions)
    generation = {"until": ["\n", ".", ","], "do_sample": False, "max_gen_toks": TRIVIA_TOKENS}
    changes = {"generation_kwargs": generation, **_shown(fewshot)}
    task = bundled_task("triviaqa", _trivia_rows(questions), **changes)
    items = [float(sample["exact_match"]) for sample in run_task(lm, task)]
    return Measurement.of_mean("exact_match", items, version_of(task))


def _trivia_rows(questions: Sequence) -> list[dict]:
    """Questions in the columns of the data set that lm-eval's task reads."""
    return [{"question": q.question, "answer": {"aliases": list(q.aliases)}} for q in questions]


def _shown(fewshot: Sequence) -> dict:
    """The fields that show these examples before every question."""
    if not fewshot:
        return {"num_fewshot": 0}
    shots = [{"question": shot.question, "answer": {"aliases": [shot.answer]}} for shot in fewshot]
    return {
        "num_fewshot": len(shots),
        "fewshot_config": {"sampler": "first_n", "samples": shots},
    }
