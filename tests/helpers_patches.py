"""A tiny model with a small sparse memory, trained a little, for tests of patches and adapters."""

import torch
from helpers_models import memory_config, tiny_model
from peft import get_peft_model

WIDTH = 32
OWNER = "model.layers.1.mlp"


def fresh(**settings):
    return get_peft_model(tiny_model(), memory_config(**settings))


def train(model, seed=0, steps=3):
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-2)
    random = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        ids = torch.randint(0, 48, (2, 10), generator=random)
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(model, expected):
    found = model.state_dict()
    assert found.keys() == expected.keys()
    different = [name for name in expected if not torch.equal(found[name], expected[name])]
    assert different == []
