"""What a build has made and was changed since: noticed by its sum, removed, and made again."""

from collections.abc import Iterable
from pathlib import Path

from ...method.files import remove
from ...study.files import file_sha256, say_damaged, write_whole
from ...study.notebooks import is_whole


def note_sums(pages: Path) -> None:
    """Write the SHA-256 of every file in the folder `pages` beside it, as `sha256sum` does."""
    files = sorted(path for path in pages.rglob("*") if path.is_file())
    lines = [f"{file_sha256(path)}  {path.relative_to(pages).as_posix()}\n" for path in files]
    write_whole(_noted(pages), "".join(lines))


def find_damaged(executed: Iterable[Path], pages: Path) -> list[Path]:
    """Executed notebooks, and the folder of pages, that are not as they were written.

    Each is told in a line. Files that were put beside the pages do no harm.
    """
    damaged = [path for path in executed if _is_there(path) and not is_whole(path)]
    if _is_there(pages) and not _pages_are_whole(pages):
        damaged.append(pages)
    for path in damaged:
        say_damaged(path)
    return damaged


def remove_damaged(damaged: list[Path], pages: Path) -> None:
    """Remove what `find_damaged` found, so that it is as good as missing, and is made again.

    With a notebook the first page goes too: a workflow makes what is missing only for something
    that it has to make.
    """
    for path in damaged:
        remove(path)
    if damaged:
        (pages / "index.html").unlink(missing_ok=True)


def _is_there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _pages_are_whole(pages: Path) -> bool:
    try:
        lines = _noted(pages).read_text("utf-8").splitlines()
        return bool(lines) and all(
            file_sha256(pages / name) == sha256
            for sha256, _, name in (line.partition("  ") for line in lines)
        )
    except (OSError, ValueError):
        return False


def _noted(pages: Path) -> Path:
    return pages.with_name(f"{pages.name}.sha256")
