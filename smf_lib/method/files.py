"""Files and folders that appear whole or not at all: made under another name, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def whole(path: str | Path) -> Iterator[Path]:
    """Yield a scratch name beside `path`; the file or folder made there takes its place at the end.

    After an error, `path` is as it was before and the scratch is gone; what a killed process
    leaves is named `.<name>-<random>`. The folder above `path` is made.

    Raises:
        ValueError: `path` is the folder that the process is in, or one above it by dots.
    """
    path = Path(path)
    if path.name in ("", ".."):
        raise ValueError(f"{str(path)!r} cannot be replaced as a whole; name a folder within it")
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        yield scratch
        put_in_place(scratch, path)
    finally:
        remove(scratch)


def put_in_place(made: Path, path: Path) -> None:
    """Give the file or folder `made` the name `path`, on the same disk; what was there is lost.

    A file replaces a file in one step, after its bytes have reached the disk. What is in a
    folder's way is put aside first, and removed when the folder has its name.
    """
    if not made.is_dir():
        with made.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(made, path)
        return
    aside = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with suppress(FileNotFoundError):
        os.replace(path, aside)
    try:
        os.replace(made, path)
    except OSError:
        with suppress(FileNotFoundError):
            os.replace(aside, path)
        raise
    remove(aside)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that is in it; what is not there does no harm."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
