"""Which metrics a profile measures, and how each is measured on a run's model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..precision import resolve_precision
from ..profiles import Profile
from ..tasks.formats import FORMATS
from . import evaluate, protocols
from .lm import SharedContextLM

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
    lm = SharedContextLM(
        model,
        tokenizer,
        batch_tokens=study.profile.evaluation.batch_tokens,
        precision=resolve_precision(study.profile.training.precision),
        window=protocols.WORDS_WINDOW,
    )
    return _MEASURES[name](study, lm)


def _exam(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    exam, questions = study.exam, study.exam.split(study.profile.evaluation.split)
    if exam.format == "cloze":
        return evaluate.measure_exam(lm, questions)
    questions = questions[: study.profile.exam.option_rows]
    return protocols.measure_options(lm, questions, FORMATS[exam.format])


def _letters(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    return protocols.measure_letters(lm, study.exam.split(study.profile.evaluation.split))


def _prose(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    wikitext = study.profile.probes.wikitext
    if wikitext is None:
        return evaluate.measure_prose(lm, study.prose)
    return protocols.measure_wikitext(lm, study.prose, wikitext.window)


def _words(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    return protocols.measure_words(lm, study.prose)


def _knowledge(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    own = study.profile.probes.triviaqa is None
    measure = evaluate.measure_knowledge if own else protocols.measure_trivia
    return measure(lm, *study.knowledge)


def _exact_match(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    return protocols.measure_trivia_exact(lm, *study.knowledge)


def _self_kl(study: Materials, lm: SharedContextLM) -> evaluate.Measurement:
    base, base_tokenizer = study.load_base()
    text = study.self_text((base, base_tokenizer))
    return evaluate.measure_self_kl(lm.model, base, text, precision=lm.precision)


_MEASURES: dict[str, Callable[[Materials, SharedContextLM], evaluate.Measurement]] = {
    "exam_accuracy": _exam,
    "letter_accuracy": _letters,
    "prose_perplexity": _prose,
    "word_perplexity": _words,
    "knowledge_accuracy": _knowledge,
    "exact_match": _exact_match,
    "self_kl": _self_kl,
}
