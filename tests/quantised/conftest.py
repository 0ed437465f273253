"""These tests need bitsandbytes and torchao, which `make test` keeps apart from the environment."""

import importlib
import importlib.util

collect_ignore_glob = []
if any(importlib.util.find_spec(name) is None for name in ("bitsandbytes", "torchao")):
    collect_ignore_glob = ["test_*.py"]


if not collect_ignore_glob:
    # On processors with AVX-512 BF16 its 4-bit maps repack their weights at the first inference:
    # numbers are others from there on, and maps as small as a test's cannot be trained.
    modules = importlib.import_module("bitsandbytes.nn.modules")
    vars(modules)["has_avx512bf16"] = lambda: False
