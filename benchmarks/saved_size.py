"""Bytes on disk: a row patch, save_pretrained and a LoRA, against rows touched and table size.

The rows of a patch are marked by hand as updated, with random values, as training would leave them.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from benchmarks.common import options, report, smol_model
from smf_lib import SparseMemoryConfig
from smf_lib.method.background import memories
from smf_lib.method.patches.patch import RowPatch


def touch(model: PeftModel, rows: int) -> None:
    """Leave every table as training that updated `rows` of its rows would."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for memory in memories(model).values():
            chosen = torch.randperm(memory.num_rows, generator=random)[:rows]
            memory.values.zero_()
            memory.values[chosen] = torch.randn(rows, memory.values.shape[1], generator=random)
            memory.row_updates.zero_()
            memory.row_updates[chosen] = 1


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def saved_bytes(model: PeftModel, folder: Path) -> int:
    """Bytes that save_pretrained writes, which are removed again."""
    model.save_pretrained(folder)
    size = folder_bytes(folder)
    shutil.rmtree(folder)
    return size


def measure(layers: int, memory: dict, rows: list[int], small: bool, folder: Path) -> list[dict]:
    """Sizes for one table size and several numbers of touched rows."""
    config = SparseMemoryConfig(task_type="CAUSAL_LM", **memory)
    model = get_peft_model(smol_model(layers, 49_152, small), config)
    found = []
    for touched in rows:
        touch(model, touched)
        patch = RowPatch.from_model(model)
        table = next(iter(memories(model).values())).values
        found.append(
            {
                "rows_per_table": table.shape[0],
                "tables": len(memory["layers"]),
                "rows_touched_per_table": touched,
                "row_patch_bytes": patch.save(folder / "patch.safetensors").stat().st_size,
                "save_pretrained_bytes": saved_bytes(model, folder / "adapter"),
                "tables_bytes": len(memory["layers"]) * table.numel() * table.element_size(),
                "touched_values_bytes": patch.n_rows * table.shape[1] * table.element_size(),
            }
        )
    return found


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    layers, subkeys, rows = 30, [64, 128, 256], [128, 512, 1024, 2048, 4096]
    memory = {"layers": [8, 15, 22], "num_heads": 4, "top_k": 16, "key_dim": 128}
    if arguments.small:
        layers, subkeys, rows, memory = 4, [16, 32], [16, 64], memory | {"layers": [1, 2]}
    with tempfile.TemporaryDirectory() as name:
        sizes = [
            size
            for n in subkeys
            for size in measure(
                layers, memory | {"num_subkeys": n}, rows, arguments.small, Path(name)
            )
        ]
        lora = LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear")
        lora_model = get_peft_model(smol_model(layers, 49_152, arguments.small), lora)
        lora_bytes = saved_bytes(lora_model, Path(name) / "lora")
    settings = {
        "layers": layers,
        "memory": memory,
        "lora": "r 16, all linear maps",
        "model": "architecture of SmolLM2-135M, random weights",
    }
    results = {"sizes": sizes, "lora_save_pretrained_bytes": lora_bytes}
    report("saved_size", arguments, settings, results)


if __name__ == "__main__":
    main()
