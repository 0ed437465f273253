"""Sparse memory finetuning as a PEFT method: the tuner that inserts memories into a model."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import nn

from .adapters import (
    check_adapter_is_free,
    check_adapter_name,
    check_adapter_state,
    check_row_adapters,
    check_rows,
    refuse_other_tuners,
    saved_beside,
    saved_in_rows,
)
from .config import SparseMemoryConfig
from .layer import ProductKeyMemory, new_memory
from .mlp import MemoryMLP
from .padding import PaddingMask
from .registration import PREFIX, register
from .row_adam import step_rows_after_other_optimizers
from .rules import get_rule
from .sites import MLPSite, decoder_layers, default_layers, find_mlps
from .step_callers import watch_step_callers
from .text_part import known_positions, text_part
from .touched import filled, touched


class SparseMemoryModel(BaseTuner):
    """The tuner behind `get_peft_model(model, SparseMemoryConfig(...))`."""

    prefix = PREFIX
    peft_config: dict[str, SparseMemoryConfig]  # type: ignore[assignment]
    tuner_layer_cls = MemoryMLP
    row_adapters: Sequence[str] | None = None  # during a call with `adapter_names`
    target_module_mapping: ClassVar[dict] = {}  # type: ignore[misc]

    def __init__(self, model: nn.Module, peft_config: Any, adapter_name: str, **kwargs: Any):
        check_adapter_is_free(adapter_name, model)
        super().__init__(model, peft_config, adapter_name, **kwargs)

    def inject_adapter(
        self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any
    ) -> None:
        """Insert the memories of an adapter. The model keeps a copy of the configuration.

        Raises:
            ValueError: see `find_mlps` and `check_adapter_name`; a quantised MLP that cannot have a
                memory; a rule that is not registered, unless the adapter is inserted for inference.
        """
        check_adapter_name(adapter_name, model)
        config = self.peft_config[adapter_name]
        twins = [n for n, c in self.peft_config.items() if c is config and n != adapter_name]
        self.peft_config[adapter_name] = copy.deepcopy(config)
        super().inject_adapter(model, adapter_name, *args, **kwargs)
        _keep_from_ddp(model)
        for twin in twins:
            self._copy_scales(twin, adapter_name)

    def _copy_scales(self, of: str, to: str) -> None:
        """Begin an adapter's scales where another's are.

        TRL makes the reference of DPO, KTO and GRPO by giving an adapter the very configuration of
        `default`, and then copies each parameter that has `.default.` within its name. A scale's
        name ends in it.
        """
        for layer in self.model.modules():
            if isinstance(layer, MemoryMLP) and {of, to} <= {*layer.smf_scale}:
                layer.smf_scale[to].data.copy_(layer.smf_scale[of].data)

    def _prepare_adapter_config(  # type: ignore[override]
        self, peft_config: SparseMemoryConfig, model_config: dict
    ) -> SparseMemoryConfig:
        return peft_config  # target modules come from the model itself, see _prepare_model

    def _prepare_model(  # type: ignore[override]
        self, peft_config: SparseMemoryConfig, model: nn.Module
    ) -> None:
        if not peft_config.inference_mode:
            get_rule(peft_config.rule)
        within, text = text_part(model)
        prefix, blocks = decoder_layers(text)
        if peft_config.layers is None:
            peft_config.layers = default_layers(len(blocks))
        sites = [
            replace(site, entry=within + site.entry, exit=within + site.exit)
            for site in find_mlps(text, peft_config.layers)
        ]
        self.hidden_size = text.config.hidden_size
        self.sites: dict[str, MLPSite] = {site.exit: site for site in sites}
        peft_config.target_modules = sorted(self.sites)
        _refuse_saved_mlps(peft_config.modules_to_save or [], sites)
        if "padding" not in self.__dict__:
            self.padding = PaddingMask(positions=known_positions(text))
            decoder = text.get_submodule(prefix.rpartition(".")[0])
            self.padding_hooks = (
                decoder.register_forward_pre_hook(self.padding, with_kwargs=True),
                decoder.register_forward_hook(self.padding.after),
            )
        if peft_config.update == "sparse":
            step_rows_after_other_optimizers()
            watch_step_callers()

    def __setstate__(self, state: dict) -> None:
        """A model from a file or another process trains as the one that was saved."""
        super().__setstate__(state)
        step_rows_after_other_optimizers()
        watch_step_callers()

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
            _check_quantised(current_key, target, peft_config.integration)
        if site.experts and peft_config.integration == "replacement":
            raise ValueError(
                f"integration='replacement': {current_key} is a mixture of experts "
                f"({type(target).__name__}), which a memory cannot stand in for; use "
                "integration='additive', or name layers that have a dense MLP"
            )
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
        memory = new_memory(config, self.hidden_size, site.layer, table)
        memory.padding = self.padding
        device = next(target.parameters()).device
        empty = "meta" in (device.type, memory.keys.device.type)  # weights are loaded later
        return memory if empty else memory.to(device)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        setattr(parent, child_name, new_module)

    def _cast_adapter_dtype(self, adapter_name: str, autocast_adapter_dtype: bool = True) -> None:
        """PEFT's way to put adapters into float32; tables that are to be bfloat16 stay so."""
        layers = [module for module in self.model.modules() if isinstance(module, MemoryMLP)]
        memories = [la.smf_memory[adapter_name] for la in layers if adapter_name in la.smf_memory]
        kept = {m: m.values for m in memories if m.table is m and m.values_dtype == torch.bfloat16}
        for memory in kept:
            del memory.values
        super()._cast_adapter_dtype(adapter_name, autocast_adapter_dtype)
        for memory, values in kept.items():
            memory.values = values

    @contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        """PEFT's way to say `adapter_names`, an adapter for each row, for one call of the model."""
        names = kwargs.pop("adapter_names", None)
        if names is None:
            yield
            return
        layers = [module for module in self.model.modules() if isinstance(module, MemoryMLP)]
        known = {name for layer in layers for name in layer.smf_memory}
        check_row_adapters(names, known, self.training)
        check_rows(names, args, kwargs)
        refuse_other_tuners(names, self.model)
        self.row_adapters = names
        for layer in layers:
            layer.row_adapters = names
        try:
            with saved_in_rows(names, self.model):
                yield
        finally:
            self.row_adapters = None
            for layer in layers:
                layer.row_adapters = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward; PEFT does not show its inputs to the method above.

        Of MPT it hands `adapter_names` on to here.

        Raises:
            ValueError: more or fewer rows than `adapter_names`.
        """
        if "adapter_names" in kwargs:
            with self._enable_peft_forward_hooks(adapter_names=kwargs.pop("adapter_names")):
                return self.forward(*args, **kwargs)
        if self.row_adapters is not None:
            check_rows(self.row_adapters, args, kwargs)
        return super().forward(*args, **kwargs)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict,
        unwanted_adapter_names: list[str],
    ) -> dict:
        """What PEFT saves of an adapter: whole tables, or touched rows alone (`save_rows`)."""
        state = super()._get_adapter_state_dict(
            model=model,
            config=config,
            adapter_name=adapter_name,
            state_dict=state_dict,
            unwanted_adapter_names=unwanted_adapter_names,
        )
        return touched(state, config, adapter_name) if config.save_rows == "touched" else state

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict
    ) -> dict:
        """Tensors by the names they have here; refused unless whole, see `check_adapter_state`.

        Of a folder with touched rows alone the rest is made again (`touched.filled`).
        """
        tables = (m.table for m in model.modules() if isinstance(m, ProductKeyMemory))
        state_dict = filled(state_dict, config, {table.values.shape[1] for table in tables})
        state = super()._remap_adapter_state_dict_for_load(
            model=model, config=config, adapter_name=adapter_name, state_dict=state_dict
        )
        beside = saved_beside(model, adapter_name)
        check_adapter_state(state, model.state_dict(), adapter_name, beside)
        return state

    def unload(self) -> nn.Module:
        """Give back the base model as it was before any memory was inserted."""
        layers = [module for module in self.model.modules() if isinstance(module, MemoryMLP)]
        model = super().unload()
        _keep_from_ddp(model)
        for hook in self.padding_hooks:
            hook.remove()
        for layer in layers:
            if layer.tap_hook is not None:
                layer.tap_hook.remove()
        return model

    def add_weighted_adapter(self, *args: Any, **kwargs: Any) -> None:
        """Refused: what two memories add is no sum of their tables.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "memories cannot be added up as LoRA's matrices can: each has its own keys, and reads "
            "other rows; activate several at once with model.base_model.set_adapter([names]), or "
            "join row patches of one memory with smf_lib.compose"
        )

    @property
    def _ddp_params_and_buffers_to_ignore(self) -> list[str]:
        """What DDP must not synchronise, by the names that it has in PEFT's wrapper."""
        names = getattr(self.model, "_ddp_params_and_buffers_to_ignore", ())
        return [f"base_model.model.{name}" for name in names]


