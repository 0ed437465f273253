"""The lm-eval backend: the same numbers as lm-eval's own, with shared contexts read once."""

import re

import pytest
import torch
from helpers_models import memory_model, tiny_model
from helpers_text import WORDS, word_tokenizer
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import LlamaForCausalLM

from smf_lib.study.evaluation.evaluate import measure_divergence
from smf_lib.study.evaluation.lm import Generation, SharedContextLM
from smf_lib.study.evaluation.reading import RowReader, batches, common_prefix, inference
from smf_lib.study.study import Study

PAIRS = [
    ("Question one two three Answer", " four"),
    ("Question one two three Answer", " five six seven eight"),
    ("Question one two three Answer", " nine nine"),
    ("Question one Answer", " two five . three"),
    ("Question one Answer", " eight"),
    ("seven", " six six six six six six"),
    ("Question five six seven eight nine one two three Answer", " four four"),
    ("", "one two"),
]


def requests(kind: str, arguments) -> list[Instance]:
    return [Instance(kind, {}, args, number) for number, args in enumerate(arguments)]


def loglikelihoods(lm, pairs=PAIRS) -> list[tuple[float, bool]]:
    return lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)


def assert_close(scores, expected, tolerance=1e-3):
    assert [greedy for _, greedy in scores] == [greedy for _, greedy in expected]
    given = torch.tensor([score for score, _ in scores])
    torch.testing.assert_close(
        given, torch.tensor([score for score, _ in expected]), rtol=0, atol=tolerance
    )


def one_by_one(model, tokenizer, pairs=PAIRS, virtual: int = 0):
    """Scores from one plain forward pass a pair, without cache or padding."""
    lm, scores = SharedContextLM(model, tokenizer), []
    for context, continuation in pairs:
        whole = (
            lm.tok_encode(context + continuation) if context else [1, *lm.tok_encode(continuation)]
        )
        start = len(lm.tok_encode(context)) if context else 1
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole])).logits[0, virtual:]
        log_p = logits[start - 1 : -1].log_softmax(-1)
        targets = torch.tensor(whole[start:])
        total = log_p.gather(-1, targets[:, None]).sum().item()
        scores.append((total, bool((log_p.argmax(-1) == targets).all())))
    return scores


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "GPT2", "Mistral", "OPT", "Gemma"])
def test_loglikelihood_agrees_with_lm_eval(architecture, bos):
    model, tokenizer = tiny_model(architecture), word_tokenizer(bos)
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3)
    assert_close(loglikelihoods(SharedContextLM(model, tokenizer)), loglikelihoods(reference))


@pytest.mark.parametrize("positions", [1, 2, 64])
def test_scores_do_not_depend_on_how_many_positions_are_scored_at_once(positions, monkeypatch):
    model, tokenizer = tiny_model("Qwen2"), word_tokenizer()
    expected = one_by_one(model, tokenizer)
    monkeypatch.setattr("smf_lib.study.evaluation.lm.SCORED_AT_ONCE", positions)
    assert_close(loglikelihoods(SharedContextLM(model, tokenizer)), expected, 1e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Qwen2", "GPT2"])
def test_generation_agrees_with_lm_eval(architecture):
    model, tokenizer = tiny_model(architecture), word_tokenizer()
    arguments = [
        (context, {"until": until, "max_gen_toks": most, "do_sample": False})
        for context, _ in PAIRS[:-1]
        for until, most in [([".", "word3"], 6), ([], 3)]
    ]
    given = SharedContextLM(model, tokenizer, 20).generate_until(
        requests("generate_until", arguments), disable_tqdm=True
    )
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    wanted = reference.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    assert given == wanted
    assert len(set(given)) > 3


@pytest.mark.parametrize("length", [5, 63, 64, 65, 200])
def test_rolling_loglikelihood_agrees_with_lm_eval(length):
    model, tokenizer = tiny_model(), word_tokenizer()
    text = [(" ".join(WORDS[3 + number * number % 12] for number in range(length)),)]
    lm = SharedContextLM(model, tokenizer)
    (given,) = lm.loglikelihood_rolling(requests("loglikelihood_rolling", text), disable_tqdm=True)
    reference = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=64)
    (wanted,) = reference.loglikelihood_rolling(
        requests("loglikelihood_rolling", text), disable_tqdm=True
    )
    assert given == pytest.approx(wanted, abs=1e-3)


