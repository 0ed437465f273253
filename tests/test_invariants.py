"""What must not matter, over every kind of attention that the library takes.

| what changes | what stays | how near |
| --- | --- | --- |
| batch size, order and padding of texts | the rows that each token reads | to the bit |
| order, padding and its side | the rows that a step moves | same rows, values within 1e-5 |
| batch size, order and shared beginnings of requests | their scores | 1e-4 nats |
| an interruption between two steps | everything | to the bit |
| the number of threads | scores | 1e-4 nats |
| the number of threads | the rows that a step moves | same rows, values within 1e-5 |
| an interruption, and Trainer goes on from its checkpoint | everything | to the bit |
| CPU or GPU, where there is one | scores in float32 | 1e-3 nats |

Several processes: `method/test_distributed.py`. A training that goes on from its checkpoint:
`study/test_train.py`.
"""

import copy
import inspect
from contextlib import contextmanager, nullcontext

import pytest
import torch
from helpers_models import adamw, bits, memory_model, tables, tiny_model, tokens, train_step
from helpers_text import word_tokenizer
from lm_eval.api.instance import Instance

from smf_lib.method.background import read_rows
from smf_lib.study.evaluation.lm import SharedContextLM

_SMALL = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32}
KINDS = {  # name: architecture and settings
    "rotary, grouped heads": ("Llama", {}),
    "rotary in part": ("GPTNeoX", {}),
    "one key and value head": ("Gemma", {"num_key_value_heads": 1}),
    "normed queries and keys": ("Qwen3", {}),
    "learned positions": ("GPT2", {}),
    "learned positions with an offset": ("OPT", {}),
    "attention beside the MLP": ("Phi", {}),
    "sliding window": ("Mistral", {"sliding_window": 4}),
    "sliding window in some layers": (
        "Gemma3Text",
        {
            **_SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8,
            "sliding_window": 4, "max_position_embeddings": 64,
        },
    ),
    "local attention": (
        "GPTNeo",
        {
            "num_layers": 4, "num_heads": 4, "hidden_size": 32, "window_size": 4,
            "attention_types": [[["global", "local"], 2]], "max_position_embeddings": 64,
        },
    ),
    "ALiBi": ("Bloom", {"n_layer": 4, "n_head": 4, "hidden_size": 32}),
    "ALiBi, parallel": ("Falcon", {**_SMALL, "alibi": True}),
    "sliding window by layers": (
        "Qwen2", {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},
    ),
    "compressed keys and values": (
        "DeepseekV3",
        {
            **_SMALL, "intermediate_size": 48, "num_key_value_heads": 4, "q_lora_rank": 8,
            "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8,
            "first_k_dense_replace": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
            "n_group": 2, "topk_group": 1, "max_position_embeddings": 64,
        },
    ),
}  # fmt: skip
TEXTS = [tokens(1, length, seed=length)[0].tolist() for length in (3, 9, 5, 9, 2)]
PAIRS = [
    ("Question one two three Answer", " four"),
    ("Question one two three Answer", " five six seven eight"),
    ("Question one Answer", " two five . three"),
    ("seven", " six six six six six six"),
]


@pytest.fixture(params=KINDS)
def model(request):
    """A model of one kind with a memory that has learned something."""
    architecture, settings = KINDS[request.param]
    made = memory_model(model=tiny_model(architecture, **settings))
    for table in tables(made):
        torch.nn.init.normal_(table.values, generator=torch.Generator().manual_seed(0))
    return made.eval()


