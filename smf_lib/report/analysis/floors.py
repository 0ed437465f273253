"""What an exam gives without a language model, and which arms are above all of it."""

from collections.abc import Callable, Sequence

from ...study.records.record import Baselines
from ..measures import EXAM
from ..text import listed
from .arms import Arm
from .captions import best_floor
from .decisions import holm
from .effects import level
from .interval import Verdict


def floors_of(kept: Baselines) -> dict[str, float]:
    """Each floor by its name, in per cent; records of before rules and bags were kept have two."""
    found = {"guessing": 100 * kept.chance, "the most frequent option": 100 * kept.majority}
    if kept.rules:
        found["the best rule that learns nothing"] = best_floor(kept.rules)[1]
    if kept.bags:
        name, value = best_floor(kept.bags)
        found[f"a bag of {name}"] = value
    return found


def highest_floor(kept: Baselines) -> tuple[str, float]:
    """Name and accuracy, in per cent, of the most that an exam gives without a language model."""
    return max(floors_of(kept).items(), key=lambda floor: floor[1])


def floors_words(kept: Baselines) -> str:
    """The floors of an exam in words: `guessing 25.0 and a bag of letters 48.0 %`."""
    return f"{listed(f'{name} {value:.1f}' for name, value in floors_of(kept).items())} %"


def close_ones(floors: dict[str, float], near: float) -> list[tuple[float, str]]:
    """Where floors are to be named in a figure: those within `near` of each other in one place.

    floors: place by text. Returns (place of the first, their texts), from the lowest on.
    """
    groups: list[list[tuple[float, str]]] = []
    for text, place in sorted(floors.items(), key=lambda floor: floor[1]):
        if not groups or place - groups[-1][-1][0] > near:
            groups.append([])
        groups[-1].append((place, text))
    return [(group[0][0], ", ".join(text for _, text in group)) for group in groups]


def floors_sentence(arms: Sequence[Arm], name: Callable[[Arm], str]) -> str:
    """The floors of one study's exam, and which arms are above the highest of them.

    An arm is above, or below, if its interval lies on that side. The intervals are widened so that
    they hold together (Holm's procedure): the arms of a study are one family.

    name: what an arm is called; arms that share a name are one, with its best.
    """
    told = floors_words(arms[0].first.baselines)
    top, height = highest_floor(arms[0].first.baselines)
    asked = [arm for arm in arms if arm.has(EXAM) and level(arm, EXAM).known]
    if not asked:
        return f"Without a language model: {told}."

    def is_apart(arm: Arm, joint: float) -> bool:
        return level(arm, EXAM, joint).verdict(even=height).decided

    apart = holm(asked, is_apart)
    above = [name(arm) for arm in asked if arm in apart and level(arm, EXAM).value > height]
    near = [name(arm) for arm in asked if arm not in apart and name(arm) not in above]
    below = [name(arm) for arm in asked if name(arm) not in (*above, *near)]
    highest = f"{top}, the highest of these"
    if not near and not below:
        said = f"every arm is above {highest}"
    elif not above:
        said = f"no arm is {'clearly ' if near else ''}above {highest}"
    else:
        said = f"above {highest}: {listed(above)}"
    if near:
        said += f"; {Verdict.LEVEL} from it: {listed(near)}"
    if above and below:
        said += f"; below it: {listed(below)}"
    return f"Without a language model: {told}; {said} (all arms decided together)."
