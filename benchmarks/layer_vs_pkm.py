"""The memory layer's forward and backward beside the package `product-key-memory` (PyPI).

Equal shapes: width, heads, sub-keys, top-k, query width, tokens. "whole" is equal work: queries,
keys and values are trained, and both layers make a dense gradient of the whole table. "values" is
what sparse memory finetuning needs: queries and keys are frozen; the package makes the gradient of
the whole table and smf_lib that of the 512 rows chosen for the step, choosing included. In both,
the layer's input wants a gradient. No optimizer runs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from product_key_memory import PKM
from torch import nn

from benchmarks.common import interleave, invent_background, medians, options, ratio, report, timed
from smf_lib import ProductKeyMemory
from smf_lib.method.rules import count_reads, select_rows

HEADS, TOP_K, KEY_DIM, BUDGET = 4, 16, 128, 512


def package_layer(width: int, num_subkeys: int, values_only: bool) -> PKM:
    """The package's layer; its `dim_head` is the width of half a query."""
    torch.manual_seed(0)
    layer = PKM(width, heads=HEADS, num_keys=num_subkeys, topk=TOP_K, dim_head=KEY_DIM // 2)
    for parameter in layer.parameters():
        parameter.requires_grad_(not values_only or parameter is layer.values.weight)
    return layer


def our_layer(width: int, num_subkeys: int, values_only: bool) -> ProductKeyMemory:
    """The layer of smf_lib, with strictly sparse updates if only values are trained."""
    layer = ProductKeyMemory(
        width,
        num_subkeys,
        HEADS,
        TOP_K,
        KEY_DIM,
        initial_values="random",
        rule="kl" if values_only else None,
        rows_per_step=BUDGET,
    )
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(not values_only or name in ("values", "anchor"))
    invent_background(layer)
    return layer


def chosen_row_gradient(layer: ProductKeyMemory) -> torch.Tensor:
    """What an optimizer step does before it moves rows: choose them, and their gradient."""
    reads = count_reads([entry[0] for entry in layer.tape.entries])
    rows = select_rows(reads, "kl", BUDGET, layer.background)
    gradient = layer.tape.row_gradient(rows)
    layer.tape.entries.clear()
    return gradient


def action(layer: nn.Module, x: torch.Tensor, target: torch.Tensor) -> Callable[[], float]:
    """One forward and backward on x, (1, tokens, width); returns its seconds."""
    sparse = isinstance(layer, ProductKeyMemory) and layer.rule is not None

    def run() -> None:
        layer.zero_grad()
        layer(x.detach().requires_grad_()).backward(target)
        if sparse:
            chosen_row_gradient(layer)

    return lambda: timed(run)


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    width, rounds = 576, 25
    shapes = [(tokens, n) for tokens in (512, 2048) for n in (64, 128, 256)]
    if arguments.small:
        width, rounds, shapes = 32, 2, [(16, 16)]
    results = {}
    for tokens, num_subkeys in shapes:
        x, target = torch.randn(2, 1, tokens, width, generator=torch.Generator().manual_seed(0))
        actions = {
            f"{package} {scope}": action(make(width, num_subkeys, scope == "values"), x, target)
            for scope in ("whole", "values")
            for package, make in (("product-key-memory", package_layer), ("smf_lib", our_layer))
        }
        seconds = interleave(actions, rounds, warmup=2)
        results[f"{tokens} tokens, {num_subkeys**2} rows"] = {
            "median_seconds": medians(seconds),
            "package_against_smf_lib": {
                scope: ratio(seconds, f"product-key-memory {scope}", f"smf_lib {scope}")
                for scope in ("whole", "values")
            },
        }
    settings = {
        "width": width,
        "heads": HEADS,
        "top_k": TOP_K,
        "key_dim": KEY_DIM,
        "rows_per_step": BUDGET,
        "rounds": rounds,
        "precision": "fp32",
    }
    report("layer_vs_pkm", arguments, settings, results)


if __name__ == "__main__":
    main()
