"""Sparse memory finetuning as a PEFT method: the wrapped MLP and the tuner that inserts it."""

from __future__ import annotations

from typing import ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn

from . import row_adam  # noqa: F401  (its optimizer hook is what updates the rows)
from .config import SparseMemoryConfig
from .layer import ProductKeyMemory
from .padding import PaddingMask
from .registration import PREFIX, register
from .sites import MLPSite, decoder_layers, default_layers, find_mlps


class MemoryMLP(nn.Module, BaseTunerLayer):
    """An MLP with a memory per adapter: MLP(x) + scale * memory(x), or memory(x) in its place."""

    adapter_layer_names = ("smf_memory", "smf_scale")

    def __init__(self, base_layer: nn.Module, entry: nn.Module):
        super().__init__()
        self.base_layer = base_layer
        self.smf_memory = nn.ModuleDict()
        self.smf_scale = nn.ParameterDict()
        self.configs: dict[str, SparseMemoryConfig] = {}
        self._active_adapter = []
        self.tap, self.tap_hook = None, None
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

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """x is what the wrapped module gets; the memory reads what the MLP as a whole gets."""
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

    def _freeze_non_trainable_peft_weights(self, adapter_names=None) -> None:
        """Keep to the trainable scope of each adapter (PEFT marks whole adapters as trainable)."""
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
        raise ValueError(
            "a memory cannot be merged into dense weights: which rows it reads depends on the "
            "input; keep the adapter, or use save_pretrained and PeftModel.from_pretrained"
        )

    def unmerge(self) -> None:
        raise ValueError("a memory is never merged, so there is nothing to unmerge")


class InputTap:
    """A forward pre-hook that keeps a module's input until it is taken."""

    def __init__(self):
        self.x: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple) -> None:
        self.x = args[0]

    def take(self) -> Tensor:
        x, self.x = self.x, None
        return x


class SparseMemoryModel(BaseTuner):
    """The tuner behind `get_peft_model(model, SparseMemoryConfig(...))`."""

    prefix: str = PREFIX
    tuner_layer_cls = MemoryMLP
    target_module_mapping: ClassVar[dict] = {}

    def _prepare_adapter_config(self, peft_config, model_config):
        return peft_config  # target modules come from the model itself, see _prepare_model

    def _prepare_model(self, peft_config: SparseMemoryConfig, model: nn.Module) -> None:
        prefix, blocks = decoder_layers(model)
        if peft_config.layers is None:
            peft_config.layers = default_layers(len(blocks))
        sites = find_mlps(model, peft_config.layers)
        self.sites: dict[str, MLPSite] = {site.exit: site for site in sites}
        peft_config.target_modules = sorted(self.sites)
        if "padding" not in self.__dict__:
            self.padding = PaddingMask()
            decoder = model.get_submodule(prefix.rpartition(".")[0])
            self.padding_hook = decoder.register_forward_pre_hook(self.padding, with_kwargs=True)
        self.__dict__["first_memory"] = None

    @staticmethod
    def _check_target_module_exists(peft_config: SparseMemoryConfig, key: str) -> bool:
        return key in peft_config.target_modules

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key
    ) -> None:
        site = self.sites[current_key]
        layer = target
        if not isinstance(target, MemoryMLP):
            _refuse_quantised(current_key, target)
            layer = MemoryMLP(target, self.model.get_submodule(site.entry))
            self._replace_module(parent, target_name, layer, target)
        layer.add_memory(adapter_name, peft_config, self._new_memory(peft_config, site, target))
        layer.set_adapter(self.active_adapters)

    def _new_memory(
        self, config: SparseMemoryConfig, site: MLPSite, target: nn.Module
    ) -> ProductKeyMemory:
        width = self.model.config.hidden_size
        memory = ProductKeyMemory(
            hidden_size=width,
            num_subkeys=config.num_subkeys,
            num_heads=config.num_heads,
            top_k=config.top_k,
            key_dim=config.key_dim,
            query_norm=config.query_norm,
            gated=config.gated,
            initial_values=config.initial_values,
            updates=config.row_updates,
            seed=config.seed * 1000 + site.layer,
            table=self.first_memory if config.share_values else None,
        )
        if self.first_memory is None:
            self.__dict__["first_memory"] = memory
        memory.padding = self.padding
        device = next(target.parameters()).device
        empty = "meta" in (device.type, memory.keys.device.type)  # weights are loaded later
        return memory if empty else memory.to(device)

    def _replace_module(self, parent, child_name, new_module, child) -> None:
        setattr(parent, child_name, new_module)

    def unload(self) -> nn.Module:
        """Give back the base model as it was before any memory was inserted."""
        layers = [module for module in self.model.modules() if isinstance(module, MemoryMLP)]
        model = super().unload()
        self.padding_hook.remove()
        for layer in layers:
            if layer.tap_hook is not None:
                layer.tap_hook.remove()
        return model

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DistributedDataParallel must not synchronise: the tables, which `row_adam` handles."""
        names = []
        for name, module in self.model.named_modules():
            if isinstance(module, ProductKeyMemory):
                own = [n for n, _ in module.named_buffers(recurse=False)]
                if module.updates is not None:
                    own.append("values")
                names += [f"base_model.model.{name}.{n}" for n in own]
        return names


def _refuse_quantised(name: str, mlp: nn.Module) -> None:
    held = [*mlp.parameters(), *mlp.buffers()]  # some formats keep packed weights in buffers
    for tensor in held:
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise ValueError(
                f"{name} holds {tensor.dtype} weights: a memory beside or in place of a "
                "quantised MLP is not supported; load the model in float32 or bfloat16"
            )


register(SparseMemoryConfig, SparseMemoryModel)
