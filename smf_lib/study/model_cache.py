"""A cache of folders of models and of data: each built whole or not at all, verified by checksums.

Every folder carries a manifest with the SHA-256 of each of its files. Two processes that want
the same folder wait for each other; what a killed one left behind is removed by the next.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock
from safetensors import SafetensorError

from ..method.files import whole
from .files import file_sha256, is_closed, is_full, say_damaged
from .names import first_line

_MANIFEST = "manifest.json"


def check_sha256(path: str | Path, expected: str, remedy: str = "fetch it again") -> None:
    """Raise ValueError, naming the file and both sums, unless its SHA-256 is ``expected``."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the cached file {path} is missing (sha256 {expected}); {remedy}")
    found = file_sha256(path)
    if found != expected:
        raise ValueError(
            f"the cached file {path} is wrong or truncated: its sha256 is {found}, "
            f"expected {expected}; {remedy}"
        )


def cached_folder(
    name: str, build: Callable[[Path], None], cache_dir: str | Path | None = None
) -> tuple[Path, dict[str, str]]:
    """The folder ``models/<name>`` of the cache and the SHA-256 of each of its files.

    ``build`` fills an empty folder, and is called only if the cache has no such folder yet, or one
    whose files are not what was put there; that is told in a line. ``cache_dir`` defaults to the
    platform's cache folder for ``smf_lib``.

    Raises ValueError if the cache cannot be written or has no room.
    """
    root = Path(cache_dir) if cache_dir is not None else platformdirs.user_cache_path("smf_lib")
    models = root / "models"
    folder = models / name
    sums = _sums(folder)
    if sums is None:
        try:
            models.mkdir(parents=True, exist_ok=True)
            with FileLock(models / ".lock"):
                for leftover in models.glob(".*-*"):
                    shutil.rmtree(leftover, ignore_errors=True)
                sums = _sums(folder) or _build_whole(folder, build)
        except (OSError, SafetensorError) as error:
            if not (is_full(error) or is_closed(error)):
                raise
            raise ValueError(
                f"the cache {models} cannot be written ({first_line(error)}); make it writable or "
                "make room there, or set XDG_CACHE_HOME to a folder elsewhere"
            ) from error
    return folder, sums


def _build_whole(folder: Path, build: Callable[[Path], None]) -> dict[str, str]:
    """Run ``build`` on a temporary folder, add its manifest, and move it into place."""
    if folder.exists():
        say_damaged(folder)
    with whole(folder) as made:
        made.mkdir()
        build(made)
        sums = {file.name: file_sha256(file) for file in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
    return sums


def _sums(folder: Path) -> dict[str, str] | None:
    """The sums of a folder's files; None if it is missing or is not what its manifest says."""
    try:
        sums = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        as_noted = [file_sha256(folder / file) == digest for file, digest in sums.items()]
    except (OSError, ValueError, AttributeError, TypeError):
        return None
    return sums if as_noted and all(as_noted) else None
