"""Whether records were made with today's code, data, model and settings, in words."""

from collections.abc import Sequence

from ...study.files import find_root
from ...study.keys import record_state
from ...study.materials import Materials
from ...study.profiles import load_profile
from ...study.records.record import Record
from ..text import listed

WORDS = {
    "current": "with today's code, data and settings",
    "before keys were kept": "before keys were kept, so nothing tells whether code or data are "
    "still the same",
}


def state_sentence(records: Sequence[Record]) -> str:
    """How each study was recorded, seen from today; runs are named where they differ."""
    today = {profile: _today(profile) for profile in {record.profile for record in records}}
    studies: dict[str, dict[str, list[str]]] = {}
    for record in records:
        study = today[record.profile]
        state = record_state(record, study) if study else "a profile that is not here"
        states = studies.setdefault(f"{record.profile}/{record.study}", {})
        states.setdefault(state, []).append(record.label)
    told = []
    for where, states in studies.items():
        ways = [
            WORDS.get(state, f"with {state}") + (f" ({listed(labels)})" if len(states) > 1 else "")
            for state, labels in states.items()
        ]
        told.append(f"Study {where} was recorded {'; '.join(ways)}.")
    return " ".join(told)


def _today(profile: str) -> Materials | None:
    """What the profile is made of today, found when it is asked for; None without the profile."""
    try:
        return Materials(load_profile(profile), find_root())
    except ValueError:
        return None
