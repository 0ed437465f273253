"""The chapter "The paper, arm by arm": published and measured numbers side by side, and what holds.

Tables are as those of `analysis.tables`: DataFrames of finished text. What they say is worked out
in `ordering` and `claims`. How each study was run is tabulated in `deviations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from ...study.records.record import AccuracyName, MetricName, Record
from ...study.tasks.formats import LETTERS
from ..analysis.arms import Arm
from ..analysis.balanced import balanced_change, balanced_level, has_answers, shares_right
from ..analysis.captions import best_floor
from ..analysis.decisions import holm
from ..analysis.effects import are_paired, change, compare, contrast, level
from ..analysis.tables import DASH, number, p_text
from ..text import listed, signed
from .arms import SHORT, arms_of, label_of, lettered, paper_order
from .claims import ABSENT, QUESTIONS, findings, items_needed
from .ordering import COMPARED, ordered_pairs
from .published import Claim, Number, PaperMetric, Published

STANDARD: dict[MetricName, str] = {
    "exam_accuracy": "MedMCQA, paper's score",
    "letter_accuracy": "MedMCQA, lm-eval",
    "prose_perplexity": "WikiText, a token (paper)",
    "word_perplexity": "WikiText, a word (lm-eval)",
    "knowledge_accuracy": "TriviaQA, alias within (paper)",
    "exact_match": "TriviaQA, exact (lm-eval)",
}


def side_by_side(
    records: Sequence[Record], published: Published, metric: PaperMetric
) -> pd.DataFrame:
    """Published and measured, one row an arm in the paper's order; level, and change from base.

    Arms that the paper has are always listed, others if they are on record. For the exam further
    rows hold what can be had without a language model.
    """
    arms = arms_of(records)
    methods = paper_order([*dict.fromkeys([*published.arms, *arms])], published)
    unit = "" if metric == "prose_perplexity" else " (%)"
    by = "points" if unit else "%"
    heads = (f"Published{unit}", f"Its change ({by})", f"Measured{unit}", f"Its change ({by}) ")
    rows = [
        {"Method": label_of(method, arms)}
        | dict(
            zip(heads, [*_published(published, method, metric), *_measured(arms, method, metric)])
        )
        for method in methods
    ]
    if metric == "exam_accuracy":
        for name, shown in _floors(arms.values()).items():
            rows.append({"Method": name} | dict(zip(heads, (DASH, DASH, shown, DASH))))
    return pd.DataFrame(rows)


def _floors(arms: Iterable[Arm]) -> dict[str, str]:
    """What needs no language model, by its name in per cent; the best rule and bag if recorded."""
    found: dict[str, list[float]] = {"Majority class": [], "Guessing": []}
    for kept in (arm.first.baselines for arm in arms):
        found["Majority class"].append(100 * kept.majority)
        found["Guessing"].append(100 * kept.chance)
        if kept.rules:
            name, value = best_floor(kept.rules)
            found.setdefault(f"Best rule that learns nothing ({name})", []).append(value)
        if kept.bags:
            name, value = best_floor(kept.bags)
            found.setdefault(f"Bag of {name}", []).append(value)
    return {
        name: listed(f"{value:.1f}" for value in values) if values else DASH
        for name, values in found.items()
    }


def _published(published: Published, method: str, metric: PaperMetric) -> tuple[str, str]:
    arm = published.arms.get(method)
    if arm is None:
        return DASH, DASH
    value = arm.number(metric)
    if value is None:
        return arm.words, DASH
    moved = published.change(method, "base", metric)
    return published_text(value, metric), DASH if moved is None or method == "base" else signed(
        moved, 1
    )


def published_text(value: Number, metric: PaperMetric) -> str:
    """A published number in per cent or as perplexity, with its ± or range where given."""
    factor, digits = (1, 2) if metric == "prose_perplexity" else (100, 1)

    def text(part: float) -> str:
        return f"{factor * part:.{digits}f}"

    if value.low is not None and value.high is not None:
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

    Accuracies in per cent and points, perplexity as it is and in per cent; beside changes the
    divergence from the base model in nats. Metrics that no arm has are left out.
    """
    arms = arms_of(records)
    base = arms.get("base")
    heads = STANDARD | ({"self_kl": SHORT["self_kl"]} if changes else {})
    if any(a.first.settings.get("exam", {}).get("format") == "cloze" for a in arms.values()):
        heads["exam_accuracy"] = "MedMCQA, cloze (lm-eval's acc_norm)"
    rows = []
    for arm in arms.values():
        if changes and (arm.is_base or base is None):
            continue
        row = {"Method": arm.first.label}
        for metric, head in heads.items():
            unit, digits = _unit(metric, changes)
            cell = DASH
            other = base if changes else arm
            if other is not None and arm.has(metric) and other.has(metric):
                shown = change(arm, other, metric) if changes else level(arm, metric)
                cell = number(shown, digits, sign=changes and metric != "self_kl")
            row[f"{head} ({unit})" if unit else head] = cell
        rows.append(row)
    table = pd.DataFrame(rows)
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


