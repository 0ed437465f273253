"""The product-key memory layer: a large table of value rows, of which each token reads a few.

Product keys: Lample et al. 2019 (arXiv 1907.05242), section 3. Gated output: Berges et al. 2024
(arXiv 2412.09764), section 2.2. Strictly sparse updates need one thing from this file: during the
backward pass the layer writes down who read what with which output gradient (`ReadTape`), instead
of making a gradient as large as the table.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .padding import PaddingMask, real_tokens
from .rules import BackgroundReads, RowUpdates, check_background


@dataclass
class ReadTape:
    """All reads since the last optimizer step: the sparse stand-in for a dense gradient.

    Entries are (indices (n, r) int64, weights (n, r) float32, grad (n, d) float32): token t read
    row indices[t, j] with weight weights[t, j], and grad[t] is the loss gradient of the read.
    `backward_pass` is autograd's number of the backward pass that wrote last; `unused` counts
    how often in a row entries were dropped before an optimizer step used them.
    """

    entries: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    backward_pass: int = -1
    unused: int = 0

    def drop(self) -> None:
        """Forget reads whose gradients were dropped; say so if it seems to be a mistake."""
        self.unused += bool(self.entries)
        self.entries.clear()
        if self.unused == 3:
            warnings.warn(
                "row gradients were dropped three times without an optimizer step: give the "
                "optimizer the memory's `values` parameters. Wrappers that replace parameters "
                "(FSDP, DeepSpeed ZeRO) cannot train memory rows; use data parallelism (DDP)",
                stacklevel=2,
            )

    def row_gradient(self, rows: Tensor) -> Tensor:
        """Loss gradient of the given rows, shape (len(rows), d) float32. `rows` sorted, unique.

        Row r's gradient is the sum over its readers t of weight * grad[t]: an embedding bag over
        tokens, whose cost follows the reads and never the table. With the reads in the order of
        the rows, those of one row are one stretch.
        """
        total = None
        for indices, weights, grad in self.entries:
            read_rows, order = indices.flatten().sort(stable=True)
            begin = torch.searchsorted(read_rows, rows)
            length = torch.searchsorted(read_rows, rows, right=True) - begin
            bag = length.cumsum(0) - length  # where a row's reads begin among those of all `rows`
            within = torch.arange(int(length.sum()), device=rows.device)
            reads = order[(begin - bag).repeat_interleave(length, output_size=len(within)) + within]
            part = F.embedding_bag(
                reads // indices.shape[1],
                grad,
                bag,
                per_sample_weights=weights.flatten()[reads],
                mode="sum",
            )
            total = part if total is None else total + part
        return total


@lru_cache
def candidate_pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks (from 0) in the two halves whose sums can be among the k largest.

    The sum of the i-th and the j-th best score (from 1) is at most that of any i' <= i, j' <= j.
    These are i * j pairs, so with i * j > k there are k others at least as large: for k = 16, 50
    of the 256 pairs are left.
    """
    rank = torch.arange(1, k + 1)
    first, second = (rank[:, None] * rank <= k).nonzero(as_tuple=True)
    return first.to(device), second.to(device)


class _RecordReads(torch.autograd.Function):
    """Identity on the read; its backward writes the read and its gradient on the tape.

    It runs in the backward pass so that a forward repeated by gradient checkpointing counts once.
    `anchor` is a scalar parameter that is always zero: it puts the read into the autograd graph
    when nothing below is trained, and is what data-parallel wrappers see of the table.
    """

    @staticmethod
    def forward(ctx, read, anchor, indices, weights, memory):
        ctx.save_for_backward(indices, weights)
        ctx.memory, ctx.mask = memory, memory.padding.mask
        return read.view_as(read)

    @staticmethod
    def backward(ctx, grad):
        indices, weights = ctx.saved_tensors
        ctx.memory.write_down(indices, weights.detach(), grad, real_tokens(ctx.mask, len(grad)))
        return grad, grad.new_zeros(()), None, None, None


