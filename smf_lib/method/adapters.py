"""Which names an adapter may have, and batches of which each row has an adapter of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, ModulesToSaveWrapper, TrainableTokensWrapper
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

BASE = "__base__"  # PEFT's name for a row that no adapter changes


def check_adapter_name(name: str, model: nn.Module) -> None:
    """Refuse a name by which PEFT could not find the adapter's parameters, or another's.

    Raises:
        ValueError: the name is empty or has a dot; it is an attribute of the dictionaries that hold
            adapters; or it is part of the name of a module of the model.
    """
    taken = set(dir(nn.ModuleDict())) | set(dir(nn.ParameterDict())) | _parts(model)
    if not name or "." in name or name in taken:
        raise ValueError(
            f"adapter_name={name!r} cannot name an adapter: it is empty, has a dot, or is the name "
            "of something in the model or in PyTorch's modules; choose another, such as 'default'"
        )


def check_adapter_is_free(name: str, model: nn.Module) -> None:
    """Refuse the name of another method's adapter: PEFT would take each for the other.

    Raises:
        ValueError: layers of another tuner have an adapter of that name.
    """
    layers = (m for m in model.modules() if isinstance(m, BaseTunerLayer))
    others = [m for m in layers if not hasattr(m, "smf_memory") and name in _adapters(m)]
    if others:
        raise ValueError(
            f"adapter_name={name!r} is that of {type(others[0]).__module__.split('.')[-2]}, which "
            "the model has already; give the memory another: "
            "get_peft_model(model, config, adapter_name='memory')"
        )


def _adapters(layer: BaseTunerLayer) -> set[str]:
    """The names of all adapters of a tuner's layer, active or not."""
    return _held(layer) | set(layer.active_adapters)


def _held(layer: BaseTunerLayer) -> set[str]:
    """The names of the adapters that a tuner's layer has weights of."""
    parts = [getattr(layer, part, None) for part in layer.adapter_layer_names]
    held = (part for part in parts if isinstance(part, (nn.ModuleDict, nn.ParameterDict)))
    return {name for part in held for name in part}


def _parts(model: nn.Module) -> set[str]:
    """The names of all modules and parameters outside of tuners' layers, and of a memory's."""
    parts = {"base_model", "base_layer", "smf_memory", "smf_scale"}
    waiting = [model]
    while waiting:
        module = waiting.pop()
        if isinstance(module, BaseTunerLayer):  # what is in it may be named after adapters
            module = module.get_base_layer()
        parts |= {name for name, _ in module.named_parameters(recurse=False)}
        for name, child in module.named_children():
            parts.add(name)
            waiting.append(child)
    return parts