def _keep_from_ddp(model: nn.Module) -> None:
    """Say what DistributedDataParallel must not synchronise: the tables, which `row_adam` handles.

    DDP reads this attribute of the module that it is given; torch has no public way to say it.
    """
    said = getattr(model, "_ddp_params_and_buffers_to_ignore", ())
    names = [name for name in said if ".smf_memory." not in name]
    for name, module in model.named_modules():
        if isinstance(module, ProductKeyMemory):
            own = [n for n, _ in module.named_buffers(recurse=False)]
            if module.rule is not None:
                own.append("values")
            names += [f"{name}.{n}" for n in own]
    if names:
        model._ddp_params_and_buffers_to_ignore = names  # type: ignore[assignment]
    elif said:
        del model._ddp_params_and_buffers_to_ignore


def _refuse_saved_mlps(names: Sequence[str], sites: list[MLPSite]) -> None:
    """PEFT copies a module that is trained whole: with a memory in it, there would be two."""
    for name in names:
        for site in sites:
            if f".{name}." in f".{site.exit}.":
                raise ValueError(
                    f"modules_to_save={list(names)} names {name!r}, which holds the memory at "
                    f"{site.exit}; leave it out, or name modules without a memory"
                )


def _check_quantised(name: str, mlp: nn.Module, integration: str) -> None:
    """A memory beside an MLP only adds to what the MLP puts out, however its weights are kept."""
    held = [*mlp.parameters(), *mlp.buffers()]  # some formats keep packed weights in buffers
    packed = [t for t in held if not t.is_floating_point() or t.element_size() < 2]
    if packed and integration == "replacement":
        raise ValueError(
            f"integration='replacement': {name} holds {packed[0].dtype} weights, and a quantised "
            "MLP cannot be replaced; use integration='additive', or load the model in float32 or "
            "bfloat16"
        )
    if packed and next(mlp.parameters(), None) is None:
        raise ValueError(
            f"{name} has no parameters, only packed {packed[0].dtype} buffers, and cannot "
            "have a memory; quantise with bitsandbytes or torchao, or load the model in float32 or "
            "bfloat16"
        )


register(SparseMemoryConfig, SparseMemoryModel)
