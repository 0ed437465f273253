"""The paper's arms in the records of this study: which there are, and in words how they were run.

    studies = read_studies(root / "results", ["medmcqa-smollm2"])
    for where, records in studies.items():
        print(setting_caption(records), missing_sentence(records))

How arms compare is in `ordering`, what that says of the paper's claims in `claims`. Everything
copes with arms that are not on record yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from ...study.metrics import METRICS
from ...study.profiles import Profile, load_profile
from ...study.records.record import MetricName, Record
from ...study.records.results import read_records
from ..analysis.arms import METHOD_ORDER, Arm, group_arms
from ..analysis.captions import precision_notes
from ..text import count, listed
from .published import Published

SHORT = {
    "exam_accuracy": "MedMCQA",
    "letter_accuracy": "MedMCQA, letters",
    "prose_perplexity": "Perplexity",
    "word_perplexity": "Perplexity of words",
    "knowledge_accuracy": "TriviaQA",
    "exact_match": "TriviaQA, exact",
    "self_kl": "KL from the base",
}


def read_studies(results: Path, profiles: Sequence[str]) -> dict[str, list[Record]]:
    """Records of each recorded study of these profiles, by `profile/study`; none, no entry.

    results: the folder of all records. Raises ResultsError for a file that is not a record.
    """
    found: dict[str, list[Record]] = {}
    for profile in dict.fromkeys(profiles):
        folder = results / profile
        if any(folder.glob("*/*.json")):
            for record in read_records(folder):
                found.setdefault(f"{record.profile}/{record.study}", []).append(record)
    return found


def arms_of(records: Sequence[Record]) -> dict[str, Arm]:
    """Each method's arm; of several learning rates the profile's own, else the first."""
    chosen: dict[str, Arm] = {}
    for arm in group_arms(records):
        first = arm.first
        own = first.run_id in (first.method, f"{first.method}-seed{first.seed}")
        if first.method not in chosen or own:
            chosen[first.method] = arm
    return chosen


def paper_order(methods: Sequence[str], published: Published) -> list[str]:
    """Methods in the paper's order, then those of this study, then any others by name."""
    order = [*published.arms, *(m for m in METHOD_ORDER if m not in published.arms)]
    known = [method for method in order if method in methods]
    return known + sorted(set(methods) - set(known))


def lettered(arm: Arm) -> bool:
    """Whether the model saw options behind letters, so that it can prefer one."""
    return arm.first.settings.get("exam", {}).get("format") == "lettered"


@cache
def labels() -> dict[str, str]:
    """The name of each method of profile `medmcqa`, whether on record or not."""
    return {name: method.label for name, method in load_profile("medmcqa").methods.items()}


def label_of(method: str, arms: Mapping[str, Arm]) -> str:
    """A method's label in its records, else in the paper's profile, else its name."""
    return arms[method].first.label if method in arms else labels().get(method, method)


# ----------------------------------------------------------------- what was run, in words


def setting_caption(records: Sequence[Record], metric: MetricName | None = None) -> str:
    """Model, training, what was scored, seeds and number formats of a study, as its records say.

    metric: name what this was scored on only; by default everything, and the rows of the exam.
    """
    arms = list(arms_of(records).values())
    trained = [arm for arm in arms if not arm.is_base and stage_of(arm) == "exam"]
    models = [f"{a.first.model.name} ({count(a.first.model.parameters)} parameters)" for a in arms]
    parts = [f"Study {listed(arm.where for arm in arms)}: {listed(models)}"]
    if trained:
        exams = [arm.first.data.exam for arm in trained if arm.first.data.exam]
        epochs = listed(arm.first.settings["training"]["epochs"] for arm in trained)
        passes = "once" if epochs == "1" else f"{epochs} times"
        rows = listed(f"{exam.train_rows:,}" for exam in exams)
        parts.append(f"trained on {rows} questions, {passes}")
    parts += _scored(arms, metric)
    seeds = sorted({len(arm.records) for arm in arms if not arm.is_base})
    if seeds:
        several = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else str(seeds[0])
        parts.append("one seed" if seeds == [1] else f"{several} seeds")
    covered = "items only, not the luck of training" if seeds == [1] else "items and seeds"
    text = f"{'; '.join(parts)}. Brackets are 95 % intervals over {covered}."
    notes = [f"{note}." for note in _notes(arms)] if metric is None else []
    return " ".join([text, *precision_notes(arms), *notes])


def stage_of(arm: Arm) -> str:
    """What an arm was trained on: `exam`, or in stage 1 alone `retrofit`."""
    return arm.first.settings["method"].get("stage", "exam")


def _notes(arms: Sequence[Arm]) -> list[str]:
    """What the records say of the exam's rows, once for the same rows however it is worded."""
    exams = [arm.first.data.exam for arm in arms if arm.first.data.exam]
    return list({exam.sha256: exam.notes for exam in exams if exam.notes}.values())


def _scored(arms: Sequence[Arm], metric: MetricName | None) -> list[str]:
    """What the exam and the probes were scored on: counts and sources."""
    data = [arm.first.data for arm in arms]
    parts = []
    scored = {"cloze": "the options' own words (cloze)", "lettered": "lettered options"}
    formats = [arm.first.settings.get("exam", {}).get("format") for arm in arms]
    how = listed(scored[name] for name in formats if name in scored)
    wanted = {METRICS[metric].data} if metric else {"exam", "prose", "knowledge"}
    exams = [f"{d.exam.rows:,} questions" for d in data if d.exam and "exam" in wanted]
    if exams:
        parts.append(f"scored on {listed(exams)}" + (f" by {how}" if how else ""))
    prose = [
        f"{d.prose.words:,} words{_from(d.prose.source)}"
        for d in data
        if d.prose and "prose" in wanted
    ]
    if prose:
        parts.append(f"perplexity on {listed(prose)}")
    trivia = [
        f"{d.knowledge.questions:,} questions{_from(d.knowledge.source)} after "
        f"{d.knowledge.shots or 'no'} examples"
        for d in data
        if d.knowledge and "knowledge" in wanted
    ]
    if trivia:
        parts.append(f"trivia on {listed(trivia)}")
    return parts


def _from(source: str) -> str:
    return f" of {source}" if source else ""


def missing_sentence(records: Sequence[Record], profile: Profile | None = None) -> str:
    """Which methods of the study's profile have no record yet; "" if none is missing.

    profile: by default the one that the records name, as it is shipped.
    """
    arms = arms_of(records)
    profile = profile or load_profile(records[0].profile)
    missing = [method.label for name, method in profile.methods.items() if name not in arms]
    if not missing:
        return f"Every method of profile {profile.name} is on record."
    names = "; ".join(missing)
    return f"Not on record yet, of the methods of profile {profile.name}: {names}."
