"""The chapter "The paper, arm by arm": published and measured numbers side by side, and what holds.

Tables are as those of `tables`: DataFrames of finished text. What they say is worked out in
`paper`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from .estimate import H100, Lengths, Machine, estimate, lengths_of
from .paper import (
    ABSENT,
    MAIN,
    QUESTIONS,
    SHORT,
    arms_of,
    findings,
    items_needed,
    label_of,
    open_claims,
    ordered_pairs,
    paper_order,
)
from .profiles import Profile
from .published import Claim, Number, PaperMetric, Published
from .record import MetricName, Record
from .summary import Arm, change, compare, contrast, level, listed, rate_text, signed
from .tables import DASH, number, p_text
from .units import count

STANDARD: dict[MetricName, str] = {
    "exam_accuracy": "MedMCQA, paper's score",
    "letter_accuracy": "MedMCQA, lm-eval",
    "prose_perplexity": "WikiText, a token (paper)",
    "word_perplexity": "WikiText, a word (lm-eval)",
    "knowledge_accuracy": "TriviaQA, alias within (paper)",
    "exact_match": "TriviaQA, exact (lm-eval)",
}


def setting_table(profiles: Sequence[Profile], published: Published) -> pd.DataFrame:
    """How the paper ran it and how each profile does: one row an aspect, one column a profile.

    Raises ValueError for a profile without the paper's exam, probes, texts and stage 1.
    """
    columns = {profile.name: _setting(profile) for profile in profiles}
    rows = [
        {"Aspect": aspect, "Published": str(text)} | {name: own[aspect] for name, own in columns.items()}
        for aspect, text in published.setting.items()
    ]
    return pd.DataFrame(rows)


def _setting(profile: Profile) -> dict[str, str]:
    """The aspects of `published.setting` as this profile has them."""
    exam, probes, training = profile.exam, profile.probes, profile.training
    stage1, background = profile.retrofit, profile.background
    needed = (probes.wikitext, probes.triviaqa, stage1, background.text)
    if exam.name != "medmcqa" or None in needed:
        raise ValueError(f"profile {profile.name!r} does not run the paper's task and probes")
    shape = next(
        (profile.complete(m).peft_config(profile.memory) for m in profile.methods.values()
         if m.start is not None), None,
    )  # fmt: skip
    sparse = [m for m in profile.methods.values() if m.start is not None]
    which = "the first" if exam.order == "file" else "drawn at random"
    loss = "on every token" if exam.format == "lettered" else "on the answer"
    wikitext, trivia, text = probes.wikitext, probes.triviaqa, background.text
    batch = training.batch_size * training.gradient_accumulation
    return {
        "Model": "SmolLM2-135M-Instruct"
        if profile.model.source == "embedded"
        else Path(profile.model.source).stem
        if profile.model.source.endswith(".gguf")
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
        "Stage 1": f"{_rows(stage1.text.rows)} {_name(stage1.text)} texts, "
        f"{_times(stage1.training.epochs)}, learning rate "
        + listed(rate_text(m.learning_rate) for m in profile.methods.values()
                 if m.stage == "retrofit"),
        "Memory": DASH if shape is None else
        f"{len(shape.layers)} layers ({', '.join(map(str, shape.layers))}), "
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


def _times(epochs: int) -> str:
    return "once" if epochs == 1 else f"{epochs} times"


def _name(settings) -> str:
    """The short name of a source, with its configuration: the last part of a path or Hub id."""
    name = settings.source.rpartition("/")[2]
    config = getattr(settings, "config", None) or ""
    return config if config.startswith(name) else name


def _rates(methods) -> str:
    return listed(rate_text(method.learning_rate) for method in methods) or DASH


def differences_table(published: Published) -> pd.DataFrame:
    """What our code does otherwise than the released code, whatever the profile."""
    rows = [
        {"Aspect": d.aspect, "Released code": d.published, "Here": d.ours}
        for d in published.differences
    ]
    return pd.DataFrame(rows)


# ----------------------------------------------------------------- published and measured


def side_by_side(
    records: Sequence[Record], published: Published, metric: PaperMetric
) -> pd.DataFrame:
    """Published and measured, one row an arm in the paper's order; level, and change from base.

    Arms that the paper has are always listed, others if they are on record. For the exam two rows
    more hold what can be had for nothing.
    """
    arms = arms_of(records)
    methods = paper_order([*dict.fromkeys([*published.arms, *arms])], published)
    unit = "" if metric == "prose_perplexity" else " (%)"
    by = "points" if unit else "%"
    heads = (f"Published{unit}", f"Its change ({by})", f"Measured{unit}", f"Its change ({by}) ")
    rows = [
        {"Method": label_of(method, arms)}
        | dict(zip(heads, [*_published(published, method, metric), *_measured(arms, method, metric)]))
        for method in methods
    ]
    if metric == "exam_accuracy":
        for name, field in (("Majority class", "majority"), ("Guessing", "chance")):
            values = [getattr(arm.first.baselines, field) for arm in arms.values()]
            shown = listed(f"{100 * value:.1f}" for value in values) or DASH
            rows.append({"Method": name} | dict(zip(heads, (DASH, DASH, shown, DASH))))
    return pd.DataFrame(rows)


def _published(published: Published, method: str, metric: PaperMetric) -> tuple[str, str]:
    arm = published.arms.get(method)
    if arm is None:
        return DASH, DASH
    value = arm.number(metric)
    if value is None:
        return arm.words, DASH
    moved = published.change(method, "base", metric)
    return published_text(value, metric), DASH if method == "base" else signed(moved, 1)


def published_text(value: Number, metric: PaperMetric) -> str:
    """A published number in per cent or as perplexity, with its ± or range where given."""
    factor, digits = (1, 2) if metric == "prose_perplexity" else (100, 1)

    def text(part: float) -> str:
        return f"{factor * part:.{digits}f}"

    if value.low is not None:
        return f"{text(value.low)} to {text(value.high)}"
    extra = f" ± {text(value.plus_minus)}" if value.plus_minus is not None else ""
    return text(value.value) + extra


def _measured(arms: Mapping[str, Arm], method: str, metric: MetricName) -> tuple[str, str]:
    arm, base = arms.get(method), arms.get("base")
    if arm is None:
        return ABSENT, DASH
    if not arm.has(metric):
        return DASH, DASH
    shown = number(level(arm, metric), 2 if metric == "prose_perplexity" else 1)
    if arm.is_base or base is None or not base.has(metric):
        return shown, DASH
    return shown, number(change(arm, base, metric), 1, sign=True)


def standard_table(records: Sequence[Record], changes: bool = False) -> pd.DataFrame:
    """The field's standard score beside the paper's protocol: levels, or changes from the base.

    Accuracies in per cent and points, perplexity as it is and in per cent. Metrics that no arm has
    are left out.
    """
    arms = arms_of(records)
    base = arms.get("base")
    heads = dict(STANDARD)
    if any(a.first.settings.get("exam", {}).get("format") == "cloze" for a in arms.values()):
        heads["exam_accuracy"] = "MedMCQA, cloze (lm-eval's acc_norm)"
    rows = []
    for arm in arms.values():
        if changes and (arm.is_base or base is None):
            continue
        row = {"Method": arm.first.label}
        for metric, head in heads.items():
            perplexity = "perplexity" in metric
            unit = ("%" if perplexity else "points") if changes else ("" if perplexity else "%")
            cell = DASH
            if arm.has(metric) and (not changes or base.has(metric)):
                shown = change(arm, base, metric) if changes else level(arm, metric)
                cell = number(shown, 2 if perplexity and not changes else 1, sign=changes)
            row[f"{head} ({unit})" if unit else head] = cell
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


# ----------------------------------------------------------------- ordering


def ordering_table(
    records: Sequence[Record], metric: MetricName, methods: Sequence[str] = MAIN
) -> pd.DataFrame:
    """One row a pair, the larger first, largest difference first."""
    unit = {"self_kl": "nats"}.get(metric, "%" if "perplexity" in metric else "points")
    digits = 4 if metric == "self_kl" else 1
    rows = []
    pairs = ordered_pairs(records, metric, methods)
    for pair in sorted(pairs, key=lambda pair: -pair.difference.value):
        row = {
            "Larger": pair.upper.first.label,
            "Smaller": pair.lower.first.label,
            f"Difference ({unit})": number(pair.difference, digits, sign=True),
        }
        if unit == "points":
            _, test = compare(pair.upper, pair.lower, metric)
            row["McNemar p"] = p_text(test.p_value) if test else DASH
        rows.append(row | {"Told apart": "yes" if pair.apart else "no"})
    return pd.DataFrame(rows)


# ----------------------------------------------------------------- stage 1 and the rule


def contrast_table(
    records: Sequence[Record], questions: Sequence[tuple[str, str, str]] = QUESTIONS
) -> pd.DataFrame:
    """What one step of the method adds to another: `first` minus `second` on every metric."""
    arms = arms_of(records)
    metrics: tuple[tuple[MetricName, str, int], ...] = (
        ("exam_accuracy", "MedMCQA (points)", 1),
        ("prose_perplexity", "Perplexity (%)", 1),
        ("knowledge_accuracy", "TriviaQA (points)", 1),
        ("self_kl", "KL from base (nats)", 3),
    )
    rows = []
    for question, first, second in questions:
        row = {"Question": question, "Difference": f"{label_of(first, arms)} − {label_of(second, arms)}"}
        lacking = [label_of(name, arms) for name in (first, second) if name not in arms]
        clear = []
        for metric, head, digits in metrics:
            row[head] = DASH
            if lacking or not (arms[first].has(metric) and arms[second].has(metric)):
                continue
            difference = contrast(arms[first], arms[second], metric)
            row[head] = number(difference, digits, sign=True)
            clear += [SHORT[metric]] if difference.clear else []
        told = listed(clear) or "nothing"
        row["Differs clearly in"] = f"{ABSENT}: {listed(lacking)}" if lacking else told
        rows.append(row)
    return pd.DataFrame(rows)


# ----------------------------------------------------------------- claims


def claims_table(studies: Mapping[str, Sequence[Record]], published: Published) -> pd.DataFrame:
    """What reproduces: claim, when it holds, published, and for each study measured and verdict."""
    judged = {where: findings(records, published) for where, records in studies.items()}
    rows = []
    for place, claim in enumerate(published.claims):
        said = published.change(claim.first, claim.second, claim.metric)
        unit = " %" if claim.metric == "prose_perplexity" else ""
        row = {
            "Claim": claim.text,
            "On": SHORT[claim.metric],
            "Holds if": _condition(claim) + unit,
            "Published": DASH if said is None else signed(said, 1) + unit,
        }
        for where, found in judged.items():
            finding = found[place]
            row[where] = finding.verdict
            if finding.measured is not None:
                row[where] = f"{number(finding.measured, 1, sign=True)}{unit}: {finding.verdict}"
        rows.append(row)
    return pd.DataFrame(rows)


def _condition(claim: Claim) -> str:
    margin = f"{claim.margin:g}"
    return {
        "above": "> 0", "below": "< 0", "at_most": f"< +{margin}", "at_least": f"> −{margin}",
        "within": f"−{margin} to +{margin}",
    }[claim.relation]  # fmt: skip


# ----------------------------------------------------------------- what would settle the rest


def to_run_table(
    studies: Mapping[str, Sequence[Record]],
    published: Published,
    profile: Profile,
    machine: Machine = H100,
) -> pd.DataFrame:
    """One command a method of `profile` that something open waits for, and one for everything.

    What is open: claims that no study settles, and `QUESTIONS` for which no study has both arms.
    Runs that are on record in a study of the profile are not counted.
    """
    lengths = lengths_of([record for records in studies.values() for record in records])
    waiting = _waiting(studies, published)
    hours, done = f"Hours on one {machine.name}", _done(studies, profile)
    rows, total, runs = [], 0.0, 0
    for name in paper_order(list(profile.methods), published):
        left = [r for r in profile.runs() if r.method == name and (name, r.seed) not in done]
        if not left:
            continue
        one = estimate(profile, name, lengths, machine)
        total += len(left) * one.hours
        runs += len(left)
        users = [n for n, m in profile.methods.items() if m.start == name]
        needed = sum(bool(pair & {name, *users}) for pair in waiting)
        if needed:
            rows.append(
                {
                    "Method": profile.methods[name].label,
                    "Command": _command(profile, name, [run.seed for run in left]),
                    "Waiting for it": str(needed),
                    "Runs": str(len(left)),
                    "Tokens a run": count(one.tokens).strip() if one.tokens else DASH,
                    "FLOP a run": f"{one.flops:.1e}".replace("e+", "e"),
                    hours: _hours(len(left) * one.hours),
                }
            )
    everything = {
        "Method": f"all of profile {profile.name}",
        "Command": f"make book PROFILE={profile.name}",
        "Waiting for it": str(len(waiting)),
        "Runs": str(runs),
        hours: f"{total:.0f}",
    }
    return pd.DataFrame([*rows, everything]).fillna(DASH)


def _hours(hours: float) -> str:
    return "< 0.1" if hours < 0.1 else f"{hours:.2g}"


def _waiting(
    studies: Mapping[str, Sequence[Record]], published: Published
) -> list[set[str]]:
    """The two arms of every open claim, and of every question that no study has both arms for."""
    claims = [{claim.first, claim.second} for claim in open_claims(studies, published)]
    known = [arms_of(records).keys() for records in studies.values()]
    asked = [{first, second} for _, first, second in QUESTIONS]
    return claims + [pair for pair in asked if not any(pair <= arms for arms in known)]


def _done(studies: Mapping[str, Sequence[Record]], profile: Profile) -> set[tuple[str, int]]:
    """Method and seed of the runs of this profile that are on record."""
    records = [record for group in studies.values() for record in group]
    return {(r.method, r.seed) for r in records if r.profile == profile.name}


def _command(profile: Profile, name: str, seeds: Sequence[int]) -> str:
    run = (
        "papermill notebooks/02_finetune.ipynb out.ipynb "
        f"-p profile {profile.name} -p method {name}"
    )
    if profile.methods[name].kind == "base":
        return run
    if len(seeds) == 1:
        return f"{run} -p seed {seeds[0]}"
    return f"for s in {' '.join(map(str, seeds))}; do {run} -p seed $s; done"


def power_table(
    studies: Mapping[str, Sequence[Record]], published: Published
) -> pd.DataFrame:
    """Claims that a study measured and could not settle, with the questions it would have taken.

    If the published difference were the true one, an interval that just clears the claim's bound
    would need n * (half width / distance)^2 items, since it narrows with the root of their number.
    """
    rows = []
    for where, records in studies.items():
        for finding in findings(records, published):
            if finding.verdict != "not settled":
                continue
            measured, needed = finding.measured, items_needed(finding)
            unit = " %" if finding.claim.metric == "prose_perplexity" else ""
            rows.append(
                {
                    "Claim": finding.claim.text,
                    "Study": where,
                    "Published": DASH if finding.published is None
                    else signed(finding.published, 1) + unit,
                    "Measured": number(measured, 1, sign=True) + unit,
                    "Items": f"{measured.n:,}",
                    "Items needed": DASH if needed is None else f"{needed:,.2g}"
                    if needed < 100 else f"{round(needed, -2):,.0f}",
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def assumptions_sentence(studies: Mapping[str, Sequence[Record]], machine: Machine = H100) -> str:
    """What the estimated times assume of the texts and of the machine."""
    lengths: Lengths = lengths_of([record for records in studies.values() for record in records])
    return (
        f"Assumed: {count(lengths.parameters)} parameters, {lengths.question:.0f} tokens a question "
        f"and {lengths.reply:.0f} a reply ({lengths.source}); of {machine.name} a peak of "
        f"{machine.peak / 1e12:.0f} TFLOP/s in bfloat16, of which {100 * machine.utilisation:.0f} % "
        f"is reached, and {machine.launch:g} s or more for a forward and backward pass, which for "
        "small batches decides."
    )
