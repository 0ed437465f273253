"""All figures of the study in one place. Each function returns a `Figure`.

Those of runs take records, those of row selection take plain arrays, and the drawing of the
lookup takes nothing.
"""

from .costfigure import cost
from .diagram import memory_diagram
from .figstyle import Figure
from .gainfigure import gain_against_forgetting
from .rowfigures import hub_rows, overlap_heatmap, read_frequency, read_shares
from .runfigures import exam_accuracy, learning_rate_sweep, training_loss

__all__ = [
    "Figure",
    "cost",
    "exam_accuracy",
    "gain_against_forgetting",
    "hub_rows",
    "learning_rate_sweep",
    "memory_diagram",
    "overlap_heatmap",
    "read_frequency",
    "read_shares",
    "training_loss",
]
