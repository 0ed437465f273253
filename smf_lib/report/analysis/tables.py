"""Tables for the book: pandas DataFrames of finished text, units in the column heads.

Every cell is a string that can be shown as it is; what cannot be said is a dash. `show` is for a
notebook's output.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations

import pandas as pd
from IPython.display import Markdown, display
from pandas.io.formats.style import Styler

from ...study.records.record import MetricName, Record
from ..measures import EXAM, drift_measures
from ..text import CROWDED, as_html, count, duration, listed, memory, sentences, size
from .arms import Arm, arm_name, base_of, group_arms
from .captions import best_floor, precision_name, setting_sentence
from .decisions import holm_p
from .effects import change, compare, level, retention
from .floors import floors_of
from .frontier import NotOnRecord
from .interval import Interval

DASH = "–"
PROVENANCE = "What the numbers on this page come from; where runs differ, all values are listed."


def number(interval: Interval | None, digits: int, sign: bool = False) -> str:
    """The interval as a cell, see `Interval.text`; a dash where there is no value."""
    return DASH if interval is None or not interval.known else interval.text(digits, sign)


def p_text(p_value: float) -> str:
    """A p-value with two significant digits, or `< 0.0001`."""
    return "< 0.0001" if p_value < 1e-4 else f"{p_value:.2g}"


def setting(records: Sequence[Record]) -> str:
    """Study, split and number of questions, for captions."""
    return setting_sentence(group_arms(records))


def learned_table(records: Sequence[Record]) -> pd.DataFrame:
    """What each arm learned: exam accuracy, gain, share of LoRA's gain, seeds; below, the floors.

    Brackets are 95 % intervals; with 1 seed they cover the choice of items only, and the seeds
    column says so. Raises ResultsError if a study has no base run.
    """
    arms = group_arms(records)
    rows: list[dict[str, str]] = []
    for place, arm in enumerate(arms):
        base = base_of(arm, arms)
        rows.append(
            {
                "Study": arm.where,
                "Method": arm_name(arm, arms),
                "Exam accuracy (%)": _level(arm, EXAM),
                "Exam gain (points)": _change(arm, base, EXAM),
                "Gain kept (% of LoRA's)": number(_retention(arm, base, arms), 0),
                "Seeds": _seeds(arm),
            }
        )
        if arm.has(EXAM) and all(later.where != arm.where for later in arms[place + 1 :]):
            rows += _floor_rows(arm, list(rows[0]))
    return _without_empty(rows)


def _floor_rows(arm: Arm, heads: Sequence[str]) -> list[dict[str, str]]:
    """A row for each floor of the arm's exam: what is had without a language model."""
    return [
        dict.fromkeys(heads, DASH)
        | {
            "Study": arm.where,
            "Method": f"Without a model: {name.removeprefix('a ').removeprefix('the ')}",
            "Exam accuracy (%)": f"{value:.1f}",
        }
        for name, value in floors_of(arm.first.baselines).items()
    ]


def floors_table(records: Sequence[Record]) -> pd.DataFrame:
    """What can be had on the exam without a language model, in per cent; one row a study.

    A rule that learns nothing and a bag of words (trained on the same questions) are the best of
    their kind, named; records of before these were kept have none.
    """
    rows: dict[str, dict[str, str]] = {}
    for arm in group_arms(records):
        floors = arm.first.baselines
        row = rows.setdefault(arm.where, {"Study": arm.where})
        row |= {
            "Guessing (%)": f"{100 * floors.chance:.1f}",
            "Most frequent option of training (%)": f"{100 * floors.majority:.1f}",
            "Best rule that learns nothing (%)": _floor(floors.rules),
            "Bag of words (%)": _floor(floors.bags),
        }
    table = pd.DataFrame(rows.values())
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


def _floor(floors: dict[str, float]) -> str:
    if not floors:
        return DASH
    name, value = best_floor(floors)
    return f"{value:.1f} ({name})"


def forgotten_table(records: Sequence[Record]) -> pd.DataFrame:
    """What each arm forgot: level and change from the base model of every probe, and their items.

    Raises ResultsError if a study has no base run.
    """
    arms = group_arms(records)
    probes = drift_measures(records)
    names = ", ".join(["exam", *(measure.items for measure in probes.values())])
    rows = []
    for arm in arms:
        base = base_of(arm, arms)
        row = {"Study": arm.where, "Method": arm_name(arm, arms)}
        for metric, measure in probes.items():
            if measure.unit != "nats":  # else its level is the change
                row[measure.level_head] = _level(arm, metric)
            row[measure.change_head] = _change(arm, base, metric)
        counted = [arm.first.metrics.get(metric) for metric in (EXAM, *probes)]
        row[f"n ({names})"] = ", ".join(str(found.n) if found else DASH for found in counted)
        rows.append(row)
    return _without_empty(rows)


