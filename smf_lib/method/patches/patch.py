"""Row patches: a finetune as the table rows it changed, to apply, revert and compose.

A patch keeps the values of its rows from before training as well as those from after, so that
reverting is exact bit for bit whatever the table held; where every earlier value is zero, the
default start, the file leaves them out. Values from before come from the memory's configuration
(zeros, or the seed's random values) or, if training went on from a trained memory, from an
adapter that holds that memory. Reads of background text are not part of a patch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..layer import ProductKeyMemory, new_memory
from ..mlp import MemoryMLP
from ..sites import layer_number
from .file import PatchFileError, read_patch_file, write_patch_file
from .identity import Identity, memory_mlps, smf_tuner

CHUNK = 65_536  # rows compared at a time, which bounds the memory that a check takes


@dataclass(frozen=True)
class TableRows:
    """The changed rows of one table: all on the CPU.

    Attributes:
        rows: (n,) int64, ascending row ids.
        before: (n, d) float32, their values before training; of a bfloat16 table too.
        after: (n, d) float32, their values after it.
        updates: (n,) int32, optimizer steps that updated each row.
    """

    rows: Tensor
    before: Tensor
    after: Tensor
    updates: Tensor

    def __post_init__(self) -> None:
        n = len(self.rows)
        if self.before.shape != self.after.shape or not n == len(self.after) == len(self.updates):
            raise ValueError(
                f"rows={n}, before={tuple(self.before.shape)}, after={tuple(self.after.shape)} and "
                f"updates={len(self.updates)} do not fit together"
            )
        if self.rows.dim() != 1 or self.after.dim() != 2 or self.updates.dim() != 1:
            raise ValueError("rows and updates must have one dimension, before and after two")
        kinds = {"before": torch.float32, "after": torch.float32, "rows": torch.int64}
        for part, kind in kinds.items():
            if getattr(self, part).dtype != kind:
                raise ValueError(f"{part} is {getattr(self, part).dtype}; it must be {kind}")
        if self.updates.dtype != torch.int32 or bool((self.updates < 1).any()):
            raise ValueError("updates must be int32 counts of at least 1")
        if n and (self.rows[0] < 0 or not bool((self.rows.diff() > 0).all())):
            raise ValueError("rows must be ascending row ids from 0, each once")
        if not bool(torch.isfinite(self.before).all() and torch.isfinite(self.after).all()):
            raise ValueError("before and after must be numbers; some are NaN or infinite")


@dataclass(frozen=True)
class RowPatch:
    """A finetune as the rows it changed, and the model that they fit.

    Attributes:
        identity: the base model and memory that the patch belongs to.
        tables: changed rows by the name of the layer that owns the table.
        scales: trained output scales (+S) by layer name, (2,) float32: before and after.
    """

    identity: Identity
    tables: dict[str, TableRows]
    scales: dict[str, Tensor]

    @property
    def n_rows(self) -> int:
        """Changed rows, over all tables."""
        return sum(len(table.rows) for table in self.tables.values())

    @classmethod
    @torch.no_grad()
    def from_model(
        cls, model: nn.Module, adapter: str = "default", start: str | None = None
    ) -> RowPatch:
        """The rows of `adapter` that training updated.

        Args:
            model: a PEFT model with a sparse memory.
            adapter: the trained adapter.
            start: another adapter of the model that holds the memory as it was before training
                (`model.load_adapter(folder, "start")`); None if it started as its configuration
                initialises it.

        Raises:
            ValueError: unknown adapter; a memory that is not trained by rows alone, or has dense
                weights trained beside it; no updated row; a row that changed though it was never
                updated; a start of another memory.
        """
        adapters = smf_tuner(model, adapter).peft_config
        if start is not None and (not isinstance(start, str) or start not in adapters):
            raise ValueError(
                f"start={start!r} is no adapter of the model, which has {', '.join(adapters)}"
            )
        config = adapters[adapter]
        if config.update != "sparse" or config.trainable == "memory":
            raise ValueError(
                f"update={config.update!r}, trainable={config.trainable!r} changes more than rows; "
                "a row patch holds a finetune with update='sparse' and trainable='values' or "
                "'values+scale'; store this one with save_pretrained"
            )
        for name in ("modules_to_save", "trainable_token_indices"):
            if getattr(config, name) is not None:
                raise ValueError(
                    f"{name}={getattr(config, name)!r} trains dense weights beside the memory, and "
                    "a row patch cannot hold them; store this finetune with save_pretrained"
                )
        identity = Identity.of(model, adapter)
        if start is not None:
            refuse_differences(
                identity.differences(Identity.of(model, start), repr(adapter), repr(start)),
                f"start={start!r} is not where adapter={adapter!r} started from",
            )
        tables, scales = {}, {}
        for name, mlp in memory_mlps(model, adapter).items():
            memory = mlp.smf_memory[adapter]
            origin = None if start is None else mlp.smf_memory[start]
            if memory.table is memory:
                if origin is None and config.initial_values == "random":
                    width = memory.values.shape[1]
                    origin = new_memory(config, width, layer_number(name))
                tables[name] = _changed_rows(name, memory, origin)
            if adapter in mlp.smf_scale:
                first = (
                    config.initial_scale if start is None else mlp.smf_scale[start].detach().item()
                )
                scale = torch.tensor([first, mlp.smf_scale[adapter].detach().item()])
                if not _same_bits(scale[:1], scale[1:]):
                    scales[name] = scale
        patch = cls(identity, tables, scales)
        if patch.n_rows == 0:
            raise ValueError(f"adapter={adapter!r} has no updated rows; train it first")
        return patch

    @classmethod
    def load(cls, path: str | Path) -> RowPatch:
        """Read a patch. Raises `PatchFileError` (a ValueError), see `read_patch_file`."""
        tensors, content = read_patch_file(path, _check_content)
        try:
            return cls._of(tensors, content)
        except ValueError as error:
            raise PatchFileError(f"{path}: {error}") from None

    @classmethod
    def _of(cls, tensors: dict[str, Tensor], content: dict) -> RowPatch:
        tables = {}
        for name in content["tables"]:
            after = tensors[f"{name}/after"]
            before = tensors.get(f"{name}/before")
            before = torch.zeros_like(after) if before is None else before
            rows = tensors[f"{name}/rows"]
            if rows.dtype != torch.int32:
                raise ValueError(f"table {name}: rows are {rows.dtype}; they must be torch.int32")
            try:
                tables[name] = TableRows(rows.long(), before, after, tensors[f"{name}/updates"])
            except ValueError as error:
                raise ValueError(f"table {name}: {error}") from None
        scales = {name: tensors[f"{name}/scale"] for name in content["scales"]}
        for name, scale in scales.items():
            if scale.shape != (2,) or scale.dtype != torch.float32 or not scale.isfinite().all():
                raise ValueError(f"scale {name}: it must be two numbers in torch.float32")
        return cls(Identity(**content["identity"]), tables, scales)

    def save(self, path: str | Path) -> Path:
        """Write the patch to one safetensors file, whole or not at all; returns its path."""
        tensors = {f"{name}/scale": scale for name, scale in self.scales.items()}
        for name, table in self.tables.items():
            tensors[f"{name}/rows"] = table.rows.to(torch.int32)
            tensors[f"{name}/after"] = table.after
            tensors[f"{name}/updates"] = table.updates
            if table.before.view(torch.int32).any():
                tensors[f"{name}/before"] = table.before
        content = {
            "identity": asdict(self.identity),
            "tables": list(self.tables),
            "scales": list(self.scales),
        }
        return write_patch_file(path, tensors, content)

    def apply(self, model: nn.Module, adapter: str = "default") -> None:
        """Put the finetune into a model whose rows hold the values from before it.

        Nothing is written unless all of it can be.

        Raises:
            ValueError: another base model or memory (each difference is named, with both
                values), or rows that hold other values than the patch's earlier ones.
        """
        self._swap(model, adapter, applying=True)

    def revert(self, model: nn.Module, adapter: str = "default") -> None:
        """Take the finetune out again: the exact opposite of `apply`, with the same errors."""
        self._swap(model, adapter, applying=False)

    @torch.no_grad()
    def _swap(self, model: nn.Module, adapter: str, applying: bool) -> None:
        found = Identity.of(model, adapter)
        differences = self.identity.differences(found, "the patch", "the model")
        refuse_differences(differences, "the patch does not fit the model")
        mlps = memory_mlps(model, adapter)
        for name, table in self.tables.items():
            memory = _owner_of(name, table, mlps, adapter)
            check_rows_hold(f"rows of {name}", memory, table, applying)
            _check_counts(name, table, memory, 1 if applying else -1)
        for name, scale in self.scales.items():
            old = scale[:1] if applying else scale[1:]
            if name not in mlps or adapter not in mlps[name].smf_scale:
                raise ValueError(f"the patch has a scale of {name}, where the model has none")
            held = mlps[name].smf_scale[adapter]
            if not _same_bits(held.cpu().view(1), old):
                raise ValueError(
                    f"the scale of {name} is {float(held)!r} and the patch expects {float(old)!r}; "
                    + _other_values(applying)
                )
        for name, table in self.tables.items():
            memory = mlps[name].smf_memory[adapter]
            rows = table.rows.to(memory.values.device)
            new, sign = (table.after, 1) if applying else (table.before, -1)
            memory.values[rows] = new.to(memory.values)
            memory.row_updates[rows] += sign * table.updates.to(memory.row_updates.device)
        for name, scale in self.scales.items():
            mlps[name].smf_scale[adapter].copy_(scale[1 if applying else 0])


def _changed_rows(
    name: str, memory: ProductKeyMemory, origin: ProductKeyMemory | None
) -> TableRows:
    """Rows updated since `origin` (None: zeros), after checking that no other row differs."""
    values = memory.values.detach()
    if values.dtype != memory.values_dtype:
        raise ValueError(
            f"the values of {name} are {values.dtype}; keep them in {memory.values_dtype}"
        )
    updates = memory.row_updates
    if origin is not None:
        updates = updates - origin.row_updates.to(updates.device)
        if (updates < 0).any():
            raise ValueError(f"start has updated rows of {name} more often than the adapter has")
    start = None if origin is None else origin.values.detach().to(values)
    for begin in range(0, len(values), CHUNK):
        part = slice(begin, begin + CHUNK)
        expected = 0 if start is None else start[part].float().view(torch.int32)
        held = values[part].float().view(torch.int32)
        differs = (held != expected).any(1) & (updates[part] == 0)
        if differs.any():
            raise ValueError(
                f"{int(differs.sum())} rows of {name} were never updated and differ from the "
                f"start, the first is row {begin + int(differs.nonzero()[0])}; if training went "
                "on from a trained memory, load that as another adapter and name it in start"
            )
    rows = updates.nonzero().squeeze(1)
    after = values[rows].cpu().float()
    before = torch.zeros_like(after) if start is None else start[rows].cpu().float()
    return TableRows(rows.cpu(), before, after, updates[rows].cpu())


def _check_content(content: dict, tensors: set[str]) -> None:
    """Refuse what a file says it holds, or holds, that no patch has. No tensor is read yet."""
    fields = {"base_config": dict, "base_weights": str, "memory_config": dict}
    fields |= {"memory_weights": str}
    identity = content.get("identity")
    if not isinstance(identity, dict) or {k: type(v) for k, v in identity.items()} != fields:
        raise ValueError("identity does not say which model the patch belongs to")
    for part in ("tables", "scales"):
        names = content.get(part)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{part} must be a list of names of layers")
        if len(set(names)) < len(names):
            raise ValueError(f"{part} names a layer twice")
    needed = {f"{n}/{part}" for n in content["tables"] for part in ("rows", "after", "updates")}
    needed |= {f"{name}/scale" for name in content["scales"]}
    further = tensors - needed - {f"{name}/before" for name in content["tables"]}
    if needed - tensors:
        raise ValueError(f"it lacks the tensors {', '.join(sorted(needed - tensors))}")
    if further:
        raise ValueError(f"it holds tensors that are no part of it: {', '.join(sorted(further))}")


def _owner_of(
    name: str, table: TableRows, mlps: dict[str, MemoryMLP], adapter: str
) -> ProductKeyMemory:
    """The memory whose table the rows belong to, refused unless it has a place for all of them."""
    memory = mlps[name].smf_memory[adapter] if name in mlps else None
    if memory is None or memory.table is not memory:
        raise ValueError(f"the patch has rows of {name}, where the model has no table of its own")
    rows, width = memory.values.shape
    if table.after.shape[1] != width:
        raise ValueError(f"rows of {name} are {table.after.shape[1]} wide, the model's {width}")
    if len(table.rows) and int(table.rows[-1]) >= rows:
        raise ValueError(f"row {int(table.rows[-1])} of {name} is not among the model's {rows}")
    return memory


def _check_counts(name: str, table: TableRows, memory: ProductKeyMemory, sign: int) -> None:
    """Refuse updates that would make the model's count of a row negative, or too large."""
    counts = memory.row_updates.cpu()[table.rows].long() + sign * table.updates.long()
    if len(counts) and (counts.min() < 0 or counts.max() > torch.iinfo(torch.int32).max):
        raise ValueError(f"updates of {name} do not fit those that the model has counted")


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a.view(torch.int32), b.view(torch.int32))


def check_rows_hold(what: str, memory: ProductKeyMemory, table: TableRows, applying: bool) -> None:
    """Refuse a table whose rows do not hold what the patch is about to replace.

    A bfloat16 table holds the numbers of a patch rounded.
    """
    values = memory.values
    if values.dtype != memory.values_dtype:
        raise ValueError(
            f"the {what} are {values.dtype} and are to be {memory.values_dtype}, as configured"
        )
    old = (table.before if applying else table.after).to(values.dtype).float()
    held = values[table.rows.to(values.device)].cpu().float()
    other = (held.view(torch.int32) != old.view(torch.int32)).any(1)
    if other.any():
        raise ValueError(
            f"{int(other.sum())} of {len(old)} {what} hold other values than the patch expects, "
            f"the first is row {int(table.rows[other][0])}; {_other_values(applying)}"
        )


def _other_values(applying: bool) -> str:
    if applying:
        return "revert what was applied or trained there, or compose the two patches"
    return "apply the patch first; what was applied after it must be reverted before it"


def refuse_differences(differences: list[str], problem: str) -> None:
    """Raise ValueError with the problem and everything that differs, if anything does."""
    if differences:
        raise ValueError(f"{problem}: {'; '.join(differences)}")
