"""Rows of data sets, from the Hugging Face Hub or from a folder in the same columns.

Everything that a profile names as a `source` (of data or of a model) is found by one rule: a path
is tried first, a relative one below the study's root, and what is not there is a Hub id.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import datasets

EXTENSIONS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def locate(source: str, root: str | Path) -> str:
    """The absolute path of `source` if it is a file or folder, below `root` if relative.

    Anything else, a Hub id among others, is returned as it is.
    """
    path = Path(root, Path(source).expanduser())
    return str(path.absolute()) if path.exists() else source


def load_rows(
    field: str,
    source: str,
    split: str,
    columns: set[str],
    root: str | Path,
    config: str | None = None,
    revision: str | None = None,
) -> datasets.Dataset:
    """The rows of one split.

    Args:
        field: where the profile names this source, for error messages ("exam.source").
        source: a folder of `<split>.jsonl` (or .json, .parquet, .csv) files, or a Hub id.
        split: in the notation of `datasets`, such as "train+validation[:50%]".
        columns: columns that the rows must have; others are kept too.
        root: folder that a relative path starts from.
        config: name of the configuration on the Hub; a folder has none.
        revision: of the Hub repository, or None for its newest.

    Raises:
        ValueError: no such folder, split or column, or the Hub cannot be reached; the message
            names the field, the source and the local alternative.
    """
    place = locate(source, root)
    local = Path(place).is_dir()
    try:
        if local:
            rows = _folder_rows(Path(place), split)
        else:
            with _quiet_retries():
                rows = datasets.load_dataset(source, config, split=split, revision=revision)
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no message"])[0]
        if local:
            raise ValueError(
                f"{field}={source!r}: the folder has no rows of split {split!r} ({reason}); it "
                "needs one file a split, such as train.jsonl, in the columns of the Hub"
            ) from error
        raise ValueError(
            f"{field}={source!r} is not a folder here and could not be had from the Hugging Face "
            f"Hub ({type(error).__name__}: {reason}); put a copy in the same columns, one file a "
            f"split such as {split.split('[')[0].split('+')[0]}.jsonl, into a folder and set "
            f"{field} to its path, for example data/{source.rpartition('/')[2]}"
        ) from error
    missing = sorted(columns - set(rows.column_names))
    if missing:
        raise ValueError(
            f"{field}={source!r} has the columns {', '.join(rows.column_names)} and lacks "
            f"{', '.join(missing)}; name a data set in the columns of the Hub"
        )
    return rows


@contextlib.contextmanager
def _quiet_retries() -> Iterator[None]:
    """Keep the Hub client's line for each vain attempt to itself; the error at the end says it."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _folder_rows(folder: Path, split: str) -> datasets.Dataset:
    files = [f for f in sorted(folder.iterdir()) if f.suffix in EXTENSIONS]
    named = {file.stem: str(file) for file in files}
    kinds = {EXTENSIONS[file.suffix] for file in files}
    if len(kinds) != 1:
        raise ValueError(f"it holds {len(files)} data files of {len(kinds)} formats")
    if len(named) != len(files):
        raise ValueError("it holds two data files of one split")
    wanted = {part.partition("[")[0].strip() for part in split.split("+")}
    if not wanted <= set(named):
        raise ValueError(f"it has {', '.join(file.name for file in files)}")
    # only these: the columns of all files that are read together have to agree
    chosen = {name: file for name, file in named.items() if name in wanted}
    return datasets.load_dataset(kinds.pop(), data_files=chosen, split=split)
