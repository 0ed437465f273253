"""A cache of folders of models and of data: each built whole or not at all, verified by checksums.

Every folder carries a manifest with the SHA-256 of each of its files. Two processes that want
the same folder wait for each other; what a killed one left behind is removed by the next.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs
from filelock import FileLock

from ..method.files import whole

_MANIFEST = "manifest.json"


def file_sha256(path: str | Path) -> str:
    """The file's SHA-256 as 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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

    ``build`` fills an empty folder, and is called only if the cache has no such folder yet.
    ``cache_dir`` defaults to the platform's cache folder for ``smf_lib``. Raises ValueError,
    naming the file and both sums, if a cached file is not what was put there.
    """
    root = Path(cache_dir) if cache_dir is not None else platformdirs.user_cache_path("smf_lib")
    models = root / "models"
    folder = models / name
    if not folder.exists():
        models.mkdir(parents=True, exist_ok=True)
        with FileLock(models / ".lock"):
            for leftover in models.glob(".*-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not folder.exists():
                _build_whole(folder, build)
    remedy = f"delete the folder {folder} and it will be made again"
    sums = _read_manifest(folder / _MANIFEST, remedy)
    for file, expected in sums.items():
        check_sha256(folder / file, expected, remedy)
    return folder, sums


def _build_whole(folder: Path, build: Callable[[Path], None]) -> None:
    """Run ``build`` on a temporary folder, add its manifest, and move it into place."""
    with whole(folder) as made:
        made.mkdir()
        build(made)
        sums = {file.name: file_sha256(file) for file in sorted(made.iterdir())}
        (made / _MANIFEST).write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")


def _read_manifest(path: Path, remedy: str) -> dict[str, str]:
    try:
        sums = json.loads(path.read_text(encoding="utf-8"))
        return {str(file): str(digest) for file, digest in sums.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is missing or damaged ({error}); {remedy}") from error
