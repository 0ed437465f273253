"""The processes of tests/method/test_distributed.py: each trains on its part of every batch."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from helpers_models import adamw, memory_config, memory_model, tables, tiny_model, tokens
from peft import get_peft_model
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import Trainer, TrainingArguments

from smf_lib import SparseMemoryCallback, TrainingState, collect_background, shard_base
from smf_lib.method.distributed import memory_parameters

STEPS, BATCH, LENGTH = 3, 8, 9


def padded_batch(step: int) -> dict[str, torch.Tensor]:
    """A batch in which either half has 32 real tokens, so that both weigh the same in the loss."""
    ids, mask = tokens(BATCH, LENGTH, seed=step), torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, 5:], mask[5, 5:] = 0, 0
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def unwrapped_model() -> nn.Module:
    """The model of `memory_model(rule="kl")` without PEFT's wrapper, by transformers' own way."""
    model = tiny_model()
    model.add_adapter(memory_config(rule="kl"))
    collect_background(model, tokens(6, 12, seed=99).tolist())
    return model


def train_plain(processes: int, rank: int, wrapped: bool = True) -> tuple[nn.Module, int]:
    """A loop of one's own. Returns the model and the bytes that DDP exchanges in a step."""
    model = memory_model(rule="kl") if wrapped else unwrapped_model()
    parallel, exchanged = model, [0]
    if processes > 1:
        parallel = DistributedDataParallel(model)

        def exchange(state, bucket):
            buffer = bucket.buffer()
            exchanged.append(buffer.numel() * buffer.element_size())
            reduced = dist.all_reduce(buffer.div_(processes), async_op=True).get_future()
            return reduced.then(lambda future: future.value()[0])

        parallel.register_comm_hook(None, exchange)
    optimizer = adamw(model)
    for step in range(STEPS):
        part = {n: v.chunk(processes)[rank] for n, v in padded_batch(step).items()}
        parallel(**part).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, max(exchanged)


def train_part(model: nn.Module, optimizer, processes: int, rank: int, steps: range) -> None:
    """Steps of a loop of one's own, each on two micro-batches of this process's part."""
    for step in steps:
        batch = padded_batch(step)
        for half in range(2):
            rows = slice(half, None, 2)  # either half of the batch has the same number of tokens
            part = {n: v.chunk(processes)[rank][rows] for n, v in batch.items()}
            tokens_of_all = (batch["labels"][:, 1:] != -100).sum()
            scale = processes * (part["labels"][:, 1:] != -100).sum() / tokens_of_all
            (model(**part).loss * scale).backward()
        optimizer.step()
        optimizer.zero_grad()


def new_training(sharded: bool) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = memory_model(rule="kl", trainable="values+scale")
    return (shard_base(model) if sharded else model), adamw(model)


def train_sharded(processes: int, rank: int, folder: Path) -> list[nn.Module]:
    """FSDP2 to the end; and stopped and gone on with before the first and before the last step."""
    whole, optimizer = new_training(sharded=True)
    train_part(whole, optimizer, processes, rank, range(STEPS))
    models = [whole]
    for stop in (0, STEPS - 1):
        model, optimizer = new_training(sharded=True)
        train_part(model, optimizer, processes, rank, range(stop))
        place = folder / f"after-{stop}"
        checkpoint.save({"training": TrainingState(model, optimizer)}, checkpoint_id=place)
        model, optimizer = new_training(sharded=True)
        checkpoint.load({"training": TrainingState(model, optimizer)}, checkpoint_id=place)
        train_part(model, optimizer, processes, rank, range(stop, STEPS))
        models.append(model)
    if rank == 0:
        whole.save_pretrained(folder / "sharded")
    return models


def train_trainer(
    processes: int, folder: Path, sharded: bool = False
) -> tuple[nn.Module, list[dict]]:
    """transformers' Trainer, which wraps the model by way of accelerate. Returns its log too.

    Each process is given another background; that of the first counts.
    """
    model = get_peft_model(tiny_model(), memory_config(rule="kl"))
    batches = [padded_batch(step) for step in range(STEPS)]
    rows = [{n: v[i] for n, v in batch.items()} for batch in batches for i in range(BATCH)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(folder),
            per_device_train_batch_size=BATCH // 2 // processes,
            gradient_accumulation_steps=2,
            max_steps=STEPS,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            weight_decay=0.0,
            logging_steps=1,
        ),
        train_dataset=rows,
    )
    if sharded:  # accelerate shards on accelerators only; from here on it does so on processors too
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=False)
        trainer.accelerator.state.fsdp_plugin = plugin
        vars(trainer.accelerator.state)["distributed_type"] = DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    background = tokens(6, 12, seed=99 + trainer.args.process_index).tolist()
    trainer.add_callback(SparseMemoryCallback(trainer, background=background))
    trainer.train()
    log = [
        {name: line[name] for name in line if name.startswith("smf/")}
        for line in trainer.state.log_history
        if "loss" in line
    ]
    return model, log


def scales(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for n, p in model.named_parameters() if ".smf_scale." in n]


def is_sharded(model: nn.Module) -> bool:
    """Whether all of the model is shared out, and nothing of its memories."""
    whole = memory_parameters(model)
    return all(isinstance(p, DTensor) != (p in whole) for p in model.parameters())


def result(model: nn.Module) -> list[tuple]:
    return [(t.values.detach().clone(), t.row_updates.clone()) for t in tables(model)]


def worker(rank: int, processes: int, folder: Path) -> None:
    """One process: writes what it trained, and the bytes exchanged, to a file of its own."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
    }
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=processes,
        timeout=timedelta(minutes=4),
    )
    plain, exchanged = train_plain(processes, rank)
    unwrapped, of_unwrapped = train_plain(processes, rank, wrapped=False)
    trainer, log = train_trainer(processes, folder)
    sharded = train_sharded(processes, rank, folder)
    by_trainer, _ = train_trainer(processes, folder, sharded=True)
    assert all(map(is_sharded, [*sharded, by_trainer]))
    found = {
        "plain": result(plain),
        "trainer": result(trainer),
        "unwrapped": result(unwrapped),
        "exchanged": [exchanged, of_unwrapped],
        "log": log,
        "sharded": [(result(model), scales(model)) for model in sharded],
        "sharded trainer": result(by_trainer),
    }
    torch.save(found, folder / f"rank{rank}.pt")
    dist.destroy_process_group()
