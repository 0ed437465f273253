"""What an interval says is decided in one place, and told in one set of words."""

import ast
from pathlib import Path

import pytest

from smf_lib.report.analysis.interval import Interval, Verdict

NAN = float("nan")
SIDES = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
REPORT = Path(__file__).resolve().parents[2] / "smf_lib" / "report"
DECIDES = REPORT / "analysis" / "interval.py"
PUBLISHED = REPORT / "paper" / "claims.py"  # whether an interval lies inside a published one


@pytest.mark.parametrize(
    ("low", "high", "even", "verdict"),
    [
        (0.1, 2.0, 0.0, Verdict.MORE),
        (0.1, 2.0, 1.0, Verdict.LEVEL),
        (0.1, 0.9, 1.0, Verdict.LESS),
        (1.0, 2.0, 1.0, Verdict.LEVEL),
        (0.5, 1.0, 1.0, Verdict.LEVEL),
        (-2.0, -0.1, 0.0, Verdict.LESS),
        (NAN, NAN, 0.0, Verdict.UNKNOWN),
        (0.5, float("inf"), 0.0, Verdict.UNKNOWN),
    ],
)
def test_an_interval_says_one_of_four_things(low, high, even, verdict):
    found = Interval(0.7, low, high, 9).verdict(even)
    assert found is verdict
    assert found.decided == (verdict in (Verdict.MORE, Verdict.LESS))


def test_nothing_is_said_without_a_value():
    assert Interval(NAN, 1.0, 2.0, 9).verdict() is Verdict.UNKNOWN


def test_each_has_its_words():
    told = {verdict: verdict.told("drifts more", "drifts less", "the drift") for verdict in Verdict}
    assert list(told.values()) == [
        "drifts more", "drifts less", "the drift is not told apart", "the drift cannot be compared"
    ]  # fmt: skip


def test_nobody_else_decides_or_has_words_of_its_own():
    """No other module of the report asks on which side of a number an end lies, or says so."""
    found = []
    for path in sorted(set(REPORT.rglob("*.py")) - {DECIDES, PUBLISHED}):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            where = f"{path.relative_to(REPORT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], SIDES):
                sides = [node.left, *node.comparators]
                ends = any(
                    isinstance(s, ast.Attribute) and s.attr in ("low", "high") for s in sides
                )
                if ends and any(isinstance(s, ast.Constant | ast.Name) for s in sides):
                    found.append(f"{where} {ast.unparse(node)}")
            elif isinstance(node, ast.Constant) and "not told apart" in str(node.value):
                found.append(f"{where} {node.value}")
    assert not found


def test_the_place_that_decides_would_be_found():
    ends = [
        n for n in ast.walk(ast.parse(DECIDES.read_text("utf-8"))) if isinstance(n, ast.Compare)
    ]
    assert {"self.low > even", "self.high < even"} <= {ast.unparse(node) for node in ends}
