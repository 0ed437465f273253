"""How long the arms of a profile would take on a machine, from token counts and arithmetic.

Training a model of N parameters on D tokens takes about 6 N D floating-point operations where all
weights are trained: 2 N D forward, 2 N D backward for the activations and 2 N D for the weights
(Kaplan et al. 2020, section 2.1). An adapter on frozen weights saves the last third, so it counts
4 N D; measuring counts 2 N D. Attention over other tokens is left out, which at the lengths here
is a few per cent.

A small model in small batches does not keep a large GPU busy: each micro-batch takes a time of its
own, however short its texts, in which operations are launched one by one. The time is the larger
of the two, arithmetic and launching. The constants of `Machine` are assumptions, not
measurements: take a time of training to be right within a factor of two, and one of measuring,
which is short beside it, within its order of magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ...study.profiles import Profile
from ...study.records.record import Record
from ...study.settings import MethodSettings, TrainingSettings


@dataclass(frozen=True)
class Machine:
    """What is assumed of a machine.

    peak: operations a second in bfloat16, dense. utilisation: the share of it that long batches
    reach. launch: seconds that a forward and backward pass takes at least; a forward pass alone
    takes a third of it.
    """

    name: str
    peak: float
    utilisation: float
    launch: float

    def seconds(self, flops: float, passes: float) -> float:
        """Time of so many operations in so many forward and backward passes."""
        return max(flops / (self.peak * self.utilisation), passes * self.launch)


H100 = Machine("NVIDIA H100 SXM", peak=989e12, utilisation=0.3, launch=0.06)


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a text by what it is, the model's size, and where these come from."""

    parameters: int
    question: float
    reply: float
    source: str


# For models of Qwen2.5's vocabulary; used where no record has counted.
ASSUMED = Lengths(494_032_768, 150.0, 250.0, "assumed")


@dataclass(frozen=True)
class Estimate:
    """One run: tokens trained on, operations, seconds of training and of measuring."""

    tokens: float
    flops: float
    training: float
    measuring: float

    @property
    def hours(self) -> float:
        return (self.training + self.measuring) / 3600


def lengths_of(records: Iterable[Record], assumed: Lengths = ASSUMED) -> Lengths:
    """Mean lengths as counted by records of models of the assumed size; assumed where none has."""
    question, reply, sources = None, None, []
    for record in records:
        method, cost = record.settings["method"], record.cost
        if record.model.parameters != assumed.parameters or not cost.train_tokens:
            continue
        if method.get("stage") == "retrofit":
            part, text = record.settings.get("retrofit", {}), record.data.retrofit
            if reply is None and text is not None:
                epochs = part.get("training", {}).get("epochs", 1)
                reply = cost.train_tokens / (text.rows * epochs)
                sources.append(f"replies: {record.profile}/{record.study}/{record.run_id}")
        elif question is None and record.data.exam is not None:
            epochs = record.settings["training"]["epochs"]
            question = cost.train_tokens / (record.data.exam.train_rows * epochs)
            sources.append(f"questions: {record.profile}/{record.study}/{record.run_id}")
    lacking = [n for n, v in (("questions", question), ("replies", reply)) if v is None]
    sources += [f"{name}: assumed" for name in lacking]
    return Lengths(
        assumed.parameters, question or assumed.question, reply or assumed.reply, "; ".join(sources)
    )


def estimate(
    profile: Profile, method: str, lengths: Lengths = ASSUMED, machine: Machine = H100
) -> Estimate:
    """The cost of one run of a method, without the stage 1 that it starts from.

    Raises:
        ValueError: unknown method; a profile that takes all rows there are, whose number is not
            in the profile.
    """
    settings = profile.run(method).settings if method in profile.methods else None
    if settings is None:
        raise ValueError(f"method={method!r} is not among {', '.join(profile.methods)}")
    measuring = _measuring(profile, lengths, machine)
    if settings.kind == "base":
        return Estimate(0.0, measuring[0], 0.0, measuring[1])
    retrofit = settings.stage == "retrofit"
    training = profile.retrofit.training if retrofit else profile.training
    rows = profile.retrofit.text.rows if retrofit else profile.exam.train_rows
    if rows is None:
        raise ValueError(f"profile {profile.name!r} does not say how many rows it trains on")
    tokens = rows * training.epochs * min(
        lengths.reply if retrofit else lengths.question, training.max_length
    )  # fmt: skip
    flops = _factor(settings) * lengths.parameters * tokens
    seconds = machine.seconds(flops, _passes(rows, training))
    return Estimate(tokens, flops + measuring[0], seconds, measuring[1])


def _factor(settings: MethodSettings) -> int:
    """Operations a parameter and token: 6 where the weights themselves are trained, else 4."""
    return 6 if settings.kind == "full" or settings.peft_type == "OSF" else 4


def _passes(rows: int, training: TrainingSettings) -> int:
    return math.ceil(rows / training.batch_size) * training.epochs


def _measuring(profile: Profile, lengths: Lengths, machine: Machine) -> tuple[float, float]:
    """Operations and seconds of scoring the exam and the probes.

    The exam: four continuations a question, after a prompt that is read once by each protocol.
    Perplexity: windows that overlap by half, then whole articles; a line has 120 tokens. Trivia:
    32 tokens are written one after the other, as many questions at once as a batch holds, by each
    protocol.
    """
    exam, probes, batch = profile.exam, profile.probes, profile.evaluation.batch_tokens
    tokens = 2 * (exam.test_rows or 1000) * 2 * lengths.question
    if probes.wikitext is not None:
        tokens += 3 * 120 * (probes.wikitext.lines or 1000)
    tokens += 2 * probes.self_text_sequences * probes.self_text_tokens
    passes = tokens / batch
    if probes.triviaqa is not None:
        questions = probes.triviaqa.questions or 1000
        length = 40 + 32
        tokens += 2 * questions * length
        passes += 2 * 32 * math.ceil(questions * length / batch)
    flops = 2 * lengths.parameters * tokens
    return flops, machine.seconds(flops, passes / 3)
