"""The file of a row patch: one safetensors file, with JSON and a checksum in its header.

The checksum covers every tensor and the JSON, so a truncated or edited file is refused. It guards
against damage and not against an author with bad intent, who could compute it anew; what such a
file can hold is numbers, never code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..arguments import check_path
from ..files import whole
from ..sums import sha256_of

FORMAT = "smf_lib row patch"
FORMAT_VERSION = "1"


class PatchFileError(ValueError):
    """A file that is not a whole, untouched row patch of this format version."""


def write_patch_file(path: str | Path, tensors: dict[str, Tensor], content: dict) -> Path:
    """Write CPU tensors and JSON `content` to `path`, whole or not at all."""
    check_path("path", path)
    path = Path(path)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "content": text,
        "sha256": _checksum(tensors, text),
    }
    with whole(path) as scratch:
        save_file(tensors, scratch, metadata)
    return path


def read_patch_file(
    path: str | Path, check: Callable[[dict, set[str]], None] | None = None
) -> tuple[dict[str, Tensor], dict]:
    """Tensors and JSON content of a patch file.

    Args:
        path: the file.
        check: called with the content and the names of the tensors before any tensor is read; what
            it raises as ValueError is raised with the file's name.

    Raises:
        PatchFileError: no such file, not a row patch, another format version, truncated, or changed
            since it was written; the message names the file and, for versions and checksums, both
            values.
    """
    check_path("path", path)
    path = Path(path)
    if not path.is_file():
        raise PatchFileError(f"{path}: there is no such file; give the path of a saved row patch")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata)
            names = file.keys()
            content = _content(path, metadata)
            if check is not None:
                check(content, set(names))
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise PatchFileError(
            f"{path}: truncated or not a safetensors file ({error}); save the patch again"
        ) from error
    except PatchFileError:
        raise
    except ValueError as error:
        raise PatchFileError(f"{path}: {error}") from None
    text, expected = metadata.get("content", ""), metadata.get("sha256")
    found = _checksum(tensors, text)
    if found != expected:
        raise PatchFileError(
            f"{path}: its content has sha256 {found} and was written with {expected}; the file "
            "was damaged or edited, save the patch again"
        )
    return tensors, content


def _content(path: Path, metadata: dict[str, str]) -> dict:
    """The JSON in the header."""
    try:
        content = json.loads(metadata.get("content", ""))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise PatchFileError(f"{path}: its header holds no content; save the patch again")
    return content


def _check_format(path: Path, metadata: dict[str, str]) -> None:
    kind, version = metadata.get("format"), metadata.get("format_version")
    if kind != FORMAT:
        raise PatchFileError(f"{path}: format is {kind!r}; a row patch has {FORMAT!r}")
    if version != FORMAT_VERSION:
        raise PatchFileError(
            f"{path}: format_version is {version!r} and this version of smf_lib reads "
            f"{FORMAT_VERSION!r}; use the smf_lib that wrote it, or save the patch again"
        )


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    return hashlib.sha256((sha256_of(sorted(tensors.items())) + text).encode()).hexdigest()
