"""Which metrics a profile measures, and how each is measured on a run's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..precision import resolve_precision
from ..profiles import Profile
from ..tasks.formats import FORMATS
from . import evaluate, protocols

if TYPE_CHECKING:
    from ..materials import Materials


def metric_names(profile: Profile) -> list[str]:
    """The metrics of a profile, in the order in which they are measured."""
    probes, standard = profile.evaluation.probes, profile.evaluation.standard
    names = ["exam_accuracy"]
    if standard and profile.exam.name == "medmcqa" and profile.exam.format == "lettered":
        names.append("letter_accuracy")
    if "prose" in probes:
        names += ["prose_perplexity"]
        names += ["word_perplexity"] if standard and profile.probes.wikitext else []
    if "knowledge" in probes:
        names += ["knowledge_accuracy"]
        names += ["exact_match"] if standard and profile.probes.triviaqa else []
    if "self_text" in probes:
        names.append("self_kl")
    return names


def measure_metric(study: Materials, name: str, model, tokenizer) -> evaluate.Measurement:
    """Measure one metric of `metric_names` on a model, as the study's profile says."""
    settings = study.profile.evaluation
    how = {
        "batch_tokens": settings.batch_tokens,
        "precision": resolve_precision(study.profile.training.precision),
    }
    return _MEASURES[name](study, model, tokenizer, how)


def _exam(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    exam, questions = study.exam, study.exam.split(study.profile.evaluation.split)
    if exam.format == "cloze":
        return evaluate.measure_exam(model, tokenizer, questions, **how)
    questions = questions[: study.profile.exam.option_rows]
    return protocols.measure_options(model, tokenizer, questions, FORMATS[exam.format], **how)


def _letters(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    questions = study.exam.split(study.profile.evaluation.split)
    return protocols.measure_letters(model, tokenizer, questions, **how)


def _prose(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    wikitext = study.profile.probes.wikitext
    if wikitext is None:
        return evaluate.measure_prose(model, tokenizer, study.prose, **how)
    return protocols.measure_wikitext(model, tokenizer, study.prose, wikitext.window, **how)


def _words(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    return protocols.measure_words(model, tokenizer, study.prose, **how)


def _knowledge(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    questions, shots = study.knowledge
    if study.profile.probes.triviaqa is None:
        return evaluate.measure_knowledge(model, tokenizer, questions, shots, **how)
    return protocols.measure_trivia(model, tokenizer, questions, shots, **how)


def _exact_match(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    return protocols.measure_trivia_exact(model, tokenizer, *study.knowledge, **how)


def _self_kl(study: Materials, model, tokenizer, how: dict) -> evaluate.Measurement:
    base, base_tokenizer = study.load_base()
    text = study.self_text((base, base_tokenizer))
    return evaluate.measure_self_kl(model, base, text, precision=how["precision"])


_MEASURES: dict[str, Callable] = {
    "exam_accuracy": _exam,
    "letter_accuracy": _letters,
    "prose_perplexity": _prose,
    "word_perplexity": _words,
    "knowledge_accuracy": _knowledge,
    "exact_match": _exact_match,
    "self_kl": _self_kl,
}
