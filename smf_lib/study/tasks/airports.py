"""Two exams about airports, from the package `airportsdata` (MIT licence).

`airports` asks for the country of an airport's ICAO code: a rule of the world, of which the test
asks codes that training never showed. `cities` asks for the city that an airport serves: single
facts, which no rule tells. Its facts are *trained and tested*, each trained in some wordings and
asked in another (Lin et al., arXiv 2510.15103, ask for facts in new words too), so that it measures
what was remembered and not a line that was repeated.

Names of countries are those of the table of the package `tzdata` (public domain).
"""

from __future__ import annotations

import csv
import random
import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING, Any

from .exam import Exam, ExamQuestion, content_sha256
from .options import Item, make_questions, rows_of, runs, split_by

if TYPE_CHECKING:
    from pathlib import Path

    from ..settings import AirportsSettings, CitiesSettings

OF_A_COUNTRY = 28  # airports of one country at most, so that none is asked for far more often
FEWEST = 8  # airports that a country needs, so that each split has some
CODE_WORDING = "In which country is the airport with the ICAO code {}?"
# Each fact is trained in the first so many of these.
TRAINED_WORDINGS = (
    'Which city does "{}" serve?',
    'A plane lands at "{}". In which city are its passengers?',
    '"{}" is the airport of which city?',
    'Name the city where "{}" lies.',
    'Travellers who take off from "{}" leave which city?',
    'To which city does the airport called "{}" belong?',
)
VALIDATION_WORDING = 'My flight ends at "{}". Which city am I in?'
TEST_WORDING = 'I have a ticket to "{}". Which city shall I visit?'
OF_VALIDATION = 5  # one four of facts in so many is asked for validation, the others for the test


def build_airports(settings: AirportsSettings, root: Path | None = None) -> Exam:
    """The exam about countries: `seed` and the rows of each split.

    Two of the four options are countries whose codes begin with the same letter, two are not; a
    country whose letter no other has is not asked for. Each airport is in one split, and in each
    split every country is a wrong option three times as often as it is right. The seed alone
    decides which questions a split has and in which order.

    Raises:
        ValueError: a split has fewer questions than asked for; the message names the field.
    """
    names = _countries()
    by_country: dict[str, list[Item]] = {}
    for code, row in sorted(_airports().items()):
        country = names.get(row["country"])
        if country is not None and re.fullmatch("[A-Z]{4}", code):
            by_country.setdefault(country, []).append(Item(code, code, country, code[0]))
    chosen: list[Item] = []
    for country, items in sorted(by_country.items()):
        if len(items) >= FEWEST:
            rng = random.Random(f"airports {country} {settings.seed}")
            chosen += rng.sample(items, min(len(items), OF_A_COUNTRY))
    parts = split_by(chosen, lambda item: item.id, settings.seed, "airports")
    found = {
        name: make_questions(part, settings.seed, CODE_WORDING) for name, part in parts.items()
    }
    found = rows_of("airports", settings, found)
    splits = found["train"], found["validation"], found["test"]
    return Exam("airports", *splits, content_sha256(*splits))


