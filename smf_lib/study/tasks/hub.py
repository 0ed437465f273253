"""Rows of data sets, from the Hugging Face Hub or from a folder in the same columns.

Everything that a profile names as a `source` (of data or of a model) is found by one rule: a path
is tried first, a relative one below the study's root, and what is not there is a Hub id.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import datasets
import pandas as pd

from ..files import is_closed, is_full, origins
from ..names import first_line
from .prepared import load_prepared

EXTENSIONS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
CARDS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json")  # about the data
WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)  # as text the same again
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")  # the stem of a shard, as the Hub names it


def locate(source: str, root: str | Path) -> str:
    """The absolute path of `source` if it is a file or folder, below `root` if relative.

    Anything else, a Hub id among others, is returned as it is.

    Raises:
        ValueError: what no path can be: the home of a user who is not there, a name too long.
    """
    try:
        path = Path(root, Path(source).expanduser())
        return str(path.absolute()) if path.exists() else source
    except (RuntimeError, OSError) as error:
        raise ValueError(
            f"source={source!r:.60} is no path that can be ({first_line(error)}); give a folder, a "
            "file or a Hub id"
        ) from None


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
        source: a folder of `<split>.jsonl` (or .json, .parquet, .csv, each also as .gz) files, a
            copy of a Hub repository (shards, in `data/` or a folder a configuration), what
            `save_to_disk` left of several splits, or a Hub id.
        split: in the notation of `datasets`, such as "train+validation[:50%]".
        columns: columns that the rows must have; others are kept too.
        root: folder that a relative path starts from.
        config: name of the configuration on the Hub; of a folder, a folder in it if there is one.
        revision: of the Hub repository, or None for its newest.

    Raises:
        ValueError: no such folder, split or column, or the Hub cannot be reached; the message
            names the field, the source and the local alternative. Or the cache of data sets is
            full or closed.
    """
    place = locate(source, root)
    local = Path(place).is_dir()
    try:
        if local:
            rows = _folder_rows(Path(place), split, config)
        else:
            with _quiet_retries():
                rows = load_prepared(source, config, split=split, revision=revision)
    except Exception as error:
        check_cache(error, Path(place))
        reason = first_line(error)
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


def check_cache(raised: Exception, place: Path) -> None:
    """Raise ValueError if data could not be had since the cache of `datasets` is full or closed.

    raised: what `datasets` failed with; place: the data's file or folder, which is not the cache.
    """
    for error in origins(raised):
        where = Path(getattr(error, "filename", None) or datasets.config.HF_DATASETS_CACHE)
        if is_full(error) or (is_closed(error) and not where.is_relative_to(place)):
            raise ValueError(
                f"the cache of data sets, {datasets.config.HF_DATASETS_CACHE}, cannot be written "
                f"({first_line(error)}); make it writable or make room there, or set "
                "HF_DATASETS_CACHE to a folder elsewhere"
            ) from raised


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


def _folder_rows(folder: Path, split: str, config: str | None) -> datasets.Dataset:
    """The rows of a split of a folder, in whichever layout the Hub's own clients leave it."""
    if config and (folder / config).is_dir():
        folder = folder / config
    files = _data_files(folder) or _data_files(folder / "data")
    kinds = {kind for found in files.values() for kind, _ in found}
    if len(kinds) != 1:
        number = sum(map(len, files.values()))
        raise ValueError(f"it holds {number} data files of {len(kinds)} formats")
    wanted = {part.partition("[")[0].strip() for part in split.split("+")}
    if not wanted <= set(files):
        names = [Path(path).name for found in files.values() for _, path in found]
        raise ValueError(f"it has {', '.join(names)}")
    # only these: the columns of all files that are read together have to agree
    chosen = {name: [path for _, path in files[name]] for name in wanted}
    return read_files(kinds.pop(), chosen, split)


def read_files(kind: str, files: dict[str, list[str]], split: str) -> datasets.Dataset:
    """The rows of a split of files of one format.

    A table in CSV says of no column what is in it: a cell is missing if it is empty, a column of
    whole numbers holds numbers, and all else is text as it stands, "NA" and "1.50" too.

    Raises:
        ValueError: CSV files with different columns.
    """
    if kind != "csv":
        return load_prepared(kind, data_files=files, split=split)
    headers = {tuple(pd.read_csv(path, nrows=0)) for paths in files.values() for path in paths}
    if len(headers) != 1:
        raise ValueError("its files have different columns")
    text = datasets.Features({name: datasets.Value("string") for name in headers.pop()})
    rows = load_prepared(
        "csv", data_files=files, split=split, features=text, keep_default_na=False, na_values=[""]
    )
    numbers = {
        name: datasets.Value("int64")
        for name in rows.column_names
        if all(WHOLE.fullmatch(cell) for cell in rows[name] if cell is not None)
    }
    # in memory: `datasets` would put what it casts into its cache, where nothing checks it
    return rows.cast(datasets.Features(text | numbers), keep_in_memory=True) if numbers else rows


def _data_files(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(Format, path) of the data files of each split.

    A file is named after its split, whole (`train.jsonl`, `train.jsonl.gz`) or as one of its
    shards (`train-00000-of-00002.parquet`); `save_to_disk` makes a folder of Arrow files a split.

    Raises:
        ValueError: two whole files of one split, or shards beside a whole file.
    """
    if not folder.is_dir():
        return {}
    files: dict[str, list[tuple[str, str]]] = {}
    whole: set[str] = set()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "state.json").is_file():
            shards = [("arrow", str(shard)) for shard in sorted(path.glob("*.arrow"))]
            files.setdefault(path.name, []).extend(shards)
            continue
        plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
        kind = EXTENSIONS.get(plain.suffix.lower())
        if not path.is_file() or kind is None or path.name in CARDS:
            continue
        shard = SHARD.fullmatch(plain.stem)
        name = shard[1] if shard else plain.stem
        if not shard:
            whole.add(name)
        files.setdefault(name, []).append((kind, str(path)))
    twice = [name for name in whole if len(files[name]) > 1]
    if twice and len({kind for name in twice for kind, _ in files[name]}) == 1:
        raise ValueError("it holds two data files of one split")
    return files