class ProductKeyMemory(nn.Module):
    """A memory of `num_subkeys`**2 value rows, read by product keys.

    Each head cuts its query in two halves, scores each half against `num_subkeys` sub-keys, and
    reads the `top_k` rows with the largest sum of two scores, weighted by a softmax over those
    sums (Lample et al. 2019, eqs. 1-3). Heads are summed.

    Args:
        hidden_size: width d of the input and of a value row.
        num_subkeys: sub-keys per half; the table has num_subkeys**2 rows.
        num_heads: heads h, each with queries and sub-keys of its own.
        top_k: rows that a head reads for a token.
        key_dim: query width per head, even.
        query_norm: whether each head's query is layer-normalised, without learned parameters.
        gated: whether the output is W_out(read * silu(W_gate x)) (Berges et al. 2024).
        initial_values: "zero" (inserting the memory changes nothing) or "random" (std d**-0.5).
        updates: how `smf_lib.method.row_adam` updates rows, or None for a dense gradient of the whole table
            (the paper's stage 1).
        seed: seed of the random initialisation, independent of the global generator.
        table: another memory whose value table this one shares, or None.
    """

    def __init__(
        self,
        hidden_size: int,
        num_subkeys: int,
        num_heads: int,
        top_k: int,
        key_dim: int,
        query_norm: bool = True,
        gated: bool = False,
        initial_values: str = "zero",
        updates: RowUpdates | None = None,
        seed: int = 0,
        table: ProductKeyMemory | None = None,
    ):
        super().__init__()
        self.num_subkeys, self.num_heads, self.top_k = num_subkeys, num_heads, top_k
        self.query_norm, self.updates = query_norm, updates
        self.num_rows = num_subkeys**2
        half = key_dim // 2
        random = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=random) * 2 - 1) * bound)

        linear_bound = hidden_size**-0.5
        self.query_weight = uniform(num_heads * key_dim, hidden_size, bound=linear_bound)
        self.keys = uniform(num_heads, 2, num_subkeys, half, bound=half**-0.5)
        if gated:
            self.gate_weight = uniform(hidden_size, hidden_size, bound=linear_bound)
            self.output_weight = uniform(hidden_size, hidden_size, bound=linear_bound)
        else:
            self.gate_weight = self.output_weight = None
        self.anchor = nn.Parameter(torch.zeros(()))

        if table is None:
            values = torch.zeros(self.num_rows, hidden_size)
            if initial_values == "random":
                values.normal_(std=hidden_size**-0.5, generator=random)
            self.values = nn.Parameter(values)
            # how many optimizer steps updated each row; zero marks a row that never changed
            self.register_buffer("row_updates", torch.zeros(self.num_rows, dtype=torch.int32))
            self.register_buffer("background_counts", torch.zeros(self.num_rows, dtype=torch.int64))
            self.register_buffer(
                "background_documents", torch.zeros(self.num_rows, dtype=torch.int32)
            )
            self.register_buffer("n_background_documents", torch.zeros((), dtype=torch.int64))
        # not registered as submodules: the table belongs to one layer's state dict only
        self.__dict__["table"] = self if table is None else table
        self.table.__dict__.setdefault("readers", []).append(self)

        self.tape = ReadTape()
        self.padding = PaddingMask()
        self.observer: Callable[[Tensor, Tensor | None], None] | None = None

    @property
    def background(self) -> BackgroundReads | None:
        """Background reads of this memory's table, on the CPU, or None while there are none."""
        table, counts = self.table, self.table.background_counts
        version = counts._version, table.n_background_documents._version
        source, held_version, held = table.__dict__.get("held_background", (None, None, None))
        if source is not counts or held_version != version:
            held = BackgroundReads(
                counts.cpu(), table.background_documents.cpu(), int(table.n_background_documents)
            )
            # kept until the counts change: copies and sums of a table are not for every step
            table.__dict__["held_background"] = counts, version, held
        return held if held.n_documents else None

    def lookup(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows that each token reads, and with which weights.

        Args:
            x: (n, hidden_size) float32.

        Returns:
            indices (n, num_heads * top_k) int64 and weights of the same shape, float32; a head's
            weights sum to one.
        """
        n, k = x.shape[0], self.top_k
        query = F.linear(x, self.query_weight.float()).view(n, self.num_heads, -1)
        if self.query_norm:
            query = F.layer_norm(query, query.shape[-1:])
        halves = query.view(n, self.num_heads, 2, -1)
        scores = torch.einsum("nhpc,hpsc->nhps", halves, self.keys.float())  # p: half, s: sub-key
        with torch.no_grad():  # the search; only the scores of what it finds need a gradient
            best, subkey = scores.topk(k, dim=-1)  # (n, h, 2, k), the best first
            first, second = candidate_pairs(k, x.device)
            sums = best[:, :, 0].index_select(-1, first) + best[:, :, 1].index_select(-1, second)
            place = sums.topk(k, dim=-1).indices
            ranks = torch.stack([first[place], second[place]], dim=2)
            found = subkey.gather(-1, ranks)  # (n, h, 2, k): the two sub-keys of each row
            indices = found[:, :, 0] * self.num_subkeys + found[:, :, 1]
        top = scores.gather(-1, found).sum(2)
        return indices.flatten(1), top.softmax(dim=-1).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Memory output for hidden states x of shape (..., hidden_size), in x's dtype and shape.

        Everything here runs in float32, also under autocast, so that the rows a token reads do not
        depend on the precision of the model around it.
        """
        flat = x.reshape(-1, x.shape[-1])
        values, sparse = self.table.values, self.updates is not None
        recording = sparse and torch.is_grad_enabled() and values.requires_grad
        if recording:
            self._check_trainable(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            flat = flat.float()
            indices, weights = self.lookup(flat)
            if self.observer is not None:
                self.observer(indices, real_tokens(self.padding.mask, len(flat)))
            read = F.embedding_bag(
                indices,
                values.detach() if sparse else values,
                per_sample_weights=weights.to(values.dtype),
                mode="sum",
            ).float()
            if recording:
                read = _RecordReads.apply(read, self.anchor, indices, weights, self)
            if self.gate_weight is not None:
                gate = F.silu(F.linear(flat, self.gate_weight.float()))
                read = F.linear(read * gate, self.output_weight.float())
        return read.view(x.shape).to(x.dtype)

    def _check_trainable(self, device_type: str) -> None:
        """Refuse what would train in silence and wrongly."""
        if torch.is_autocast_enabled(device_type) and (
            torch.get_autocast_dtype(device_type) == torch.float16
        ):
            raise ValueError(
                "fp16=True cannot train a memory: float16 needs a scaled loss, and the gradients "
                "of the rows would keep that scale; use bf16=True, or full precision"
            )
        if getattr(self, "_is_replica", False):
            raise ValueError(
                "torch.nn.DataParallel cannot train a memory; start one process per GPU with "
                "torchrun or accelerate launch, or show one GPU only (CUDA_VISIBLE_DEVICES=0)"
            )
        if not self.anchor.requires_grad:
            raise ValueError("requires_grad=True on `values` needs it on `anchor` as well")

    def write_down(
        self, indices: Tensor, weights: Tensor, grad: Tensor, real: Tensor | None
    ) -> None:
        """Put one forward's reads by real tokens, and their gradients, on the tape.

        Like any gradient they add up until they are used or dropped: `zero_grad()` leaves the
        anchor without a gradient, and what earlier backward passes wrote down is then void.
        (`zero_grad(set_to_none=False)` drops nothing here unless a step came before it.)
        """
        check_background(self.updates.rule, self.background)
        this_pass = torch._C._current_graph_task_id()
        if self.anchor.grad is None and self.tape.backward_pass != this_pass:
            self.tape.drop()
        self.tape.backward_pass = this_pass
        self.table.values.smf_memory = self.table  # how the optimizer finds the tapes of a table
        entry = (indices, weights, grad.float())
        self.tape.entries.append(entry if real is None else tuple(part[real] for part in entry))

    def extra_repr(self) -> str:
        rows, width = self.table.values.shape
        return f"rows={rows}, width={width}, heads={self.num_heads}, top_k={self.top_k}"
