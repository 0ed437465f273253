"""Two processes on half a batch each equal one on the whole: DDP, FSDP2; DeepSpeed is refused."""

from __future__ import annotations

import time

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from helpers_distributed import (
    STEPS,
    new_training,
    result,
    scales,
    train_part,
    train_plain,
    train_trainer,
    worker,
)
from helpers_models import memory_config, memory_model, tables, tiny_model, tokens, train_step
from peft import PeftModel
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from smf_lib import RowSGD, TrainingState, shard_base

PATIENCE = 240  # seconds until processes that wait for each other count as hanging


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def ranks(folder) -> list[dict]:
    """By rank, what each of two processes trained; starting them takes most of the time."""
    started = mp.start_processes(worker, (2, folder), nprocs=2, join=False, start_method="spawn")
    deadline = time.monotonic() + PATIENCE
    while not started.join(timeout=5):
        if time.monotonic() > deadline:
            for process in started.processes:
                process.kill()
            pytest.fail(f"the processes did not end within {PATIENCE} s")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def assert_same(whole, of_first, of_second):
    """Both processes have the same bits, and the rows and nearly the values of one process."""
    for one, half, other_half in zip(whole, of_first, of_second, strict=True):
        assert all(torch.equal(*pair) for pair in zip(half, other_half))
        assert one[1].sum() == STEPS * 6
        assert torch.equal(one[1], half[1])
        torch.testing.assert_close(one[0], half[0], rtol=1e-3, atol=1e-5)


def test_two_processes_equal_one_and_do_not_exchange_the_tables(ranks, folder):
    first, second = ranks
    by_trainer, log = train_trainer(1, folder)
    assert_same(result(train_plain(1, 0)[0]), first["plain"], second["plain"])
    assert_same(result(train_plain(1, 0)[0]), first["unwrapped"], second["unwrapped"])
    assert_same(result(by_trainer), first["trainer"], second["trainer"])
    assert_same(result(by_trainer), first["sharded trainer"], second["sharded trainer"])
    anchors = 4 * 2  # one float32 in each of two memories
    assert first["exchanged"] == second["exchanged"] == [anchors, anchors]
    assert first["log"] == second["log"]
    for whole, half in zip(log, first["log"], strict=True):
        assert whole.keys() == half.keys() and whole == pytest.approx(half, rel=1e-3)


def test_with_the_base_model_shared_out_two_processes_equal_one(ranks, folder):
    """To the end, and through distributed checkpoints before the first and the last step."""
    model, optimizer = new_training(sharded=False)
    train_part(model, optimizer, 1, 0, range(STEPS))
    expected = scales(model)
    assert all(abs(float(scale) - 1) > 1e-3 for scale in expected)
    for first, second in zip(ranks[0]["sharded"], ranks[1]["sharded"], strict=True):
        assert_same(result(model), first[0], second[0])
        for scale, of_first, of_second in zip(expected, first[1], second[1], strict=True):
            assert torch.equal(of_first, of_second)
            torch.testing.assert_close(scale, of_first, rtol=1e-4, atol=1e-6)
    whole, _, gone_on = (run[0] for run in ranks[0]["sharded"])
    assert all(torch.equal(*pair) for pair in zip(whole[0], gone_on[0]))
    loaded = PeftModel.from_pretrained(tiny_model(), folder / "sharded")
    assert all(torch.equal(t.values, w[0]) for t, w in zip(tables(loaded), whole))


def test_without_a_memory_or_with_ignored_parameters_nothing_is_shared_out():
    with pytest.raises(ValueError, match="model=LlamaForCausalLM has no memory"):
        shard_base(tiny_model())
    with pytest.raises(ValueError, match="ignored_params is what shard_base sets"):
        shard_base(memory_model(), ignored_params=set())


