"""Two row patches of the same base made one, with a stated rule for rows that both changed."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..arguments import check_kind
from .move import to_free_rows
from .patch import RowPatch, TableRows, refuse_differences

CONFLICT_RULES = ("error", "first", "second", "sum", "moved")


class RowConflict(ValueError):
    """Two patches changed the same rows, and no rule says what then holds."""


@dataclass(frozen=True)
class Composition:
    """A patch made of two, and what both had changed.

    Attributes:
        patch: the composed patch.
        on_conflict: the rule that decided about what both had changed.
        shared_rows: for each table that both changed, the ascending ids of the rows that both
            changed, (m,) int64; m may be 0.
        shared_scales: layers whose output scale both changed.
        moved: by the rule "moved", for each table the rows that the second patch gave up and the
            free rows that took their changes, (m, 2) int64.
    """

    patch: RowPatch
    on_conflict: str
    shared_rows: dict[str, Tensor]
    shared_scales: list[str]
    moved: dict[str, Tensor] = field(default_factory=dict)

    @property
    def n_shared(self) -> int:
        """Rows that both changed, over all tables."""
        return sum(len(rows) for rows in self.shared_rows.values())

    def __str__(self) -> str:
        lines = [f"{self.patch.n_rows} rows, {self.n_shared} changed by both: {self.on_conflict}"]
        return "\n".join(lines + _shared(self.shared_rows, self.shared_scales))


def compose(
    first: RowPatch,
    second: RowPatch,
    on_conflict: str = "error",
    model: nn.Module | None = None,
    adapter: str = "default",
) -> Composition:
    """The patch that holds the changes of both.

    Args:
        first, second: patches of one base model and memory that started from the same values.
        on_conflict: what holds for a row or scale that both changed: "error" refuses; "first" and
            "second" keep the values of that patch; "sum" adds both changes to the start; "moved"
            keeps the first, and puts the second's change into the free row with the nearest key
            (after ysy2003/SUM-CAR, whose rows have keys of their own and take them along; rows of
            a product-key memory cannot, so a moved row is read by other tokens too). A scale has
            no free place: by "moved" the first one's holds.
        model, adapter: for "moved", a model whose memory has neither patch in it.

    Raises:
        RowConflict: both changed the same rows or scales and on_conflict is "error".
        ValueError: unknown rule, patches of different models, or of different starts; for "moved"
            no model, another one, one with a patch in it, or fewer free rows than conflicts.
    """
    if on_conflict not in CONFLICT_RULES:
        raise ValueError(
            f"on_conflict={on_conflict!r} is unknown; choose one of {', '.join(CONFLICT_RULES)}"
        )
    for name, patch in (("first", first), ("second", second)):
        check_kind(name, patch, RowPatch, "a RowPatch, from RowPatch.load(path) or from_model")
    refuse_differences(
        first.identity.differences(second.identity, "first", "second"),
        "the patches belong to different models",
    )
    names = [name for name in first.tables if name in second.tables]
    moved: dict[str, Tensor] = {}
    shared = {n: _in_both(first.tables[n].rows, second.tables[n].rows) for n in names}
    scales = [name for name in first.scales if name in second.scales]
    if on_conflict == "error" and (scales or any(len(rows) for rows in shared.values())):
        raise RowConflict(
            "both patches changed "
            + ", ".join(_shared(shared, scales))
            + "; choose on_conflict='first', 'second', 'sum' or 'moved'"
        )
    theirs = second.tables
    if on_conflict == "moved":
        theirs, moved = to_free_rows(first, second, model, adapter)
        second = RowPatch(second.identity, theirs, second.scales)
    tables = first.tables | theirs
    for name in names:
        tables[name] = _merge(name, first.tables[name], second.tables[name], on_conflict)
    merged_scales = first.scales | second.scales
    for name in scales:
        merged_scales[name] = _merge_scale(
            name, first.scales[name], second.scales[name], on_conflict
        )
    patch = RowPatch(first.identity, tables, merged_scales)
    return Composition(patch, on_conflict, shared, scales, moved)


def _in_both(a: Tensor, b: Tensor) -> Tensor:
    return a[torch.isin(a, b)]


def _shared(rows: dict[str, Tensor], scales: list[str]) -> list[str]:
    """One phrase for each table and scale that both patches changed."""
    phrases = []
    for name, ids in rows.items():
        if len(ids):
            shown = ", ".join(str(int(i)) for i in ids[:5]) + (", ..." if len(ids) > 5 else "")
            phrases.append(f"{len(ids)} rows of {name} ({shown})")
    return phrases + [f"the scale of {name}" for name in scales]


def _chosen(before: Tensor, first: Tensor, second: Tensor, on_conflict: str) -> Tensor:
    """What holds where both changed `before`. The sum does not depend on the patches' order."""
    if on_conflict == "sum":
        return before + ((first - before) + (second - before))
    return second if on_conflict == "second" else first


def _merge(name: str, first: TableRows, second: TableRows, on_conflict: str) -> TableRows:
    rows = torch.unique(torch.cat([first.rows, second.rows]))
    place_1, place_2 = (torch.searchsorted(rows, t.rows) for t in (first, second))
    both_1, both_2 = torch.isin(first.rows, second.rows), torch.isin(second.rows, first.rows)
    start = first.before[both_1]
    _same_start(f"rows of {name}", start, second.before[both_2])

    before, after = (part.new_empty(len(rows), part.shape[1]) for part in (first.before,) * 2)
    updates = first.updates.new_zeros(len(rows))
    for place, table in ((place_1, first), (place_2, second)):
        before[place], after[place], updates[place] = table.before, table.after, table.updates
    both = place_1[both_1]
    after[both] = _chosen(start, first.after[both_1], second.after[both_2], on_conflict)
    counts = first.updates[both_1], second.updates[both_2]
    updates[both] = _chosen(torch.zeros_like(counts[0]), *counts, on_conflict)
    return TableRows(rows, before, after, updates)


def _merge_scale(name: str, first: Tensor, second: Tensor, on_conflict: str) -> Tensor:
    _same_start(f"the scale of {name}", first[:1], second[:1])
    return torch.stack([first[0], _chosen(first[0], first[1], second[1], on_conflict)])


def _same_start(what: str, first: Tensor, second: Tensor) -> None:
    other = first.view(torch.int32) != second.view(torch.int32)
    if other.any():
        raise ValueError(
            f"{what} start from different values in the two patches; only patches that were "
            "trained from the same start can be composed (apply them one after the other instead)"
        )
