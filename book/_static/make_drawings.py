"""Draw the book's own drawings into this folder: `python book/_static/make_drawings.py`."""

from pathlib import Path

import matplotlib

from smf_lib.method.files import whole
from smf_lib.report.figures import memory_diagram

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Write `product_key_lookup.svg`, whole or not at all, the same bytes every time."""
    target = FOLDER / "product_key_lookup.svg"
    with matplotlib.rc_context({"svg.hashsalt": target.stem}), whole(target) as scratch:
        memory_diagram().fig.savefig(scratch, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
