"""Sparse memory finetuning as a PEFT method: the wrapped MLP and the tuner that inserts it."""

from __future__ import annotations

import copy
from collections.abc import MutableMapping, Sequence
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .config import SparseMemoryConfig
from .layer import ProductKeyMemory
from .padding import PaddingMask
from .registration import PREFIX, register
from .row_adam import step_rows_after_other_optimizers
from .rules import get_rule
from .sites import MLPSite, decoder_layers, default_layers, find_mlps


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

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Of `x`, what the wrapped module gets; the memory reads what the whole MLP gets."""
        mlp_input = x if self.tap is None else self.tap.take()
        active = [name for name in self.active_adapters if name in self.smf_memory]
        if self.disable_adapters or not active:
            return self.base_layer(x, *args, **kwargs)
        replaced = [name for name in active if name not in self.smf_scale]
        if replaced and len(active) > 1:
            raise ValueError(
                f"adapters {active} are active together and {replaced} replace the MLP; activate "
                "a replacement memory alone, with set_adapter(name)"
            )
        if replaced and (args or kwargs):
            raise ValueError(
                f"integration='replacement' cannot stand in for {type(self.base_layer).__name__}, "
                "which does more than map hidden states (it takes further arguments); use "
                "integration='additive'"
            )
        if replaced:
            return self.smf_memory[active[0]](mlp_input)
        output = self.base_layer(x, *args, **kwargs)
        for name in active:
            added = self.smf_scale[name] * self.smf_memory[name](mlp_input)
            output = output + added.to(output.dtype)
        return output

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


class SparseMemoryModel(BaseTuner):
    """The tuner behind `get_peft_model(model, SparseMemoryConfig(...))`."""

    prefix = PREFIX
    peft_config: dict[str, SparseMemoryConfig]  # type: ignore[assignment]
    tuner_layer_cls = MemoryMLP
    target_module_mapping: ClassVar[dict] = {}  # type: ignore[misc]

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Insert the memories of an adapter. The model keeps a copy of the configuration.

        Raises:
            ValueError: see `find_mlps`; a quantised MLP; a rule that is not registered, unless the
                adapter is inserted for inference.
        """
        self.peft_config[adapter_name] = copy.deepcopy(self.peft_config[adapter_name])
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_adapter_config(  # type: ignore[override]
        self, peft_config: SparseMemoryConfig, model_config: dict
    ) -> SparseMemoryConfig:
        return peft_config  # target modules come from the model itself, see _prepare_model

    def _prepare_model(  # type: ignore[override]
        self, peft_config: SparseMemoryConfig, model: nn.Module
    ) -> None:
        if not peft_config.inference_mode:
            get_rule(peft_config.rule)
        prefix, blocks = decoder_layers(model)
        if peft_config.layers is None:
            peft_config.layers = default_layers(len(blocks))
        sites = find_mlps(model, peft_config.layers)
        self.sites: dict[str, MLPSite] = {site.exit: site for site in sites}
        peft_config.target_modules = sorted(self.sites)
        if "padding" not in self.__dict__:
            self.padding = PaddingMask()
            decoder = model.get_submodule(prefix.rpartition(".")[0])
            self.padding_hooks = (
                decoder.register_forward_pre_hook(self.padding, with_kwargs=True),
                decoder.register_forward_hook(self.padding.after),
            )
        if peft_config.update == "sparse":
            step_rows_after_other_optimizers()

    def __setstate__(self, state: dict) -> None:
        """A model from a file or another process trains as the one that was saved."""
        super().__setstate__(state)
        step_rows_after_other_optimizers()

    @staticmethod
    def _check_target_module_exists(  # type: ignore[override]
        peft_config: SparseMemoryConfig, key: str
    ) -> bool:
        return key in (peft_config.target_modules or ())

    def _create_and_replace(  # type: ignore[override]
        self,
        peft_config: SparseMemoryConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs: Any,
    ) -> None:
        site = self.sites[current_key]
        if not isinstance(target, MemoryMLP):
            _refuse_quantised(current_key, target)
        memory = self._memory(peft_config, adapter_name, site, target)
        if isinstance(target, MemoryMLP):
            layer = target
        else:
            layer = MemoryMLP(target, self.model.get_submodule(site.entry))
            self._replace_module(parent, target_name, layer, target)
        layer.add_memory(adapter_name, peft_config, memory)
        layer.set_adapter(self.active_adapters)

    def _memory(
        self, config: SparseMemoryConfig, adapter_name: str, site: MLPSite, target: nn.Module
    ) -> ProductKeyMemory:
        """The memory to put at a site, where `target` is."""
        earlier = (
            module.smf_memory[adapter_name]
            for module in self.model.modules()
            if isinstance(module, MemoryMLP) and adapter_name in module.smf_memory
        )
        table = next(earlier, None) if config.share_values else None
        memory = new_memory(config, self.model.config.hidden_size, site.layer, table)
        memory.padding = self.padding
        device = next(target.parameters()).device
        empty = "meta" in (device.type, memory.keys.device.type)  # weights are loaded later
        return memory if empty else memory.to(device)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    def unload(self) -> nn.Module:
        """Give back the base model as it was before any memory was inserted."""
        layers = [module for module in self.model.modules() if isinstance(module, MemoryMLP)]
        model = super().unload()
        for hook in self.padding_hooks:
            hook.remove()
        for layer in layers:
            if layer.tap_hook is not None:
                layer.tap_hook.remove()
        return model

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel must not synchronise: the tables, which `row_adam` handles.

        DDP reads this attribute of a module; torch has no public way to say it.
        """
        names = []
        for name, module in self.model.named_modules():
            if isinstance(module, ProductKeyMemory):
                own = [n for n, _ in module.named_buffers(recurse=False)]
                if module.rule is not None:
                    own.append("values")
                names += [f"base_model.model.{name}.{n}" for n in own]
        return names


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
        rule=config.rule if config.update == "sparse" else None,
        rows_per_step=config.rows_per_step,
        max_grad_norm=config.max_grad_norm,
        seed=config.seed * 1000 + layer,
        table=table,
    )


def _refuse_quantised(name: str, mlp: nn.Module) -> None:
    held = [*mlp.parameters(), *mlp.buffers()]  # some formats keep packed weights in buffers
    for tensor in held:
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(
                f"{name} holds {tensor.dtype} weights: a memory beside or in place of a "
                "quantised MLP is not supported; load the model in float32 or bfloat16"
            )


register(SparseMemoryConfig, SparseMemoryModel)