def _without_empty(rows: list[dict[str, str]]) -> pd.DataFrame:
    """The table without columns that say nothing: dashes alone, or a study where all are of one."""
    table = pd.DataFrame(rows)
    if table["Study"].nunique() == 1:
        table = table.drop(columns="Study")
    return table.drop(columns=[name for name in table if (table[name] == DASH).all()])


def _level(arm: Arm, metric: MetricName) -> str:
    return number(level(arm, metric), arm.measure(metric).digits) if arm.has(metric) else DASH


def _change(arm: Arm, base: Arm, metric: MetricName) -> str:
    if arm.is_base or not (arm.has(metric) and base.has(metric)):
        return DASH
    measure = arm.measure(metric)
    return number(change(arm, base, metric), measure.digits, sign=measure.unit != "nats")


def _retention(arm: Arm, base: Arm, arms: Sequence[Arm]) -> Interval | None:
    """Share of LoRA's gain, if the study has exactly one LoRA arm and this is another one."""
    lora = [a for a in arms if a.first.method == "lora" and a.where == arm.where]
    if arm.is_base or len(lora) != 1 or lora[0] is arm:
        return None
    if not all(a.has(EXAM) for a in (arm, lora[0], base)):
        return None
    return retention(arm, lora[0], base)


def _seeds(arm: Arm) -> str:
    if arm.is_base:
        return DASH
    return str(len(arm.records)) if len(arm.records) > 1 else "1 (items only)"


def comparison_table(records: Sequence[Record]) -> pd.DataFrame:
    """Every pair of methods of one study on the same questions: difference, interval, p-value.

    The p-value is McNemar's exact one; it is given for single runs, not over several seeds, and
    beside it what Holm's procedure makes of it over all pairs of the table.
    Methods with several learning rates are left out, so a sweep has no rows; of many methods only
    the pairs with the base model, full finetuning or LoRA are listed. Raises ValueError if there
    are no two arms of one study.
    """
    arms = [arm for arm in group_arms(records) if arm.has(EXAM)]
    if len(arms) == len({arm.where for arm in arms}):
        raise ValueError(f"records hold no two methods of one study with {EXAM}")
    single = [arm for arm in arms if arm_name(arm, arms) == arm.first.label]
    several = len({arm.where for arm in single}) > 1
    crowded = len({arm.first.method for arm in single}) > CROWDED
    rows, p_values = [], []
    for second, first in combinations(single, 2):
        common = {first.first.method, second.first.method} & {"base", "full", "lora"}
        if first.where != second.where or (crowded and not common):
            continue
        difference, test = compare(first, second)
        row = {"Study": first.where} if several else {}
        row |= {
            "Method": first.first.label,
            "Compared with": second.first.label,
            "Exam difference (points)": number(difference, 1, sign=True),
            "Right only by the first": str(test.only_first) if test else DASH,
            "Right only by the second": str(test.only_second) if test else DASH,
            "McNemar p": p_text(test.p_value) if test else DASH,
            "n": str(difference.n),
        }
        rows.append(row)
        p_values += [test.p_value] if test else []
    corrected = map(p_text, holm_p(p_values))
    for row in rows:
        row["Corrected p"] = DASH if row["McNemar p"] == DASH else next(corrected)
    return pd.DataFrame(rows)


def cost_table(records: Sequence[Record]) -> pd.DataFrame:
    """One row a trained arm: time, speed, memory, parameters and bytes, mean over seeds.

    Raises ValueError if no trained run is given.
    """
    arms = group_arms(records)
    trained = [arm for arm in arms if not arm.is_base]
    if not trained:
        raise ValueError("records hold no trained run, so there is no cost to show")
    rows = [
        {
            "Study": arm.where,
            "Method": arm_name(arm, arms),
            "Training time": duration(arm.mean_cost("train_seconds")),
            "Steps": f"{arm.mean_cost('steps'):.0f}",
            "Speed (tokens a second)": f"{arm.mean_cost('tokens_per_second'):.0f}",
            "Peak memory": memory(arm.mean_cost("peak_memory_bytes")),
            "Trainable parameters": count(arm.mean_cost("trainable_parameters")),
            "Parameters changed": count(arm.mean_cost("updated_parameters")),
            "Rows changed": _rows_changed(arm),
            "Size on disk": size(arm.mean_cost("saved_bytes")),
            "Time with measuring": duration(arm.mean_cost("total_seconds")),
        }
        for arm in trained
    ]
    table = pd.DataFrame(rows)
    drop = ["Study"] if table["Study"].nunique() == 1 else []
    drop += ["Rows changed"] if (table["Rows changed"] == DASH).all() else []
    return table.drop(columns=drop)


