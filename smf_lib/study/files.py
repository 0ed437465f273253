"""Files that appear whole or not at all and are noticed when they change, and short names for them.

What is kept carries the SHA-256 of its content: a JSON file inside, any other in a file beside it.
What no longer has its sum is as good as missing, is told in a line, and is made again.
"""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from ..method.files import whole

KEPT = "kept"  # the folder below work/ that all profiles share
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
CLOSED = {errno.EROFS, errno.EACCES, errno.EPERM}
WORDS = (
    *("No space left", "File too large", "PytorchStreamWriter"),
    *("os error 27", "os error 28", "os error 122"),
)


def is_full(error: BaseException) -> bool:
    """Whether an error, of Python's or of a library's, says that a disk has no room."""
    said = any(words in str(error) for words in WORDS)
    return getattr(error, "errno", None) in FULL or said


def is_closed(error: BaseException) -> bool:
    """Whether an error says that a place cannot be written."""
    return getattr(error, "errno", None) in CLOSED


def origins(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, what that came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def find_root() -> Path:
    """Where work/ and results/ lie: SMF_ROOT if set, else the repository, else this folder."""
    if "SMF_ROOT" in os.environ:
        return Path(os.environ["SMF_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "profiles").is_dir() and (folder / "smf_lib").is_dir():
            return folder
    return here


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Write `content` (text as UTF-8, line ends as they are) to `path`, whole or not at all."""
    with whole(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all, making the folder."""
    write_whole(path, json.dumps(content))


def file_sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def keep_json(path: Path, content: Any) -> None:
    """Write JSON that `kept_json` reads: with its sum, whole or not at all."""
    write_json(path, {"sha256": _sum(content), "kept": content})


def kept_json(path: Path, kind: type = dict) -> Any:
    """What a kept JSON file holds, an object or a list; None if it is missing or damaged.

    A damaged one, or one without its sum, is as good as missing, and is told in a line: what it
    held is made again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    found = content.get("kept") if isinstance(content, dict) else None
    if isinstance(found, kind) and content == {"sha256": _sum(found), "kept": found}:
        return found
    say_damaged(path)
    return None


def _sum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


@cache
def say_damaged(path: Path) -> None:
    """One line, once, about a file or folder that is not what was written there."""
    print(f"{path} is damaged; what it held is made again", file=sys.stderr)


@contextmanager
def making(path: Path) -> Iterator[bool]:
    """Yield whether `path` is missing, to one process at a time; others wait until it is made.

    A file that no longer has the sum that was noted beside it is removed, and is missing.
    """
    if _is_whole(path):
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        missing = not _is_whole(path)
        if missing and path.is_file():
            say_damaged(path)
            path.unlink()
        yield missing
        if missing:
            write_whole(_noted(path), f"{file_sha256(path)}  {path.name}\n")


def _noted(path: Path) -> Path:
    """The file beside `path` that holds its sum, in the form of `sha256sum`."""
    return path.with_name(f".{path.name}.sha256")


def _is_whole(path: Path) -> bool:
    """Whether a file is there and has its sum; one without was written before there were sums."""
    if not path.is_file():
        return False
    try:
        noted = _noted(path).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False
    return noted == [file_sha256(path), path.name]


def short_hash(*parts: Any) -> str:
    """A short name for the content of these JSON-like parts, to name a file after."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
