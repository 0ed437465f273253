"""Rows that ordinary text does not read, and rows that a step chooses, against table size.

Values that are zero change nothing, so hidden states are computed once and looked up in tables of
every size. Ordinary text is of two kinds: the background, by which rows are chosen, and the shipped
prose, which plays no part in the choice. Chosen rows are those that TF-IDF takes for each batch of
training questions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel, get_peft_model
from torch import Tensor
from tqdm import tqdm

from benchmarks.common import options, report
from smf_lib import memories, select_rows
from smf_lib.method.layer import ProductKeyMemory, new_memory
from smf_lib.method.rules import BackgroundReads, count_reads
from smf_lib.method.sites import layer_number
from smf_lib.study import Study

RULE = "tfidf"


@torch.no_grad()
def hidden_states(
    model: PeftModel, texts: dict[str, list[list[int]]]
) -> dict[int, dict[str, list]]:
    """By layer with a memory and kind of text: what the memory is asked with, (tokens, width)."""
    layers = {layer_number(name): memory for name, memory in memories(model).items()}
    found: dict[int, dict[str, list]] = {layer: {} for layer in layers}
    seen: dict[int, Tensor] = {}
    for layer, memory in layers.items():
        memory.register_forward_pre_hook(
            lambda _, given, layer=layer: seen.__setitem__(layer, given[0][0].float())
        )
    for kind, sequences in texts.items():
        for ids in tqdm(sequences, desc=kind, unit="text"):
            model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=1)
            for layer, states in seen.items():
                found[layer].setdefault(kind, []).append(states)
    return found


@torch.no_grad()
def reads(memory: ProductKeyMemory, states: Sequence[Tensor]) -> list[Tensor]:
    """The rows that each text reads."""
    return [memory.lookup(x)[0] for x in states]


def read_by(texts: Sequence[Tensor], num_rows: int) -> Tensor:
    """Whether each row is read by any of the texts."""
    return torch.bincount(torch.cat([r.flatten() for r in texts]), minlength=num_rows) > 0


def background_of(texts: Sequence[Tensor], num_rows: int) -> BackgroundReads:
    """Background reads as `collect_background` counts them."""
    counts = torch.bincount(torch.cat([r.flatten() for r in texts]), minlength=num_rows)
    documents = torch.bincount(torch.cat([r.unique() for r in texts]), minlength=num_rows)
    return BackgroundReads(counts, documents, len(texts))


def measure(memory: ProductKeyMemory, states: dict[str, list[Tensor]], batch: int) -> dict:
    """Shares (0 to 1) for one memory; batches of questions as in training."""
    by_background, by_prose, by_task = (
        reads(memory, states[kind]) for kind in ("background", "prose", "task")
    )
    background = background_of(by_background, memory.num_rows)
    known, other = background.counts > 0, read_by(by_prose, memory.num_rows)
    chosen = [
        select_rows(
            count_reads(by_task[i : i + batch], i // batch), RULE, memory.rows_per_step, background
        )
        for i in range(0, len(by_task), batch)
    ]
    rows = torch.cat(chosen)
    unknown = rows[~known[rows]]
    return {
        "rows_unread_by_background": float((~known).float().mean()),
        "rows_unread_by_both": float((~known & ~other).float().mean()),
        "task_reads_on_unread": float((~known[torch.cat(by_task).flatten()]).float().mean()),
        "chosen_per_step": len(rows) / len(chosen),
        "chosen_unread_by_background": len(unknown) / len(rows),
        "chosen_unread_by_both": int((~other[unknown]).sum()) / len(rows),
    }


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    study = Study.load("smoke" if arguments.small else "frontier")
    subkeys = [8, 32] if arguments.small else [32, 64, 128, 256, 512, 1024]
    questions = 16 if arguments.small else 320
    config = study.memory_config()
    _, tokenizer = base = study.load_base()
    texts = {
        "background": study.background_text(base),
        "prose": [tokenizer(section.text).input_ids for section in study.prose],
        "task": [study.encode(q, tokenizer)["input_ids"] for q in study.exam.train[:questions]],
    }
    states = hidden_states(get_peft_model(base[0], config), texts)
    width = next(iter(states.values()))["task"][0].shape[1]
    results = {}
    for number in subkeys:
        config.num_subkeys = number
        results[str(number**2)] = {
            str(layer): measure(
                new_memory(config, width, layer), kinds, study.profile.training.batch_size
            )
            for layer, kinds in states.items()
        }
    settings = {
        "model": study.model_files.name,
        "rule": RULE,
        "rows_per_step": config.rows_per_step,
        "num_heads": config.num_heads,
        "top_k": config.top_k,
        "batch_size": study.profile.training.batch_size,
        "tokens": {kind: sum(map(len, some)) for kind, some in texts.items()},
        "texts": {kind: len(some) for kind, some in texts.items()},
    }
    report("rows_read", arguments, settings, results)


if __name__ == "__main__":
    main()