def test_torch_itself_refuses_to_share_out_a_memory(tmp_path):
    """Before anything is trained; its remedy, another shape, is none, so the page names ours."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/one", rank=0, world_size=1)
    try:
        with pytest.raises(ValueError, match="doesn't support scalar parameters.*anchor"):
            fully_shard(memory_model().base_model.model.model.layers[1])
    finally:
        dist.destroy_process_group()


def test_a_state_without_moments_goes_on_with_the_same_draws():
    """Of gradient descent only the number of steps is kept, by which `random` draws."""
    ids = tokens(2, 9)

    def steps(model, optimizer, count):
        for _ in range(count):
            train_step(model, optimizer, ids)

    models = [memory_model(rule="random") for _ in range(2)]
    optimizers = [RowSGD([p for p in m.parameters() if p.requires_grad], lr=1.0) for m in models]
    steps(models[0], optimizers[0], 2)
    state = TrainingState(models[0], optimizers[0]).state_dict()
    TrainingState(models[1], optimizers[1]).load_state_dict(state)
    for model, optimizer in zip(models, optimizers):
        steps(model, optimizer, 2)
    for one, other in zip(tables(models[0]), tables(models[1]), strict=True):
        assert torch.equal(one.row_updates, other.row_updates)
        assert torch.equal(one.values, other.values)


def by_transformers():
    """A memory without PEFT's wrapper."""
    model = tiny_model()
    model.add_adapter(memory_config())
    return model


class Engine:
    """Of `deepspeed.DeepSpeedEngine` 0.19, what it does with the modules of a model it takes.

    `_configure_distributed_model` calls this before it sends parameters and makes its optimizer.
    """

    def __init__(self, model, use_data_before_expert_parallel=False):
        for _, module in model.named_modules():
            if hasattr(module, "set_deepspeed_parallelism"):
                module.set_deepspeed_parallelism(use_data_before_expert_parallel)


def test_a_model_whose_memories_were_taken_out_says_nothing_to_ddp():
    model = memory_model()
    assert model._ddp_params_and_buffers_to_ignore
    assert not hasattr(model.unload(), "_ddp_params_and_buffers_to_ignore")


@pytest.mark.parametrize("make", [memory_model, by_transformers])
def test_deepspeed_is_refused_when_it_takes_the_model(make):
    Engine(tiny_model())
    for model in (make(), nn.Sequential(make())):
        with pytest.raises(ValueError, match="DeepSpeed, at any ZeRO stage, cannot train a memory"):
            Engine(model)


def synchronised(model, folder) -> set[str]:
    """The last parts of the names of what DDP takes of memories."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/one", rank=0, world_size=1)
    try:
        ignored = DistributedDataParallel(model).parameters_to_ignore
    finally:
        dist.destroy_process_group()
    held = [n for n, p in model.named_parameters() if p.requires_grad]
    held += [n for n, _ in model.named_buffers()]
    return {n.rpartition(".")[2] for n in held if ".smf_" in n and n not in ignored}


def two_by_transformers():
    model = by_transformers()
    model.add_adapter(memory_config(layers=[0, 3], trainable="values+scale"), "other")
    model.set_adapter(["default", "other"])
    return model


def two_by_peft():
    model = memory_model()
    model.add_adapter("other", memory_config(layers=[0, 3], trainable="values+scale"))
    model.base_model.set_adapter(["default", "other"])
    return model


@pytest.mark.parametrize("make", [two_by_peft, two_by_transformers])
def test_ddp_leaves_tables_and_counts_alone(make, tmp_path):
    assert synchronised(make(), tmp_path) == {"anchor", "other"}  # of `other` the scale


def test_ddp_synchronises_a_table_that_has_a_gradient(tmp_path):
    model = tiny_model()
    model.add_adapter(memory_config(update="dense"))
    assert synchronised(model, tmp_path) == {"anchor", "values"}


def test_of_what_is_taken_out_ddp_leaves_alone_what_its_owner_said():
    base = tiny_model()
    base._ddp_params_and_buffers_to_ignore = ["lm_head.weight"]
    model = memory_model(model=base)
    said = model._ddp_params_and_buffers_to_ignore
    assert said[0] == "base_model.model.lm_head.weight" and len(said) > 2
    assert model.unload()._ddp_params_and_buffers_to_ignore == ["lm_head.weight"]
