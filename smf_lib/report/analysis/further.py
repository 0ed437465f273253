"""Records of a further profile, which a page shows beside those of its own."""

from ...study.profiles import load_profile
from ...study.records.record import Record
from ...study.records.results import ResultsError, read_records, records_folder


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
