"""Draw the book's own drawings into this folder: `python book/_static/make_drawings.py`."""

import os
from pathlib import Path

import matplotlib

from smf_lib.figures import memory_diagram

FOLDER = Path(__file__).resolve().parent


def main() -> None:
    """Write `product_key_lookup.svg`, whole or not at all, the same bytes every time."""
    target = FOLDER / "product_key_lookup.svg"
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    with matplotlib.rc_context({"svg.hashsalt": target.stem}):
        memory_diagram().fig.savefig(scratch, format="svg", metadata={"Date": None})
    os.replace(scratch, target)


if __name__ == "__main__":
    main()
