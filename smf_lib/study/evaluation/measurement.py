"""What every measure gives: one number, its standard error, and each item's outcome."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Measurement:
    """One number about a model, its standard error over items, and each item's outcome.

    `items`, in the order given, holds 0.0 or 1.0 a question for an accuracy, [summed negative
    log-likelihood in nats, tokens] an article for the perplexity, and a sequence's mean in nats a
    token for the KL divergence. A model that diverged has NaN where it gives no number. The
    standard error of a single item is NaN. task_version: of the lm-eval task that scored it, or
    None.
    """

    name: str
    value: float
    stderr: float
    n: int
    items: list
    task_version: str | None = None

    @classmethod
    def of_mean(
        cls, name: str, items: Sequence[float], task_version: str | None = None
    ) -> Measurement:
        """The plain mean of the items, with the standard error of a mean."""
        return cls.of_ratio(name, items, [1.0] * len(items), items, task_version)

    @classmethod
    def of_ratio(
        cls, name: str, sums, weights, items, task_version: str | None = None
    ) -> Measurement:
        """sum(sums) / sum(weights), with the standard error of a ratio over items (clusters)."""
        sums, weights = np.asarray(sums, dtype=float), np.asarray(weights, dtype=float)
        n, value, stderr = len(sums), sums.sum() / weights.sum(), math.nan
        if n > 1:
            residuals = (sums - value * weights) / weights.mean()
            stderr = math.sqrt((residuals**2).sum() / (n - 1) / n)
        return cls(name, float(value), stderr, n, list(items), task_version)