@contextmanager
def other_threads():
    """Two threads where there was one, and one where there were more."""
    before = torch.get_num_threads()
    torch.set_num_threads(3 - min(before, 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def padded(texts, extra=0, left=False):
    """Texts as a batch, padded to the longest and `extra` tokens more, first tokens no labels."""
    length = max(map(len, texts)) + extra
    ids = torch.zeros(len(texts), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(texts):
        place = slice(length - len(text), length) if left else slice(len(text))
        ids[row, place] = torch.tensor(text)
        mask[row, place] = 1
    labels = ids.masked_fill(mask.cumsum(1) * mask < 2, -100)
    return {"ids": ids, "attention_mask": mask, "labels": labels}


def placed(model, batch):
    """The batch with the place of each token in its text, where the model cannot tell it itself."""
    mask = batch["attention_mask"]
    takes = "position_ids" in inspect.signature(model.get_base_model().forward).parameters
    return batch | ({"position_ids": (mask.cumsum(1) - 1).clamp(min=0)} if takes else {})


def scores(model, pairs=PAIRS, batch_tokens=4096):
    lm = SharedContextLM(model, word_tokenizer(), batch_tokens)
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    return torch.tensor([score for score, _ in lm.loglikelihood(asked, disable_tqdm=True)])


def test_rows_that_are_read(model):
    alone = read_rows(model, TEXTS, batch_size=1)
    together = read_rows(model, TEXTS, batch_size=5)
    reversed_ = read_rows(model, TEXTS[::-1], batch_size=2)
    for name, rows in alone.items():
        assert all(map(torch.equal, rows, together[name]))
        assert all(map(torch.equal, rows, reversed_[name][::-1]))


def test_rows_that_a_step_moves(model):
    ways = {
        "as it is": padded(TEXTS),
        "in another order": padded(TEXTS[::-1]),
        "with more padding": padded(TEXTS, extra=4),
        "padded on the left": placed(model, padded(TEXTS, left=True)),
        "more on the left": placed(model, padded(TEXTS, extra=4, left=True)),
        "on other threads": padded(TEXTS),
    }
    moved = {}
    for way, batch in ways.items():
        trained = copy.deepcopy(model).train()
        with other_threads() if way == "on other threads" else nullcontext():
            train_step(trained, adamw(trained), batch.pop("ids"), **batch)
        moved[way] = [(t.row_updates.clone(), t.values.detach().clone()) for t in tables(trained)]
    for way in ways:
        for (updates, values), (expected, wanted) in zip(
            moved[way], moved["as it is"], strict=True
        ):
            assert torch.equal(updates, expected) and expected.sum() == 6
            torch.testing.assert_close(values, wanted, rtol=0, atol=1e-5)


def test_scores(model):
    expected = scores(model)
    near = {"rtol": 0, "atol": 1e-4}
    torch.testing.assert_close(scores(model, batch_tokens=1), expected, **near)
    torch.testing.assert_close(scores(model, batch_tokens=24), expected, **near)
    torch.testing.assert_close(scores(model, PAIRS[::-1]).flip(0), expected, **near)
    alone = torch.cat([scores(model, [pair]) for pair in PAIRS])
    torch.testing.assert_close(alone, expected, **near)
    with other_threads():
        torch.testing.assert_close(scores(model), expected, **near)
    if torch.cuda.is_available():
        torch.testing.assert_close(scores(model.to("cuda")), expected, rtol=0, atol=1e-3)


def test_an_interruption_between_steps(model):
    batch, straight = padded(TEXTS), copy.deepcopy(model).train()
    ids = batch.pop("ids")
    optimizer = adamw(straight)
    train_step(straight, optimizer, ids, **batch)
    resumed = copy.deepcopy(model).train()
    after = adamw(resumed)
    resumed.load_state_dict(straight.state_dict())
    after.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, own in ((straight, optimizer), (resumed, after)):
        train_step(one, own, ids, **batch)
    for name, value in straight.state_dict().items():
        assert (
            torch.equal(bits(value), bits(resumed.state_dict()[name]))
            if value.is_floating_point()
            else (torch.equal(value, resumed.state_dict()[name]))
        ), name


@pytest.mark.slow
def test_a_trainer_that_goes_on_from_its_checkpoint(model, tmp_path):
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": text, "labels": text} for text in TEXTS]
    ends = []
    for checkpoint in (None, str(tmp_path / "checkpoint-2")):
        trained = copy.deepcopy(model)
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=1, max_steps=5, save_steps=2, use_cpu=True,
            learning_rate=1e-2, report_to="none", disable_tqdm=True, seed=0,
        )  # fmt: skip
        trainer = Trainer(trained, arguments, train_dataset=rows)
        trainer.train(resume_from_checkpoint=checkpoint)
        assert trainer.state.global_step == 5
        ends.append(trained.state_dict())
    for name, value in ends[0].items():
        assert torch.equal(value, ends[1][name]), name
