"""Which records a page shows: one study of its profile, and what stands beside it."""

from collections.abc import Sequence

from ...study.profiles import load_profile
from ...study.records.record import Record
from ...study.records.results import ResultsError, read_records, records_folder

USUAL = ("local", "reference")  # what is run on the reader's machine, and what comes with the code


def one_study(
    records: Sequence[Record], study: str | None = None
) -> tuple[list[Record], list[Record]]:
    """The records of one study of a profile, and those of all its others.

    study: a folder below the profile's, None for `local`, the reader's own, or else `reference`, or
    else the first.

    Raises ResultsError if the study is not among them.
    """
    names = sorted({record.study for record in records})
    chosen = study or next(name for name in (*USUAL, *names) if name in names)
    if chosen not in names:
        raise ResultsError(f"study={study!r} has no records; there are: {', '.join(names)}")
    shown = [record for record in records if record.study == chosen]
    return shown, [record for record in records if record.study != chosen]


def read_further(parameter: str, profile: str | None) -> list[Record]:
    """The records of a further profile; [] where it has none yet.

    parameter: what the page calls it; profile: a name or a path, or None for no such records.

    Raises ResultsError if there are no records and no such profile either.
    """
    if profile is None:
        return []
    folder = records_folder(profile)
    if folder.is_dir():
        return read_records(folder)
    try:
        load_profile(profile)
    except ValueError as error:
        raise ResultsError(f"{parameter}={profile!r} has no records, and {error}") from None
    return []
