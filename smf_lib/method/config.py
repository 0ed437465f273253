"""`SparseMemoryConfig`: the settings of sparse memory finetuning as a PEFT method."""

import copy
from dataclasses import dataclass, fields
from math import isinf, isnan
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from peft.config import PeftConfig

from .adapters import check_adapter_file
from .card import WEIGHTS, write_card
from .registration import PEFT_TYPE
from .rules import get_rule

SEEDS = 10**15
WIDEST = 2**18  # of the queries of all heads together: keys are then at most 4.3 GB a layer
FORMAT_VERSION = 1  # of what a saved folder holds; a change that old code cannot read raises it


@dataclass
class SparseMemoryConfig(PeftConfig):
    """Settings of sparse memory finetuning (Lin et al., arXiv 2510.15103; arXiv 2605.03229).

    `get_peft_model(model, SparseMemoryConfig(layers=[8, 15, 22], rule="kl"))` puts a product-key
    memory beside (or in place of) the MLP of each named layer and trains nothing else. The
    object itself is never changed by this: the model keeps a copy, in which `layers` and
    `target_modules` are filled in, and which is saved with the adapter.

    What the memory is (fixed once it is inserted):

    Args:
        layers: numbers of the decoder layers that get a memory, from 0, in any order. None: three
            layers, at one quarter, half and three quarters of the depth, which in a model of 24
            layers are those of arXiv 2605.03229 (6, 12 and 18).
        integration: "additive": the layer gives MLP(x) + scale * memory(x). "replacement": it
            gives memory(x) in place of MLP(x), as in Berges et al. (arXiv 2412.09764).
        num_subkeys: sub-keys per half, from `top_k` to 4096. A table has num_subkeys**2 rows, each
            as wide as the model's hidden states (Lample et al., arXiv 1907.05242, section 3).
        num_heads: heads, from 1 to 1024, each with queries and sub-keys of its own; what they read
            is summed (Lample et al., section 3). num_heads * key_dim is at most 262,144.
        top_k: rows that a head reads for a token, from 1 to `num_subkeys`. A token thus reads up
            to num_heads * top_k rows (Lample et al., equations 1 to 3).
        key_dim: width of a head's query, even, up to 65,536: its halves are compared with the
            sub-keys, which are key_dim / 2 wide.
        query_norm: whether each head's query is layer-normalised, without learned parameters,
            before it is compared. (Lample et al. have batch normalisation there.)
        gated: whether the output is W_out(read * silu(W_gate x)) instead of the read, with two
            square matrices as wide as the hidden states (Berges et al., section 2.2).
        initial_values: "zero": all values start at 0, so that an additive memory leaves the
            model's function as it was to the bit. "random": normal, with standard deviation
            hidden_size**-0.5.
        initial_scale: where the scalar on an additive memory's output starts, any finite number.
            It is trained only with `trainable` "values+scale" or "memory".
        share_values: whether all layers read one value table; otherwise each has its own.
        values_dtype: what a table's numbers are kept in, beside a model of any dtype. "float32": 4
            bytes each. "bfloat16": 2 bytes, in memory and in the saved adapter; a read is rounded
            to bfloat16. Updates too small for bfloat16 are not lost, since the optimizer keeps a
            float32 master of each row that a step ever chose, and the row is its rounding. In all
            that takes less memory while less than a third of the rows was chosen. A saved adapter
            holds the rounded rows: masters are saved with the optimizer, and begin at the rows
            again without it. It needs `update` "sparse".
        update: "sparse": an optimizer step changes only the rows that `rule` chooses. "dense":
            the whole table gets an ordinary gradient (stage 1 of arXiv 2605.03229), and `rule`,
            `rows_per_step` and `max_grad_norm` play no part.
        trainable: "values": the table alone. "values+scale": also the scalar of an additive
            memory (+S in arXiv 2605.03229). "memory": also queries, keys and gates.
        rule: which of the rows that a batch read are updated. "kl" (arXiv 2605.03229) and "tfidf"
            (Lin et al.) prefer rows that background text seldom reads, and need
            `smf_lib.collect_background` before training; "count" takes the most read rows,
            "random" any that were read, "all" every one; or the name of a rule of your own, see
            `smf_lib.register_rule`. The name is not checked where a trained memory is loaded for
            inference.
        rows_per_step: T, the number of rows of one table that an optimizer step updates, at least
            1 (fewer where fewer were read).
        max_grad_norm: limit of the joint norm of the chosen rows' gradients, over all tables with
            the same limit, above 0; None for no limit. (The limit of the same name of a training
            loop or a Trainer acts on all other parameters.)
        seed: seed of the random start of queries, keys, gates and random values: a whole number
            within -10**15 and 10**15.
            Layers differ from each other.
        modules_to_save: names of modules that are trained whole, and saved, beside the memory, such
            as `["score"]` for a new head (PEFT adds the head of a classifier by itself). They train
            like any dense weights. None: none.
        trainable_token_indices: ids of tokens whose embeddings are trained, and saved, beside the
            memory; or a dictionary of such lists by the embedding's name. None: none.
        save_rows: which rows of a table `save_pretrained`, `push_to_hub` and checkpoints of a
            Trainer hold. "all": the whole table. "touched": the rows that training changed, and of
            all else what is not as the seed makes it; PEFT's ways to load make the rest again, to
            the same bits, or refuse where the seed makes other numbers than it did. (The ways of
            transformers itself, `model.load_adapter`, `AutoModel.from_pretrained` of the folder and
            `pipeline`, do not: they report missing weights and go on without the rows.)
        target_modules: leave it out; filled in from `layers` when the memory is inserted.
        format_version: leave it out; the version of the saved folder's layout, which
            `save_pretrained` fills in. None, in folders that were saved before there was one, is 1.

    The remaining settings are those of every `peft.PeftConfig`, such as `task_type="CAUSAL_LM"`.

    Raises:
        ValueError: a setting out of range; the message names it, its value and what is allowed.
    """

    layers: list[int] | None = None
    integration: Literal["additive", "replacement"] = "additive"
    num_subkeys: int = 128
    num_heads: int = 4
    top_k: int = 16
    key_dim: int = 256
    query_norm: bool = True
    gated: bool = False
    initial_values: Literal["zero", "random"] = "zero"
    initial_scale: float = 1.0
    share_values: bool = False
    values_dtype: Literal["float32", "bfloat16"] = "float32"
    update: Literal["sparse", "dense"] = "sparse"
    trainable: Literal["values", "values+scale", "memory"] = "values"
    rule: str = "kl"
    rows_per_step: int = 512
    max_grad_norm: float | None = 1.0
    seed: int = 0
    modules_to_save: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None
    save_rows: Literal["all", "touched"] = "all"
    target_modules: list[str] | None = None
    format_version: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        for field in fields(self):
            if get_origin(field.type) is Literal:
                _choice(field.name, getattr(self, field.name), get_args(field.type))
        for name in ("num_subkeys", "num_heads", "top_k", "key_dim", "rows_per_step"):
            _positive(name, getattr(self, name))
        for name in ("query_norm", "gated", "share_values"):
            _choice(name, getattr(self, name), (True, False))
        _number("initial_scale", self.initial_scale)
        if isinf(self.initial_scale):
            raise ValueError(f"initial_scale={self.initial_scale} must be a finite number")
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise ValueError(f"seed={self.seed!r} must be a whole number")  # noqa: TRY004
        if abs(self.seed) > SEEDS:  # times a thousand, and a layer's number, torch takes it
            raise ValueError(f"seed={self.seed} must lie within -{SEEDS} and {SEEDS}")
        for name, most in (("num_heads", 1024), ("key_dim", 65_536)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name}={getattr(self, name)} is too large; at most {most} can be"
                )
        if self.num_heads * self.key_dim > WIDEST:
            raise ValueError(
                f"num_heads={self.num_heads} times key_dim={self.key_dim} are queries that are "
                f"{self.num_heads * self.key_dim} wide; at most {WIDEST} can be: lower one of them"
            )
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
        if self.max_grad_norm is not None:
            _number("max_grad_norm", self.max_grad_norm)
            if not self.max_grad_norm > 0:
                raise ValueError(
                    f"max_grad_norm={self.max_grad_norm} must be positive, or None for no limit"
                )
        if self.integration == "replacement" and self.trainable == "values+scale":
            raise ValueError(
                "trainable='values+scale' needs integration='additive': a memory that replaces "
                "the MLP has no scale"
            )
        if self.values_dtype != "float32" and self.update == "dense":
            raise ValueError(
                f"values_dtype={self.values_dtype!r} needs update='sparse': an ordinary optimizer "
                "keeps no float32 masters of a table, and small updates would vanish"
            )
        version = self.format_version
        if version not in (None, FORMAT_VERSION) or isinstance(version, bool):
            raise ValueError(
                f"format_version={version!r} of a saved memory is not known to this "
                f"smf_lib, which reads {FORMAT_VERSION}; install the smf_lib that wrote it"
            )
        if not isinstance(self.rule, str):
            raise ValueError(f"rule={self.rule!r} must be the name of a rule")  # noqa: TRY004
        if not self.inference_mode:
            get_rule(self.rule)
        if self.layers is not None:
            self.layers = _layers(self.layers)
        if not _are(self.modules_to_save, str):
            raise ValueError(
                f"modules_to_save={self.modules_to_save!r} must be a list of names, or None"
            )
        tokens = self.trainable_token_indices
        if not all(
            _are(ids, int) for ids in (tokens.values() if isinstance(tokens, dict) else [tokens])
        ):
            raise ValueError(
                f"trainable_token_indices={tokens!r} must be a list of token ids, a dictionary of "
                "such lists, or None"
            )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        subfolder: str | None = None,
        **kwargs: Any,
    ) -> "SparseMemoryConfig":
        """The settings in a folder or at the Hub, as `PeftConfig.from_pretrained` reads them.

        Raises:
            ValueError: as the class; or weights beside them in the folder are not of their shape.
        """
        path = str(pretrained_model_name_or_path)
        config = super().from_pretrained(path, subfolder, **kwargs)
        weights = Path(path) / (subfolder or "") / WEIGHTS
        if weights.is_file():
            check_adapter_file(weights, config.shapes())
        return config

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """How the shapes of a memory's tensors begin, by the ends of their names."""
        rows = (self.num_subkeys**2,)
        return {
            ".smf_memory.values": rows,
            ".smf_memory.row_updates": rows,
            ".smf_memory.keys": (self.num_heads, 2, self.num_subkeys, self.key_dim // 2),
            ".smf_memory.query_weight": (self.num_heads * self.key_dim,),
        }

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Write the settings and the format's version, and the folder's model card (`card`)."""
        saved = copy.copy(self)
        saved.format_version = FORMAT_VERSION
        super(SparseMemoryConfig, saved).save_pretrained(save_directory, **kwargs)
        write_card(Path(save_directory), self)


def _choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if not any(value == one and type(value) is type(one) for one in allowed):
        known = ", ".join(map(str, allowed))
        raise ValueError(f"{name}={value!r} is unknown; choose one of {known}")


def _number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or isnan(value):
        raise ValueError(f"{name}={value!r} must be a number")


def _positive(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1")


def _are(values: object, kind: type) -> bool:
    """Whether a setting is None, or a list of such things."""
    return values is None or (
        isinstance(values, (list, tuple, set)) and all(type(value) is kind for value in values)
    )


def _layers(layers: Any) -> list[int]:
    """The layer numbers, sorted."""
    listed = isinstance(layers, (list, tuple))
    if (
        not listed
        or not layers
        or any(not isinstance(i, int) or isinstance(i, bool) or i < 0 for i in layers)
        or len(set(layers)) != len(layers)
    ):
        raise ValueError(
            f"layers={layers!r} must be a list of different layer numbers from 0 upwards, "
            "at least one"
        )
    return sorted(layers)
