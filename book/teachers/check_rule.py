"""Mark the assignment: does a rule drift less than `smf-tfidf` at equal gain?

    python book/teachers/check_rule.py results/assignment/local smf-mine

Reads records only. Prints one line a check and ends with status 0 if all hold.
"""

import argparse
import sys
from pathlib import Path

from smf_lib.report.analysis.arms import group_arms
from smf_lib.report.analysis.frontier import Frontier, NotOnRecord, frontier_of
from smf_lib.study.records.results import read_records

REFERENCE = "smf-tfidf"
RATES, SEEDS = 3, 3


def check(folder: Path, method: str) -> list[tuple[bool, str]]:
    """What the assignment asks for, each with whether it holds.

    folder: one study's records, with the base model, `smf-tfidf` and `method`.

    Raises:
        ValueError: the folder lacks one of the three, or `method` is the reference.
    """
    if method == REFERENCE:
        raise ValueError(f"method={method!r} is what your rule is compared with; name your own")
    records = read_records(sorted(Path(folder).glob("*.json")))
    arms = [
        arm for arm in group_arms(records) if arm.is_base or arm.first.method in (method, REFERENCE)
    ]
    found = {"base" if arm.is_base else arm.first.method for arm in arms}
    if missing := {"base", method, REFERENCE} - found:
        raise ValueError(f"{folder} has no record of {', '.join(sorted(missing))}; run it first")
    results = []
    for name in (REFERENCE, method):
        runs = [arm for arm in arms if arm.first.method == name]
        seeds = min(len(arm.records) for arm in runs)
        text = f"{name}: {len(runs)} rates, {seeds} seeds (asked for: {RATES} and {SEEDS})"
        results.append((len(runs) >= RATES and seeds >= SEEDS, text))
    frontier = frontier_of([record for arm in arms for record in arm.records])
    results.append(_compare(frontier, method, "self_kl", lambda low, high: high < 0, "below 0"))
    prose = _compare(
        frontier, method, "prose_perplexity", lambda low, high: low <= 0, "not above 0"
    )
    return [*results, prose]


def _compare(frontier: Frontier, method: str, metric: str, holds, asked: str) -> tuple[bool, str]:
    """Whether the drift of `method` minus the reference's, at equal gain, is as asked."""
    pair = (method, REFERENCE)
    try:
        at = frontier.common_gain(pair)
    except NotOnRecord as error:
        return False, f"{metric}: no comparison at equal gain ({error})"
    if lost := [name for name in pair if name not in frontier.reached(at, metric)]:
        return False, (
            f"{metric}: no comparison at equal gain (no curve of {' and '.join(lost)} passes "
            f"{at} points; a curve needs two learning rates, with {metric} measured)"
        )
    interval = frontier.excess(pair, at, metric)
    if not interval.bounded:
        return False, f"{metric}: no comparison at equal gain ({interval.reason})"
    text = (
        f"{metric}: at a gain of {at} points, drift minus {REFERENCE}'s is "
        f"{interval.value:+.4g} [{interval.low:+.4g}, {interval.high:+.4g}] (asked for: {asked})"
    )
    return holds(interval.low, interval.high), text


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Mark the assignment of the book.")
    parser.add_argument("folder", type=Path, help="records of one study, results/<profile>/local")
    parser.add_argument("method", help="the name of your arm in the profile")
    options = parser.parse_args(arguments)
    try:
        results = check(options.folder, options.method)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for holds, text in results:
        print("holds " if holds else "FAILS ", text)
    return 0 if all(holds for holds, _ in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
