"""`SparseMemoryCallback`: what memory rows need of transformers' Trainer and of TRL's trainers.

A Trainer trains rows without it (`row_adam`), and logs them (`row_log`). The callback adds what a
Trainer does for dense weights and cannot do for rows: it collects the background that the rule
compares with, gives rows a learning rate of their own, and clips them as it clips the rest.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from itertools import islice
from math import inf
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .background import collect_background, memories
from .distributed import keep_together, prepare_sharding
from .layer import ProductKeyMemory, new_memory
from .mlp import MemoryMLP
from .row_adam import check_row_step, warn_of_rate
from .row_log import RowLog
from .rules import check_background, get_rule
from .sites import layer_number
from .writing import write_text

if TYPE_CHECKING:  # it brings data sets and tables with it, which the method does without
    from transformers import Trainer


class SparseMemoryCallback(RowLog):
    """Prepares, clips and logs the memory rows of a transformers Trainer, or one of TRL's.

        trainer = SFTTrainer(model, args, train_dataset=..., peft_config=SparseMemoryConfig(...))
        trainer.add_callback(SparseMemoryCallback(trainer, background=texts, learning_rate=3e-2))
        trainer.train()

    Before the first step it collects the background, if the memory's rule compares with one; a
    training that goes on from a checkpoint keeps the background that was saved with it. Rows are
    clipped by the `max_grad_norm` of the Trainer's arguments, which takes the place of the
    configuration's: the joint gradient norm of all chosen rows, apart from the other parameters.
    It changes nothing else of what a step does to rows. A memory that the trainer has put into
    bfloat16 (TRL's do so beside a quantised base) is put back into float32, and its tables into
    their `values_dtype`. A Trainer that shares the model out by FSDP2 is told to leave memories
    whole.

    Each line of the Trainer's log, also in what `report_to` names, gets what `RowLog` says of the
    last step: `grad_norm` over rows and other parameters together, `smf/row_grad_norm`,
    `smf/learning_rate`, `smf/rows_chosen`, `smf/rows_touched` and `smf/overlap_with_last_step`.
    (It does without the callback, too.)

    Args:
        trainer: the Trainer that it will be added to.
        background: text that the new task is not about. "model": the model, its adapters switched
            off, writes it. Otherwise any iterable, such as a data set's split, of texts, of lists
            of token ids, or of rows with a column `text` or `input_ids`. None: what
            `smf_lib.collect_background` counted before.
        sequences: how many background documents are used, the first ones, at least 1.
        tokens: how many tokens of each are used, at least 2.
        learning_rate: the learning rate of rows, in a parameter group of its own that the
            scheduler scales like the others; None: that of the Trainer's arguments.

    Raises:
        ValueError: an argument that cannot work; the trainer's model has no memory, or the trainer
            wraps it in what cannot train one (DeepSpeed, the first FSDP); or, at the start of
            training: the rule needs a background and there is none, or what was given is no text;
            the optimizer cannot train rows, or it does not hold them; the trainer is another one.
    """

    def __init__(
        self,
        trainer: Trainer,
        background: str | Iterable | None = None,
        sequences: int = 256,
        tokens: int = 128,
        learning_rate: float | None = None,
    ):
        model = getattr(trainer, "model", None)
        if not isinstance(model, nn.Module) or not memories(model):
            raise ValueError(
                f"trainer.model={type(model).__name__} has no memory; give the trainer a "
                "model from peft.get_peft_model(model, SparseMemoryConfig(...))"
            )
        given = background is not None and background != "model"
        if given and (isinstance(background, (str, Mapping)) or not _holds_some(background)):
            raise ValueError(
                f"background={background!r:.80} is no collection of texts; give 'model', a list of "
                "texts or of token ids, or one split of a data set"
            )
        for name, value, least in (("sequences", sequences, 1), ("tokens", tokens, 2)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}={value!r} must be a whole number of at least {least}")
        if learning_rate is not None:
            number = isinstance(learning_rate, (int, float)) and not isinstance(learning_rate, bool)
            if not number or not 0 < learning_rate < inf:
                raise ValueError(f"learning_rate={learning_rate!r} must be a number above 0")
            if trainer.optimizer is not None:
                raise ValueError(
                    f"learning_rate={learning_rate} comes too late: the trainer has its optimizer; "
                    "give the memories' `values` a parameter group of their own in it"
                )
            _give_rows_a_rate(trainer, learning_rate)
        super().__init__()
        self.sharded = prepare_sharding(trainer)
        _keep_dtypes(trainer.model)
        self.trainer, self.background = trainer, background
        self.sequences, self.tokens = sequences, tokens

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Collect the background, and refuse here what could not be trained."""
        super().on_train_begin(args, state, control, **kwargs)
        callbacks = self.trainer.callback_handler.callbacks
        if self not in callbacks:
            raise ValueError(
                "trainer: this SparseMemoryCallback was made for another trainer; make one for "
                "each, SparseMemoryCallback(trainer, ...)"
            )
        callbacks.remove(self)
        callbacks.insert(0, self)  # those that write a log come after what is added to it
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        if self.sharded:
            keep_together(model)
        found = memories(model).values()
        trained = [m for m in found if m.rule is not None and m.table.values.requires_grad]
        tables = [m for m in trained if m.table is m]
        _check_optimizer(optimizer, tables)
        self._collect(model, tables, resumed=state.global_step > 0)
        for memory in trained:
            memory.max_grad_norm = args.max_grad_norm or None
        for layer in model.modules():
            if isinstance(layer, MemoryMLP):
                for name, memory in layer.smf_memory.items():
                    if memory in trained:
                        layer.configs[name].max_grad_norm = memory.max_grad_norm

    def _collect(self, model: nn.Module, tables: list[ProductKeyMemory], resumed: bool) -> None:
        """Count the background's reads, where a rule compares with them."""
        needing = [t for t in tables if t.rule is not None and get_rule(t.rule).needs_background]
        there = all(table.background is not None for table in needing)
        if needing and self.background is not None and not (resumed and there):
            if isinstance(self.background, str):
                seed = self.trainer.args.seed
                documents = write_text(model, self._tokenizer(), self.sequences, self.tokens, seed)
            else:
                documents = self.background = self._documents(self.background)  # read it once
            collect_background(model, documents)
            self._share_counts(needing)
        for table in needing:
            try:
                check_background(table.rule or "", table.background)
            except ValueError as error:
                raise ValueError(
                    f"{error}; or give SparseMemoryCallback(trainer, background=...) texts, or "
                    "background='model'"
                ) from None

    def _documents(self, background: Iterable) -> list[list[int]]:
        """Token ids of the first documents, cut to length; empty ones are passed over."""
        documents = (self._ids(row)[: self.tokens] for row in background)
        found = list(islice(filter(None, documents), self.sequences))
        if not found:
            raise ValueError("background has no text; give at least one document")
        return found

    def _ids(self, row: Any) -> list[int]:
        if isinstance(row, Mapping):
            column = next((name for name in ("input_ids", "text") if name in row), None)
            if column is None:
                raise ValueError(
                    f"background has the columns {', '.join(map(str, row))}; it needs `text` or "
                    "`input_ids`: rename one, or give a list of texts"
                )
            row = row[column]
        if isinstance(row, str):
            return self._tokenizer()(row)["input_ids"]
        if not _holds_some(row):
            raise ValueError(
                f"background holds {row!r:.40}, which is no text; give texts, lists of token ids, "
                "or rows with a column `text` or `input_ids`"
            )
        return [int(token) for token in row]

    def _tokenizer(self) -> Any:
        """The trainer's tokenizer (that of its processor, where it has one)."""
        processing = self.trainer.processing_class
        if processing is None:
            raise ValueError(
                "background needs a tokenizer and the trainer has none; give the trainer "
                "processing_class=tokenizer, or give the background as lists of token ids"
            )
        return getattr(processing, "tokenizer", processing)

    @staticmethod
    def _share_counts(tables: list[ProductKeyMemory]) -> None:
        """Let all processes have the first one's counts: other hardware may round differently."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for table in tables:
                dist.broadcast(table.background_counts, 0)
                dist.broadcast(table.background_documents, 0)


def _holds_some(given: object) -> bool:
    """Whether one can go through it."""
    return hasattr(given, "__iter__") or hasattr(given, "__getitem__")


def _check_optimizer(optimizer: Any, tables: list[ProductKeyMemory]) -> None:
    """Refuse an optimizer that would not train rows; warn if its rate is too low for them."""
    if not tables:
        return
    own = {id(table.values) for table in tables}
    groups = [g for g in optimizer.param_groups for p in g["params"] if id(p) in own]
    if len(groups) < len(tables):
        raise ValueError(
            f"optimizer={type(optimizer).__name__} does not hold the memories' `values`: it "
            "was made for another model, or a wrapper replaced them (FSDP, DeepSpeed ZeRO); "
            "make it from the model's own parameters, and use data parallelism (DDP)"
        )
    optimizer = getattr(optimizer, "optimizer", optimizer)
    check_row_step(optimizer)
    warn_of_rate(optimizer, groups)


def _give_rows_a_rate(trainer: Trainer, learning_rate: float) -> None:
    """Have the trainer make its optimizer with memory rows in parameter groups of their own.

    A Trainer makes the optimizer when training starts, before it makes the scheduler and loads
    what a checkpoint holds, so that both know of the groups.
    """
    make = trainer.create_optimizer

    def create_optimizer(model: nn.Module | None = None) -> torch.optim.Optimizer:
        new = trainer.optimizer is None
        optimizer = make() if model is None else make(model)
        if new:
            found = memories(trainer.model).values()
            rows = {id(m.table.values) for m in found if m.rule is not None}
            for group in list(optimizer.param_groups):
                own = [p for p in group["params"] if id(p) in rows]
                if own:
                    group["params"] = [p for p in group["params"] if id(p) not in rows]
                    settings = {k: v for k, v in group.items() if k != "params"}
                    optimizer.add_param_group(settings | {"params": own, "lr": learning_rate})
        return optimizer

    trainer.create_optimizer = create_optimizer


def _keep_dtypes(model: nn.Module) -> None:
    """Put memories back into float32 (tables into the dtype that they are to have).

    Parameters stay the objects that a trainer knows.

    What no step has changed gets the numbers again that its seed makes; what was trained before
    goes on from rounded ones, which is told.
    """
    trained = False
    for place, layer in model.named_modules():
        if not isinstance(layer, MemoryMLP):
            continue
        dtypes = {
            f"smf_memory.{name}.values": memory.values_dtype
            for name, memory in layer.smf_memory.items()
        }
        rounded = {
            name: parameter
            for name, parameter in layer.named_parameters()
            if "smf_" in name
            and parameter.dtype in (torch.bfloat16, torch.float16, torch.float32)
            and parameter.dtype != dtypes.get(name, torch.float32)
        }
        began = _as_they_began(place, layer) if rounded else {}
        for name, parameter in rounded.items():
            if name in began:
                parameter.data = began[name].to(parameter.device)
                continue
            trained |= dtypes.get(name) == torch.float32 and bool(parameter.any())
            parameter.data = parameter.data.to(dtypes.get(name, torch.float32))
    if trained:
        warnings.warn(
            "the trainer rounded a memory that was trained before to bfloat16, and it goes on in "
            "float32 from the rounded values; to go on from the very values, load the adapter "
            "again once the trainer is made: trainer.model.load_adapter(folder, name, "
            "is_trainable=True)",
            stacklevel=3,
        )


def _as_they_began(place: str, layer: MemoryMLP) -> dict[str, Tensor]:
    """The tensors of a layer's memories that no step has changed, in float32, by their names."""
    found: dict[str, Tensor] = {}
    for name, memory in layer.smf_memory.items():
        config = layer.configs[name]
        if config.update == "sparse" and not memory.table.row_updates.any():
            number = layer_number(place.removeprefix("base_model.model."))
            began = new_memory(config, memory.table.values.shape[1], number).state_dict()
            found |= {f"smf_memory.{name}.{key}": tensor for key, tensor in began.items()}
    return found
