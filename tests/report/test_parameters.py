"""Parameters cells: what is read from them, and what they become with other values."""

import ast

import pytest

from smf_lib.report.book.parameters import Parameter, fill_in, parameter_table, read_parameters

CELL = """profile = "quick"  # a name, or the path of a file
rate = None  # a positive number
# names
# of rules
rules = [
    "kl",
    "tfidf",
]
é = "ü"; seed = 0  # decides the order"""


def values_in(cell):
    return {p.name: ast.literal_eval(p.default) for p in read_parameters(cell)}


def test_meaning_is_the_comment_beside_or_above():
    assert read_parameters(CELL)[:3] == [
        Parameter("profile", '"quick"', "a name, or the path of a file"),
        Parameter("rate", "None", "a positive number"),
        Parameter("rules", '[\n    "kl",\n    "tfidf",\n]', "names of rules"),
    ]


def test_comment_lines_above_a_parameter_without_one_beside_it():
    cell = "# how many\n# batches\nbatches = 4\nlayer = 1"
    assert [p.meaning for p in read_parameters(cell)] == ["how many batches", ""]


@pytest.mark.parametrize(
    "values", [{}, {"seed": 7, "rules": ["count"], "rate": 1e-4}, {"profile": 'a "b"\\c'}]
)
def test_filled_in_cell_has_the_new_values_and_keeps_the_others(values):
    assert values_in(fill_in(CELL, values)) == {**values_in(CELL), **values}
    assert fill_in(CELL, {}) == CELL
    assert "# decides the order" in fill_in(CELL, values)


def test_table_has_one_row_a_parameter_and_no_broken_cells():
    table = parameter_table(
        [Parameter("a", "1", "one | two"), Parameter("b", '"<x>"', "a <name>")], {"a": 5}
    )
    rows = table.splitlines()[2:]
    assert rows == [
        "| `a` | `5` | `1` |  | one \\| two |",
        '| `b` | `"<x>"` | `"<x>"` |  | a &lt;name> |',
    ]


def test_types_are_shown_and_survive_other_values():
    cell = 'rate: "float or None" = None  # a number\nnames: list[str] = ["kl"]  # rules'
    assert [p.kind for p in read_parameters(cell)] == ["float or None", "list[str]"]
    filled = fill_in(cell, {"rate": 0.1, "names": []})
    assert filled == 'rate: "float or None" = 0.1  # a number\nnames: list[str] = []  # rules'
    assert "| `rate` | `None` | `None` | `float or None` | a number |" in parameter_table(
        read_parameters(cell), {}
    )
