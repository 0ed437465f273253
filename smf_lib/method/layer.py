"""The product-key memory layer: a large table of value rows, of which each token reads a few.

Product keys: Lample et al. 2019 (arXiv 1907.05242), section 3. Gated output: Berges et al. 2024
(arXiv 2412.09764), section 2.2. Where rows are trained sparsely, the backward pass writes down who
read what with which gradient (`tape`), instead of making a gradient as large as the table, and the
optimizer step (`row_adam`) takes it from there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SparseMemoryConfig
from .operators import kernels_run, read_rows
from .padding import PaddingMask, real_tokens
from .rules import BackgroundReads, check_background
from .tape import ReadTape, RecordReads, check_recording, number_reader, waits


@torch.compiler.assume_constant_result
def candidate_pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ranks (from 0) in the two halves whose sums can be among the k largest.

    The sum of the i-th and the j-th best score (from 1) is at most that of any i' <= i, j' <= j.
    These are i * j pairs, so with i * j > k there are k others at least as large: for k = 16, 50
    of the 256 pairs are left.
    """
    return _candidate_pairs(k, device)


@lru_cache  # apart, since the compiler would look through a cache, into shapes made by data
def _candidate_pairs(k: int, device: torch.device) -> tuple[Tensor, Tensor]:
    rank = torch.arange(1, k + 1)
    first, second = (rank[:, None] * rank <= k).nonzero(as_tuple=True)
    return first.to(device), second.to(device)


