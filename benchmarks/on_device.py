"""The engine beside its bounds and what else does its work, on a processor or on a GPU.

    python -m benchmarks.on_device --device cuda --record

"step": a training step of a model with the paper's memory (three layers, gated), beside the floor
(the same frozen model, with a gradient down to the lowest memory's layer), LN-tuning (frozen, with
a gradient through all layers), LoRA and full finetuning. On a GPU the model has the shape of the
paper's, Qwen2.5-0.5B, and 16 x 512 tokens; on a processor that of SmolLM2-135M with 10 layers.

"layer": one memory alone, forward, backward and update, at two sizes of the table, beside torch's
sparse gradients (an embedding bag with `sparse=True` and `SparseAdam`, which moves every row that
was read); its read alone, by torch's embedding bag and by `torch.sparse.mm` of a CSR matrix that is
made before; and the bound of both, a copy of every row as often as it is read. Where Triton's
kernels run, "smf" has them: beside it stand "smf_plain", the same without, and the kernel's read.

Weights are random, which takes the same time as trained ones. All take steps in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
import torch.nn.functional as F
from peft import LNTuningConfig, LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from benchmarks.common import (
    interleave,
    invent_background,
    medians,
    options,
    precision,
    ratio,
    report,
    smol_model,
    timed,
)
from smf_lib import ProductKeyMemory, RowAdamW, SparseMemoryConfig
from smf_lib.method import operators
from smf_lib.method.background import memories

LORA = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear"}
MEMORY = {"num_heads": 4, "top_k": 16, "key_dim": 128, "gated": True, "rows_per_step": 512}
BUDGET = MEMORY["rows_per_step"]


def base_model(device: torch.device, small: bool) -> nn.Module:
    """A decoder with random weights: the paper's shape on a GPU, a smaller one elsewhere."""
    if device.type == "cpu":
        return smol_model(4 if small else 10, 16_384, small)
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    with device:
        return Qwen2ForCausalLM(config).train()


