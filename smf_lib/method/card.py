"""The model card of a saved memory: what it is, what it belongs to, and how to load it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from .files import whole
from .sites import layer_number

CARD, WEIGHTS = "README.md", "adapter_model.safetensors"
BEGIN, END = "<!-- sparse memory: begin -->", "<!-- sparse memory: end -->"
BLANK = "# Model Card for Model ID"  # how PEFT's card begins while nobody has written it
ALONE = """The folder holds the touched rows alone. Load it by PEFT, as below: transformers' own
`load_adapter` and `pipeline` go on without the rows.

"""
HEAD = re.compile(r"\A---\n.*?^---\n", re.MULTILINE | re.DOTALL)


def write_card(folder: Path, config: Any) -> None:
    """Put what is known of the memory into the folder's card, `README.md`.

    PEFT's blank card is replaced. In a card that somebody wrote, only the part between our two
    marks is; where it has none, it is added at the end.
    """
    path = folder / CARD
    text = path.read_text("utf-8") if path.is_file() else "---\nlibrary_name: peft\n---\n"
    found = HEAD.match(text)
    head, body = (found[0], text[found.end() :]) if found else ("", text)
    ours = f"{BEGIN}\n{_about(folder, config)}{END}\n"
    if BEGIN in body and END in body:
        before, rest = body.split(BEGIN, 1)
        body = before + ours + rest.split(END, 1)[1].lstrip("\n")
    elif BLANK in body or not body.strip():
        body = f"\n{ours}"
    else:
        body = f"{body.rstrip()}\n\n{ours}"
    with whole(path) as scratch:
        scratch.write_text(_tagged(head) + body, "utf-8")


def _tagged(head: str) -> str:
    """The card's head with the tag by which memories are found."""
    if not head or "- sparse-memory\n" in head:
        return head
    if "\ntags:\n" in head:
        return head.replace("\ntags:\n", "\ntags:\n- sparse-memory\n", 1)
    return head.removesuffix("---\n") + "tags:\n- sparse-memory\n---\n"


def _about(folder: Path, config: Any) -> str:
    base = config.base_model_name_or_path or "the base model"
    place = "beside" if config.integration == "additive" else "in place of"
    rows = config.num_subkeys**2
    rule = f"rule `{config.rule}`, at most {config.rows_per_step} rows of a table in a step"
    how = rule if config.update == "sparse" else "all rows, by an ordinary gradient"
    return f"""# A sparse memory for {base}

A product-key memory of {rows:,} rows {place} the MLP of {_layers(config)}, trained by sparse memory
finetuning ({how}). It cannot be merged into the base model's weights.

{_touched(folder, rows)}It is a method of PEFT that the package `smf_lib` brings: `pip install .`
in a clone of its repository, and then

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained("{base}")
model = PeftModel.from_pretrained(base, "the path or name of this folder")
```

Where PEFT says `KeyError: 'SPARSE_MEMORY'`, the package is missing, or Python
started without it: then `import smf_lib` first.
"""


def _layers(config: Any) -> str:
    numbers = [str(number) for number in config.layers or []]
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"layers {', '.join(numbers[:-1])} and {numbers[-1]}" if numbers else "some layers"


def _touched(folder: Path, rows: int) -> str:
    """A table of the rows that training changed, if the weights are there to be read.

    Below it how a folder is loaded that holds these rows alone.
    """
    if not (folder / WEIGHTS).is_file():
        return ""
    with safe_open(folder / WEIGHTS, "pt") as weights:
        names = list(weights.keys())
        changed = {
            layer_number(name): int((weights.get_tensor(name) > 0).sum())
            for name in names
            if name.endswith((".row_updates", ".row_counts"))  # whole tables, touched rows alone
        }
    alone = any(name.endswith(".row_counts") for name in names)
    lines = [f"| {layer} | {n:,} of {rows:,} |" for layer, n in sorted(changed.items())]
    table = ["| layer | rows that training changed |", "| --- | --- |", *lines, "\n"]
    return "\n".join(table) + ALONE * alone