def letters_tables(records: Sequence[Record]) -> list[tuple[str, pd.DataFrame]]:
    """`letters_table` by the paper's score and by lm-eval's, each with the score's name."""
    scores = ("exam_accuracy", "letter_accuracy")
    tables = [(STANDARD[metric], letters_table(records, metric)) for metric in scores]
    return [(score, table) for score, table in tables if not table.empty]


def letters_table(records: Sequence[Record], metric: AccuracyName) -> pd.DataFrame:
    """Accuracy (%) by the letter of the right option, and their mean; one row an arm.

    Arms that were asked without letters, or whose records do not hold the counts, are left out.
    """
    arms = {
        method: arm
        for method, arm in arms_of(records).items()
        if lettered(arm) and has_answers(arm, metric)
    }
    base = arms.get("base")
    rows = []
    for arm in arms.values():
        shares = zip(LETTERS, shares_right(arm, metric))
        row = {"Method": arm.first.label}
        row |= {f"Right is {letter}": f"{share:.0f}" for letter, share in shares}
        row["Balanced accuracy (%)"] = number(balanced_level(arm, metric), 1)
        change = None if base is None or arm.is_base else balanced_change(arm, base, metric)
        rows.append(row | {"Its change (points)": number(change, 1, sign=True)})
    return pd.DataFrame(rows)


def _unit(metric: MetricName, changes: bool) -> tuple[str, int]:
    """The unit of a metric's level or change, and the digits after the point."""
    if metric == "self_kl":
        return "nats", 3
    if "perplexity" in metric:
        return ("%", 1) if changes else ("", 2)
    return ("points" if changes else "%"), 1


# ----------------------------------------------------------------- ordering


def ordering_table(records: Sequence[Record], metric: MetricName) -> pd.DataFrame:
    """One row a pair, the larger first, largest difference first."""
    unit, digits = _unit(metric, changes=True)
    rows = []
    pairs = ordered_pairs(records, metric)
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
    records: Sequence[Record],
) -> pd.DataFrame:
    """What one step of the method adds to another: `first` minus `second` on every metric.

    One row a question of which both arms are on record; `claims.unanswered_sentence` names the
    others. A metric that the two were not measured on with the same items has a dash. What differs
    clearly does so for all differences of the table together (Holm).
    """
    arms = arms_of(records)
    asked = [question for question in QUESTIONS if {*question[1:]} <= arms.keys()]
    family = [
        (arms[first], arms[second], metric)
        for _, first, second in asked
        for metric in COMPARED
        if all(arms[name].has(metric) for name in (first, second))
        and are_paired(arms[first], arms[second], metric)
    ]
    apart = holm(family, lambda pair, joint: contrast(*pair, joint).clear)
    rows = []
    for question, first, second in asked:
        row = {
            "Question": question,
            "Difference": f"{label_of(first, arms)} − {label_of(second, arms)}",
        }
        clear = []
        for metric in COMPARED:
            unit, digits = _unit(metric, changes=True)
            head = f"{SHORT[metric]} ({unit})"
            row[head] = DASH
            pair = arms[first], arms[second], metric
            if pair in family:
                row[head] = number(contrast(*pair), digits, sign=True)
                clear += [SHORT[metric]] if pair in apart else []
        row["Differs clearly in"] = listed(clear) or "nothing"
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
            if finding.reason:
                row[where] += f" ({finding.reason})"
        rows.append(row)
    return pd.DataFrame(rows)


def _condition(claim: Claim) -> str:
    margin = f"{claim.margin:g}"
    return {
        "above": "> 0", "below": "< 0", "at_most": f"< +{margin}", "at_least": f"> −{margin}",
        "within": f"−{margin} to +{margin}",
    }[claim.relation]  # fmt: skip


def power_table(studies: Mapping[str, Sequence[Record]], published: Published) -> pd.DataFrame:
    """Claims that a study measured and could not settle, with the questions it would have taken.

    How many that are is worked out by `claims.items_needed`, at 80 % power.
    """
    rows = []
    for where, records in studies.items():
        for finding in findings(records, published):
            measured, needed = finding.measured, items_needed(finding)
            if finding.verdict != "not settled" or measured is None:
                continue
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
