"""Draw the book's icon and the picture of links to it: `python book/_static/make_pictures.py`.

Both are the nine rows of the chapter "Memory layers and product keys": two are read.
"""

from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from smf_lib.method.files import whole
from smf_lib.report.figures.style import COLOURS

FOLDER = Path(__file__).resolve().parent
ROWS, READ = 3, (6, 7)
PALE, DARK = "#cfe3f1", COLOURS["smf-kl"]
SIZE = (1200, 630)  # pixels; what sites that show links ask for


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
    """Write `favicon.svg` and `social.png`, whole or not at all."""
    with whole(FOLDER / "favicon.svg") as scratch:
        Path(scratch).write_text(icon(), encoding="utf-8")
    with rc_context({"font.family": "DejaVu Sans"}), whole(FOLDER / "social.png") as scratch:
        social().savefig(scratch, format="png", metadata={"Software": None})


if __name__ == "__main__":
    main()
