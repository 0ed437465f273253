"""Tiny random models with memories, and what the tests of the engine ask of them."""

from __future__ import annotations

import torch
import transformers
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from smf_lib import SparseMemoryConfig, collect_background
from smf_lib.method import layer, row_adam, row_steps
from smf_lib.method.background import memories

VOCABULARY = 64
_COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_LLAMA = _SHAPE | {"num_key_value_heads": 2}
ARCHITECTURES = {
    "Llama": _LLAMA,
    "Qwen2": _LLAMA,
    "Qwen3": _LLAMA | {"head_dim": 8},
    "Mistral": _LLAMA,
    "Gemma": _LLAMA | {"head_dim": 8},
    "GPT2": {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64},
    "GPTNeoX": _SHAPE,
    "OPT": _SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "Phi": _SHAPE,
}
_GPT = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
FURTHER = {  # dense ones that differ from all above in how their layers are made or named
    "Bloom": {"hidden_size": 32, "n_layer": 4, "n_head": 4},
    "Cohere": _LLAMA,
    "Falcon": _SHAPE,
    "Gemma2": _LLAMA | {"head_dim": 8},
    "Gemma3Text": _LLAMA | {"head_dim": 8},
    "Glm4": _LLAMA | {"head_dim": 8},
    "GPTBigCode": _GPT,
    "GPTJ": _GPT | {"rotary_dim": 4},
    "GPTNeo": {
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 2]],
        "max_position_embeddings": 64,
    },
    "Granite": _LLAMA,
    "Mpt": {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 64},
    "Olmo2": _LLAMA,
    "Phi3": _LLAMA,
    "SmolLM3": _LLAMA,
    "StableLm": _LLAMA,
    "Starcoder2": _LLAMA,
    "XGLM": {"d_model": 32, "ffn_dim": 48, "num_layers": 4, "attention_heads": 4},
}


def tiny_model(architecture: str = "Llama", seed: int = 0, **settings) -> nn.Module:
    """A random causal language model, by default of 4 layers and width 32, without dropout."""
    config_class = getattr(transformers, f"{architecture}Config")
    shape = (ARCHITECTURES | FURTHER).get(architecture, {})
    config = config_class(**_COMMON | shape | settings)
    for name in list(vars(config)):
        if "drop" in name and isinstance(getattr(config, name), float):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def paper_model() -> nn.Module:
    """The shape of the paper's model, Qwen2.5-0.5B, without weights (on the meta device)."""
    with torch.device("meta"):
        return tiny_model(
            "Qwen2",
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            tie_word_embeddings=True,
        )


def memory_config(**settings) -> SparseMemoryConfig:
    """A memory of 64 rows at layers 1 and 2, from which a step updates 6; rule `count`."""
    small = {
        "task_type": "CAUSAL_LM",
        "layers": [1, 2],
        "num_subkeys": 8,
        "num_heads": 2,
        "top_k": 4,
        "key_dim": 8,
        "rows_per_step": 6,
        "rule": "count",
    }
    return SparseMemoryConfig(**small | settings)


def memory_model(
    architecture: str = "Llama",
    model: nn.Module | None = None,
    adapter_name: str = "default",
    **settings,
) -> PeftModel:
    """`tiny_model` with the memory of `memory_config`, with background reads if the rule asks."""
    config = memory_config(**settings)
    base = tiny_model(architecture) if model is None else model
    peft_model = get_peft_model(base, config, adapter_name)
    if config.rule in ("kl", "tfidf"):
        collect_background(peft_model, tokens(6, 12, seed=99).tolist())
    return peft_model


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    """Random token ids (batch, length), none of them special."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (batch, length), generator=generator)


def tables(model: nn.Module) -> list[nn.Module]:
    """The memories of the model that own a value table, in depth order."""
    return [m for m in memories(model).values() if m.table is m]


def adamw(model: nn.Module, learning_rate: float = 1e-2, **settings) -> torch.optim.AdamW:
    """AdamW over everything that is trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=learning_rate, **{"weight_decay": 0.0} | settings)


def train_step(model, optimizer, ids: Tensor, **inputs) -> float:
    """One optimizer step on a batch of token ids, each its own label. Returns the loss."""
    loss = model(input_ids=ids, labels=inputs.pop("labels", ids), **inputs).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def bits(x: Tensor) -> Tensor:
    """A tensor's bit patterns, so that equality means the same bits (and NaN equals itself)."""
    kinds = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return x.detach().contiguous().view(kinds[x.element_size()]).clone()


def row_state(optimizer: torch.optim.Optimizer, memory: nn.Module) -> dict[str, Tensor]:
    """Optimizer state of every row of a table, (N,) steps and (N, d) moments; zero if none yet.

    Of a bfloat16 table, beside which numbers are kept as their bits, also masters (N, d).
    """
    state = dict(optimizer.state[memory.values])
    rows, width = memory.values.shape
    dense = {
        "row_steps": torch.zeros(rows),
        "exp_avg": torch.zeros(rows, width),
        "exp_avg_sq": torch.zeros(rows, width),
    }
    if memory.values.dtype == torch.bfloat16:
        dense["master"] = torch.zeros(rows, width)
        for name in {"slots", *dense} & state.keys():
            kind = torch.int32 if name == "slots" else torch.float32
            state[name] = state[name].view(kind)
    if state:
        known = (state["slots"] >= 0).nonzero().squeeze(1)
        for name in dense.keys() & state.keys():
            dense[name][known] = state[name][state["slots"][known].long()].float()
    return dense


class Called(TorchDispatchMode):
    """The names of the operators that run."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **kwargs or {})


def run_ahead(monkeypatch, late: int = 1) -> None:
    """Has memories step on this machine as on a GPU.

    What is copied from it is not there the first `late` times that one looks.
    """

    def begin_copy(number: Tensor):
        with _disable_current_modes():
            asks, value = iter(range(late)), int(number)
        return lambda: value if next(asks, None) is None else None

    for module in (layer, row_adam, row_steps):
        monkeypatch.setattr(module, "waits", lambda tensor: True)
    monkeypatch.setattr(row_steps, "begin_copy", begin_copy)
