"""The paper's settings beside those of our profiles, and what our code does otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pandas as pd

from ...study.methods import MethodSettings
from ...study.profiles import Profile
from ...study.settings import (
    MedMCQASettings,
    RetrofitSettings,
    TextSettings,
    TriviaQASettings,
    WikiTextSettings,
)
from ..analysis.tables import DASH
from ..text import listed, rate_text
from .published import Published


def setting_table(profiles: Sequence[Profile], published: Published) -> pd.DataFrame:
    """How the paper ran it and how each profile does: one row an aspect, one column a profile.

    Raises ValueError for a profile without the paper's exam, probes, texts and stage 1.
    """
    columns = {profile.name: _setting(profile) for profile in profiles}
    rows = [
        {"Aspect": aspect, "Published": str(text)}
        | {name: own[aspect] for name, own in columns.items()}
        for aspect, text in published.setting.items()
    ]
    return pd.DataFrame(rows)


def _setting(profile: Profile) -> dict[str, str]:
    """The aspects of `published.setting` as this profile has them."""
    if not profile.is_like_the_paper:
        raise ValueError(f"profile {profile.name!r} does not run the paper's task and probes")
    exam, stage1 = cast("MedMCQASettings", profile.exam), cast("RetrofitSettings", profile.retrofit)
    wikitext = cast("WikiTextSettings", profile.probes.wikitext)
    trivia = cast("TriviaQASettings", profile.probes.triviaqa)
    training, background = profile.training, profile.background
    text = cast("TextSettings", background.text)
    shape = next(
        (profile.complete(m).peft_config(profile.memory) for m in profile.methods.values()
         if m.start is not None), None,
    )  # fmt: skip
    sparse = [m for m in profile.methods.values() if m.start is not None]
    which = "the first" if exam.order == "file" else "drawn at random"
    loss = "on every token" if exam.format == "lettered" else "on the answer"
    batch = training.batch_size * training.gradient_accumulation
    return {
        "Model": "SmolLM2-135M-Instruct"
        if profile.model.source == "embedded"
        else Path(profile.model.source).stem
        if profile.model.source.lower().endswith(".gguf")
        else profile.model.source,
        "Trained on": f"{_rows(exam.train_rows)} questions of {exam.train_split}"
        f"{', with a single answer' if exam.single_choice else ''}, {_times(training.epochs)}",
        "Tested on": f"{_rows(exam.option_rows or exam.test_rows)} of {exam.test_split}, {which}"
        + ("" if exam.option_rows in (None, exam.test_rows)
           else f" ({_rows(exam.test_rows)} by lm-eval's score)"),
        "Answers": f"{exam.format}; loss {loss}",
        "Perplexity on": f"{_name(wikitext)} {wikitext.split}, {_rows(wikitext.lines)} rows",
        "Trivia": f"{_rows(trivia.questions)} {_name(trivia)} questions, "
        f"{'the first' if trivia.order == 'file' else 'drawn at random'}, "
        f"{trivia.shots or 'no'} examples",
        "Background": f"{background.sequences:,} {_name(text)} texts",
        "Stage 1": f"{_texts(stage1.text)} {_name(stage1.text)} texts, "
        f"{_times(stage1.training.epochs)}, learning rate "
        + _rates([m for m in profile.methods.values() if m.stage == "retrofit"]),
        "Memory": DASH if shape is None else
        f"{_layers(shape.layers)}, "
        f"{shape.num_subkeys**2:,} rows each, {shape.num_heads} heads, top {shape.top_k}",
        "Rows a step": DASH if shape is None else f"{shape.rows_per_step} a layer",
        "Questions a step": f"{batch}, of up to {training.max_length:,} tokens",
        "Rate of sparse arms": _rates(sparse),
        "Rate of LoRA": _rates([m for n, m in profile.methods.items() if n == "lora"]),
        "Rate of full finetuning": _rates([m for n, m in profile.methods.items() if n == "full"]),
        "Seeds": str(len(profile.seeds)),
    }  # fmt: skip


def _rows(rows: int | None) -> str:
    return "all" if rows is None else f"{rows:,}"


def _texts(text: TextSettings) -> str:
    """How many texts, where there may be fewer than a limit."""
    return f"at most {text.at_most:,}" if text.at_most else _rows(text.rows)


def _times(epochs: int) -> str:
    return "once" if epochs == 1 else f"{epochs} times"


def _name(settings: TextSettings | TriviaQASettings | WikiTextSettings) -> str:
    """The short name of a source, with its configuration: the last part of a path or Hub id."""
    name = settings.source.rpartition("/")[2]
    config = getattr(settings, "config", None) or ""
    return config if config.startswith(name) else name


def _rates(methods: Sequence[MethodSettings]) -> str:
    """The learning rates of methods, those of a sweep one by one."""
    swept = (m.learning_rate for m in methods)
    rates = [r for rate in swept for r in (rate if isinstance(rate, list) else [rate])]
    return listed(rate_text(rate) for rate in rates if rate is not None) or DASH


def _layers(layers: Sequence[int] | None) -> str:
    if layers is None:
        return "layers at a quarter, half and three quarters of the depth"
    return f"{len(layers)} layers ({', '.join(map(str, layers))})"


def differences_table(published: Published) -> pd.DataFrame:
    """What our code does otherwise than the released code, whatever the profile."""
    rows = [
        {
            "Aspect": d.aspect,
            "Released code": d.published,
            "Here": d.ours,
            "What it changes": d.effect,
        }
        for d in published.differences
    ]
    return pd.DataFrame(rows)
