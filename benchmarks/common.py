"""What all benchmarks share: options, interleaved timing, ratios, and the JSON they write."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

import torch
from torch import nn
from tqdm.auto import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from smf_lib.method.layer import ProductKeyMemory
from smf_lib.study.files import write_whole
from smf_lib.study.precision import native_bfloat16
from smf_lib.study.records.provenance import provenance

PRECISION = "bf16" if native_bfloat16("cpu") else "fp32"  # as in the study on a processor
RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks"


def options(description: str, argv: list[str] | None, device: bool = False) -> argparse.Namespace:
    """The command line that every benchmark has, parsed; None stands for that of the process.

    device: whether there is `--device`, for benchmarks that run on a GPU as well.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="tiny shapes, seconds: a test")
    parser.add_argument("--record", action="store_true", help="write results/benchmarks/*.json")
    if device:
        parser.add_argument("--device", default="cpu", help="cpu (the default) or cuda")
    arguments = parser.parse_args(argv)
    arguments.device = torch.device(arguments.device if device else "cpu")
    if arguments.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device {arguments.device}: this torch sees no GPU; use --device cpu")
    if arguments.small and arguments.record:
        parser.error("--record with --small: a small run measures nothing; leave one out")
    return arguments


def timed(action: Callable[[], object], device: torch.device | None = None) -> float:
    """Seconds that one call takes, on a GPU until the device is done."""
    on_gpu = device is not None and device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    action()
    if on_gpu:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def precision(device: torch.device) -> str:
    """What a model's passes run in on that device."""
    return PRECISION if device.type == "cpu" else "bf16"


def interleave(
    actions: dict[str, Callable[[], float]], rounds: int, warmup: int
) -> dict[str, list[float]]:
    """Seconds of each action in each round, after `warmup` rounds that are not kept.

    Every round calls every action once and starts with another one, so that what slows the
    machine down for a while does so for all. An action returns the seconds it took.
    """
    names = list(actions)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in tqdm(range(-warmup, rounds), desc=", ".join(names), unit="round"):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            spent = actions[name]()
            if number >= 0:
                seconds[name].append(spent)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, reference: str) -> dict[str, float]:
    """How often `name` takes the time of `reference`: median, least and most over the rounds."""
    ratios = [a / b for a, b in zip(seconds[name], seconds[reference])]
    return {"median": median(ratios), "least": min(ratios), "most": max(ratios)}


def medians(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Median seconds of each action."""
    return {name: median(values) for name, values in seconds.items()}


def smol_model(layers: int, vocabulary: int, small: bool = False) -> LlamaForCausalLM:
    """A decoder with the width and heads of SmolLM2-135M and random weights, to be trained.

    `small` makes it a toy, for tests.
    """
    torch.manual_seed(0)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": layers,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    }
    if small:
        shape |= {"vocab_size": 128, "hidden_size": 72, "intermediate_size": 96}
    return LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=True)).train()


def causal_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Loss on every token; weights in float32, the passes in `PRECISION`."""
    with torch.autocast("cpu", torch.bfloat16, enabled=PRECISION == "bf16"):
        return model(input_ids=ids, labels=ids).loss


def invent_background(memory: ProductKeyMemory) -> None:
    """Give a table made-up background reads; how rows are chosen costs the same with any."""
    random = torch.Generator().manual_seed(0)
    memory.background_counts.random_(0, 50, generator=random)
    memory.background_documents.random_(0, 20, generator=random)
    memory.n_background_documents.fill_(300)


def report(name: str, arguments: argparse.Namespace, settings: dict, results: dict) -> None:
    """Print the benchmark's JSON, and write it if `--record` was given, whole or not at all."""
    device = arguments.device
    record = {
        "benchmark": name,
        "small": arguments.small,
        "settings": settings,
        "results": results,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **provenance(),
    }
    text = json.dumps(record, indent=2, allow_nan=False)
    print(text)
    if arguments.record:
        suffix = "" if device.type == "cpu" else f"_{device.type}"
        write_whole(RESULTS / f"{name}{suffix}.json", text + "\n")
