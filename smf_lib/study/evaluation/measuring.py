"""How each of the library's metrics (`metrics.METRICS`) is measured on a run's model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..metrics import METRICS
from ..precision import resolve_precision
from ..registry import load_function
from ..tasks.corpora import pages
from ..tasks.formats import FORMATS
from . import evaluate, protocols
from .lm import SharedContextLM
from .parts import scored_questions

if TYPE_CHECKING:
    from ..materials import Materials


def measure_metric(study: Materials, name: str, model, tokenizer) -> dict:
    """Measure one metric of a study's profile on a model: the content of a record's `Metric`.

    A metric that the library does not bring says what it is.

    Raises:
        ValueError: no metric of that name is registered, or what the metric itself refuses.
    """
    lm = SharedContextLM(
        model,
        tokenizer,
        batch_tokens=study.profile.evaluation.batch_tokens,
        precision=resolve_precision(study.profile.training.precision),
        window=protocols.WORDS_WINDOW,
    )
    spec = METRICS.find(name)
    measured = load_function(spec.measure)(study, lm)
    found = {key: getattr(measured, key) for key in ("value", "stderr", "n", "items")}
    if measured.task_version is not None:
        found["task_version"] = measured.task_version
    if not spec.is_shipped:
        found["about"] = {"title": spec.title, "unit": spec.unit, "data": spec.data}
    return found


def exam(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """The exam's accuracy, in the exam's own format."""
    questions = scored_questions(study)
    if study.exam.format == "cloze":
        return evaluate.measure_exam(lm, questions)
    return protocols.measure_options(lm, questions, FORMATS[study.exam.format])


def letters(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """The accuracy of the option's letter alone."""
    return protocols.measure_letters(lm, study.exam.split(study.profile.evaluation.split))


def prose(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Perplexity a token of prose."""
    wikitext = study.profile.probes.wikitext
    if wikitext is None:
        return evaluate.measure_prose(lm, study.prose)
    return protocols.measure_wikitext(lm, study.prose, wikitext.window)


def words(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Perplexity a word of prose."""
    return protocols.measure_words(lm, study.prose)


def knowledge(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Share of questions of general knowledge answered right."""
    questions, shown = study.knowledge
    if study.profile.probes.triviaqa is None:
        return evaluate.measure_knowledge(lm, questions, shown)
    return protocols.measure_trivia(lm, questions, shown[0])


def exact_match(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Share of questions of general knowledge answered by an alias and nothing else."""
    questions, shown = study.knowledge
    return protocols.measure_trivia_exact(lm, questions, shown[0])


def self_kl(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Divergence from the base model on text of the base model."""
    base, base_tokenizer = study.load_base()
    text = study.self_text((base, base_tokenizer))
    return evaluate.measure_divergence(
        "self_kl", lm.model, base, text, lm.batch_tokens, lm.precision
    )


def prose_kl(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    """Divergence from the base model on prose, which selected no row of a memory.

    Texts are the shipped sections, or of WikiText the articles, each cut to the first tokens of it
    that perplexity reads at once.
    """
    base, _ = study.load_base()
    wikitext = study.profile.probes.wikitext
    window = min(wikitext.window if wikitext else evaluate.WINDOW, lm.max_length or math.inf)
    texts = pages(study.prose) if wikitext else [section.text for section in study.prose]
    tokens = [lm.tok_encode(text)[:window] for text in texts]
    return evaluate.measure_divergence(
        "prose_kl", lm.model, base, tokens, lm.batch_tokens, lm.precision
    )
