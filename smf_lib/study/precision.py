"""Which number format is fast on this machine."""

from __future__ import annotations

import torch


def native_bfloat16(device: str) -> bool:
    """Whether a device type ("cpu", "cuda") multiplies bfloat16 matrices in hardware.

    A processor without such instructions emulates them, many times slower than float32.
    """
    if device == "cuda":
        return torch.cuda.is_bf16_supported()
    can = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16") or can.get("bf16"))


def resolve_precision(precision: str) -> str:
    """Either "bf16" or "fp32"; "auto" is bf16 where this machine has it in hardware, else fp32."""
    if precision != "auto":
        return precision
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return "bf16" if native_bfloat16(device) else "fp32"


def autocast(device: str, precision: str) -> torch.autocast:
    """Autocast to bfloat16 on a device type for precision "bf16", a context without effect else."""
    return torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