def build_cities(settings: CitiesSettings, root: Path | None = None) -> Exam:
    """The exam about facts: `seed`, the rows of each split, and in how many wordings to train.

    Facts come in fours, of one country, whose cities are the options of each other: each is right
    once and wrong three times, and all four are trained equally often. The first `train_rows` /
    `wordings` facts are trained, whole fours alone, each in so many wordings, which are other
    questions than those of validation and test. One four in five is asked for validation, the
    others for the test, whatever the rows. No name shares four letters in a row with an option.

    Raises:
        ValueError: a split has fewer questions than asked for; the message names the field.
    """
    fours = _fours(settings.seed)
    most = 4 * len(fours) * settings.wordings
    if not settings.train_rows % (4 * settings.wordings) == 0 <= settings.train_rows <= most:
        raise ValueError(
            f"exam.train_rows {settings.train_rows} must be a multiple of "
            f"{4 * settings.wordings} (four facts in exam.wordings {settings.wordings}), at most "
            f"{most}; set exam.train_rows to one"
        )
    trained = fours[: settings.train_rows // (4 * settings.wordings)]
    kept = [i % OF_VALIDATION == OF_VALIDATION - 1 for i in range(len(trained))]
    found = {
        "train": [
            question
            for wording in range(settings.wordings)
            for four in trained
            for question in _asked(four, TRAINED_WORDINGS[wording], f"train-{wording}")
        ],
        "validation": [
            question
            for four, is_kept in zip(trained, kept)
            if is_kept
            for question in _asked(four, VALIDATION_WORDING, "validation")
        ],
        "test": [
            question
            for four, is_kept in zip(trained, kept)
            if not is_kept
            for question in _asked(four, TEST_WORDING, "test")
        ],
    }
    found = rows_of("cities", settings, found)
    notes = (
        f"The same facts are trained and tested: {4 * len(trained)} facts, each trained in "
        f"{settings.wordings} wordings and asked in another."
    )
    splits = found["train"], found["validation"], found["test"]
    return Exam("cities", *splits, content_sha256(*splits), notes=notes)


@dataclass(frozen=True)
class Fact:
    """An airport, by its IATA code and name, and the city that it serves."""

    code: str
    name: str
    city: str


def _asked(four: list[Fact], wording: str, split: str) -> list[ExamQuestion]:
    """Four facts in a wording; each place has the right answer once."""
    rng = random.Random(f"options {four[0].code} {split}")
    places = rng.sample(range(4), 4)
    questions = []
    for fact, place in zip(four, places):
        others = [other.city for other in four if other is not fact]
        options = rng.sample(others, 3)
        options.insert(place, fact.city)
        questions.append(
            ExamQuestion(f"{fact.code}-{split}", wording.format(fact.name), options, place)
        )
    return questions


def _fours(seed: int) -> list[list[Fact]]:
    """Facts of one country in fours, in an order drawn from the seed; of each city one airport."""
    by_country: dict[str, list[Fact]] = {}
    rows = [row for _, row in sorted(_airports().items()) if row["iata"]]
    names = Counter(row["name"] for row in rows)
    for row in rows:
        if row["name"] and row["city"] and names[row["name"]] == 1:
            fact = Fact(row["iata"], row["name"], row["city"])
            by_country.setdefault(row["country"], []).append(fact)
    fours: list[list[Fact]] = []
    for country, facts in sorted(by_country.items()):
        rng = random.Random(f"cities {country} {seed}")
        cities: set[str] = set()
        groups: list[list[Fact]] = [[]]
        for fact in rng.sample(facts, len(facts)):
            city = fact.city.casefold()
            if city not in cities and not any(map(partial(_clash, fact), [fact, *groups[-1]])):
                cities.add(city)
                groups[-1].append(fact)
                if len(groups[-1]) == 4:
                    groups.append([])
        fours += groups[: min(len(groups) - 1, OF_A_COUNTRY // 4)]
    return random.Random(f"facts {seed}").sample(fours, len(fours))


def _clash(one: Fact, other: Fact) -> bool:
    """Whether the name of one shares letters with the city of the other."""
    return bool(runs(one.name) & runs(other.city) or runs(other.name) & runs(one.city))


def _airports() -> dict[str, Any]:
    """Every airport of the package by its ICAO code."""
    import airportsdata

    return airportsdata.load("ICAO")


def _countries() -> dict[str, str]:
    """The English name of each country by its ISO 3166 code."""
    table = resources.files("tzdata.zoneinfo").joinpath("iso3166.tab").read_text("utf-8")
    lines = [line for line in table.splitlines() if not line.startswith("#")]
    return dict(csv.reader(lines, delimiter="\t"))
