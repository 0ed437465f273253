"""Memories in a model that several processes share: FSDP2 and distributed checkpoints.

A table is trained by rows, from a tape and not from a gradient, so it stays whole in each process.
FSDP2 can be told so. DeepSpeed cannot, and is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import StateDictType, fully_shard

from .arguments import MODEL, check_kind
from .layer import ProductKeyMemory, memory_of
from .mlp import MemoryMLP, refuse_deepspeed
from .sites import decoder_layers
from .text_part import text_part

if TYPE_CHECKING:  # it brings data sets and tables with it, which the method does without
    from transformers import Trainer

MEMORY_MODULES = r".*\.smf_(memory|scale)"  # by accelerate's rule: whole names of modules

# ------------------------------------------------------------------ FSDP2


def shard_base(model: nn.Module, **settings: Any) -> nn.Module:
    """Share the base model out among processes by FSDP2; memories stay whole in each of them.

    It is `torch.distributed.fsdp.fully_shard` for each decoder layer and then for the model, with
    the memories' parameters ignored. Call it in every process after the memory was put in and
    before the optimizer is made; the rest of the script is that of any FSDP2 training:

        model = shard_base(get_peft_model(base, SparseMemoryConfig(...)))
        optimizer = RowAdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)

    All memories start as those of the first process. What is trained of them besides rows (the
    scale, queries, keys, gates) has its gradients averaged over processes, as chosen rows have.

    Args:
        model: a model with a memory, on any device; changed in place.
        settings: further arguments of `fully_shard`, such as `mesh` or `mp_policy`.

    Returns:
        the model.

    Raises:
        ValueError: the model has no memory or no list of decoder layers, or `ignored_params` is
            among the settings.
    """
    check_kind("model", model, nn.Module, MODEL)
    if "ignored_params" in settings:
        raise ValueError(
            "ignored_params is what shard_base sets; leave it out, or call "
            "torch.distributed.fsdp.fully_shard with smf_lib.method.distributed.memory_parameters"
        )
    ignored = memory_parameters(model)
    if not ignored:
        raise ValueError(
            f"model={type(model).__name__} has no memory; insert one with "
            "peft.get_peft_model(model, SparseMemoryConfig(...)), or use fully_shard itself"
        )
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    for layer in decoder_layers(text_part(inner)[1])[1]:
        fully_shard(layer, ignored_params=set(ignored), **settings)
    fully_shard(model, ignored_params=set(ignored), **settings)
    device = next(p.device for p in model.parameters() if p not in ignored)
    keep_together(model, device)
    return model


def prepare_sharding(trainer: Trainer) -> bool:
    """Whether the trainer shards its model; by FSDP2, which is told to ignore memories, or refused.

    Raises:
        ValueError: DeepSpeed; the first version of FSDP; FSDP that loads weights later; or sharded
            checkpoints of touched rows.
    """
    if trainer.is_deepspeed_enabled:
        refuse_deepspeed()
    if not trainer.is_fsdp_enabled:
        return False
    plugin = trainer.accelerator.state.fsdp_plugin
    for setting, wanted in (("fsdp_version", 2), ("cpu_ram_efficient_loading", False)):
        if getattr(plugin, setting) != wanted:
            raise ValueError(
                f"{setting}={getattr(plugin, setting)} of FSDP cannot train a memory, which stays "
                f"whole in each process; set it to {wanted}"
            )
    configs = getattr(trainer.model, "peft_config", {}).values()
    if plugin.state_dict_type == StateDictType.SHARDED_STATE_DICT and any(
        getattr(config, "save_rows", "all") == "touched" for config in configs
    ):
        raise ValueError(
            "save_rows='touched' cannot be resumed from sharded checkpoints of FSDP, which are "
            "read into tensors of known shapes; set save_rows='all', or state_dict_type to "
            "FULL_STATE_DICT"
        )
    given = plugin.ignored_modules
    if given is None or isinstance(given, str):
        plugin.ignored_modules = "|".join(filter(None, [given, MEMORY_MODULES]))
    else:
        layers = [m for m in trainer.model.modules() if isinstance(m, MemoryMLP)]
        own: list[Any] = [part for m in layers for part in (m.smf_memory, m.smf_scale)]
        plugin.ignored_modules = [*given, *own]
    return True


def memory_parameters(model: nn.Module) -> set[nn.Parameter]:
    """All parameters of a model's memories, scales among them: what FSDP2 must ignore."""
    layers = [module for module in model.modules() if isinstance(module, MemoryMLP)]
    return {p for layer in layers for n, p in layer.named_parameters() if n.startswith("smf_")}


