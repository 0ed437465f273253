"""Records to take along: for each page that draws some, one archive of them."""

import io
import zipfile
from pathlib import Path

PAPER = ("medmcqa-qwen-coder", "medmcqa-smollm2", "medmcqa", "paper")
# The profiles (or benchmarks) whose records a page draws; "" is the profile that the page is for.
DRAWN = {
    "00_frontier": ("frontier", "ablations"),
    "03_results": ("", "sweep"),
    "04_selection": ("frontier",),
    "05_cost": ("", "benchmarks"),
    "07_one_after_another": ("sequence",),
    "06_paper": PAPER,
    "06_paper_tables": (*PAPER, "medmcqa-qwen-coder-sweep", "medmcqa-sweep"),
}


def archive_of(page: str, results: Path, profile: str) -> bytes | None:
    """A zip of the records that a page draws, or None if it draws none that exist.

    page: the page's name; results: the folder of records; profile: the page's own profile. The same
    records give the same bytes.
    """
    names = [name or profile for name in DRAWN.get(page, ())]
    found = sorted({p for name in names for p in (results / name).rglob("*.json")})
    if not found:
        return None
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in found:
            entry = zipfile.ZipInfo(f"results/{path.relative_to(results).as_posix()}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()
