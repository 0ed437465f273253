"""The exercises' solutions, worked through again: every number that a solution states."""

import json
from math import comb, e, log, sqrt
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

ROOT = Path(__file__).resolve().parents[2]


def paired(first, second, n):
    """Standard error of a paired difference, from those that only one of two answers correctly."""
    return sqrt(first + second - (first - second) ** 2 / n) / n


def lookup(query, keys_a=((1, 0), (0, 1), (1, 1)), keys_b=((1, 0), (1, 1), (0, 1))):
    return np.array(keys_a) @ query[0], np.array(keys_b) @ query[1]


def largest_of(n):
    """The expected largest of n standard normal numbers."""
    return quad(lambda x: x * n * norm.pdf(x) * norm.cdf(x) ** (n - 1), -10, 10)[0]


def scores(c, f, b, sequences=9):
    """KL and TF-IDF of the rows that were read, by the chapter's formulas."""
    c, f, b = (np.array(x, float) for x in (c, f, b))
    p, q = c / c.sum(), (b + 1) / (b.sum() + len(b))
    read = c > 0
    return (p * np.log(p / q, where=read, out=np.zeros_like(p)))[read], (
        p * np.log((sequences + 1) / (f + 1))
    )[read]


def masked_adam(gradients, b1=0.9, b2=0.999):
    """Moves in learning rates of a number whose gradient is masked to zero in some steps."""
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        yield (m / (1 - b1**t)) / sqrt(v / (1 - b2**t))


KL3, TFIDF3 = scores([8, 6, 4, 1, 0, 0], [9, 9, 4, 1, 2, 9], [39, 9, 4, 30, 3, 39])
UNIT = 1152 + 768 + 768 + 1152 + 3 * 2112
HALVES = lookup(((2, -1), (1, 1)))
SAID = {
    "book/forgetting.md": [
        (270 / 400, "0.675"), (250 / 400, "0.625"),
        (sqrt(0.675 * 0.325 / 400 + 0.625 * 0.375 / 400), "0.034"), (paired(40, 20, 400), "0.019"),
        (2 * sum(comb(60, k) for k in range(21)) / 2**60, "0.013"),
        (0.05 / paired(40, 20, 400), "2.6"),
        (100 * (e**0.1 - 1), "10.5"), (100 * (e**0.01 - 1), "1.0"),
        (0.5 * log(0.5 / 0.6) + 0.5 * log(0.5 / 0.4), "0.0204"),
        (0.4 + 0.8 / 3, "0.667"), (2 / 3 * 0.4, "0.267"),
    ],
    "book/memory_layers.md": [
        (HALVES[0][0] + HALVES[1][1], "4"), (4 * 128 * 256, "131072"),
        (4 * 16384 * 256, "16777216"), (16384 * 896, "14680064"),
        (sum(16 // rank for rank in range(1, 17)), "50"), (1 / (1 + e**-5), "0.993"),
    ],
    "book/row_selection.md": [
        (0.25 * log(0.25 / (2 / 100)), "0.631"), (0.25 * log(10 / 2), "0.402"),
        (list(masked_adam([1, 0, 1]))[2], "0.818"), (list(masked_adam([1, 0, 1]))[1], "0.670"),
        (TFIDF3[3], "0.085"),
    ],
    "book/methods.md": [
        (UNIT, "10176"), (30 * UNIT, "305280"), (16 * 30 * UNIT, "4884480"),
        (3 * 512 * 576 / (30 * UNIT), "2.9"), (4884480 * 4 / 1e6, "19.5"),
        (4000 * 576 * 4 / 1e6, "9.2"),
    ],
    "book/fair_comparison.md": [
        (100 * sqrt(0.62 * 0.38 / 200), "3.4"), (2 * largest_of(5), "2.3"),
        (2 * largest_of(10), "3.1"), (largest_of(5), "1.16"), (largest_of(10), "1.54"),
        (100 * paired(60, 48, 400), "2.6"),
    ],
    "book/paper_arms.md": [((-1 - 2) / 2, "-1.5"), ((-1.2 - 0.3 - 0.3 - 0.2) / 4, "-0.5")],
    "book/limits.md": [
        (100 * paired(30, 15, 500), "1.3"), (0.03 / paired(30, 15, 500), "2.2"),
        (2 * sum(comb(45, k) for k in range(16)) / 2**45, "0.036"),
        (sqrt(1.3**2 + 2 * 2**2), "3.1"),
    ],
    "book/related.md": [
        (40 * 0.11, "4.4"), (40 * 0.29, "11.6"), (40 * 0.89, "35.6"), (71 / 11, "6.5"),
    ],
    "notebooks/01_build_memory.ipynb": [(64**2, "4096"), (100 * 64 / 64**2, "1.6")],
    "notebooks/03_results.ipynb": [
        (sum(comb(20, k) for k in range(6)), "21700"), (21700 / 2**20, "0.0207"),
        (2 * 21700 / 2**20, "0.041"), (6 * 0.041, "0.25"),
    ],
    "notebooks/04_selection.ipynb": [
        (512**2 / 1500, "175"), (2 * 512 - 175, "849"), (17500 / 849, "21"),
    ],
    "notebooks/05_cost.ipynb": [
        (1230 * (576 * 4 + 8) / 1e6, "2.84"), (4884480 * 4 / 1e6, "19.5"), (1 + 21 / 30, "1.7"),
        (1.7 / 3, "0.57"), (1.7 / 2, "0.85"),
    ],
    "notebooks/06_paper.ipynb": [
        (100 * sqrt(0.344 * 0.656 / 1000), "1.5"), (2.4 / 1.5, "1.6"),
        (log(16.5 / 13.146), "0.227"), (100 * paired(54, 46, 1000), "1"),
    ],
    "notebooks/07_one_after_another.ipynb": [((64 + 55) / 2, "59.5"), (64 - 70, "-6")],
    "notebooks/08_patches.ipynb": [(1200 * 900 / 4096, "264")],
}  # fmt: skip


@pytest.mark.parametrize("page", SAID)
def test_solutions_state_what_comes_out(page):
    text = (ROOT / page).read_text("utf-8")
    if page.endswith(".ipynb"):
        text = "".join(json.loads(text)["cells"][-1]["source"])
    solutions = text.partition("## Exercises")[2].replace("{,}", "").replace(",", "")
    for value, said in SAID[page]:
        digits = len(said.partition(".")[2])
        assert round(value, digits) == pytest.approx(float(said), abs=1e-9), (said, value)
        assert said in solutions, said


def test_the_example_that_a_solution_constructs_does_what_it_says():
    assert KL3.argmin() == 3 and KL3[3] < 0
    assert sorted(TFIDF3, reverse=True).index(TFIDF3[3]) == 1
    assert (HALVES[0].argmax(), HALVES[1].argmax()) == (0, 1)
