"""How each metric is shown: its names, the units of its level and its change, digits.

What a metric is stands in `smf_lib.study.metrics`; of one that the library does not bring the
record itself says title and unit. Everything else follows from the unit.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from ..study.metrics import METRICS, MetricSpec
from ..study.records.record import Record
from .text import signed

EXAM = "exam_accuracy"  # what was learned
DIVERGENCE = "self_kl"  # how far from the base model, on its own text
WITNESS = "prose_kl"  # the same on prose
DRIFTS = ("prose_perplexity", "knowledge_accuracy", "self_kl")  # what was forgotten, first of all
TABLED = (WITNESS,)  # what tables tell beside them where it was measured; not drawn
# Short names beside a change ("Knowledge change"), what the items are about, titles of panels.
SHORT = {"exam_accuracy": "Exam", "prose_perplexity": "Perplexity",
         "knowledge_accuracy": "Knowledge", "self_kl": "KL",
         "prose_kl": "KL on prose"}  # fmt: skip
ITEMS = {"self_kl": "KL", "prose_kl": "KL on prose"}
TITLES = {"minimal_pairs": "Grammar", "endings": "Everyday sense"}  # tasks recorded by name
PANELS = {"prose_perplexity": "Prose", "knowledge_accuracy": "General knowledge",
          "self_kl": "The base model's own text", "prose_kl": "Prose, divergence"}  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """One metric in tables and figures."""

    spec: MetricSpec

    @property
    def unit(self) -> str:
        """Of its items: "accuracy", "perplexity" or "nats"."""
        return self.spec.unit

    @property
    def title(self) -> str:
        """Its name."""
        return TITLES.get(self.spec.title, self.spec.title)

    @property
    def short(self) -> str:
        """Its name beside its own change."""
        return SHORT.get(self.spec.name, self.title)

    @property
    def items(self) -> str:
        """What its items are about, in a word."""
        return ITEMS.get(self.spec.name, self.spec.data)

    @property
    def panel(self) -> str:
        """Title of a figure's panel about it."""
        return PANELS.get(self.spec.name, self.title)

    @property
    def factor(self) -> int:
        """From shares to what is shown: per cent and points; nats stay as they are."""
        return 1 if self.unit == "nats" else 100

    @property
    def digits(self) -> int:
        """Decimals of a level, and of a change from the base model."""
        return {"accuracy": 1, "perplexity": 2, "nats": 4}[self.unit]

    @property
    def level_head(self) -> str:
        """Head of a column of levels."""
        unit = {"accuracy": " (%)", "perplexity": "", "nats": " (nats a token)"}[self.unit]
        return self.title + unit

    @property
    def change_head(self) -> str:
        """Head of a column of changes from the base model; a divergence is one."""
        heads = {"accuracy": "{} change (points)", "perplexity": "{} change (%)"}
        return heads.get(self.unit, self.level_head).format(self.short)

    @property
    def drift_head(self) -> str:
        """Head of a column of what was forgotten, where more is worse."""
        return self.change_head.replace("change (points)", "lost (points)")

    @property
    def drift_axis(self) -> str:
        """Axis of what was forgotten, where more is worse."""
        axes = {"accuracy": "accuracy lost (points)", "perplexity": "perplexity change (%)"}
        return axes.get(self.unit, self.level_head)

    @property
    def least_span(self) -> float:
        """The least that such an axis spans, so that rounding noise is not blown up."""
        return {"accuracy": 2.0, "perplexity": 0.5, "nats": 0.002}[self.unit]

    def told(self, drift: float) -> str:
        """What was forgotten, as a change in words: `perplexity changed by +1.2 %`."""
        if self.unit == "nats":
            return f"{self.short} is {drift:.3f} nats a token"
        if self.unit == "perplexity":
            return f"{self.short.lower()} changed by {signed(drift, 1)} %"
        return f"{self.title.lower()} changed by {signed(-drift, 1)} points"


def measure_of(record: Record, metric: str) -> Measure:
    """How a metric that the record holds is shown."""
    return Measure(record.spec(metric))


def drift_measures(records: Iterable[Record], drawn: bool = False) -> dict[str, Measure]:
    """What tells of forgetting: the library's own probes, then any others that the records hold.

    drawn: without those of the library's that figures do not draw.
    """
    found = {name: Measure(METRICS.find(name)) for name in DRIFTS}
    for record in records:
        for name, metric in record.metrics.items():
            if metric.about is not None or (name in TABLED and not drawn):
                found.setdefault(name, measure_of(record, name))
    return found
