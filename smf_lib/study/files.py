"""Text and JSON files that appear whole or not at all, and short names for what they hold."""

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


def kept_json(path: Path, kind: type = dict) -> Any:
    """What a kept JSON file holds, an object or a list; None if it is missing or damaged.

    A damaged one is as good as missing, and is told in a line: what it held is made again.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        content = None
    if isinstance(content, kind):
        return content
    _say_damaged(path)
    return None


@cache
def _say_damaged(path: Path) -> None:
    print(f"{path} is damaged; what it held is made again", file=sys.stderr)


@contextmanager
def making(path: Path) -> Iterator[bool]:
    """Yield whether `path` is missing, to one process at a time; others wait until it is made."""
    if path.is_file():
        yield False
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield not path.is_file()


def short_hash(*parts: Any) -> str:
    """A short name for the content of these JSON-like parts, to name a file after."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
