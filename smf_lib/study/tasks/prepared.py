"""Rows as `datasets` prepares them, in folders of its cache whose files are checked by their sums.

`datasets` reads the Arrow files of its cache again whatever has become of them. So each request has
a folder of its own there, and the SHA-256 of each file in it is noted beside it. A folder that is
not as it was noted is removed, which is told in a line, and prepared again from its source.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import datasets
from filelock import FileLock

from ..files import file_sha256, keep_json, kept_json, say_damaged, short_hash


def load_prepared(*source: Any, split: str, **options: Any) -> datasets.Dataset:
    """`datasets.load_dataset` of one split; files of the disk as a list a split in `data_files`.

    Raises what `datasets` raises, and OSError if its cache cannot be written.
    """
    files = [Path(file).stat() for of in options.get("data_files", {}).values() for file in of]
    name = short_hash(source, options, [(file.st_mtime_ns, file.st_size) for file in files])
    folder = Path(datasets.config.HF_DATASETS_CACHE, "smf_lib", name)
    note = folder.with_suffix(".json")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        noted = kept_json(note) or {}
        if _sums(folder) != noted:
            say_damaged(folder)
            shutil.rmtree(folder) if folder.is_dir() else folder.unlink(missing_ok=True)
            noted = {}
        rows = datasets.load_dataset(*source, split=split, cache_dir=str(folder), **options)
        if noted.keys() != _files(folder).keys():
            keep_json(note, _sums(folder))
    return rows


def _sums(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder."""
    return {name: file_sha256(path) for name, path in _files(folder).items()}


def _files(folder: Path) -> dict[str, Path]:
    """The files below a folder by their paths in it, without locks, which hold nothing."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {p.relative_to(folder).as_posix(): p for p in found if p.suffix != ".lock"}
