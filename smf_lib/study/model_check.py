"""What a model's folder must be before long work: whole files that fit together, and no code."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from safetensors import SafetensorError, safe_open
from torch import nn

from .models import ModelFiles, load_tokenizer
from .names import first_line

MOST_LAYERS = 1000
FLOATS = ("F64", "F32", "F16", "BF16")  # of other types are the weights of quantised models


def check_model_folder(folder: Path, source: str) -> None:
    """Refuse a model's folder that is damaged, or that asks for code of its own to be run.

    `source` is what the profile calls it.

    Raises:
        ValueError: a JSON file or the header of a weights file cannot be read; a configuration that
            transformers does not know without the folder's own code, or with more layers than any
            model has.
    """
    config = _json(folder / "config.json", source)
    layers = config.get("num_hidden_layers", 1)
    if not isinstance(layers, int) or not 1 <= layers <= MOST_LAYERS:
        raise ValueError(
            f"model.source={source!r}: num_hidden_layers={layers!r} in config.json must be a whole "
            f"number from 1 to {MOST_LAYERS}"
        )
    kind = config.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        own = ", and the code in its folder is not run" if "auto_map" in config else ""
        raise ValueError(
            f"model.source={source!r}: transformers {transformers.__version__} does not know "
            f"model_type={kind!r} of its config.json{own}; choose another model"
        )
    tokenizer = folder / "tokenizer_config.json"
    if tokenizer.is_file():
        settings = _json(tokenizer, source)
        if "auto_map" in settings and not hasattr(
            transformers, str(settings.get("tokenizer_class"))
        ):
            raise ValueError(
                f"model.source={source!r}: its tokenizer is code of its own, which is not run "
                "(auto_map in tokenizer_config.json); choose another model"
            )
    for name in ("tokenizer.json", "generation_config.json"):
        if (folder / name).is_file():
            _json(folder / name, source)
    for weights in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(weights, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"model.source={source!r}: {weights.name} is truncated or no safetensors file "
                f"({error}); fetch it again"
            ) from None


def check_tokenizer(files: ModelFiles) -> None:
    """Load the tokenizer once, so that what is wrong with it is said before anything long.

    Raises:
        ValueError: it cannot be loaded, or cannot pad.
    """
    try:
        load_tokenizer(files)
    except Exception as error:
        raise ValueError(
            f"model.source={files.source!r}: its tokenizer cannot be used ({type(error).__name__}: "
            f"{first_line(error)}); fetch it again, or choose another model"
        ) from error


def check_shapes(files: ModelFiles, empty: nn.Module) -> None:
    """Refuse weights of another shape than the configuration says; `empty` has that shape.

    Raises:
        ValueError: a tensor's shape in a weights file is not that of the empty model's parameter.
    """
    wanted = {name: list(tensor.shape) for name, tensor in empty.state_dict().items()}
    for weights in sorted(files.path.glob("*.safetensors")):
        with safe_open(weights, framework="pt") as file:
            for name in wanted.keys() & set(file.keys()):
                found = file.get_slice(name)
                shape = found.get_shape()
                if found.get_dtype() in FLOATS and shape != wanted[name]:
                    raise ValueError(
                        f"model.source={files.source!r}: {name} has the shape {shape} in "
                        f"{weights.name}, and {wanted[name]} by config.json; fetch both again"
                    )


def _json(path: Path, source: str) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"model.source={source!r}: {path.name} is damaged ({type(error).__name__}: {error}); "
            "fetch it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004
            f"model.source={source!r}: {path.name} must hold a JSON object; fetch it again"
        )
    return content
