"""These tests need bitsandbytes and torchao, which `make test` keeps apart from the environment."""

import importlib.util

collect_ignore_glob = []
if any(importlib.util.find_spec(name) is None for name in ("bitsandbytes", "torchao")):
    collect_ignore_glob = ["test_*.py"]
