"""`SparseMemoryConfig`: the settings of sparse memory finetuning as a PEFT method."""

from __future__ import annotations

from dataclasses import dataclass, field

from peft.config import PeftConfig

from .registration import PEFT_TYPE
from .rules import RowUpdates, get_rule

INTEGRATIONS = ("additive", "replacement")
INITIAL_VALUES = ("zero", "random")
UPDATES = ("sparse", "dense")
TRAINABLE = ("values", "values+scale", "memory")


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r} is unknown; choose one of {', '.join(allowed)}")


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


@dataclass
class SparseMemoryConfig(PeftConfig):
    """Settings of sparse memory finetuning (Lin et al., arXiv 2510.15103; arXiv 2605.03229).

    `get_peft_model(model, SparseMemoryConfig(layers=[8, 15, 22], rule="kl"))` puts a product-key
    memory beside (or in place of) the MLP of each named layer and trains nothing else.

    Raises:
        ValueError: a setting out of range; the message names it, its value and what is allowed.
    """

    layers: list[int] | None = field(
        default=None,
        metadata={
            "help": "Indices of the decoder layers that get a memory, from 0. "
            "None: three layers, at one quarter, half and three quarters of the depth."
        },
    )
    integration: str = field(
        default="additive",
        metadata={"help": "'additive': MLP(x) + scale * memory(x); 'replacement': memory(x)."},
    )
    num_subkeys: int = field(
        default=128, metadata={"help": "Sub-keys per half; a table has num_subkeys**2 rows."}
    )
    num_heads: int = field(default=4, metadata={"help": "Heads, summed."})
    top_k: int = field(default=16, metadata={"help": "Rows that a head reads for a token."})
    key_dim: int = field(default=256, metadata={"help": "Query width per head, even."})
    query_norm: bool = field(
        default=True, metadata={"help": "Layer-normalise each head's query before scoring."}
    )
    gated: bool = field(
        default=False, metadata={"help": "Output W_out(read * silu(W_gate x)) instead of the read."}
    )
    initial_values: str = field(
        default="zero",
        metadata={
            "help": "'zero': inserting the memory leaves the model's function as it was "
            "(additive); 'random': normal, std hidden_size**-0.5."
        },
    )
    initial_scale: float = field(
        default=1.0, metadata={"help": "Start of the scalar on an additive memory's output."}
    )
    share_values: bool = field(
        default=False, metadata={"help": "One value table for all layers instead of one each."}
    )
    update: str = field(
        default="sparse",
        metadata={
            "help": "'sparse': only the rows chosen for the step change; 'dense': ordinary "
            "gradients for the whole table (the paper's stage 1)."
        },
    )
    trainable: str = field(
        default="values",
        metadata={
            "help": "'values'; 'values+scale' (the paper's +S); 'memory': also queries, "
            "keys and gates."
        },
    )
    rule: str = field(
        default="kl",
        metadata={
            "help": "Row selection rule: kl, tfidf, count, random, all, or one registered "
            "with smf_lib.register_rule."
        },
    )
    rows_per_step: int = field(
        default=512, metadata={"help": "T, rows to update per table and optimizer step."}
    )
    max_grad_norm: float | None = field(
        default=1.0,
        metadata={
            "help": "Joint norm limit of the chosen rows' gradients. A Trainer's own "
            "max_grad_norm acts on all other parameters."
        },
    )
    seed: int = field(
        default=0, metadata={"help": "Seed of the random initialisation of queries and keys."}
    )
    target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Filled in from `layers` when the memory is inserted."},
    )

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        _choice("integration", self.integration, INTEGRATIONS)
        _choice("initial_values", self.initial_values, INITIAL_VALUES)
        _choice("update", self.update, UPDATES)
        _choice("trainable", self.trainable, TRAINABLE)
        for name in ("num_subkeys", "num_heads", "top_k", "key_dim", "rows_per_step"):
            _positive(name, getattr(self, name))
        if self.num_subkeys > 4096:
            raise ValueError(
                f"num_subkeys={self.num_subkeys} makes {self.num_subkeys**2} rows; at most 4096 "
                "sub-keys (2**24 rows) are supported"
            )
        if self.top_k > self.num_subkeys:
            raise ValueError(
                f"top_k={self.top_k} must be at most num_subkeys={self.num_subkeys}: each half "
                "offers only that many candidates"
            )
        if self.key_dim % 2:
            raise ValueError(f"key_dim={self.key_dim} must be even: a query is cut in two halves")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(
                f"max_grad_norm={self.max_grad_norm} must be positive, or None for no limit"
            )
        if self.integration == "replacement" and self.trainable == "values+scale":
            raise ValueError(
                "trainable='values+scale' needs integration='additive': a memory that replaces "
                "the MLP has no scale"
            )
        get_rule(self.rule)
        if self.layers is not None:
            listed = isinstance(self.layers, (list, tuple))
            layers = list(self.layers) if listed else self.layers
            if (
                not listed
                or not layers
                or len(set(layers)) != len(layers)
                or any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in layers)
            ):
                raise ValueError(
                    f"layers={layers!r} must be a list of different layer numbers from 0 upwards, "
                    "at least one"
                )
            self.layers = sorted(layers)

    @property
    def row_updates(self) -> RowUpdates | None:
        """The row update settings, None for dense updates."""
        if self.update == "dense":
            return None
        return RowUpdates(self.rule, self.rows_per_step, self.max_grad_norm)
