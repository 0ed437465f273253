"""The digest by which tensors are told apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

CHUNK = 1 << 20  # numbers hashed at a time, which bounds the memory that a conversion takes


def sha256_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Digest of named tensors: their names, shapes and values, in the order given.

    Floating-point values are hashed as float32, so that a bfloat16 model has the same digest
    however it was loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in tensors:
        kind = torch.float32 if tensor.is_floating_point() else tensor.dtype
        digest.update(f"{name} {kind} {tuple(tensor.shape)};".encode())
        for part in tensor.detach().reshape(-1).split(CHUNK):
            digest.update(memoryview(part.to("cpu", kind).view(torch.uint8).numpy()))
    return digest.hexdigest()
