"""A language model with sparse memories at its MLPs, in one file, for `trust_remote_code=True`.

`smf_lib.export` copies this file into the folder of a model that it writes, with the names of that
model's own classes for those imported below. It needs torch and transformers, and nothing else.

Product keys: Lample et al. 2019 (arXiv 1907.05242), section 3.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig as BaseConfig
from transformers import LlamaForCausalLM as BaseForCausalLM
from transformers import LlamaModel as BaseModel


class MemoryConfig(BaseConfig):
    """The base model's configuration, and `memories`: for each, where it is, and its shape."""

    model_type = "sparse_memory"
    memories: list | None = None


class Memory(nn.Module):
    """The rows of a trained memory that are not zero, read by product keys, in float32.

    Some programs give every parameter the model's dtype and know no others, so the rows' numbers
    are kept as three digits to the base of 256, which every floating-point dtype holds exactly.

    Args:
        width: width of the hidden states, and of a row.
        rows: how many rows of the table are kept.
        num_subkeys, num_heads, top_k, key_dim: the shape of the table and of its readers.
        query_norm: whether queries are layer-normalised.
        gated: whether the output is W_out(read * silu(W_gate x)).
        values_dtype: what rows were kept in, and are read in, "float32" or "bfloat16".
    """

    def __init__(
        self,
        width: int,
        rows: int,
        num_subkeys: int,
        num_heads: int,
        top_k: int,
        key_dim: int,
        query_norm: bool,
        gated: bool,
        values_dtype: str = "float32",
    ):
        super().__init__()
        self.num_subkeys, self.num_heads, self.top_k = num_subkeys, num_heads, top_k
        self.query_norm, self.values_dtype = query_norm, getattr(torch, values_dtype)

        def weight(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape, dtype=torch.float32), requires_grad=False)

        self.query_weight = weight(num_heads * key_dim, width)
        self.keys = weight(num_heads, 2, num_subkeys, key_dim // 2)
        self.row_digits = weight(rows, 3)  # in rising order
        self.values = weight(rows + 1, width)  # the last for all rows that are zero
        self.scale = weight()
        if gated:
            self.gate_weight, self.output_weight = weight(width, width), weight(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """What the memory adds for hidden states x of shape (..., width), before the scale."""
        flat = x.reshape(-1, x.shape[-1])
        with torch.autocast(x.device.type, enabled=False):
            flat = flat.float()
            rows, weights = self.lookup(flat)
            values = self.values.to(self.values_dtype)
            weights = weights.to(self.values_dtype)
            read = F.embedding_bag(
                self.places(rows), values, per_sample_weights=weights, mode="sum"
            ).float()
            if hasattr(self, "gate_weight"):
                gate = F.silu(F.linear(flat, self.gate_weight.float()))
                read = F.linear(read * gate, self.output_weight.float())
        return read.view(x.shape).to(x.dtype)

    def lookup(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The rows that each token reads, and their weights, both (n, heads * top_k).

        Every tensor is made on the device: a graph that a GPU records can hold no copy to it.
        """
        query = F.linear(x, self.query_weight.float()).view(len(x), self.num_heads, -1)
        if self.query_norm:
            query = F.layer_norm(query, query.shape[-1:])
        halves = query.view(len(x), self.num_heads, 2, -1)
        scores = torch.einsum("nhpc,hpsc->nhps", halves, self.keys.float())
        best, subkey = scores.topk(self.top_k, dim=-1)
        subkey[:, :, 0] *= self.num_subkeys
        # the i-th best of a half can be among the k largest sums with the k // i best of the other
        sums, rows = (
            torch.cat(
                [
                    half[:, :, 0, i : i + 1] + half[:, :, 1, : self.top_k // (i + 1)]
                    for i in range(self.top_k)
                ],
                dim=-1,
            )
            for half in (best, subkey)
        )
        top, place = sums.topk(self.top_k, dim=-1)
        return rows.gather(-1, place).flatten(1), top.softmax(dim=-1).flatten(1)

    def places(self, rows: Tensor) -> Tensor:
        """Where in `values` these rows of the table are."""
        digits = self.row_digits.long()
        kept = digits[:, 0] * 65536 + digits[:, 1] * 256 + digits[:, 2]
        kept = F.pad(kept, (0, 1), value=1 << 24)  # more than any row
        place = torch.searchsorted(kept, rows)
        return place.where(kept[place] == rows, len(kept) - 1)


class MLPWithMemory(nn.Module):
    """MLP(x) + scale * memory(x), or memory(x) where there is no MLP."""

    def __init__(self, mlp: nn.Module | None, memory: Memory):
        super().__init__()
        self.mlp, self.memory = mlp, memory

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The MLP's output with what the memory adds; of a tuple, in its first element."""
        if self.mlp is None:
            return self.memory(x).clone()
        output = self.mlp(x, *args, **kwargs)
        output, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, ())
        output = output + (self.memory.scale * self.memory(x)).to(output.dtype)
        return (output, *rest) if rest else output


def insert(model: nn.Module, config: MemoryConfig) -> None:
    """Put the memories of the configuration at the MLPs of a base model."""
    for memory in config.memories or ():
        shape = {k: v for k, v in memory.items() if k not in ("at", "replaces")}
        above, _, name = memory["at"].rpartition(".")
        parent = model.get_submodule(above)
        mlp = None if memory["replaces"] else getattr(parent, name)
        setattr(parent, name, MLPWithMemory(mlp, Memory(config.hidden_size, **shape)))


class MemoryModel(BaseModel):
    """The base model with its memories."""

    config_class = MemoryConfig
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict: ClassVar = {"memory"}

    def __init__(self, config: MemoryConfig):
        super().__init__(config)
        insert(self, config)


class MemoryForCausalLM(BaseForCausalLM):
    """The base model with its memories and the head that predicts tokens."""

    config_class = MemoryConfig
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict: ClassVar = {"memory"}

    def __init__(self, config: MemoryConfig):
        super().__init__(config)
        insert(self.base_model, config)
