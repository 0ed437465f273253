"""Draw the lookup, the icon and the picture of links: `python book/_static/make_pictures.py`.

All show the example of the chapter "Memory layers and product keys": nine rows, two are read.
"""

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from smf_lib.method.files import whole
from smf_lib.report.figures.style import COLOURS

FOLDER = Path(__file__).resolve().parent
QUERY = np.array([[1, 2], [2, -0.5]])  # two halves
SUBKEYS = np.array([[[1, 0], [0, 1], [1, 1]], [[1, 0], [1, 1], [0, 1]]])  # a half, a sub-key
VALUES = {6: np.array([2, 0]), 7: np.array([0, 4])}  # the others are not read
ROWS, READ = 3, tuple(VALUES)
PALE, DARK, BLANK, INK = "#cfe3f1", COLOURS["smf-kl"], "#eeeeee", "#333333"
SIZE = (1200, 630)  # pixels; what sites that show links ask for


def lookup() -> Figure:
    """The example's lookup in five steps, numbers and rows counted from zero."""
    scores = np.einsum("hd,hnd->hn", QUERY, SUBKEYS)
    best = [set(np.argsort(-half)[: len(READ)]) for half in scores]
    sums = scores[0][:, None] + scores[1][None, :]
    read = sorted(np.argsort(-sums.ravel())[: len(READ)])
    weights = np.exp(sums.ravel()[read]) / np.exp(sums.ravel()[read]).sum()
    output = sum(weight * VALUES[row] for row, weight in zip(read, weights))
    figure = Figure(figsize=(10, 4.8))
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 100), ylim=(48, 0))
    ax.axis("off")
    steps = ("1 split", "2 score each half", "3 add pairs", "4 read rows", "5 add up")
    for x, step in zip((7, 27, 53, 75.5, 93), steps):
        ax.text(x, 3, step, ha="center", va="center", weight="bold", color=INK)
    for half, (letter, top) in enumerate((("a", 8), ("b", 31))):
        name = f"$\\mathbf{{q}}^{half + 1}$"
        _box(ax, 2, top + 5, 10, 5, f"{name} = {_numbers(QUERY[half])}", PALE)
        _arrow(ax, (12.3, top + 7.5), (16.5, top + 7.5))
        for i, key in enumerate(SUBKEYS[half]):
            kept = i in best[half]
            words = f"$\\mathbf{{{letter}}}_{i}$ = {_numbers(key)}"
            _box(ax, 17, top + 5.2 * i, 11, 4.6, words, PALE if kept else BLANK)
            end = f"$s^{half + 1}_{i}$ = {scores[half, i]:g}"
            ax.text(29, top + 5.2 * i + 2.3, end, va="center", weight="bold", color=INK)
            if kept:
                ax.text(36.5, top + 5.2 * i + 2.3, "kept", va="center", color=DARK, style="italic")
    for (i, j), total in np.ndenumerate(sums):
        row = ROWS * i + j
        pair = i in best[0] and j in best[1]
        x, y = 45 + 5.5 * j, 10.4 + 5.5 * i
        _box(ax, x, y, 5.2, 5.2, f"{total:g}" if pair else "", _shade(row in read, pair))
    for n in range(ROWS):
        ax.text(47.6 + 5.5 * n, 8.8, f"$\\mathbf{{b}}_{n}$", ha="center", va="center", color=INK)
        ax.text(44, 13 + 5.5 * n, f"$\\mathbf{{a}}_{n}$", ha="right", va="center", color=INK)
    _arrow(ax, (40.3, 15.5), (42, 15.5))
    _arrow(ax, (40.3, 34), (44.5, 27.5))
    for row in range(ROWS * ROWS):
        y = 8 + 4.3 * row
        words = f"row {row}" + (f" = {_numbers(VALUES[row])}" if row in read else "")
        _box(ax, 68, y, 15, 3.9, words, _shade(row in read, False))
    for row, weight in zip(read, weights):
        i, j = divmod(int(row), ROWS)
        y = 8 + 4.3 * row + 2
        _arrow(ax, (47.6 + 5.5 * j, 15.9 + 5.5 * i), (67.7, y), DARK)
        _arrow(ax, (83.3, y), (87.6, 38), DARK)
        ax.text(
            83.8, y + (-2.6 if row == read[0] else 2.6), f"{weight:.3f}", va="center", color=INK
        )
    _box(ax, 87.9, 35.3, 11.7, 5.4, _numbers(output, ".3f"), "white", DARK)
    return figure


def _numbers(vector: np.ndarray, form: str = "g") -> str:
    return "(" + ", ".join(f"{number:{form}}" for number in vector) + ")"


def _shade(read: bool, kept: bool) -> str:
    return DARK if read else PALE if kept else BLANK


def _box(
    ax: Axes, x: float, y: float, width: float, height: float, words: str, fill: str, edge: str = ""
) -> None:
    """A rectangle from its upper left corner, with words in its middle."""
    ax.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge or fill, lw=1.5))
    ink = "white" if fill == DARK else INK
    ax.text(x + width / 2, y + height / 2, words, ha="center", va="center", color=ink)


def _arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = "#777777"
) -> None:
    ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=10, color=colour))


def icon() -> str:
    """The nine rows as SVG text, 32 units wide."""
    cells = []
    for row in range(ROWS * ROWS):
        x, y = 1 + 10 * (row % ROWS), 1 + 10 * (row // ROWS)
        colour = DARK if row in READ else PALE
        cells.append(f'<rect x="{x}" y="{y}" width="9" height="9" rx="1.5" fill="{colour}"/>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 31 31">\n  '
        + "\n  ".join(cells)
        + "\n</svg>\n"
    )


def social() -> Figure:
    """The nine rows beside the title, 1200 x 630 pixels."""
    figure = Figure(figsize=(SIZE[0] / 100, SIZE[1] / 100), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, SIZE[0]), ylim=(SIZE[1], 0))
    ax.axis("off")
    for row in range(ROWS * ROWS):
        x, y = 80 + 125 * (row % ROWS), 130 + 125 * (row // ROWS)
        ax.add_patch(Rectangle((x, y), 113, 113, color=DARK if row in READ else PALE))
    for y, text, size, weight in (
        (230, "Learn much,", 46, "bold"),
        (305, "forget little", 46, "bold"),
        (390, "Sparse memory finetuning,", 25, "normal"),
        (435, "explained, tested, to run yourself", 25, "normal"),
    ):
        ax.text(520, y, text, size=size, weight=weight, color="#222222", va="center")
    return figure


def main() -> None:
    """Write `product_key_lookup.svg`, `favicon.svg` and `social.png`, whole or not at all."""
    settings = {"font.family": "DejaVu Sans", "font.size": 10, "svg.hashsalt": "lookup"}
    with rc_context(settings), whole(FOLDER / "product_key_lookup.svg") as scratch:
        lookup().savefig(scratch, format="svg", metadata={"Date": None}, transparent=True)
    with whole(FOLDER / "favicon.svg") as scratch:
        Path(scratch).write_text(icon(), encoding="utf-8")
    with rc_context({"font.family": "DejaVu Sans"}), whole(FOLDER / "social.png") as scratch:
        social().savefig(scratch, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
