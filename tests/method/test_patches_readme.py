"""The lines of the README about row patches, run as they stand."""

import re
from pathlib import Path

import torch
from helpers_models import tiny_model
from helpers_patches import fresh, train
from peft import PeftModel

from smf_lib import RowPatch
from smf_lib.method.patches.compose import compose
from smf_lib.method.patches.identity import memory_mlps

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_lines_of_the_readme_do_what_they_say(tmp_path, monkeypatch):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if "save_touched" in block]
    assert len(block.split("\n\n")[1].splitlines()) <= 6
    monkeypatch.chdir(tmp_path)
    model = train(fresh(), seed=1)
    first, second = RowPatch.from_model(model), RowPatch.from_model(train(fresh(), seed=2))
    second.save("cities.safetensors")
    exec(block, {"model": model})  # noqa: S102
    assert RowPatch.load("codes.safetensors").n_rows == first.n_rows
    wanted = compose(first, second, "sum").patch
    read = PeftModel.from_pretrained(tiny_model(), tmp_path / "both")
    for name, table in wanted.tables.items():
        memory = memory_mlps(read, "default")[name].smf_memory["default"]
        assert torch.equal(memory.values[table.rows], table.after)
        assert memory.row_updates.nonzero().flatten().tolist() == table.rows.tolist()