@torch.no_grad()
def keep_together(model: nn.Module, device: torch.device | None = None) -> None:
    """Give every process the first one's memories, and the mean of their gradients from now on.

    The mean is taken once a backward pass has added up a parameter's gradient. (Of what earlier
    micro-batches left there it is the mean already, which the mean of does not change.)

    Args:
        model: a model with memories, the same in all processes.
        device: where memories are to be; None: where they are.
    """
    parameters = memory_parameters(model)
    for module in model.modules():
        if isinstance(module, ProductKeyMemory) and device is not None:
            module.to(device)
    for parameter in parameters:
        parameter.data = parameter.data.to(device or parameter.device)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor in parameters or ".smf_memory." in name:
            dist.broadcast(tensor, 0)
    for parameter in parameters:
        meets = parameter.requires_grad and memory_of(parameter) is None
        if meets and not hasattr(parameter, "smf_mean_gradient"):  # once, however often called
            parameter.smf_mean_gradient = True  # type: ignore[attr-defined]
            parameter.register_post_accumulate_grad_hook(_mean_gradient)


def _mean_gradient(parameter: Tensor) -> None:
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


# ------------------------------------------------------------------ distributed checkpoints


class TrainingState:
    """What `torch.distributed.checkpoint` saves and loads of a training with memories.

        state = {"training": TrainingState(model, optimizer)}
        torch.distributed.checkpoint.save(state, checkpoint_id=folder)
        torch.distributed.checkpoint.load(state, checkpoint_id=folder)  # into model and optimizer

    That package fills tensors that are there already, of the shapes that were saved. An optimizer
    keeps the moments of the rows that it has touched, whose number is not known before, so they
    are handed over as bytes. Frozen weights are left out: they are the base model's.

    Args:
        model: a model with memories, sharded or not.
        optimizer: an optimizer of what is trained of it.

    Raises:
        ValueError: the one is no model, or the other no optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer):
        check_kind("model", model, nn.Module, MODEL)
        check_kind("optimizer", optimizer, torch.optim.Optimizer, "an optimizer of torch")
        self.model, self.optimizer = model, optimizer
        self.options = StateDictOptions(ignore_frozen_params=True, strict=False)

    def state_dict(self) -> dict[str, Any]:
        """Trained weights, buffers and the optimizer's state by the model's names.

        Returns:
            `model` and `optimizer`, as torch's `get_state_dict` gives them, the latter without the
            tables; `rows`, the bytes of the tables' own states.
        """
        fresh = not self.optimizer.state
        model, optimizer = get_state_dict(self.model, self.optimizer, options=self.options)
        if fresh:  # torch took an empty step to see what the state is like
            self.optimizer.state.clear()
            for entry in optimizer["state"].values():
                entry |= {"step": torch.zeros(())} if "step" in entry else {}
        rows = {name: optimizer["state"].pop(name, {}) for name in self._tables()}
        kept = {  # not the moments of a whole table, which torch may have put there
            name: state
            for name, state in rows.items()
            if state and ("slots" in state or "exp_avg" not in state)
        }
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        return {"model": model, "optimizer": optimizer, "rows": buffer.getvalue()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put what `state_dict` gave into the model and the optimizer.

        Raises:
            KeyError: a part of it is missing.
            RuntimeError: it is of a model of other shapes.
        """
        rows = torch.load(io.BytesIO(state["rows"]), map_location="cpu", weights_only=True)
        entries = dict(state["optimizer"]["state"]) | {n: rows.get(n, {}) for n in self._tables()}
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict={**state["optimizer"], "state": entries},
            options=self.options,
        )

    def _tables(self) -> list[str]:
        """The names of the tables that are trained by rows."""
        return [n for n, p in self.model.named_parameters() if memory_of(p) and p.requires_grad]
