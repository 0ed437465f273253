"""Time and memory of a training step against the number of rows in the table.

The row-sparse step of smf_lib, and beside it the paper's approach: a dense gradient of the whole
table, masked to the chosen rows, and AdamW over the whole table. Each is measured within a model
and as the memory layer alone. The model is a third of SmolLM2-135M with three memories: 10 of its
30 layers, a third of its vocabulary, one memory, in the precision that the study uses; the whole
of it, trained densely with a million rows a layer, would need 29 GB for its tables alone. Every
table lives in a process of its own, so that peak memory is its own; the processes take steps in
turn, so that times compare. Tables start with random values, so that all their pages exist.
"""

from __future__ import annotations

import multiprocessing
from dataclasses import dataclass
from multiprocessing.connection import Connection

import psutil
import torch
from peft import get_peft_model

from benchmarks.common import (
    PRECISION,
    causal_loss,
    interleave,
    invent_background,
    medians,
    options,
    ratio,
    report,
    smol_model,
    timed,
)
from smf_lib import ProductKeyMemory, RowAdamW, SparseMemoryConfig
from smf_lib.method.background import memories
from smf_lib.method.rules import count_reads, select_rows
from smf_lib.study.training.train import peak_memory

# A server that has imported everything forks each worker, where the system can fork.
METHODS = multiprocessing.get_all_start_methods()
PROCESSES = multiprocessing.get_context("forkserver" if "forkserver" in METHODS else "spawn")
LAYERS, VOCABULARY, MEMORY_LAYER = 10, 16_384, 3
RULE, BUDGET, MAX_GRAD_NORM = "kl", 512, 1.0


@dataclass(frozen=True)
class Case:
    """One table to measure: method "smf" or "dense", within a "model" or the "layer" alone."""

    method: str
    around: str
    num_subkeys: int
    width: int
    sequences: int
    length: int
    small: bool

    @property
    def rows(self) -> int:
        return self.num_subkeys**2


class MaskedAdamW:
    """The paper's way to train chosen rows only: a dense gradient, a mask, AdamW on all rows."""

    def __init__(self, memory: ProductKeyMemory, learning_rate: float):
        self.memory = memory
        self.optimizer = torch.optim.AdamW(
            [memory.values], lr=learning_rate, weight_decay=0.0, fused=True
        )
        memory.observer = self._keep_reads

    def _keep_reads(self, indices: torch.Tensor, real_tokens: torch.Tensor | None) -> None:
        self.reads = indices

    @torch.no_grad()
    def step(self) -> None:
        values = self.memory.values
        rows = select_rows(count_reads([self.reads]), RULE, BUDGET, self.memory.background)
        mask = torch.zeros(len(values), 1)
        mask[rows] = 1
        values.grad.mul_(mask)
        torch.nn.utils.clip_grad_norm_([values], MAX_GRAD_NORM)
        self.optimizer.step()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()


class Trainee:
    """A memory layer, within a model or alone, that takes training steps on random tokens."""

    def __init__(self, case: Case):
        self.case, self.random = case, torch.Generator().manual_seed(0)
        in_model = case.around == "model"
        base = smol_model(4 if case.small else LAYERS, VOCABULARY, case.small) if in_model else None
        self.memory_before = psutil.Process().memory_info().rss
        config = SparseMemoryConfig(
            task_type="CAUSAL_LM",
            layers=[MEMORY_LAYER],
            num_subkeys=case.num_subkeys,
            num_heads=4,
            top_k=16,
            key_dim=128,
            initial_values="random",
            rule=RULE,
            rows_per_step=BUDGET,
            max_grad_norm=MAX_GRAD_NORM,
            update="sparse" if case.method == "smf" else "dense",
        )
        if in_model:
            self.model = get_peft_model(base, config)
        else:
            self.model = ProductKeyMemory(
                case.width,
                case.num_subkeys,
                config.num_heads,
                config.top_k,
                config.key_dim,
                initial_values="random",
                rule=RULE if case.method == "smf" else None,
                rows_per_step=BUDGET,
                max_grad_norm=MAX_GRAD_NORM,
            )
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name in ("values", "anchor"))
        (self.memory,) = memories(self.model).values()
        invent_background(self.memory)
        if case.method == "smf":
            trained = [p for p in self.model.parameters() if p.requires_grad]
            self.optimizer = RowAdamW(trained, lr=1e-3, weight_decay=0.0, fused=True)
        else:
            self.optimizer = MaskedAdamW(self.memory, 1e-3)

    def step(self) -> float:
        """Seconds of forward, backward and update on new random tokens."""
        case = self.case
        shape = (case.sequences, case.length)
        if case.around == "model":
            ids = torch.randint(self.model.config.vocab_size, shape, generator=self.random)
            return timed(lambda: self._update(lambda: causal_loss(self.model, ids)))
        x, target = (torch.randn(*shape, case.width, generator=self.random) for _ in range(2))
        return timed(lambda: self._update(lambda: (self.model(x) * target).sum()))

    def memory_use(self) -> dict[str, int]:
        """Bytes of the table, at the process's peak, and of the peak above the bare model."""
        table = self.memory.values
        return {
            "table_bytes": table.numel() * table.element_size(),
            "peak_bytes": peak_memory(),
            "above_model_bytes": peak_memory() - self.memory_before,
        }

    def _update(self, loss) -> None:
        self.optimizer.zero_grad()
        loss().backward()
        self.optimizer.step()


