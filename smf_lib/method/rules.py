"""Row selection: which of the rows that a batch read are updated in this optimizer step.

A rule turns the reads of the batch, and the reads of background text, into one score per row; the
`rows_per_step` rows with the highest scores are updated. To add a rule, write one function and
register it; it is then known to every configuration and notebook by its name:

    @register_rule("rare")
    def rare(reads, background):
        return -reads.counts.float()
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reads:
    """Reads of one optimizer step: row ids (n,) int64 ascending, counts (n,) int64, step number.

    On the CPU; for a rule that is `by_row`, on a GPU too, where all rows of the table are listed
    and a row that was not read has the count 0.
    """

    rows: Tensor
    counts: Tensor
    step: int = 0

    @property
    def share(self) -> Tensor:
        """p(i) = c(i) / sum of c, float64 (n,)."""
        return self.counts.double() / self.counts.sum()


@dataclass(frozen=True)
class BackgroundReads:
    """Reads of background text by one table of M rows.

    Attributes:
        counts: (M,) int64, reads of each row.
        documents: (M,) int32, background sequences in which the row was read at least once.
        n_documents: number of background sequences.
    """

    counts: Tensor
    documents: Tensor
    n_documents: int

    @cached_property
    def total(self) -> int:
        """Reads of all rows together."""
        return int(self.counts.sum())

    @cached_property
    def _by_device(self) -> dict[torch.device, BackgroundReads]:
        return {self.counts.device: self}

    def on(self, device: torch.device) -> BackgroundReads:
        """The same on that device, copied once."""
        if device not in self._by_device:
            tensors = self.counts.to(device), self.documents.to(device)
            self._by_device[device] = BackgroundReads(*tensors, self.n_documents)
        return self._by_device[device]


Score = Callable[..., Tensor]  # (Reads, BackgroundReads or None) -> one score per read row, (n,)


@dataclass(frozen=True)
class Rule:
    """A registered rule.

    Attributes:
        name: what configurations call it.
        score: takes (Reads, BackgroundReads or None), returns one score per read row, (n,).
        needs_background: whether it cannot do without background reads.
        unlimited: whether it takes every row that was read, whatever `rows_per_step`.
        by_row: whether a row's score depends on its own counts and on sums over the table alone,
            so that rows that were not read may be asked for too, on any device.
    """

    name: str
    score: Score
    needs_background: bool
    unlimited: bool
    by_row: bool


RULES: dict[str, Rule] = {}


def register_rule(
    name: str, needs_background: bool = False, unlimited: bool = False, by_row: bool = False
) -> Callable[[Score], Score]:
    """Decorator that makes a scoring function known as selection rule `name`.

    The function takes (`Reads`, `BackgroundReads` or None) and returns one score per read row, a
    CPU tensor (n,); the rows with the highest scores are updated. A function that is defined anew
    (its module reloaded, or imported under another name; its notebook cell run again) takes the
    place of the earlier one.

    Args:
        name: what configurations call the rule: `SparseMemoryConfig(rule=name)`.
        needs_background: refuse to train with it before `collect_background` was called.
        unlimited: update every row that was read, whatever `rows_per_step`.
        by_row: the score of a row depends on its own counts and on sums over the table alone. The
            function may then be given tensors on a GPU, and rows with the count 0, whose scores
            are passed over; training on a GPU waits for no result. Otherwise reads are brought
            to the CPU in each step.

    Raises:
        ValueError: another function is registered under that name.
    """

    def register(function: Score) -> Score:
        if name in RULES and not _same_function(RULES[name].score, function):
            raise ValueError(f"rule {name!r} is registered already; choose another name")
        RULES[name] = Rule(name, function, needs_background, unlimited, by_row)
        return function

    return register


def _same_function(one: Score, other: Score) -> bool:
    """Whether both come from one `def`: the same name in the same module or the same file."""
    if "<lambda>" in one.__qualname__:
        return one.__code__ == other.__code__
    in_one_place = (
        one.__module__ == other.__module__ or one.__code__.co_filename == other.__code__.co_filename
    )
    return in_one_place and one.__qualname__ == other.__qualname__


def get_rule(name: str) -> Rule:
    """The rule of that name.

    Raises:
        ValueError: no rule of that name is registered; the message lists those that are.
    """
    if name not in RULES:
        raise ValueError(
            f"rule={name!r} is unknown; choose one of {', '.join(sorted(RULES))}, or import the "
            "module that registers it"
        )
    return RULES[name]


@register_rule("kl", needs_background=True, by_row=True)
def kl(reads: Reads, background: BackgroundReads) -> Tensor:
    """Row i's term of KL(p || q): p(i) log(p(i) / q(i)), q add-one smoothed (arXiv 2605.03229)."""
    counts = background.counts[reads.rows].double()
    q = (counts + 1) / (background.total + len(background.counts))
    return reads.share * torch.log(reads.share / q)