def check_adapter_file(path: Path, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse an adapter's file whose tables are not as its settings say; no tensor is read.

    PEFT makes memories as large as the settings want them before it reads the file.

    Args:
        path: a safetensors file.
        shapes: by the ends of tensors' names how their shapes must begin.

    Raises:
        ValueError: the file cannot be read, holds no table, or has tensors of other shapes.
    """
    try:
        with safe_open(path, "pt") as file:
            held = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: truncated or not a safetensors file ({error}); save or fetch it again"
        ) from None
    other = [
        key
        for key, shape in sorted(held.items())
        for end, begins in shapes.items()
        if key.endswith(end) and shape[: len(begins)] != list(begins)
    ]
    if other:
        raise ValueError(
            f"{path} has other shapes or kinds in {_listed(other)} than its adapter_config.json "
            "says; save or fetch the adapter again"
        )
    if not any(key.endswith((".smf_memory.values", ".smf_memory.rows")) for key in held):
        raise ValueError(f"{path} lacks every table of a memory; save or fetch the adapter again")


def saved_beside(model: nn.Module, name: str) -> set[str]:
    """The names of what PEFT may save beside an adapter: whole modules, tokens, embeddings."""
    asked = ("get_input_embeddings", "get_output_embeddings")
    embeddings = [getattr(model, way, lambda: None)() for way in asked]
    found: set[str] = set()
    for place, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            keys: Collection[str] = module.adapter_state_dict_load_map(name).values()
        elif any(module is one for one in embeddings):
            keys = module.state_dict()
        else:
            continue
        found |= {f"{place}.{key}" for key in keys}
    return found


def check_adapter_state(
    state: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    name: str,
    beside: Collection[str] = (),
) -> None:
    """Refuse the tensors of an adapter that are not, one for one, those of its memories.

    A tensor of another name would be passed over in silence, or take the place of one of the base
    model's.

    Args:
        state: what is to be loaded, by the model's names.
        own: the state of the model, with the adapter in it.
        name: the adapter's name.
        beside: what else may be in `state`, by the model's names (`saved_beside`).

    Raises:
        ValueError: tensors that are missing or too many, of another shape or kind, NaN or infinite
            numbers, negative counts; the message names them.
    """
    ends = (f".smf_scale.{name}",)
    wanted = {k: t for k, t in own.items() if f".smf_memory.{name}." in k or k.endswith(ends)}
    wanted = {_short(key): tensor for key, tensor in wanted.items()}
    given = {_short(key): tensor for key, tensor in state.items() if ".smf_" in key}
    further = {_short(key) for key in state} - given.keys() - {_short(key) for key in beside}
    faults = {
        "lacks": sorted(wanted.keys() - given.keys()),
        "has tensors of no memory of the model": sorted(given.keys() - wanted.keys()),
        "has tensors that are no part of it": sorted(further),
    }
    both = sorted(given.keys() & wanted.keys())
    faults["has other shapes or kinds in"] = [
        key
        for key in both
        if given[key].shape != wanted[key].shape
        or given[key].is_floating_point() != wanted[key].is_floating_point()
    ]
    if not any(faults.values()):
        faults["has numbers that cannot be in"] = [key for key in both if _is_wrong(given[key])]
    found = [f"{what} {_listed(keys)}" for what, keys in faults.items() if keys]
    if found:
        raise ValueError(f"adapter {name!r} {'; '.join(found)}; save or fetch the adapter again")


def _short(key: str) -> str:
    return key.removeprefix("base_model.model.")


def _listed(keys: Sequence[str]) -> str:
    """The first few of many names."""
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _is_wrong(tensor: Tensor) -> bool:
    """Whether a tensor holds NaN, an infinite number or a negative count."""
    if tensor.device.type == "meta":
        return False
    if tensor.is_floating_point():
        return not bool(tensor.isfinite().all())
    return bool((tensor < 0).any())


def check_row_adapters(names: Sequence[str], known: set[str], training: bool) -> None:
    """Refuse `adapter_names` that are no adapters of the model, or that would be trained with.

    Args:
        names: an adapter's name, or `__base__`, for each row of a batch.
        known: the names of the adapters that the model has.
        training: whether the model is in training mode.

    Raises:
        ValueError: not a list of names; an unknown name; or in training mode.
    """
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"adapter_names={names!r} must be a list of names, one for each row")
    if training:
        raise ValueError(
            f"adapter_names={list(names)} cannot be trained with: rows of a batch share a step; "
            "call model.eval() to infer, or train each adapter by itself after set_adapter(name)"
        )
    unknown = sorted(set(names) - known - {BASE})
    if unknown:
        raise ValueError(
            f"adapter_names={list(names)} holds {', '.join(unknown)}; choose from "
            f"{', '.join([BASE, *sorted(known)])}"
        )


def check_rows(names: Sequence[str], args: tuple, kwargs: dict) -> None:
    """Refuse other than one name for each row of what the model is called with.

    Raises:
        ValueError: more or fewer names than rows.
    """
    given: Any = [kwargs.get(key) for key in ("input_ids", "inputs_embeds", "inputs")]
    rows = next((len(batch) for batch in [*args[:1], *given] if isinstance(batch, Tensor)), None)
    if rows is not None and rows != len(names):
        raise ValueError(
            f"adapter_names={list(names)} are {len(names)} names for {rows} rows; give one for each"
        )


def refuse_other_tuners(names: Sequence[str], model: nn.Module) -> None:
    """Refuse `adapter_names` where they would not say all that is done to a row.

    Args:
        names: an adapter's name, or `__base__`, for each row of a batch.
        model: the model with memories, and perhaps with layers of other tuners.

    Raises:
        ValueError: another tuner's adapter is active; or `modules_to_save` has a module with
            others in it, which may do more than map each row for itself (it may fill a cache).
    """
    of_tokens = {m.token_adapter for m in model.modules() if isinstance(m, TrainableTokensWrapper)}
    for place, module in model.named_modules():
        if isinstance(module, ModulesToSaveWrapper) and [*module.original_module.children()]:
            raise ValueError(
                f"adapter_names={list(names)} cannot be kept apart in {place}, a whole "
                f"{type(module.original_module).__name__} of modules_to_save; call the model once "
                "for each adapter, after set_adapter(name) and without adapter_names"
            )
        other = isinstance(module, BaseTunerLayer) and not hasattr(module, "smf_memory")
        if not other or module in of_tokens or module.disable_adapters:
            continue
        active = {*module.active_adapters} & _held(module) | {*module.merged_adapters}
        if active:
            raise ValueError(
                f"adapter_names={list(names)} cannot be kept apart from {', '.join(active)} of "
                f"{type(module).__module__.split('.')[-2]} at {place}, which is active for all "
                "rows; call the model once for each adapter, after set_adapter(name) and without "
                "adapter_names"
            )


@contextmanager
def saved_in_rows(names: Sequence[str], model: nn.Module) -> Iterator[None]:
    """Give each row what is trained whole beside its own adapter: a head, embeddings, tokens.

    PEFT's own way (an argument `adapter_names` of these modules) fails where one of the adapters
    has no such module, and splits the first argument of a module but no other.

    Args:
        names: an adapter's name, or `__base__`, for each row of a batch.
        model: the model, for as long as the context lasts.
    """
    hook = partial(_saved_in_rows, names)
    wrappers = [m for m in model.modules() if isinstance(m, AuxiliaryTrainingWrapper)]
    handles = [m.register_forward_hook(hook, with_kwargs=True) for m in wrappers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _saved_in_rows(
    names: Sequence[str], wrapper: Any, args: tuple, kwargs: dict, _: Tensor
) -> Tensor:
    """A forward hook: what a wrapped module puts out, in place of the active adapter's output."""
    output = wrapper.original_module(*args, **kwargs)
    if isinstance(wrapper, TrainableTokensWrapper):
        tokens = wrapper.token_adapter
        for name in sorted({*names} & {*tokens.trainable_tokens_delta}):
            output = in_rows(names, name, tokens.forward_adapters(args[0], [name]), output)
    else:
        for name in sorted({*names} & {*wrapper.modules_to_save}):
            changed = wrapper.modules_to_save[name](*args, **kwargs)
            output = in_rows(names, name, changed, output)
    return output


def in_rows(names: Sequence[str], name: str, changed: Tensor, output: Tensor) -> Tensor:
    """`changed` in the rows that are `name`'s, `output` in the others.

    Args:
        names: an adapter's name for each row of a batch.
        name: one of them.
        changed: (rows, ...), the output with this adapter. Beams and flattened tokens make of one
            row several, which follow one another; a single one (of positions) stands for all.
        output: the same without it.
    """
    own = torch.tensor([row == name for row in names], device=output.device)
    own = own.repeat_interleave(max(len(output) // len(names), 1))
    return torch.where(own.view(-1, *[1] * (output.dim() - 1)), changed, output)