class Worker:
    """A process of its own in which a case takes steps on demand."""

    def __init__(self, case: Case):
        self.pipe, theirs = PROCESSES.Pipe()
        self.process = PROCESSES.Process(target=serve, args=(case, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that a worker that dies ends our waiting for it

    def ask(self, what: str):
        self.pipe.send(what)
        return self.pipe.recv()

    def step(self) -> float:
        return self.ask("step")

    def close(self) -> None:
        self.pipe.close()
        self.process.join()


def serve(case: Case, pipe: Connection) -> None:
    """The worker's side: answers "step" and "memory" until the other end is closed."""
    trainee = Trainee(case)
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        pipe.send(trainee.step() if asked == "step" else trainee.memory_use())


def measure(cases: dict[str, Case], rounds: int) -> tuple[dict[str, list[float]], dict[str, dict]]:
    """Step times and memory of cases that take turns."""
    workers = {}
    try:
        for name, case in cases.items():
            workers[name] = Worker(case)
        seconds = interleave({n: w.step for n, w in workers.items()}, rounds, warmup=2)
        return seconds, {name: worker.ask("memory") for name, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.close()


def growth(memory: dict[str, dict], small: str, large: str) -> float:
    """Bytes of peak memory for each byte that the table grew by."""
    peak = memory[large]["peak_bytes"] - memory[small]["peak_bytes"]
    return peak / (memory[large]["table_bytes"] - memory[small]["table_bytes"])


def compare(around: str, shape: dict, subkeys: list[int], rounds: int, dense_rounds: int) -> dict:
    """Growth of the sparse step over table sizes, and the dense step beside it at each size."""

    def case(method: str, num_subkeys: int) -> Case:
        return Case(method, around, num_subkeys, **shape)

    sizes = {str(n**2): n for n in subkeys}
    least, most = (str(edge**2) for edge in (subkeys[0], subkeys[-1]))
    seconds, memory = measure({name: case("smf", n) for name, n in sizes.items()}, rounds)
    result = {
        "smf": {"median_seconds": medians(seconds), "memory": memory},
        "smf_time_against_smallest": {name: ratio(seconds, name, least) for name in sizes},
        "smf_peak_bytes_per_table_byte": growth(memory, least, most),
    }
    dense_memory, beside, dense_seconds = {}, {}, {}
    for name, n in sizes.items():
        pair = {"smf": case("smf", n), "dense": case("dense", n)}
        seconds, memory = measure(pair, dense_rounds)
        beside[name] = ratio(seconds, "dense", "smf")
        dense_memory[name], dense_seconds[name] = memory["dense"], medians(seconds)["dense"]
    return result | {
        "dense": {"median_seconds": dense_seconds, "memory": dense_memory},
        "dense_time_against_smf": beside,
        "dense_peak_bytes_per_table_byte": growth(dense_memory, least, most),
    }


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    PROCESSES.set_forkserver_preload(["benchmarks.common", "smf_lib.study.training.train"])
    subkeys, rounds, dense_rounds = [128, 256, 512, 1024], 15, 7
    shape = {"width": 576, "sequences": 8, "length": 64, "small": arguments.small}
    if arguments.small:
        subkeys, rounds, dense_rounds = [16, 64], 2, 2
        shape |= {"width": 72, "sequences": 2, "length": 8}
    settings = shape | {
        "rows": [n**2 for n in subkeys],
        "rounds": rounds,
        "dense_rounds": dense_rounds,
        "rule": RULE,
        "rows_per_step": BUDGET,
        "heads": 4,
        "top_k": 16,
        "key_dim": 128,
        "model": "10 of 30 layers and a third of the vocabulary of SmolLM2-135M, random weights, "
        f"one memory, in layer {MEMORY_LAYER}",
        "precision": f"{PRECISION} in the model, fp32 in the layer alone",
    }
    results = {a: compare(a, shape, subkeys, rounds, dense_rounds) for a in ("model", "layer")}
    report("step_vs_table", arguments, settings, results)


if __name__ == "__main__":
    main()
