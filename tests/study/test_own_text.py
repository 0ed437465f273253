"""Text that the base model writes itself: what it depends on, and that it follows the model."""

import json

import pytest
import torch
from helpers_models import tiny_model

from smf_lib.study.materials import Materials
from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.profiles import load_profile
from smf_lib.study.tasks import own_text
from smf_lib.study.tasks.own_text import document_start, write_self_text


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_model(tiny_random_model(tmp_path_factory.mktemp("cache")))


def test_written_text_has_the_asked_shape_and_starts_as_a_document(tiny):
    model, tokenizer = tiny
    text = write_self_text(model, tokenizer, 5, 12, seed=0)
    assert [len(sequence) for sequence in text] == [12] * 5
    assert {sequence[0] for sequence in text} == {tokenizer.bos_token_id}
    assert all(0 <= token < len(tokenizer) for sequence in text for token in sequence)
    assert len({tuple(sequence) for sequence in text}) == 5


def test_written_text_depends_on_the_seed_alone(tiny):
    model, tokenizer = tiny
    text = write_self_text(model, tokenizer, 3, 12, seed=0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    assert write_self_text(model, tokenizer, 3, 12, seed=0) == text
    assert torch.equal(torch.get_rng_state(), state)
    assert write_self_text(model, tokenizer, 3, 12, seed=1) != text


def test_fewer_sequences_are_the_first_of_more(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(own_text, "WRITING_BATCH", 4)
    more = write_self_text(model, tokenizer, 10, 9, seed=0)
    assert write_self_text(model, tokenizer, 3, 9, seed=0) == more[:3]
    assert write_self_text(model, tokenizer, 6, 9, seed=0) == more[:6]


def test_fewer_tokens_are_the_first_of_more(tiny):
    model, tokenizer = tiny
    more = write_self_text(model, tokenizer, 2, 20, seed=0)
    assert write_self_text(model, tokenizer, 2, 8, seed=0) == [row[:8] for row in more]


def test_every_token_is_drawn_from_the_models_own_distribution(tiny, monkeypatch):
    model, tokenizer = tiny
    monkeypatch.setattr(own_text, "_fast_writer", lambda model: model)
    monkeypatch.setattr(own_text, "WRITING_BATCH", 2)
    text = torch.tensor(write_self_text(model, tokenizer, 2, 16, seed=3))
    draws = own_text._uniform_draws(range(2), 15, seed=3)
    with torch.inference_mode():
        chances = model(text).logits[:, :-1].softmax(-1)
    upper = chances.cumsum(-1).gather(-1, text[:, 1:, None]).squeeze(-1)
    lower = upper - chances.gather(-1, text[:, 1:, None]).squeeze(-1)
    assert (draws >= lower - 1e-5).all() and (draws <= upper + 1e-5).all()


def test_the_draws_follow_the_probabilities():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log().repeat(40_000, 1)
    draws = torch.rand(40_000, 1, generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(own_text._sample(logits, draws).flatten(), minlength=4) / 40_000
    assert torch.allclose(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.01)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]]).repeat(3, 1)
    draws = torch.tensor([[0.0], [0.5], [1.0 - 2**-24]])
    assert own_text._sample(logits, draws).flatten().tolist() == [1, 3, 3]


def test_writing_leaves_the_model_as_it_was(tiny):
    model, tokenizer = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config._attn_implementation
    model.train()
    write_self_text(model, tokenizer, 1, 4, seed=0)
    assert model.training and model.config._attn_implementation == attention
    model.eval()
    assert model.dtype == torch.float32
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_another_architecture_writes_too(tiny):
    _, tokenizer = tiny
    model = tiny_model("GPT2", vocab_size=len(tokenizer) + 9)
    text = write_self_text(model, tokenizer, 2, 32, seed=0)
    assert all(token < len(tokenizer) for sequence in text for token in sequence)


@pytest.mark.parametrize(
    ("sequences", "tokens", "says"),
    [(0, 8, "sequences 0"), (1, 1, "tokens 1 must"), (1, 10**6, "tokens 1000000 must be from 2")],
)
def test_impossible_sizes_are_refused(tiny, sequences, tokens, says):
    with pytest.raises(ValueError, match=says):
        write_self_text(*tiny, sequences, tokens, seed=0)


class Vocabulary:
    """As much of a tokenizer as `document_start` reads."""

    def __init__(self, named=None, bos=None, eos=None):
        self.bos_token_id, self.eos_token_id = bos, eos
        self.named = {} if named is None else {"<|endoftext|>": named}

    def get_vocab(self):
        return self.named


def test_a_document_starts_with_the_pretraining_separator_where_there_is_one():
    assert document_start(Vocabulary(named=0, bos=1, eos=2)) == 0
    assert document_start(Vocabulary(bos=1, eos=2)) == 1
    assert document_start(Vocabulary(eos=2)) == 2
    with pytest.raises(ValueError, match="no token to begin a text"):
        document_start(Vocabulary())


def test_a_text_that_comes_with_the_library_is_not_written_again(tmp_path, monkeypatch):
    study = Materials(load_profile("smoke"), tmp_path)
    written = study.background_text()
    (kept,) = study.kept.glob("background-*.json")
    monkeypatch.setattr(own_text, "SHIPPED", tmp_path / "shipped")
    own_text.SHIPPED.mkdir()
    (own_text.SHIPPED / kept.name.removeprefix("background-")).write_text(json.dumps(written))
    kept.unlink()
    monkeypatch.setattr(own_text, "write_self_text", None)
    assert study.background_text() == written
    assert not list(study.kept.glob("background-*.json"))
