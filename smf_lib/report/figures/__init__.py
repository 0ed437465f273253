"""All figures of the study in one place. Each function returns a `Figure`.

Those of runs take records, those of row selection take plain arrays.
"""

from .benchmarks import benchmark
from .costs import cost
from .curves import ablations, beside_references, gain_and_divergence, passes
from .gain import gain_against_forgetting
from .rows import hub_rows, overlap_heatmap, read_frequency, read_shares
from .runs import exam_accuracy, learning_rate_sweep, training_loss
from .sequences import task_matrices
from .style import Figure

__all__ = [
    "Figure",
    "ablations",
    "benchmark",
    "beside_references",
    "cost",
    "exam_accuracy",
    "gain_against_forgetting",
    "gain_and_divergence",
    "hub_rows",
    "learning_rate_sweep",
    "overlap_heatmap",
    "passes",
    "read_frequency",
    "read_shares",
    "task_matrices",
    "training_loss",
]
