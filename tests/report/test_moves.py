"""The book's moving pieces compute what the library computes."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from smf_lib.method.layer import ProductKeyMemory
from smf_lib.method.row_adam import RowAdamW
from smf_lib.method.rules import BackgroundReads, Reads, get_rule, select_rows
from smf_lib.report.analysis.equal_gain import crossing
from smf_lib.report.analysis.step_cost import multiplications

BOOK = Path(__file__).resolve().parents[2] / "book"
MOVES = BOOK / "_static" / "moves"
CALL = "(calls) => calls.map(([name, args]) => smfArithmetic[name](...args))"


def call(*calls):
    """Results of the JavaScript functions, each called as (name, arguments...).

    Node.js runs them where it is installed, else the engine that the test packages bring.
    """
    answer = f"JSON.stringify(({CALL})({json.dumps([[name, args] for name, *args in calls])}))"
    file = MOVES / "arithmetic.js"
    if node := shutil.which("node"):
        program = f"const smfArithmetic = require({json.dumps(str(file))}); console.log({answer})"
        done = subprocess.run(
            [node, "-"], check=False, input=program, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)
    from py_mini_racer import MiniRacer

    engine = MiniRacer()
    engine.eval(file.read_text("utf-8"))
    return json.loads(engine.eval(answer))


def test_the_lookup_reads_the_rows_and_weights_of_the_layer():
    torch.manual_seed(0)
    calls, wanted = [], []
    for n, k, half in [(3, 2, 2), (3, 1, 2), (3, 3, 2), (5, 4, 3), (8, 6, 2), (4, 2, 1)]:
        memory = ProductKeyMemory(2 * half, n, 1, k, 2 * half, query_norm=False)
        torch.nn.init.eye_(memory.query_weight)
        torch.nn.init.normal_(memory.keys)
        torch.nn.init.normal_(memory.values)
        x = torch.randn(2 * half)
        with torch.no_grad():
            indices, weights = memory.lookup(x[None])
            wanted.append((indices[0].tolist(), weights[0].tolist(), memory(x).tolist()))
        calls.append(
            ("lookup", x.view(2, half).tolist(), memory.keys[0].tolist(), k, memory.values.tolist())
        )
    found = call(*(c[:-1] for c in calls))
    reads = call(*(("read", f["rows"], f["weights"], c[-1]) for f, c in zip(found, calls)))
    for result, read, (rows, weights, output) in zip(found, reads, wanted, strict=True):
        assert result["rows"] == rows
        np.testing.assert_allclose(result["weights"], weights, atol=1e-6)
        np.testing.assert_allclose(read, output, atol=1e-5)


def test_the_lookup_opens_with_the_chapters_example():
    keys = [[[1, 0], [0, 1], [1, 1]], [[1, 0], [1, 1], [0, 1]]]
    (result,) = call(("lookup", [[1, 2], [2, -0.5]], keys, 2))
    assert result["scores"] == [[1, 2, 3], [2, 1.5, -0.5]]
    assert result["rows"] == [6, 7]
    np.testing.assert_allclose(result["weights"], [0.622, 0.378], atol=5e-4)


def test_rules_score_and_choose_as_the_library_does():
    calls, wanted = [], []
    for seed in range(50):
        random = np.random.default_rng(seed)
        n = int(random.integers(1, 9))
        c, b = random.integers(0, 6, n), random.integers(0, 40, n)
        d = np.minimum(b, random.integers(0, 10, n))
        c[0] += 1
        budget = int(random.integers(1, n + 1))
        rows = torch.from_numpy(np.flatnonzero(c))
        reads = Reads(rows, torch.from_numpy(c)[rows])
        background = BackgroundReads(torch.from_numpy(b), torch.from_numpy(d), 9)
        wanted.append((reads, background, budget))
        calls.append(("rowScores", c.tolist(), b.tolist(), d.tolist(), 9))
    found = call(*calls)
    rules = ("count", "kl", "tfidf")
    picks = iter(
        call(*(("selectRows", f[rule], w[2]) for f, w in zip(found, wanted) for rule in rules))
    )
    for result, (reads, background, budget) in zip(found, wanted, strict=True):
        for rule in rules:
            scores = get_rule(rule).score(reads, background).tolist()
            mine = [score for score in result[rule] if score is not None]
            np.testing.assert_allclose(mine, scores, atol=1e-12)
            assert next(picks) == select_rows(reads, rule, budget, background).tolist()


def adam_paths(selected, beta1):
    """Moves of one number in units of the rate: torch's Adam, masked, and the library's rows."""
    rate = 0.01
    masked = torch.zeros(1, requires_grad=True)
    dense = torch.optim.Adam([masked], lr=rate, betas=(beta1, 0.999), eps=0)
    memory = ProductKeyMemory(2, 2, 1, 1, 2, query_norm=False, rule="count", rows_per_step=1)
    torch.nn.init.eye_(memory.query_weight)
    with torch.no_grad():
        memory.keys.copy_(torch.tensor([[[[1.0], [-1.0]], [[1.0], [-1.0]]]]))
    for parameter in (memory.query_weight, memory.keys):
        parameter.requires_grad_(False)
    trained = [memory.values, memory.anchor]
    rows = RowAdamW(trained, lr=rate, betas=(beta1, 0.999), eps=0, weight_decay=0)
    moves = {"masked": [], "rowwise": []}
    for chosen in selected:
        before = masked.item(), memory.values[0, 0].item()
        masked.grad = torch.tensor([-1.0 if chosen else 0.0])
        if chosen or masked in dense.state:  # no state yet: 0/0 without epsilon
            dense.step()
        rows.zero_grad()
        x = torch.ones(1, 2) if chosen else -torch.ones(1, 2)  # row 0, or row 3
        (-memory(x)).sum().backward()
        rows.step()
        moves["masked"].append((masked.item() - before[0]) / rate)
        moves["rowwise"].append((memory.values[0, 0].item() - before[1]) / rate)
    return moves


@pytest.mark.parametrize("beta1", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(
    "steps", [{0}, {0, 2}, {0, 5, 10, 15}, set(range(20))], ids=["1", "1-3", "fifth", "every"]
)
def test_the_leak_is_that_of_adam_and_the_rows_are_those_of_the_library(steps, beta1):
    selected = [step in steps for step in range(20)]
    (found,) = call(("adamMoves", selected, beta1, 0.999))
    for kind, moves in adam_paths(selected, beta1).items():
        np.testing.assert_allclose(found[kind], moves, atol=2e-3, err_msg=kind)


def test_the_leak_is_the_chapters():
    (found,) = call(("adamMoves", [True] + 19 * [False], 0.9, 0.999))
    np.testing.assert_allclose(found["masked"][:4], [1, 0.670, 0.518, 0.424], atol=5e-4)
    assert found["rowwise"] == [1] + 19 * [0]


def test_drift_is_read_off_a_curve_as_the_study_reads_it():
    random = np.random.default_rng(0)
    curves = [
        (np.r_[0, random.normal(5, 3, points)], np.r_[0, random.normal(2, 1, points)], at)
        for points in (1, 2, 4, 6)
        for at in (0.5, 2.0, 5.0, 9.0)
    ]
    curves.append((np.array([0.0, 3.0, 3.0]), np.array([0.0, 2.0, 1.0]), 3.0))
    found = call(*(("driftAt", g.tolist(), d.tolist(), at) for g, d, at in curves))
    for value, (gains, drifts, at) in zip(found, curves, strict=True):
        wanted = crossing(gains[None], drifts[None], at)[0]
        np.testing.assert_allclose(np.nan if value is None else value, wanted, atol=1e-12)
    assert None in found and not all(value is None for value in found)


@pytest.mark.parametrize("layers", [[8, 15, 22], [0], [27, 28, 29]])
@pytest.mark.parametrize("scored", [(9, 36), (128, 128)])
def test_the_cost_of_a_step_is_what_the_cost_chapter_counts(layers, scored):
    shape = {"width": 576, "inner": 1536, "kv": 192, "vocab": 49152, "layers": 30}
    memory = {"layers": layers, "subkeys": 64, "heads": 4, "topK": 16, "keyDim": 128}
    (found,) = call(("stepCost", shape, memory, 16, scored[0] / scored[1]))
    settings = {
        "layers": 30,
        "lora": {"r": 16},
        "memory": {
            "layers": layers, "num_subkeys": 64, "num_heads": 4, "top_k": 16, "key_dim": 128
        },
        "shape": {
            "hidden_size": 576, "intermediate_size": 1536, "key_value_size": 192,
            "vocab_size": 49152,
        },
        "batches": {"one": {"scored": scored[0], "length": scored[1]}},
    }  # fmt: skip
    for method, parts in multiplications(settings, "one").items():
        np.testing.assert_allclose(found[method], parts, rtol=1e-12)


def test_every_piece_has_a_place_a_script_and_words_for_readers_without_scripts():
    pages = {path: path.read_text("utf-8") for path in sorted(BOOK.glob("*.md"))}
    pieces = {path.stem for path in MOVES.glob("*.js")} - {"arithmetic", "page"}
    assert len(pieces) >= 5
    for piece in sorted(pieces):
        (page,) = [text for text in pages.values() if f'data-move="{piece}"' in text]
        block = page[page.index(f'data-move="{piece}"') :].split("```")[0]
        scripts = [f'src="../_static/moves/{name}.js"' for name in ("arithmetic", "page", piece)]
        places = [block.find(script) for script in scripts]
        assert -1 not in places and places == sorted(places)
        assert "<noscript>" in block


def test_the_pieces_ask_nothing_of_a_network():
    for path in MOVES.glob("*.js"):
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not any(word in text for word in ("http", "fetch(", "XMLHttp", "import(", "eval("))
