"""The block of the chapter "In your own training" about a quantised base, as it stands there."""

from __future__ import annotations

import re

from helpers_training import run, touched, write_folder

UNPACKED = """
import runpy
import bitsandbytes.nn.modules
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False  # see conftest.py
runpy.run_path("quantised.py", run_name="__main__")
"""


def test_the_script_trains_what_it_saves(tmp_path):
    folder = write_folder(tmp_path)
    said = run(folder, "-c", UNPACKED)
    assert touched(folder / "adapter-4bit") > 0
    norms = re.findall(r"'grad_norm': '?([\d.e-]+)", said)
    assert norms and all(float(norm) > 0 for norm in norms)
