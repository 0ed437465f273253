"""How each metric is shown: its names, the units of its level and its change, digits."""

from dataclasses import dataclass

from ..study.records.record import MetricName

EXAM: MetricName = "exam_accuracy"  # what was learned
DRIFTS: tuple[MetricName, ...] = ("prose_perplexity", "knowledge_accuracy", "self_kl")  # forgotten


@dataclass(frozen=True)
class Measure:
    """One metric in tables and figures.

    Attributes:
        title: its name at the head of a column of levels.
        kind: "accuracy" (items are 0 or 1), "perplexity" (pairs of nats and tokens) or "nats".
        short: its name beside its change, as in "Knowledge change (points)".
        items: what its items are about, in a word.
        panel: the title of a figure's panel.
    """

    title: str
    kind: str
    short: str
    items: str
    panel: str

    @property
    def more_is_better(self) -> bool:
        """Whether what was forgotten is what the metric lost."""
        return self.kind == "accuracy"

    @property
    def factor(self) -> int:
        """From shares to what is shown: per cent and points; nats stay as they are."""
        return 1 if self.kind == "nats" else 100

    @property
    def digits(self) -> int:
        """Decimals of a level, and of a change from the base model."""
        return {"accuracy": 1, "perplexity": 2, "nats": 4}[self.kind]

    @property
    def level_head(self) -> str:
        """Head of a column of levels."""
        return (
            self.title
            + {"accuracy": " (%)", "perplexity": "", "nats": " (nats a token)"}[self.kind]
        )

    @property
    def change_head(self) -> str:
        """Head of a column of changes from the base model."""
        unit = {"accuracy": "points", "perplexity": "%", "nats": "nats a token"}[self.kind]
        return f"{self.short} change ({unit})"

    @property
    def drift_head(self) -> str:
        """Head of a column of what was forgotten, where more is worse."""
        heads = {"accuracy": f"{self.short} lost (points)", "perplexity": self.change_head}
        return heads.get(self.kind, self.level_head)

    @property
    def drift_axis(self) -> str:
        """Axis of what was forgotten, where more is worse."""
        return {
            "accuracy": "accuracy lost (points)",
            "perplexity": "perplexity change (%)",
            "nats": "KL from the base (nats a token)",
        }[self.kind]

    @property
    def least_span(self) -> float:
        """The least that such an axis spans, so that rounding noise is not blown up."""
        return {"accuracy": 2.0, "perplexity": 0.5, "nats": 0.002}[self.kind]


MEASURES: dict[MetricName, Measure] = {
    "exam_accuracy": Measure("Exam accuracy", "accuracy", "Exam", "exam", "Exam"),
    "letter_accuracy": Measure(
        "Exam accuracy, letters", "accuracy", "Exam, letters", "exam", "Exam, letters"
    ),
    "prose_perplexity": Measure("Prose perplexity", "perplexity", "Perplexity", "prose", "Prose"),
    "word_perplexity": Measure(
        "Prose perplexity, a word", "perplexity", "Perplexity, a word", "prose", "Prose, words"
    ),
    "knowledge_accuracy": Measure(
        "Knowledge accuracy", "accuracy", "Knowledge", "knowledge", "General knowledge"
    ),
    "exact_match": Measure(
        "Knowledge, exact match", "accuracy", "Knowledge, exact", "knowledge", "Knowledge, exact"
    ),
    "self_kl": Measure("KL from base", "nats", "KL", "KL", "The base model's own text"),
}
