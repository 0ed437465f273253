"""Triton compiles the kernels for GPUs that need not be here, down to their machine code."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

TYPES = {"out": "fp32", "grad": "fp32", "weights": "fp32"}
TYPES |= {"indices": "i64", "order": "i64", "begin": "i64"}
KERNELS = [  # the last has nothing to do with values
    *(("_read", "fp32"), ("_read", "bf16"), ("_weight_gradient", "fp32")),
    *(("_weight_gradient", "bf16"), ("_row_gradient", "fp32")),
]
CAPABILITIES = [80, 90]


def compiled(name: str, values: str, capability: int) -> tuple[str, int]:
    """A kernel's PTX for values of that type on such a GPU, and the bytes of its machine code."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from smf_lib.method import kernels

    kernel, types = getattr(kernels, name), TYPES | {"values": values}
    constants = {"READS": kernels.READS, "WIDTH": kernels.WIDTH}
    signature = {n: f"*{types[n]}" if n in types else "i32" for n in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {  # as torch's tensors are, and a width that 16 divides
        (place,): [["tt.divisibility", 16]]
        for place, n in enumerate(kernel.arg_names)
        if n in types or n == "width"
    }
    source = ASTSource(kernel, signature, constants, aligned)
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32)).asm
    return code["ptx"], len(code["cubin"])


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """By kernel, type and GPU, from a process of its own: an interpreting one does not compile."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}
    del environment["TRITON_INTERPRET"]
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    wanted = [(*kernel, capability) for kernel in KERNELS for capability in CAPABILITIES]
    script = (
        "import json, sys, test_compiled\n"
        "print(json.dumps([test_compiled.compiled(*one) for one in json.loads(sys.argv[1])]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, json.dumps(wanted)],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(zip(wanted, json.loads(run.stdout), strict=True))


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("kernel", KERNELS, ids=", ".join)
def test_a_gpu_could_run_it_and_fetches_rows_by_16_bytes_a_thread(kernel, capability, code):
    ptx, size = code[*kernel, capability]
    assert f".target sm_{capability}" in ptx and f".entry {kernel[0]}(" in ptx and size > 1000
    assert "ld.global.v4.b32" in ptx