def models(device: torch.device, small: bool) -> dict[str, nn.Module]:
    """One model a method, all with the same base weights."""
    depth = base_model(device, small).config.num_hidden_layers
    layers = [depth // 4, depth // 2, depth * 3 // 4]
    peft = {
        "lora": LoraConfig(task_type="CAUSAL_LM", **LORA),
        "ln_tuning": LNTuningConfig(task_type="CAUSAL_LM"),
        "smf": SparseMemoryConfig(layers=layers, num_subkeys=16 if small else 128, **MEMORY),
    }
    made = {name: get_peft_model(base_model(device, small), one) for name, one in peft.items()}
    for memory in memories(made["smf"]).values():
        invent_background(memory)
    made["floor"] = base_model(device, small).requires_grad_(False)
    block = made["floor"].model.layers[layers[0]]
    block.zero = nn.Parameter(torch.zeros((), device=device))
    block.mlp.register_forward_hook(lambda mlp, given, output: output + block.zero)
    return made | {"full": base_model(device, small)}


def stepper(model: nn.Module, device: torch.device, shape: tuple[int, int]) -> Callable[[], float]:
    """A function that takes one training step on new random tokens; returns its seconds."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = RowAdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    half = precision(device) == "bf16"

    def update(ids: Tensor) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def step() -> float:
        ids = torch.randint(model.config.vocab_size, shape, device=device)
        return timed(partial(update, ids), device)

    return step


def layer_of(rows: int, width: int, device: torch.device) -> ProductKeyMemory:
    """A memory alone, of which only rows are trained."""
    layer = ProductKeyMemory(
        width,
        int(rows**0.5),
        MEMORY["num_heads"],
        MEMORY["top_k"],
        MEMORY["key_dim"],
        initial_values="random",
        rule="kl",
        rows_per_step=BUDGET,
    )
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(name in ("values", "anchor"))
    invent_background(layer)
    return layer.to(device)


def layer_steps(
    rows: int, tokens: int, width: int, device: torch.device
) -> dict[str, Callable[[], float]]:
    """Steps and reads of one memory of `rows` rows, of what torch has, and the bound."""
    layer = layer_of(rows, width, device)
    optimizer = RowAdamW([layer.values, layer.anchor], lr=1e-3, weight_decay=0.0)
    x, target = torch.randn(2, tokens, width, device=device)
    table = layer.values.detach()
    bag = nn.EmbeddingBag(rows, width, mode="sum", sparse=True, device=device)
    sparse = torch.optim.SparseAdam(bag.parameters(), lr=1e-3)
    with torch.no_grad():
        indices, weights = layer.lookup(x)
    in_order = indices.argsort(dim=1)
    matrix = torch.sparse_csr_tensor(
        torch.arange(0, indices.numel() + 1, indices.shape[1], device=device),
        indices.gather(1, in_order).flatten(),
        weights.gather(1, in_order).flatten(),
        (tokens, rows),
    )

    def step() -> None:
        layer(x).backward(target)
        optimizer.step()
        optimizer.zero_grad()

    def plain_step() -> None:
        with patch.object(operators, "kernels_agree", lambda device: False):
            step()

    def sparse_step() -> None:
        found, weight = layer.lookup(x)
        bag(found, per_sample_weights=weight.detach()).backward(target)
        sparse.step()
        sparse.zero_grad()

    actions: dict[str, Callable[[], object]] = {
        "smf": step,
        "sparse_adam": sparse_step,
        "read": lambda: F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum"),
        "read_by_csr": lambda: torch.sparse.mm(matrix, table),
        "rows_copied": lambda: table[indices.flatten()],
    }
    if operators.kernels_run(device):
        actions["smf_plain"] = plain_step
        actions["read_by_kernel"] = lambda: operators.read_rows(table, indices, weights)
    return {name: partial(timed, action, device) for name, action in actions.items()}


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv, device=True)
    device, small = arguments.device, arguments.small
    on_gpu = device.type != "cpu"
    shape, rounds = ((16, 512), 15) if on_gpu else ((8, 64), 15)
    tokens, width, tables = (8192, 896, (2**14, 2**20)) if on_gpu else (512, 576, (2**14, 2**20))
    if small:
        shape, rounds, tokens, width, tables = (2, 8), 2, 16, 32, (256, 4096)
    steppers = {n: stepper(m, device, shape) for n, m in models(device, small).items()}
    seconds = interleave(steppers, rounds, warmup=2)
    others = [name for name in seconds if name != "smf"]
    results = {
        "step": {
            "median_seconds": medians(seconds),
            "smf_against": {name: ratio(seconds, "smf", name) for name in others},
        }
    }
    del steppers
    layers = {
        f"{name}, {rows} rows": step
        for rows in tables
        for name, step in layer_steps(rows, tokens, width, device).items()
    }
    seconds = interleave(layers, rounds, warmup=2)
    few, many = (f", {rows} rows" for rows in tables)
    results["layer"] = {
        "median_seconds": medians(seconds),
        "smf_growth": ratio(seconds, f"smf{many}", f"smf{few}"),
        "smf_against_sparse_adam": ratio(seconds, f"smf{many}", f"sparse_adam{many}"),
        "smf_against_rows_copied": ratio(seconds, f"smf{many}", f"rows_copied{many}"),
        "read_against_csr": ratio(seconds, f"read{many}", f"read_by_csr{many}"),
        "read_against_rows_copied": ratio(seconds, f"read{many}", f"rows_copied{many}"),
    }
    if operators.kernels_run(device):
        results["layer"] |= {
            "smf_against_smf_plain": ratio(seconds, f"smf{many}", f"smf_plain{many}"),
            "read_by_kernel_against_rows_copied": ratio(
                seconds, f"read_by_kernel{many}", f"rows_copied{many}"
            ),
        }
    settings = {
        "sequences": shape[0],
        "length": shape[1],
        "tokens_of_the_layer": tokens,
        "width_of_the_layer": width,
        "rows": list(tables),
        "rounds": rounds,
        "memory": MEMORY,
        "lora": LORA,
        "precision": f"{precision(device)} in the model, fp32 in the layer alone",
    }
    report("on_device", arguments, settings, results)


if __name__ == "__main__":
    main()