class ProductKeyMemory(nn.Module):
    """A memory of num_subkeys**2 value rows, read by product keys.

    Each head cuts its query in two halves, scores each half against `num_subkeys` sub-keys, and
    reads the `top_k` rows with the largest sum of two scores, weighted by a softmax over those
    sums (Lample et al. 2019, eqs. 1-3). Heads are summed.

    Args:
        hidden_size: width d of the input and of a value row.
        num_subkeys: sub-keys per half; the table has num_subkeys**2 rows.
        num_heads: heads H, each with queries and sub-keys of its own.
        top_k: rows that a head reads for a token.
        key_dim: query width per head, even.
        query_norm: whether each head's query is layer-normalised, without learned parameters.
        gated: whether the output is W_out(read * silu(W_gate x)) (Berges et al. 2024).
        initial_values: "zero" (inserting the memory changes nothing) or "random" (std d**-0.5).
        values_dtype: what the table is kept in, "float32" or "bfloat16"; all else is in float32.
        rule: name of the selection rule by which an optimizer step chooses the rows that it
            updates; None for an ordinary gradient of the whole table.
        rows_per_step: T, how many rows an optimizer step updates. Without a rule it plays no part.
        max_grad_norm: joint norm limit of the chosen rows' gradients, or None. Without a rule it
            plays no part.
        seed: seed of the random initialisation, independent of the global generator.
        table: another memory whose value table this one shares, or None.

    Attributes:
        values: (num_subkeys**2, hidden_size) parameter, the table; of another memory where that is
            shared. Under a rule it never has a gradient.
        values_dtype: the torch.dtype in which the table is to be trained.
        row_updates: (num_subkeys**2,) int32, optimizer steps that updated each row.
        tape: the reads since the last optimizer step, where rows are trained by a rule.
        observer: called in each forward pass with the row ids that the tokens read, (n, heads *
            top_k), and which tokens are real, (n,) bool or None for all; or None.
    """

    values: nn.Parameter
    row_updates: Tensor
    background_counts: Tensor
    background_documents: Tensor
    n_background_documents: Tensor
    table: ProductKeyMemory
    readers: list[ProductKeyMemory]

    def __init__(
        self,
        hidden_size: int,
        num_subkeys: int,
        num_heads: int,
        top_k: int,
        key_dim: int,
        query_norm: bool = True,
        gated: bool = False,
        initial_values: Literal["zero", "random"] = "zero",
        values_dtype: Literal["float32", "bfloat16"] = "float32",
        rule: str | None = None,
        rows_per_step: int = 512,
        max_grad_norm: float | None = None,
        seed: int = 0,
        table: ProductKeyMemory | None = None,
    ):
        super().__init__()
        self.num_subkeys, self.num_heads, self.top_k = num_subkeys, num_heads, top_k
        self.query_norm, self.rule = query_norm, rule
        self.rows_per_step, self.max_grad_norm = rows_per_step, max_grad_norm
        self.num_rows = num_subkeys**2
        self.values_dtype = getattr(torch, values_dtype)
        half = key_dim // 2
        random = torch.Generator().manual_seed(seed)

        def uniform(*shape: int, bound: float) -> nn.Parameter:
            return nn.Parameter((torch.rand(shape, generator=random) * 2 - 1) * bound)

        linear_bound = hidden_size**-0.5
        self.query_weight = uniform(num_heads * key_dim, hidden_size, bound=linear_bound)
        self.keys = uniform(num_heads, 2, num_subkeys, half, bound=half**-0.5)
        self.gate_weight = self.output_weight = None
        if gated:
            self.gate_weight = uniform(hidden_size, hidden_size, bound=linear_bound)
            self.output_weight = uniform(hidden_size, hidden_size, bound=linear_bound)
        self.anchor = nn.Parameter(torch.zeros(()))

        if table is None:
            values = torch.zeros(self.num_rows, hidden_size)
            if initial_values == "random":
                values.normal_(std=hidden_size**-0.5, generator=random)
            self.values = nn.Parameter(values.to(self.values_dtype))
            # how many optimizer steps updated each row; zero marks a row that never changed
            self.register_buffer("row_updates", torch.zeros(self.num_rows, dtype=torch.int32))
            self.register_buffer("background_counts", torch.zeros(self.num_rows, dtype=torch.int64))
            self.register_buffer(
                "background_documents", torch.zeros(self.num_rows, dtype=torch.int32)
            )
            self.register_buffer("n_background_documents", torch.zeros((), dtype=torch.int64))
            _mark(self.values, self)
            self.readers = []
        # not registered as a submodule: the table belongs to one layer's state dict only
        self.__dict__["table"] = self if table is None else table
        self.table.readers.append(self)

        self.tape = ReadTape()
        self.number = number_reader(self)
        self.padding = PaddingMask()
        self._background: tuple[Tensor, tuple[int, int], BackgroundReads] | None = None
        self.observer: Callable[[Tensor, Tensor | None], None] | None = None

    @property
    def background(self) -> BackgroundReads | None:
        """Background reads of this memory's table, on the CPU, or None while there are none."""
        table = self.table
        counts = table.background_counts
        version = _version(counts), _version(table.n_background_documents)
        held = table._background
        if held is None or held[0] is not counts or held[1] != version:
            reads = BackgroundReads(
                counts.cpu(), table.background_documents.cpu(), int(table.n_background_documents)
            )
            # kept until the counts change: copies and sums of a table are not for every step
            held = table._background = counts, version, reads
        return held[2] if held[2].n_documents else None

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
        depend on the precision of the model around it. (Of a bfloat16 table torch rounds the
        weights of a read to bfloat16, and their sum over rows, once, which it adds up in float32;
        the kernels round neither.)
        """
        flat = x.reshape(-1, x.shape[-1])
        values, sparse = self.table.values, self.rule is not None
        recording = sparse and torch.is_grad_enabled() and values.requires_grad
        if recording:
            check_recording(self.anchor, x.device.type)
        mask = self.padding.of_this_pass()
        with torch.autocast(x.device.type, enabled=False):
            flat = flat.float()
            indices, weights = self.lookup(flat)
            if self.observer is not None:
                self.observer(indices, real_tokens(mask, len(flat)))
            if sparse and kernels_run(values.device):
                read = read_rows(values.detach(), indices, weights)
            else:
                read = F.embedding_bag(
                    indices,
                    values.detach() if sparse else values,
                    per_sample_weights=weights.to(values.dtype),
                    mode="sum",
                ).float()
            if recording:
                read = RecordReads.apply(read, self.anchor, indices, weights, mask, self.number)
            if self.gate_weight is not None and self.output_weight is not None:
                gate = F.silu(F.linear(flat, self.gate_weight.float()))
                read = F.linear(read * gate, self.output_weight.float())
        return read.view(x.shape).to(x.dtype)

    def write_down(
        self, indices: Tensor, weights: Tensor, grad: Tensor, mask: Tensor | None
    ) -> None:
        """Put one forward's reads by real tokens, and their gradients, on the tape.

        Like any gradient they add up until they are used or dropped: `zero_grad()` leaves the
        anchor without a gradient, and what earlier backward passes wrote down is then void.
        (`zero_grad(set_to_none=False)` drops nothing here unless a step came before it.)
        """
        if self.rule is not None:
            check_background(self.rule, self.background)
        _mark(self.table.values, self.table)
        grad, real = grad.float(), real_tokens(mask, len(grad))
        if real is not None and waits(grad):  # how many are real is not asked
            real = real[:, None]
            indices, grad = indices.where(real, self.table.num_rows), grad.where(real, 0.0)
        elif real is not None:
            indices, weights, grad = indices[real], weights[real], grad[real]
        self.tape.write((indices, weights, grad), goes_on=self.anchor.grad is not None)

    def __setstate__(self, state: dict) -> None:
        """A copy, or what another process sent, writes on a tape of its own."""
        super().__setstate__(state)
        self.number = number_reader(self)

    def extra_repr(self) -> str:
        """What `repr` says of the layer, as in torch."""
        rows, width = self.table.values.shape
        return f"rows={rows}, width={width}, heads={self.num_heads}, top_k={self.top_k}"


def new_memory(
    config: SparseMemoryConfig,
    hidden_size: int,
    layer: int,
    table: ProductKeyMemory | None = None,
) -> ProductKeyMemory:
    """A decoder layer's memory as its configuration starts it, on the CPU.

    Args:
        config: the settings of the memory.
        hidden_size: width of the model's hidden states.
        layer: number of the decoder layer, from 0, which the random start depends on.
        table: another memory whose value table it shares, or None.
    """
    return ProductKeyMemory(
        hidden_size=hidden_size,
        num_subkeys=config.num_subkeys,
        num_heads=config.num_heads,
        top_k=config.top_k,
        key_dim=config.key_dim,
        query_norm=config.query_norm,
        gated=config.gated,
        initial_values=config.initial_values,
        values_dtype=config.values_dtype,
        rule=config.rule if config.update == "sparse" else None,
        rows_per_step=config.rows_per_step,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed * 1000 + layer,
        table=table,
    )


def memory_of(parameter: Tensor) -> ProductKeyMemory | None:
    """The memory whose rows, trained by a rule, `parameter` holds; None for any other tensor."""
    memory = getattr(parameter, "smf_memory", None)
    found = memory is not None and memory.rule is not None and memory.values is parameter
    return memory if found else None


def _mark(values: nn.Parameter, memory: ProductKeyMemory) -> None:
    """Let `memory_of` find the memory: an optimizer knows no modules, only parameters.

    Copies of a parameter lose the mark, so it is set again in every backward pass.
    """
    values.smf_memory = memory  # type: ignore[attr-defined]


def _version(tensor: Tensor) -> int:
    """A number that changes whenever the tensor is written to; torch has no public name for it."""
    return tensor._version
