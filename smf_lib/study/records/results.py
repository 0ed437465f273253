"""Records of runs on disk: read strictly, written whole or not at all.

A record says what was run (settings, model, data), what came out (metrics with every item's
outcome, cost, loss curve) and where (versions, hardware, commit). Figures and tables read
records and nothing else. The files lie in `results/<profile>/<study>/<run_id>.json`.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from ..files import find_root, write_whole
from ..names import check_text, map_texts, texts_in
from .provenance import provenance
from .record import SCHEMA_VERSION, Metric, MetricName, Record

__all__ = [
    "Metric",
    "Record",
    "ResultsError",
    "paired_key",
    "provenance",
    "read_record",
    "read_records",
    "records_folder",
    "write_record",
]

# where a record says which files a profile names
FILES = re.compile(r"(settings|model)\.(.*\.)?(source|lm_eval_tasks)(\.\d+)?")
SUM = "sha256"  # of all else in a record; those that were written before have none


class ResultsError(ValueError):
    """A record cannot be read, written or used; the message names the file and the key."""


def records_folder(profile: str = "") -> Path:
    """The folder of a profile's records, or of all records; needs no model and no data.

    profile: its name, or the path of its YAML file, which has that name.
    """
    if not isinstance(profile, (str, Path)):
        raise ResultsError(f"profile={profile!r} must be the name of a profile, or its path")
    return find_root() / "results" / Path(profile).name.removesuffix(".yaml").removesuffix(".yml")


# parts of a metric's key that do not say what was measured
NOT_MEASURED = ("training", "metric settings", "precision", "code of ")


def paired_key(record: Record, metric: MetricName) -> tuple:
    """What must agree before two records are compared item by item: what was measured, its size.

    It is told by the metric's own key, where the record holds one: an exam whose *other* splits
    have another size is the same to whoever measured this one.

    Raises ResultsError if the record does not hold the metric.
    """
    part = record.data.of(record.spec(metric).data) if metric in record.metrics else None
    if part is None:
        raise ResultsError(f"run {record.run_id!r} has no metric {metric!r}")
    n = record.metrics[metric].n
    kept = record.keys.metrics.get(metric) if record.keys else None
    if kept is not None:
        parts = kept.parts.items()
        return (metric, *(d for name, d in parts if not name.startswith(NOT_MEASURED)), n)
    return (metric, part.sha256, getattr(part, "split", None), n)


def write_record(path: str | Path, record: Record) -> Path:
    """Write `record` to `path`, whole or not at all; `study` becomes the folder's name.

    What a profile names by an absolute path (a model, data, a task) stands in it by its last name,
    since the folders of this machine are nobody else's.

    Raises ResultsError if the file name is not `<run_id>.json`.
    """
    path = Path(path)
    if path.name != f"{record.run_id}.json":
        raise ResultsError(
            f"{path}: a record with run_id {record.run_id!r} is named {record.run_id}.json"
        )
    record = record.model_copy(update={"study": path.resolve().parent.name})
    content = _without_folders(record.model_dump(mode="json"))
    summed = {**content, SUM: _sum(content)}
    write_whole(path, _compact(json.dumps(summed, indent=2, allow_nan=False)) + "\n")
    return path


def _without_folders(content: dict) -> dict:
    """A record's content in which every file and folder has its last name alone."""
    named = {text for place, text in texts_in(content) if FILES.fullmatch(place)}
    absolute = [text for text in named if Path(text).is_absolute() or text.startswith("~")]
    if not absolute:
        return content
    paths = "|".join(re.escape(path) for path in sorted(absolute, key=len, reverse=True))
    whole = re.compile(rf"(?<![\w./~-])(?:{paths})(?!\w)")
    return map_texts(content, lambda text: whole.sub(lambda found: Path(found[0]).name, text))


def _sum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _compact(text: str) -> str:
    """Put each innermost list or object of indented JSON on one line."""
    return re.sub(
        r"[\[{][^\[\]{}]*[\]}]", lambda match: re.sub(r"\s*\n\s*", " ", match.group()), text
    )


def read_record(path: str | Path) -> Record:
    """Read one record. Raises ResultsError naming the file and the key at fault."""
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ResultsError(
            f"{path}: not a whole JSON file ({error}); delete it and run the study again"
        ) from error
    noted = content.pop(SUM, None) if isinstance(content, dict) else None
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise ResultsError(
            f"{path}: schema_version is {version!r}, this version of smf_lib reads {SCHEMA_VERSION}"
        )
    for place, text in texts_in(content):
        try:
            if not place.endswith(".items"):  # an encoded list, see `Metric`
                check_text(text)
        except ValueError as error:
            raise ResultsError(f"{path}: {place}: {error}") from None
    try:
        record = Record.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise ResultsError(f"{path}: {_explain(error)}") from error
    if path.stem != record.run_id:
        raise ResultsError(
            f"{path}: run_id is {record.run_id!r}; the file must be named {record.run_id}.json"
        )
    if noted is not None and noted != _sum(content):
        raise ResultsError(
            f"{path}: it was changed since it was written (its sum is another); put the file back, "
            f"or delete it and run the study again; if it was changed on purpose, delete {SUM!r}"
        )
    return record.model_copy(update={"study": path.resolve().parent.name})


def _explain(error: ValidationError) -> str:
    """The first three faults, each as `key: reason`."""
    faults = []
    for fault in error.errors()[:3]:
        key = ".".join(str(part) for part in fault["loc"])
        reason = {"missing": "is missing", "extra_forbidden": "is not a known key"}.get(
            fault["type"], fault["msg"].removeprefix("Value error, ")
        )
        faults.append(f"{key}: {reason}" if key else reason)
    return "; ".join(faults)


def read_records(paths: str | Path | Iterable[str | Path]) -> list[Record]:
    """Read records from files and from folders (searched at any depth), sorted by path.

    Raises ResultsError for a path that does not exist, a file that is not a record, or if
    there is no record at all.
    """
    roots = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    files: dict[Path, None] = {}
    for root in roots:
        if not root.exists():
            raise ResultsError(f"{root}: no such file or folder; run the study first")
        found = sorted(root.rglob("*.json")) if root.is_dir() else [root]
        files.update(dict.fromkeys(path.resolve() for path in found))
    if not files:
        names = ", ".join(str(root) for root in roots) or "no path given"
        raise ResultsError(f"no record (*.json) under {names}; run the study first")
    return [read_record(path) for path in files]
