"""Tables of the frontier: ratios of drift at equal gain, all probes at one gain, every point."""

from collections.abc import Sequence

import pandas as pd

from ..measures import EXAM
from ..text import listed, points_text, rate_text, signed
from .arms import Arm
from .captions import setting_sentence
from .effects import change, drift
from .frontier import Frontier, ratio_text
from .tables import DASH, number

MARK = "*"


def ratio_table(frontier: Frontier, at: float, references: Sequence[str]) -> pd.DataFrame:
    """Drift of every curve at one gain, alone and over that of each reference; the least first.

    An asterisk marks ratios that stay on one side of 1 when all of the table are decided together.
    """
    reached = frontier.reached(at)
    others = [name for name in references if name in reached]
    together = frontier.told_apart(frontier.pairs(at, others), at)
    drifts = {name: frontier.drift(name, at) for name in reached}
    rows = []
    for name in sorted(drifts, key=lambda name: drifts[name].value):
        row = {"Method": frontier.label(name), "KL from the base (nats)": number(drifts[name], 4)}
        for other in others:
            pair, cell = (name, other), DASH
            if name != other:
                star = MARK if {pair, pair[::-1]} & together else ""
                cell = ratio_text(frontier.ratio(pair, at)) + star
            row[f"over {frontier.label(other)}'s"] = cell
        rows.append(row | {"Seeds": str(frontier.curves[name].seeds)})
    return pd.DataFrame(rows)


def compared_gains(frontier: Frontier, needed: Sequence[str], at: float) -> list[float]:
    """Gains (points) for tables: `at`, and the ends of where all `needed` can be compared."""
    return sorted({at, *map(float, frontier.span(needed))}) if frontier.measured() else []


def ratio_caption(frontier: Frontier, at: float, references: Sequence[str]) -> str:
    """What a table of ratios shows, its family of comparisons, and who is not in it."""
    if not frontier.measured():
        return f"Study {frontier.where} has no curves."
    reached = frontier.reached(at)
    family = frontier.pairs(at, references)
    text = (
        "Drift of each method by the divergence on the base model's own text at "
        f"{points_text(at)} points of gain, and over each reference's"
    )
    if family:
        text += (
            f". An asterisk: on one side of 1 also when the {len(family)} ratios of this table are "
            "decided together (Holm's procedure)"
        )
    lost = [
        f"{frontier.label(name)} ({_why_not(frontier, name, at)})"
        for name in frontier.curves
        if name not in reached
    ]
    return f"{text}. Not compared: {listed(lost)}." if lost else f"{text}."


def _why_not(frontier: Frontier, name: str, at: float) -> str:
    curve = frontier.measured().get(name)
    if curve is None:
        return "one learning rate only"
    if 100 * curve.highest < at:
        return f"reaches {signed(100 * curve.highest, 1)}"
    return f"begins at {signed(100 * curve.lowest, 1)}"


def probes_table(frontier: Frontier, at: float) -> pd.DataFrame:
    """Every probe of every curve at one gain, one row a curve, the least divergence first."""
    reached = frontier.reached(at)
    rows = []
    for name in sorted(reached, key=lambda name: frontier.drift(name, at).value):
        row = {"Method": frontier.label(name)}
        for metric in frontier.drift_metrics:
            measure = frontier.start.measure(metric)
            found = None
            if name in frontier.reached(at, metric):
                found = frontier.drift(name, at, metric)
            row[measure.drift_head] = number(found, measure.digits, sign=measure.unit != "nats")
        rows.append(row)
    return pd.DataFrame(rows)


def probes_caption(frontier: Frontier, at: float) -> str:
    """What a table of all probes shows."""
    if not frontier.measured():
        return f"Study {frontier.where} has no curves."
    return (
        f"Drift of each method by every probe at {points_text(at)} points of gain, with 95 % "
        f"intervals; the least divergence first. {setting_sentence(frontier.arms)}"
    )


def points_caption(frontier: Frontier) -> str:
    """What a table of all points shows."""
    if not frontier.arms:
        return f"Study {frontier.where} has no runs."
    return (
        "Every method at every learning rate, with 95 % intervals of its gain and drifts. "
        f"{setting_sentence(frontier.arms)}"
    )


def points_table(frontier: Frontier) -> pd.DataFrame:
    """Every point of every curve: rate, gain and drift by every probe, with intervals."""
    rows = []
    for curve in frontier.curves.values():
        for arm in curve.arms:
            row = {
                "Method": arm.first.label,
                "Rate": rate_text(arm.rate) if arm.rate else DASH,
                "Seeds": str(len(arm.records)),
                "Exam gain (points)": number(change(arm, frontier.start, EXAM), 1, sign=True),
            }
            rows.append(row | _drifts(arm, frontier))
    return pd.DataFrame(rows)


def _drifts(arm: Arm, frontier: Frontier) -> dict[str, str]:
    cells = {}
    for metric in frontier.drift_metrics:
        measure = arm.measure(metric)
        found = drift(arm, frontier.start, metric)
        digits = measure.digits
        cells[measure.drift_head] = number(found, digits, sign=measure.unit != "nats")
    return cells
