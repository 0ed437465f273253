"""Wrong arguments of the public functions, each refused in one line that names it and its value.

Settings of a memory are in `test_wrong_values.py`; the optimizers' arguments are torch's.
"""

from __future__ import annotations

import pytest
import torch
from helpers_patches import fresh, train

import smf_lib
from smf_lib import RowPatch
from smf_lib.method.rules import count_reads

IDS = [[3, 4, 5]]
NONE_AND = [None, 5, "model"]


@pytest.fixture(scope="module")
def made():
    """What right arguments are made of, by the names that the table uses."""
    model = train(fresh())
    return {
        "model": model,
        "patch": RowPatch.from_model(model),
        "reads": count_reads([torch.tensor([1, 2, 2])]),
        "optimizer": torch.optim.AdamW([p for p in model.parameters() if p.requires_grad]),
    }


TABLE = [  # function, its right arguments, {argument: wrong values}
    ("memories", {"model": "model"}, {"model": NONE_AND}),
    (
        "read_rows",
        {"model": "model", "sequences": IDS},
        {
            "model": NONE_AND,
            "sequences": [None, 5, "text", ["text"], [3, 4], [[3.5]], [[64]], [[-1]], [[True]],
                          [[[3]]], [["a"]], [[]], {3: 4}],
            "batch_size": ["8", 0, -1, 1.5, None, True],
        },
    ),
    (
        "collect_background",
        {"model": "model", "sequences": IDS},
        {
            "model": NONE_AND,
            "sequences": [None, [], "text", [3, 4], [[64]], [[2**40]]],
            "batch_size": ["8", 0, None],
        },
    ),
    (
        "select_rows",
        {"reads": "reads", "rule": "count", "rows_per_step": 1},
        {
            "reads": [None, torch.tensor([1]), [1]],
            "rule": [None, 5, ["count"], "nosuch", "kl"],
            "rows_per_step": ["5", 0, None, 1.5, True],
            "background": [5, [1]],
        },
    ),
    (
        "register_rule",
        {"name": "mine"},
        {"name": [None, 5, ["a"]], "needs_background": ["no", 1], "unlimited": [0],
         "by_row": [None]},
    ),
    (
        "compose",
        {"first": "patch", "second": "patch", "on_conflict": "first"},
        {
            "first": [None, "p.safetensors", 5], "second": [None, {}],
            "on_conflict": [None, 5, ["sum"], "nosuch"],
        },
    ),
    (
        "export",
        {"model": "model", "folder": "x"},
        {"model": NONE_AND, "folder": [None, 5, ["x"], ""], "tokenizer": [5, "gpt2"]},
    ),
    (
        "save_touched",
        {"model": "model", "folder": "x"},
        {"model": NONE_AND, "folder": [None, 5, [""]], "adapter": [None, [], "nosuch"]},
    ),
    ("shard_base", {"model": "model"}, {"model": NONE_AND}),
    (
        "TrainingState",
        {"model": "model", "optimizer": "optimizer"},
        {"model": NONE_AND, "optimizer": [None, "adamw", torch.optim.AdamW]},
    ),
    ("SparseMemoryCallback", {"trainer": None}, {"trainer": [None, 5, "trainer"]}),
    ("RowPatch.load", {"path": "x"}, {"path": [None, 5, ["x"], "nosuch"]}),
    (
        "RowPatch.from_model",
        {"model": "model"},
        {"model": NONE_AND, "adapter": [None, [], "nosuch"], "start": [5, [], "nosuch"]},
    ),
    ("SparseMemoryConfig", {}, {"layers": [5, [], "1"], "rule": [None, 5, "nosuch", ["kl"]]}),
]  # fmt: skip
CASES = [
    (function, right, name, value)
    for function, right, wrong in TABLE
    for name, values in wrong.items()
    for value in values
]
TORCHS = {"RowAdamW", "RowSGD"}
INSIDE = {"ProductKeyMemory"}  # what SparseMemoryConfig has checked


def test_every_public_name_has_its_wrong_arguments():
    assert {row[0].split(".")[0] for row in TABLE} | TORCHS | INSIDE == set(smf_lib.__all__)


@pytest.mark.parametrize(("function", "right", "name", "value"), CASES)
def test_a_wrong_argument_is_one_line(function, right, name, value, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = smf_lib
    for part in function.split("."):
        call = getattr(call, part)
    given = {n: made.get(v, v) if isinstance(v, str) else v for n, v in right.items()}
    with pytest.raises(ValueError) as raised:
        call(**given | {name: value})
    line = str(raised.value)
    assert len(line.splitlines()) == 1 and line != str(value)
    assert name in line
    assert not any(tmp_path.iterdir())
