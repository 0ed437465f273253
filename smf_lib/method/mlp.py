"""An MLP with memories beside it, or in its place: what the tuner puts where the MLP was."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any, NoReturn

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .adapters import in_rows
from .config import SparseMemoryConfig
from .layer import ProductKeyMemory


class MemoryMLP(nn.Module, BaseTunerLayer):
    """An MLP with a memory per adapter: MLP(x) + scale * memory(x), or memory(x) in its place."""

    adapter_layer_names = ("smf_memory", "smf_scale")
    smf_memory: MutableMapping[str, ProductKeyMemory]
    smf_scale: MutableMapping[str, nn.Parameter]

    def __init__(self, base_layer: nn.Module, entry: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.smf_memory = nn.ModuleDict()  # type: ignore[assignment]
        self.smf_scale = nn.ParameterDict()  # type: ignore[assignment]
        self.configs: dict[str, SparseMemoryConfig] = {}
        self.row_adapters: Sequence[str] | None = None  # of a batch with several
        self.tap: InputTap | None = None
        self.tap_hook: RemovableHandle | None = None
        if entry is not base_layer:  # the MLP's input is seen by another module than its output
            self.tap = InputTap()
            self.tap_hook = entry.register_forward_pre_hook(self.tap)

    def add_memory(
        self, adapter_name: str, config: SparseMemoryConfig, memory: ProductKeyMemory
    ) -> None:
        """Give this layer a memory for the adapter."""
        self.smf_memory[adapter_name] = memory
        if config.integration == "additive":
            scale = torch.tensor(float(config.initial_scale), device=memory.keys.device)
            self.smf_scale[adapter_name] = nn.Parameter(scale)
        self.configs[adapter_name] = config

    def _move_adapter_to_device_of_base_layer(
        self, adapter_name: str, device: torch.device | None = None
    ) -> None:
        """Move an adapter to where the MLP is, or to `device`; PEFT calls this after loading.

        PEFT's own looks for the `weight` that a linear map has, and takes its dtype as well; a
        memory keeps its own.
        """
        if device is None:
            device = next(self.base_layer.parameters()).device
            if device.type == "meta":  # its weights are elsewhere, or not loaded yet
                return
        if adapter_name not in self.smf_memory:
            return
        memory = self.smf_memory[adapter_name]
        if memory.keys.device.type == "meta":
            return
        memory.to(device)
        if adapter_name in self.smf_scale:
            scale = self.smf_scale[adapter_name]
            moved = scale.detach().to(device)
            self.smf_scale[adapter_name] = nn.Parameter(moved, scale.requires_grad)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Of `x`, what the wrapped module gets; the memory reads what the whole MLP gets."""
        mlp_input = x if self.tap is None else self.tap.take()
        if self.row_adapters is not None:
            return self._mixed(self.row_adapters, mlp_input, x, *args, **kwargs)
        active = [name for name in self.active_adapters if name in self.smf_memory]
        if self.disable_adapters or not active:
            return self.base_layer(x, *args, **kwargs)
        replaced = [name for name in active if name not in self.smf_scale]
        if replaced and len(active) > 1:
            raise ValueError(
                f"adapters {active} are active together and {replaced} replace the MLP; activate "
                "a replacement memory alone, with set_adapter(name)"
            )
        if replaced:
            self._check_replaced(args, kwargs)
            # a copy: some decoders (Falcon) add to it in place, which a view of a read forbids
            return self.smf_memory[active[0]](mlp_input).clone()
        output, rest = _first(self.base_layer(x, *args, **kwargs))
        for name in active:
            added = self.smf_scale[name] * self.smf_memory[name](mlp_input)
            output = output + added.to(output.dtype)
        return (output, *rest) if rest else output

    def _check_replaced(self, args: tuple, kwargs: dict) -> None:
        if args or kwargs:
            raise ValueError(
                f"integration='replacement' cannot stand in for {type(self.base_layer).__name__}, "
                "which does more than map hidden states (it takes further arguments); use "
                "integration='additive'"
            )

    def _mixed(
        self, names: Sequence[str], mlp_input: Tensor, x: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """The output where each row of the batch has the adapter that `names` says."""
        output, rest = _first(self.base_layer(x, *args, **kwargs))
        for name in sorted(set(names) & set(self.smf_memory)):
            read = self.smf_memory[name](mlp_input)
            if name in self.smf_scale:
                changed = output + (self.smf_scale[name] * read).to(output.dtype)
            else:
                self._check_replaced(args, kwargs)
                changed = read
            output = in_rows(names, name, changed, output)
        return (output, *rest) if rest else output

    def set_adapter(self, adapter_names: str | list[str], inference_mode: bool = False) -> None:
        """Activate adapters and train, of each, what its `trainable` says."""
        super().set_adapter(adapter_names, inference_mode)
        self._keep_to_scopes()

    def set_requires_grad(
        self, adapter_names: str | Sequence[str], requires_grad: bool = True
    ) -> None:
        """Train, of these adapters, what their `trainable` says, or nothing."""
        super().set_requires_grad(adapter_names, requires_grad)
        self._keep_to_scopes()

    def _keep_to_scopes(self) -> None:
        """Freeze what is outside of an adapter's scope (PEFT trains whole adapters)."""
        for name, memory in self.smf_memory.items():
            scope = self.configs[name].trainable
            if scope == "memory":
                continue
            kept = {id(memory.table.values), id(memory.anchor)}
            for parameter in memory.parameters():
                if id(parameter) not in kept:
                    parameter.requires_grad_(False)
            if scope == "values" and name in self.smf_scale:
                self.smf_scale[name].requires_grad_(False)

    def set_deepspeed_parallelism(self, *args: Any, **kwargs: Any) -> None:
        """Refused: DeepSpeed calls this of each module that has it when it takes a model.

        Raises:
            ValueError: always.
        """
        refuse_deepspeed()

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: what a memory adds depends on the input.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "a memory cannot be merged into dense weights: which rows it reads depends on the "
            "input; keep the adapter, or use save_pretrained and PeftModel.from_pretrained"
        )

    def unmerge(self) -> None:
        """Refused, since `merge` is.

        Raises:
            ValueError: always.
        """
        raise ValueError("a memory is never merged, so there is nothing to unmerge")


def refuse_deepspeed() -> NoReturn:
    """Refuse DeepSpeed at any of its stages.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "DeepSpeed, at any ZeRO stage, cannot train a memory: it flattens parameters and their "
        "gradients, and a table has no gradient; use data parallelism (torchrun, accelerate), or "
        "share the base model out with smf_lib.shard_base (FSDP2)"
    )


def _first(output: Tensor | tuple[Any, ...]) -> tuple[Tensor, tuple[Any, ...]]:
    """What an MLP puts out, and what it hands on beside it (a mixture of experts its routing)."""
    return (output[0], output[1:]) if isinstance(output, tuple) else (output, ())


class InputTap:
    """A forward pre-hook that keeps a module's input until it is taken."""

    def __init__(self) -> None:
        self.x: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple) -> None:
        """Keep what the MLP gets."""
        self.x = args[0]

    def take(self) -> Tensor:
        """The input of the running forward pass, which is then let go."""
        x, self.x = self.x, None
        if x is None:
            raise RuntimeError("an MLP's second part ran without its first in this forward pass")
        return x