def _rows_changed(arm: Arm) -> str:
    """Memory rows changed and rows there are, over all layers of the first run."""
    layers = arm.first.selection.values()
    if not layers:
        return DASH
    touched, rows = sum(x.rows_touched for x in layers), sum(x.rows for x in layers)
    return f"{touched:,} of {rows:,}"


def provenance_table(records: Sequence[Record]) -> pd.DataFrame:
    """What the numbers come from: study, model, data, machine, commit, versions.

    Two columns, Item and Value. A value on which the records differ lists all of them.
    """

    def differing(values: Sequence[object]) -> str:
        return listed(values) or DASH

    exams = [record.data.exam for record in records if record.data.exam is not None]
    rows = {
        "Study": differing([f"{r.profile}/{r.study}" for r in records]),
        "Runs": str(len(records)),
        "Model": differing([f"{r.model.name} ({count(r.model.parameters)})" for r in records]),
        "Model sha256": differing([r.model.sha256[:16] for r in records]),
        "Exam": differing([f"{e.name}, {e.split} split, {e.rows} questions" for e in exams]),
        "Exam training questions": differing([e.train_rows for e in exams]),
        "Exam sha256": differing([e.sha256[:16] for e in exams]),
        "Processor": differing([f"{r.hardware.cpu}, {r.hardware.cores} cores" for r in records]),
        "Memory": differing([memory(r.hardware.memory_bytes) for r in records]),
        "GPU": differing([r.hardware.gpu or "none" for r in records]),
        "Platform": differing([r.hardware.platform for r in records]),
        "Number format": differing([precision_name(r) for r in records]),
        "Commit": differing([_commit(r) for r in records]),
        "Run": differing(sorted({r.created[:10] for r in records})),
    }
    packages = dict.fromkeys(name for record in records for name in record.versions)
    for name in packages:
        rows[name] = differing([r.versions[name] for r in records if name in r.versions])
    return pd.DataFrame({"Item": rows.keys(), "Value": rows.values()})


def _commit(record: Record) -> str:
    if record.commit is None:
        return "not under version control"
    return record.commit[:12] + (" with changes not committed" if record.dirty else "")


def said(*texts: str) -> Markdown:
    """Sentences as a notebook shows them, a text a paragraph."""
    return Markdown("\n\n".join(map(sentences, texts)))


def points(first: Sequence[str], further: Sequence[str], name: str) -> Markdown:
    """Sentences as a list, a point each; below it further ones, folded under a name."""
    shown, folded = (
        said("\n".join(f"- {text}" for text in texts)).data for texts in (first, further)
    )
    if not further:
        return Markdown(shown)
    summary = f"<summary>{as_html(name)}</summary>"
    return Markdown(f"{shown}\n\n<details>\n{summary}\n\n{folded}\n\n</details>")


def show(
    table: pd.DataFrame, caption: str, empty: str = "Nothing is on record yet."
) -> Styler | Markdown:
    """The table as a notebook shows it: no row numbers, the caption above.

    Cells are as they are, but a line does not end inside the brackets of an interval. Of a table
    without rows only the caption is shown, and what `empty` says.

    caption: what the rows are, of how many items, and what the heads leave open. Pages of the book
    put a number before it. Raises ValueError without one.
    """
    if not caption.strip():
        raise ValueError("caption='' says nothing; a table needs one that says what its rows are")
    if table.empty:
        return said(f"{caption} {empty}".strip())
    unbroken = table.map(lambda cell: re.sub(r"\[([^],]*), ", "[\\1,\u00a0", as_html(str(cell))))
    unbroken.columns = [as_html(str(name)) for name in unbroken.columns]
    shown = unbroken.style.hide(axis="index")
    style = {"selector": "caption", "props": "caption-side: top; text-align: left"}
    words = (
        f'<span class="caption-words">{as_html(caption)}</span>'  # what stays in view on a phone
    )
    return shown.set_caption(words).set_table_styles([style])


def shown(make: Callable, *arguments: object) -> object:
    """What a function makes of `arguments`, or why the records hold too little for it."""
    try:
        return make(*arguments)
    except NotOnRecord as reason:
        return said(str(reason))


def show_each(
    tables: Iterable[tuple[str, pd.DataFrame]], empty: str = "Nothing is on record yet."
) -> None:
    """Show tables, each under its caption, one below the other; see `show`."""
    for caption, table in tables:
        display(show(table, caption, empty))