_SMALL = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32}
BY_COLUMN = {  # models whose attention goes by where a token stands, not by its position number
    "Mistral": {"sliding_window": 4},
    "Qwen2": {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},
    "Gemma3Text": {
        **_SMALL, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8,
        "sliding_window": 4, "max_position_embeddings": 64,
    },
    "GPTNeo": {
        "num_layers": 2, "num_heads": 4, "hidden_size": 32, "window_size": 4,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
    },
    "Bloom": {"n_layer": 2, "n_head": 4, "hidden_size": 32},
    "Mpt": {"n_layers": 2, "n_heads": 4, "d_model": 32, "max_seq_len": 64},
    "Falcon": {**_SMALL, "alibi": True},
    "Llama4Text": {
        **_SMALL, "intermediate_size": 48, "intermediate_size_mlp": 48, "num_key_value_heads": 2,
        "head_dim": 8, "num_local_experts": 2, "attention_chunk_size": 4,
        "max_position_embeddings": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize("batch_tokens", [8, 256])
@pytest.mark.parametrize("architecture", BY_COLUMN)
def test_scores_do_not_depend_on_neighbours_where_attention_goes_by_column(
    architecture, batch_tokens
):
    model = tiny_model(architecture, **BY_COLUMN[architecture])
    scores = loglikelihoods(SharedContextLM(model, word_tokenizer(), batch_tokens))
    assert_close(scores, one_by_one(model, word_tokenizer()), 1e-4)


@pytest.mark.parametrize("architecture", BY_COLUMN)
def test_divergence_does_not_depend_on_neighbours_where_attention_goes_by_column(architecture):
    model, base = (tiny_model(architecture, seed, **BY_COLUMN[architecture]) for seed in (0, 1))
    texts = [list(range(3, 3 + length)) for length in (9, 5, 9, 2)]
    alone = [measure_divergence("kl", model, base, [text]).value for text in texts]
    together = measure_divergence("kl", model, base, texts, batch_tokens=36)
    assert together.items == pytest.approx(alone, abs=1e-4)


def adapted(kind: str):
    if kind == "memory":
        model = memory_model(initial_values="random", initial_scale=1.0)
    elif kind == "lora":
        config = LoraConfig(
            task_type="CAUSAL_LM", target_modules="all-linear", init_lora_weights=False
        )
        model = get_peft_model(tiny_model(), config)
    elif kind == "prompt":
        config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = get_peft_model(tiny_model(), config)
    else:
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
        model = get_peft_model(tiny_model(), config)
    return model.eval()


@pytest.mark.parametrize("kind", ["memory", "lora", "prompt", "prefix"])
def test_models_wrapped_by_peft(kind):
    model, tokenizer = adapted(kind), word_tokenizer()
    scores = loglikelihoods(SharedContextLM(model, tokenizer, 24))
    assert_close(scores, one_by_one(model, tokenizer, virtual=3 if kind == "prompt" else 0))
    plain = loglikelihoods(SharedContextLM(tiny_model(), tokenizer, 24))
    assert abs(scores[0][0] - plain[0][0]) > 1e-3, "the adapter makes no difference"


@pytest.mark.parametrize("architecture", ["Llama", "GPT2"])
@pytest.mark.parametrize("batch_tokens", [1, 7, 16, 40])
def test_batches_and_padding_change_nothing(architecture, batch_tokens):
    model, tokenizer = tiny_model(architecture), word_tokenizer()
    whole = loglikelihoods(SharedContextLM(model, tokenizer))
    scores = loglikelihoods(SharedContextLM(model, tokenizer, batch_tokens))
    assert_close(scores, whole, 1e-4)
    assert_close(scores, one_by_one(model, tokenizer), 1e-4)


def test_scores_come_in_the_order_of_the_requests():
    lm = SharedContextLM(tiny_model(), word_tokenizer(), 16)
    backwards = loglikelihoods(lm, PAIRS[::-1])[::-1]
    assert_close(loglikelihoods(lm), backwards, 1e-4)


def test_bf16_is_near_fp32_but_not_the_same():
    model, tokenizer = tiny_model(), word_tokenizer()
    full = loglikelihoods(SharedContextLM(model, tokenizer))
    half = loglikelihoods(SharedContextLM(model, tokenizer, precision="bf16"))
    differences = [abs(a - b) for (a, _), (b, _) in zip(full, half)]
    assert 0 < max(differences) < 0.2


def test_each_shared_context_is_read_once():
    model, read = tiny_model(), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    pairs = [([3, 4, 5, 6, 7], [8, option, 9]) for option in range(10, 14)]
    SharedContextLM(model, word_tokenizer()).score(pairs, disable_tqdm=True)
    assert read == [4, 1, 4 * 2]  # the prefix but its last token, that token, the options


def test_finished_texts_leave_the_batch():
    model, sizes = tiny_model(), []
    lm = SharedContextLM(model, word_tokenizer())
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    arguments = [("one two", {"max_gen_toks": most}) for most in (1, 2, 4)]
    lm.end_tokens = set()
    lm.generate_until(requests("generate_until", arguments), disable_tqdm=True)
    assert sizes == [1, 3, 2, 1, 1]


def test_an_empty_continuation_and_no_requests():
    lm = SharedContextLM(tiny_model(), word_tokenizer())
    assert lm.score([([3], []), ([4], [])], disable_tqdm=True) == [(0.0, True)] * 2
    assert lm.score([]) == lm.generate_until([]) == lm.loglikelihood_rolling([]) == []


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("training", [True, False])
def test_inference_puts_the_model_back(precision, training):
    model = memory_model().train(training)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match="stop"), inference(model, precision):
        assert not model.training and not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu") == (precision == "bf16")
        raise RuntimeError("stop")
    assert model.training is training
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


def test_frozen_weights_are_converted_once():
    model = tiny_model().requires_grad_(False)
    ids = torch.tensor([[3, 4, 5]])
    with inference(model, "bf16"):
        model(input_ids=ids)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            model.lm_head(torch.randn(1, 32, dtype=torch.bfloat16))
    assert "aten::_to_copy" not in {event.key for event in seen.key_averages()}


def test_common_prefix_leaves_a_token_to_read():
    assert common_prefix([[1, 2, 3], [1, 2, 4], [1, 2, 3, 5]]) == [1, 2]
    assert common_prefix([[1, 2, 3]]) == [1, 2]
    assert common_prefix([[1, 2], [1, 2, 3]]) == [1]
    assert common_prefix([[1], [2]]) == []


def test_batches_keep_to_the_budget_and_hold_everything_once():
    lengths = [5, 1, 9, 30, 5, 0, 2]
    found = list(batches(lengths, 12))
    assert sorted(item for batch in found for item in batch) == list(range(len(lengths)))
    assert found[0] == [3]  # longer than the budget: alone
    for batch in found[1:]:
        assert len(batch) * max(lengths[i] for i in batch) <= 12
    assert list(batches([], 12)) == []
    # a large batch ends where padding would be more than a fifth
    assert [len(batch) for batch in batches([100] * 3 + [79] * 3, 10**6)] == [3, 3]
    assert [len(batch) for batch in batches([10] * 3 + [1] * 3, 10**6)] == [6]


def test_errors_name_the_parameter_and_what_is_allowed():
    model, tokenizer = tiny_model(), word_tokenizer()
    with pytest.raises(ValueError, match="precision='fp8' is unknown; choose one of"):
        SharedContextLM(model, tokenizer, precision="fp8")
    with pytest.raises(ValueError, match="batch_tokens=0 must be at least 1"):
        SharedContextLM(model, tokenizer, 0)
    lm = SharedContextLM(model, tokenizer)
    with pytest.raises(ValueError, match="request 1 has 65 tokens.* maximum is 64"):
        lm.score([([3], [4]), ([3] * 60, [4] * 6)])
    with pytest.raises(ValueError, match="request 0 has 67 tokens.* maximum is 64"):
        lm.generate_until(requests("generate_until", [("one two three", {"max_gen_toks": 64})]))
    with pytest.raises(ValueError, match="pairs holds an empty context"):
        lm.score([([], [4])])


def test_settings_of_generation_are_taken_or_refused():
    greedy = {"do_sample": False, "temperature": 0.0, "num_beams": 1}
    found = Generation.from_kwargs({"until": ["a", "b"], "max_gen_toks": 7, **greedy})
    assert found == Generation(("a", "b"), 7)
    assert Generation.from_kwargs({"until": None, "do_sample": None}).until == ()


@pytest.mark.parametrize(
    "name, value",
    [
        ("do_sample", True),
        ("temperature", 0.7),
        ("num_beams", 4),
        ("top_p", 0.95),
        ("repetition_penalty", 1.2),
        ("no_repeat_ngram_size", 3),
        ("max_new_tokens", 12),
        ("suppress_tokens", [1, 2]),
    ],
)
def test_a_setting_of_generation_that_is_not_taken_is_refused(name, value):
    refused = re.escape(f"generation_kwargs: {name}={value!r} is not taken")
    with pytest.raises(ValueError, match=rf"^{refused}.* leave {name} out of [^\n]*$"):
        Generation.from_kwargs({"until": ["x"], "max_gen_toks": 3, "do_sample": False, name: value})


def test_longest_text_that_fits():
    lm = SharedContextLM(tiny_model(), word_tokenizer())
    ((score, _),) = lm.score([([3] * 60, [4] * 5)], disable_tqdm=True)
    assert score < 0


def test_a_recurrent_model_is_refused():
    model = tiny_model()
    model._is_stateful = True
    with pytest.raises(ValueError, match="LlamaForCausalLM keeps a recurrent state"):
        RowReader(model)


@pytest.mark.parametrize("kind", ["conv", "linear_attention", "hybrid", "hybrid_sliding"])
def test_layers_that_keep_another_state_are_refused_by_their_kind(kind):
    model = tiny_model()
    model.config.layer_types = ["full_attention", kind]
    with pytest.raises(ValueError, match="keeps a recurrent state"):
        RowReader(model)


_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
NO_CACHE = (
    "has no key-value cache; evaluation needs a model whose layers all have a key-value cache"
)
UNREADABLE = {
    "OpenAIGPT": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, NO_CACHE),
    "XLM": ({"emb_dim": 32, "n_layers": 2, "n_heads": 4}, NO_CACHE),
    "XLNet": ({"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, NO_CACHE),
    "Reformer": (
        {
            "hidden_size": 32, "num_attention_heads": 4, "attention_head_size": 8,
            "attn_layers": ["local", "local"], "local_attn_chunk_length": 4,
            "feed_forward_size": 48, "axial_pos_shape": [8, 8], "axial_pos_embds_dim": [16, 16],
            "is_decoder": True, "max_position_embeddings": 64,
        },
        NO_CACHE,
    ),
    "Bert": (_ENCODER, "attends to both sides of a token; evaluation needs a model that attends"),
    "Electra": (_ENCODER, "attends to both sides of a token"),
    "Roberta": (_ENCODER | {"is_decoder": True}, "counts positions from its padding token"),
}  # fmt: skip


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("architecture", UNREADABLE)
def test_a_model_that_cannot_be_read_piece_by_piece_is_refused(architecture, device):
    settings, reason = UNREADABLE[architecture]
    with torch.device(device):
        model = tiny_model(architecture, **settings)
    with pytest.raises(ValueError, match=f"^model={type(model).__name__} {reason}"):
        RowReader(model)


@pytest.mark.parametrize("architecture", UNREADABLE)
def test_it_is_refused_when_a_study_is_loaded(architecture, tmp_path):
    settings, reason = UNREADABLE[architecture]
    tokenizer = word_tokenizer()
    vocabulary = {"vocab_size": len(tokenizer)}
    tiny_model(architecture, **settings | vocabulary).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    profile = tmp_path / "mine.yaml"
    profile.write_text("extends: smoke\nname: mine\nmodel: {source: model}\n")
    with pytest.raises(ValueError, match=f"^model=.* {reason}"):
        Study.load(profile, tmp_path)


@pytest.mark.parametrize("architecture", ["GPTNeoX", "GPTNeoXJapanese", "Bert"])
def test_a_decoder_is_read_whatever_its_configuration_says(architecture):
    """GPT-NeoX has `is_decoder=False`, and BERT may be one."""
    settings = _SMALL | {"max_position_embeddings": 64, "initializer_range": 0.5}
    if architecture == "Bert":
        settings["is_decoder"] = True
    model = tiny_model(architecture, **settings)
    scores = loglikelihoods(SharedContextLM(model, word_tokenizer()))
    assert_close(scores, one_by_one(model, word_tokenizer()), 1e-3)


def test_a_recurrent_model_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "_is_stateful", True)
    with pytest.raises(ValueError, match="LlamaForCausalLM keeps a recurrent state"):
        Study.load("smoke", tmp_path)