@register_rule("tfidf", needs_background=True, by_row=True)
def tfidf(reads: Reads, background: BackgroundReads) -> Tensor:
    """p(i) log((N + 1) / (df(i) + 1)), N background sequences (Lin et al., arXiv 2510.15103)."""
    documents = background.documents[reads.rows].double()
    return reads.share * torch.log((background.n_documents + 1) / (documents + 1))


@register_rule("count", by_row=True)
def count(reads: Reads, background: BackgroundReads | None) -> Tensor:
    """The most read rows, whatever the background: a control for the two rules above."""
    return reads.counts.double()


@register_rule("random")
def random(reads: Reads, background: BackgroundReads | None) -> Tensor:
    """Rows at random among those that were read, anew at each step: a control."""
    generator = torch.Generator().manual_seed(reads.step)
    return torch.rand(len(reads.rows), generator=generator, dtype=torch.float64)


@register_rule("all", unlimited=True, by_row=True)
def all_rows(reads: Reads, background: BackgroundReads | None) -> Tensor:
    """Every row that was read, however many: the memory alone, a control."""
    return reads.counts.double()


def count_reads(indices: list[Tensor], step: int = 0) -> Reads:
    """Count the row ids in a list of integer tensors of any shape."""
    rows, counts = torch.unique(torch.cat([i.reshape(-1) for i in indices]), return_counts=True)
    return Reads(rows, counts, step)


def check_background(rule: str, background: BackgroundReads | None) -> None:
    """Refuse to select rows without what the rule needs.

    Raises:
        ValueError: the rule is unknown, or compares with background reads and there are none.
    """
    if get_rule(rule).needs_background and background is None:
        raise ValueError(
            f"rule={rule!r} compares with background reads and there are none; call "
            "smf_lib.collect_background(model, sequences) before training, or use rule='count'"
        )


def select_rows(
    reads: Reads, rule: str, rows_per_step: int, background: BackgroundReads | None = None
) -> Tensor:
    """Ids of the rows to update, ascending, (min(rows_per_step, n),) int64.

    Equal scores go to the lower row id, so the choice never depends on the sort or the machine.

    Args:
        reads: the reads of the step.
        rule: name of a registered rule.
        rows_per_step: T, how many rows to take; rules that are `unlimited` take all.
        background: reads of background text, for rules that compare with them.

    Raises:
        ValueError: unknown rule, a rule that needs background reads and got none, or one that
            returned scores of the wrong shape or NaN; `rows_per_step` below 1.
    """
    if rows_per_step < 1:
        raise ValueError(f"rows_per_step={rows_per_step} must be at least 1")
    check_background(rule, background)
    chosen = get_rule(rule)
    if chosen.unlimited or rows_per_step >= len(reads.rows):
        return reads.rows
    scores = chosen.score(reads, background)
    if scores.shape != reads.rows.shape:
        raise ValueError(
            f"rule={rule!r} returned scores of shape {tuple(scores.shape)} for {len(reads.rows)} "
            "read rows; it must return one score per row in reads.rows"
        )
    if scores.isnan().any():
        raise ValueError(f"rule={rule!r} returned NaN as a score; it must return numbers")
    order = torch.sort(scores, descending=True, stable=True).indices
    return reads.rows[order[:rows_per_step]].sort().values


def select_on_device(
    counts: Tensor, rule: str, rows_per_step: int, background: BackgroundReads | None = None
) -> tuple[Tensor, Tensor]:
    """The rows of `select_rows`, by operations whose shapes depend on no data: a GPU never waits.

    Scores are float64 here and there. Two rows whose scores differ in the last bit alone may be
    ordered otherwise by a device that rounds logarithms otherwise.

    Args:
        counts: (M,) int64 on any device, reads of each row of the table in this step.
        rule: name of a registered rule that is `by_row`.
        rows_per_step: T, how many rows to take; of rules that are `unlimited` it is M.
        background: reads of background text, on any device, for rules that compare with them.

    Raises:
        ValueError: unknown rule, or one that needs background reads and got none.

    Returns:
        rows (min(T, M),) int64 ascending, and which of them were read, bool: where fewer than T
        were, the others fill up the number, and must not be moved.
    """
    check_background(rule, background)
    background = None if background is None else background.on(counts.device)
    every = torch.arange(len(counts), device=counts.device)
    if get_rule(rule).unlimited:
        return every, counts > 0
    scores = get_rule(rule).score(Reads(every, counts), background)
    scores = scores.where(counts > 0, -torch.inf)
    order = torch.sort(scores, descending=True, stable=True).indices
    rows = order[:rows_per_step].sort().values
    return rows, counts[rows] > 0
