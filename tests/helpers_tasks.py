"""Profiles of tasks learned one after another, on the tiny model of `smoke`."""

from __future__ import annotations

import copy
from pathlib import Path

import yaml

from smf_lib.study.profiles import PROFILE_DIR

EXAMS = Path(__file__).resolve().parent / "helpers_exams.py"
ROWS = {"train_rows": 8, "test_rows": 6}
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LORA = {
    "label": "LoRA r 4", "kind": "peft", "peft_type": "LORA", "learning_rate": 1.0e-2,
    "settings": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
}  # fmt: skip
SMF = {
    "label": "SMF (TF-IDF)", "kind": "peft", "peft_type": "SPARSE_MEMORY",
    "settings": {"rule": "tfidf"}, "learning_rate": 1.0e-2,
}  # fmt: skip
ARMS = {
    "base": {"label": "Base", "kind": "base"},
    "full": {"label": "Full finetuning", "kind": "full", "learning_rate": 1.0e-3},
    "lora": LORA,
    "lora-replay": {**LORA, "label": "LoRA, replay", "first": "lora", "baseline": "replay_tasks"},
    "lora-merged": {**LORA, "label": "LoRA, merged", "first": "lora", "baseline": "merge_adapters"},
    "osf": {
        "label": "OSF", "kind": "peft", "peft_type": "OSF", "learning_rate": 1.0e-3,
        "settings": {"target_modules": TARGETS},
    },
    "smf": SMF,
    "smf-grown": {**SMF, "label": "SMF, grown", "first": "smf", "background": {"learned": True}},
}  # fmt: skip


def content(**changes) -> dict:
    """A profile of three tasks in two orders, on the tiny model of `smoke`."""
    found = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    found |= {
        "name": "three", "imports": [str(EXAMS)], "evaluation": {"probes": ["self_text"]},
        "exam": {"name": "plus", **ROWS},
        "tasks": {name: {"name": name, **ROWS} for name in ("times", "power")},
        "sequences": [["plus", "times", "power"], ["power", "times", "plus"]],
        "methods": copy.deepcopy(ARMS),
    }  # fmt: skip
    return found | changes
