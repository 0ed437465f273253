"""One process of tests/test_distributed.py: trains on its part of each batch.

Usage: torchrun --nproc-per-node N distributed_worker.py plain|trainer FILE. Process 0 writes to
FILE, for each table, its values, its row updates and the bytes that data parallelism exchanged.
"""

from __future__ import annotations

import os
import sys
import tempfile

import torch
import torch.distributed as dist
from helpers_models import adamw, memory_model, tables, tokens
from torch.nn.parallel import DistributedDataParallel

STEPS, BATCH, LENGTH = 3, 8, 9


def padded_batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask; each half of the batch holds as many real tokens, in another order."""
    ids, mask = tokens(BATCH, LENGTH, seed=step), torch.ones(BATCH, LENGTH, dtype=torch.int64)
    mask[0, 5:], mask[5, 5:] = 0, 0
    return ids, mask


def train_plain(model) -> int:
    """Plain DistributedDataParallel. Returns the bytes of gradients that it exchanges in a step."""
    exchanged = []

    def count_bytes(state, bucket):
        exchanged.append(bucket.buffer().numel() * bucket.buffer().element_size())
        work = dist.all_reduce(bucket.buffer() / dist.get_world_size(), async_op=True)
        return work.get_future().then(lambda future: future.value()[0])

    parallel = model
    if dist.get_world_size() > 1:
        parallel = DistributedDataParallel(model)
        parallel.register_comm_hook(None, count_bytes)
    optimizer = adamw(model)
    for step in range(STEPS):
        ids, mask = (part.chunk(dist.get_world_size())[dist.get_rank()]
                     for part in padded_batch(step))
        labels = ids.masked_fill(mask == 0, -100)
        parallel(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return max(exchanged, default=0)


def train_trainer(model) -> int:
    """transformers' Trainer, which wraps the model by accelerate."""
    from transformers import Trainer, TrainingArguments

    rows = []
    for step in range(STEPS):
        ids, mask = padded_batch(step)
        rows += [{"input_ids": i, "attention_mask": m, "labels": i.masked_fill(m == 0, -100)}
                 for i, m in zip(ids, mask)]
    with tempfile.TemporaryDirectory() as folder:
        Trainer(
            model=model,
            args=TrainingArguments(
                folder, per_device_train_batch_size=BATCH // 2 // dist.get_world_size(),
                gradient_accumulation_steps=2, max_steps=STEPS, learning_rate=1e-2,
                lr_scheduler_type="constant", use_cpu=True, ddp_backend="gloo", report_to=[],
                save_strategy="no", disable_tqdm=True, weight_decay=0.0,
            ),
            train_dataset=rows,
        ).train()
    return 0


def main(way: str, file: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    model = memory_model(rule=os.environ.get("SMF_TEST_RULE", "kl"))
    exchanged = {"plain": train_plain, "trainer": train_trainer}[way](model)
    result = [(t.values.detach(), t.row_updates, exchanged) for t in tables(model)]
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, result)
    for other in everyone:
        assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
                   for a, b in zip(result, other)), "the processes' tables differ"
    if dist.get_rank() == 0:
        torch.save(result, file)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
