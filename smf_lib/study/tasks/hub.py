"""Rows of data sets, from the Hugging Face Hub or from a folder in the same columns.

Everything that a profile names as a `source` (of data or of a model) is found by one rule: a path
is tried first, a relative one below the study's root, and what is not there is a Hub id.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import yaml

from ..files import is_closed, is_full, origins
from ..names import first_line
from .prepared import load_prepared

EXTENSIONS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
CARDS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json")  # about the data
WHOLE = re.compile(r"0|-?[1-9]\d{0,17}", re.ASCII)  # as text the same again
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-[0-9a-f]+)?")  # the stem of a shard, as the Hub names it
OF_A_CONFIG = {"name", "version", "data_dir", "data_files", "description"}  # no options of a reader


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
        source: a Hub id; or a folder: a copy of a Hub repository, or any other whose splits
            `datasets.load_dataset` finds, one of files that are named after their split in their
            own way (`easy.jsonl`; .json, .parquet, .csv, each also as .gz), or what `save_to_disk`
            left of several splits.
        split: in the notation of `datasets`, such as "train+validation[:50%]".
        columns: columns that the rows must have; others are kept too.
        root: folder that a relative path starts from.
        config: name of the configuration on the Hub; of a folder, one that its README names, or
            else a folder in it if there is one.
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
    wanted = {part.partition("[")[0].strip() for part in split.split("+")}
    kind, files, options = _resolved(folder, config)
    if not wanted <= set(files):
        kind, files, options = *_named(folder, config), {}
    if not wanted <= set(files):
        names = [Path(path).name for found in files.values() for path in found]
        raise ValueError(f"it has {', '.join(names)}")
    # only these: the columns of all files that are read together have to agree
    return read_files(kind, {name: files[name] for name in wanted}, split, **options)


def _resolved(
    folder: Path, config: str | None
) -> tuple[str, dict[str, list[str]], dict[str, object]]:
    """Format, files of each split, and a reader's options, as `datasets.load_dataset` finds them.

    There are no files where it finds none, as in what `save_to_disk` left.

    Raises:
        ValueError: a README whose head is no YAML, or of other configurations, or of several where
            none is named; two files of one split that are no shards of it.
    """
    if any(folder.glob("*/state.json")):
        return "", {}, {}
    with _quiet_retries():
        try:
            names = datasets.get_dataset_config_names(str(folder))
        except yaml.YAMLError as error:
            raise ValueError(
                f"the head of its README.md is no YAML ({first_line(error)}); mend or remove it"
            ) from error
        except (FileNotFoundError, ValueError, RuntimeError):  # no data, several formats, a script
            return "", {}, {}
        if names == ["default"] and config and (folder / config).is_dir():
            return _resolved(folder / config, None)
        if names == ["default"]:
            config = None  # the Hub's name of what a folder holds
        elif config not in names and (config or len(names) > 1):
            raise ValueError(f"its README has the configurations {', '.join(names)}; name one")
        builder = datasets.load_dataset_builder(str(folder), config)
    found = {str(name): list(map(str, paths)) for name, paths in builder.config.data_files.items()}
    _check_names({Path(path) for paths in found.values() for path in paths})
    if names == ["default"]:
        _check_alone(found)
    plain: Any = type(builder.config)()
    options = {
        field.name: getattr(builder.config, field.name)
        for field in dataclasses.fields(builder.config)
        if field.name not in OF_A_CONFIG
        and getattr(builder.config, field.name) != getattr(plain, field.name)
    }
    if builder.info.features is not None:
        options["features"] = builder.info.features
    return builder.name, found, options


def _check_names(paths: set[Path]) -> None:
    """Raise ValueError where two data files in one folder have the name of one of these."""
    for folder in {path.parent for path in paths}:
        times = Counter(_stem(path) for path in folder.iterdir() if _kind(path))
        if any(times[_stem(path)] > 1 for path in paths if path.parent == folder):
            raise ValueError("it holds two data files of one split")


def _check_alone(files: dict[str, list[str]]) -> None:
    """Raise ValueError where a file has the name of a split and others go by it too.

    `datasets` reads `test-hard.jsonl` beside `test.jsonl` as rows of the split `test`.
    """
    for split, paths in files.items():
        names = {_stem(Path(path)): Path(path).name for path in paths}
        if split in names and len(paths) > 1:
            others = ", ".join(sorted({*names.values()} - {names[split]})) or "others"
            raise ValueError(
                f"{names[split]} is the split {split}, and {others} would be read with it; move "
                "what is not meant elsewhere, or give the parts of a split a folder of its name"
            )


def read_files(
    kind: str, files: dict[str, list[str]], split: str, **options: Any
) -> datasets.Dataset:
    """The rows of a split of files of one format.

    A table in CSV says of no column what is in it: a cell is missing if it is empty, a column of
    whole numbers holds numbers, and all else is text as it stands, "NA" and "1.50" too. Where
    something else says more than the separator of its cells, `datasets` reads it in its own way.

    options: of the format's reader in `datasets`.

    Raises:
        ValueError: CSV files with different columns.
    """
    if kind != "csv" or not set(options) <= {"sep"}:
        return load_prepared(kind, data_files=files, split=split, **options)
    paths = [path for of_split in files.values() for path in of_split]
    headers = {tuple(pd.read_csv(path, nrows=0, **options)) for path in paths}
    if len(headers) != 1:
        raise ValueError("its files have different columns")
    text = datasets.Features({name: datasets.Value("string") for name in headers.pop()})
    options |= {"features": text, "keep_default_na": False, "na_values": [""]}
    rows = load_prepared("csv", data_files=files, split=split, **options)
    numbers = {
        name: datasets.Value("int64")
        for name in rows.column_names
        if all(WHOLE.fullmatch(cell) for cell in rows[name] if cell is not None)
    }
    # in memory: `datasets` would put what it casts into its cache, where nothing checks it
    return rows.cast(datasets.Features(text | numbers), keep_in_memory=True) if numbers else rows


def _named(folder: Path, config: str | None) -> tuple[str, dict[str, list[str]]]:
    """Format and files of each split, by the names of files.

    A file is named after its split, whole (`train.jsonl`, `train.jsonl.gz`) or as one of its
    shards (`train-00000-of-00002.parquet`); `save_to_disk` makes a folder of Arrow files a split.

    Raises:
        ValueError: no data files, or of several formats; two whole files of one split, or shards
            beside a whole file.
    """
    if config and (folder / config).is_dir():
        folder = folder / config
    files = _data_files(folder) or _data_files(folder / "data")
    kinds = {kind for found in files.values() for kind, _ in found}
    if len(kinds) != 1:
        number = sum(map(len, files.values()))
        raise ValueError(f"it holds {number} data files of {len(kinds)} formats")
    return kinds.pop(), {name: [path for _, path in found] for name, found in files.items()}


def _data_files(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """(Format, path) of the data files of each split. Raises ValueError as `_named`."""
    if not folder.is_dir():
        return {}
    files: dict[str, list[tuple[str, str]]] = {}
    whole: set[str] = set()
    for path in sorted(folder.iterdir()):
        if path.is_dir() and (path / "state.json").is_file():
            shards = [("arrow", str(shard)) for shard in sorted(path.glob("*.arrow"))]
            files.setdefault(path.name, []).extend(shards)
            continue
        kind, stem = _kind(path), _stem(path)
        if kind is None:
            continue
        shard = SHARD.fullmatch(stem)
        name = shard[1] if shard else stem
        if not shard:
            whole.add(name)
        files.setdefault(name, []).append((kind, str(path)))
    if any(len(files[name]) > 1 for name in whole):
        raise ValueError("it holds two data files of one split")
    return files


def _kind(path: Path) -> str | None:
    """The format of a data file; None of what is none."""
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    known = path.is_file() and path.name not in CARDS
    return EXTENSIONS.get(plain.suffix.lower()) if known else None


def _stem(path: Path) -> str:
    """A file's name without what its format and compression put behind it."""
    return path.with_suffix("").stem if path.suffix.lower() == ".gz" else path.stem
