"""The four measurements: checked against plain computations, item by item."""

import logging
import math
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from helpers_models import memory_model, tiny_model
from helpers_text import WORDS, word_tokenizer

from smf_lib.study.evaluation import harness
from smf_lib.study.evaluation.evaluate import (
    Measurement,
    measure_divergence,
    measure_exam,
    measure_knowledge,
    measure_prose,
    normalise,
)
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.tasks.exam import ExamQuestion, continuation, prompt


@dataclass
class Known:
    """A knowledge question."""

    question: str
    answer: str = "one"
    aliases: list[str] = field(default_factory=lambda: ["one"])
    id: str = "known-1"


@dataclass
class Article:
    """A text of the prose probe."""

    text: str


def tiny_lm(bos: bool = False) -> SharedContextLM:
    return SharedContextLM(tiny_model(), word_tokenizer(bos))


def some_words(seed: int, length: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS[3:], length))


def exam_questions(n: int = 12) -> list[ExamQuestion]:
    questions = []
    for i in range(n):
        options = [some_words(100 * i + j, 1 + (i + j) % 4) for j in range(4)]
        questions.append(ExamQuestion(f"q{i}", some_words(i, 3 + i % 5), options, i % 4))
    return questions


def log_probability(model, tokenizer, context: str, text: str) -> float:
    ids = tokenizer(context + text).input_ids
    start = len(tokenizer(context).input_ids)
    with torch.no_grad():
        log_p = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(log_p[i - 1, ids[i]].item() for i in range(start, len(ids)))


# ---------------------------------------------------------------------- exam


def test_exam_marks_the_option_that_is_likeliest_per_character():
    model, tokenizer, questions = tiny_model(), word_tokenizer(), exam_questions()
    wanted = []
    for q in questions:
        scores = [
            log_probability(model, tokenizer, prompt(q), continuation(option)) / len(option)
            for option in q.options
        ]
        wanted.append(float(np.argmax(scores) == q.answer))
    measured = measure_exam(SharedContextLM(model, tokenizer), questions)
    assert measured.items == wanted and 0 < sum(wanted) < len(wanted)
    assert (measured.name, measured.n) == ("exam_accuracy", len(questions))
    assert measured.value == pytest.approx(np.mean(wanted))
    assert measured.stderr == pytest.approx(np.std(wanted, ddof=1) / math.sqrt(len(wanted)))


def test_exam_items_follow_the_order_given_and_the_batch_size_does_not_matter():
    model, tokenizer, questions = memory_model(), word_tokenizer(True), exam_questions()
    large, small = (SharedContextLM(model, tokenizer, batch_tokens=n) for n in (1000, 30))
    forwards = measure_exam(large, questions).items
    assert measure_exam(small, questions[::-1]).items == forwards[::-1]


def test_exam_number_and_error_are_those_of_lm_eval(monkeypatch):
    kept, run = [], harness.evaluate
    monkeypatch.setattr(
        harness,
        "evaluate",
        lambda *args, **kwargs: (
            kept.append(run(*args, **kwargs | {"bootstrap_iters": 10})) or kept[0]
        ),
    )
    measured = measure_exam(tiny_lm(), exam_questions())
    numbers = kept[0]["results"]["exam"]
    assert measured.value == pytest.approx(numbers["acc_norm,none"])
    assert measured.stderr == pytest.approx(numbers["acc_norm_stderr,none"])


def test_questions_may_differ_in_their_number_of_options():
    questions = [
        ExamQuestion("a", "one", ["two", "three"], 1),
        ExamQuestion("b", "four", ["five", "six", "seven"], 2),
    ]
    assert measure_exam(tiny_lm(), questions).n == 2


def test_a_model_that_diverged_has_no_accuracy():
    model = tiny_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    measured = measure_exam(SharedContextLM(model, word_tokenizer()), exam_questions(2))
    assert np.isnan([measured.value, measured.stderr, *measured.items]).all()


# ---------------------------------------------------------------------- knowledge


@pytest.fixture
def scripted(monkeypatch):
    """Answers by question instead of a model's, and the contexts that were asked for."""

    def script(answers: dict[str, str]) -> list[tuple]:
        seen = []

        def generate(self, requests, disable_tqdm=False):
            seen.extend(request.args for request in requests)
            last = [request.args[0].rpartition("Question: ")[2] for request in requests]
            return [answers[text.removesuffix("\nAnswer:")] for text in last]

        monkeypatch.setattr(SharedContextLM, "generate_until", generate)
        return seen

    return script


def test_knowledge_compares_normalised_answers_with_all_aliases(scripted):
    scripted({"one": " The U.S.A.", "two": " Paris, France", "three": " guinea bissau", "four": ""})
    questions = [
        Known("one", aliases=["America", "USA", "U.S.A."]),
        Known("two", aliases=["Paris"]),
        Known("three", aliases=["Guinea-Bissau"]),
        Known("four", aliases=["A"]),
    ]
    measured = measure_knowledge(tiny_lm(), questions, [[]] * 4)
    assert measured.items == [1.0, 0.0, 1.0, 0.0]
    assert (measured.value, measured.n) == (0.5, 4)


def test_knowledge_shows_each_question_its_examples_in_their_order(scripted):
    seen = scripted({"five": " one", "four": " two", "six": " two", "seven": " one"})
    one = [Known("one", "two"), Known("three", "13")]
    questions = [Known("five"), Known("four"), Known("six"), Known("seven")]
    measured = measure_knowledge(tiny_lm(), questions, [one, one[::-1], one, one[:1]])
    assert measured.items == [1.0, 0.0, 0.0, 1.0]
    shown = {text.split("Question: ")[-1].split("\n")[0]: text for text, _ in seen}
    assert shown["four"].startswith("Question: three\nAnswer: 13\n\nQuestion: one\nAnswer: two\n\n")
    assert shown["six"].removesuffix("six\nAnswer:") == shown["five"].removesuffix("five\nAnswer:")
    assert shown["seven"].startswith("Question: one\nAnswer: two\n\nQuestion: seven")
    assert seen[0][0] == (
        "Question: one\nAnswer: two\n\nQuestion: three\nAnswer: 13\n\nQuestion: five\nAnswer:"
    )
    assert seen[0][1] == {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}


@pytest.mark.parametrize("shots", [0, 3])
def test_knowledge_is_what_the_model_itself_generates(shots):
    model, tokenizer = tiny_model(), word_tokenizer()
    examples = [Known("four", "five")] * shots
    before = "".join(f"{prompt(shot)} {shot.answer}\n\n" for shot in examples)
    texts = []
    for question in ("one two three", "six", "seven eight"):
        ids = tokenizer(before + prompt(Known(question)), return_tensors="pt").input_ids
        made = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12)
        texts.append(
            (question, tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))
        )
    questions = [Known(question, aliases=["x", said]) for question, said in texts]
    questions[1].aliases.pop()
    lm = SharedContextLM(model, tokenizer, batch_tokens=20)
    measured = measure_knowledge(lm, questions, [examples] * 3)
    assert measured.items == [1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("  The  Eiffel Tower. ", "eiffel tower"),
        ("Côte d’Ivoire", "côte d ivoire"),
        ("STRASSE", "strasse"),
        ("straße", "strasse"),
        ("an A, the", "an a the"),
        ("A", "a"),
        ("\n", ""),
        ("theatre", "theatre"),
    ],
)
def test_normalise(text, wanted):
    assert normalise(text) == wanted


# ---------------------------------------------------------------------- prose


def test_prose_is_the_perplexity_of_plain_forward_passes():
    model, tokenizer = tiny_model(), word_tokenizer()
    articles = [Article(some_words(seed, length)) for seed, length in enumerate((20, 3, 31))]
    measured = measure_prose(SharedContextLM(model, tokenizer), articles, window=64)
    for article, (loss, tokens) in zip(articles, measured.items):
        first = article.text.split()[0]
        rest = article.text.removeprefix(first)
        assert tokens == len(article.text.split()) - 1
        assert loss == pytest.approx(-log_probability(model, tokenizer, first, rest), abs=1e-3)
    losses, tokens = np.array(measured.items).T
    assert measured.value == pytest.approx(math.exp(losses.sum() / tokens.sum()))
    assert (measured.name, measured.n) == ("prose_perplexity", 3)


def test_prose_scores_every_token_after_a_bos_token():
    articles = [Article(some_words(0, 5)), Article("one")]
    measured = measure_prose(tiny_lm(bos=True), articles, window=64)
    assert [tokens for _, tokens in measured.items] == [5, 1]


@pytest.mark.parametrize("length", [7, 8, 9, 12, 13, 30])
def test_long_articles_are_read_in_windows_that_overlap_by_half(length):
    model, tokenizer, window = tiny_model(), word_tokenizer(), 8
    text = some_words(0, length)
    ids = torch.tensor([tokenizer(text).input_ids])
    loss = 0.0
    for i in range(1, length):
        start = 0 if i < window else (i // 4 - 1) * 4
        with torch.no_grad():
            log_p = model(input_ids=ids[:, start:i]).logits[0, -1].log_softmax(-1)
        loss -= log_p[ids[0, i]].item()
    lm = SharedContextLM(model, tokenizer)
    ((measured, tokens),) = measure_prose(lm, [Article(text)], window=window).items
    assert tokens == length - 1
    assert measured == pytest.approx(loss, abs=1e-3)


def test_the_error_of_the_perplexity_is_that_of_a_bootstrap_over_articles():
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 150, 40)
    losses = tokens * rng.normal(3.0, 0.2, 40)
    ratio = Measurement.of_ratio("x", losses, tokens, losses)
    draws = rng.integers(0, 40, (4000, 40))
    spread = (losses[draws].sum(1) / tokens[draws].sum(1)).std()
    assert ratio.stderr == pytest.approx(spread, rel=0.1)


def test_the_error_of_one_item_is_not_a_number():
    measured = measure_prose(tiny_lm(), [Article("one two")], window=8)
    assert math.isnan(measured.stderr) and measured.n == 1


# ---------------------------------------------------------------------- KL divergence


def test_divergence_is_the_mean_divergence_of_the_distributions():
    base, model = tiny_model(seed=0), tiny_model(seed=1)
    sequences = [[3, 4, 5, 6, 7], [8, 9], [10, 11, 12]]
    sums = []
    for sequence in sequences:
        with torch.no_grad():
            p, q = (m(input_ids=torch.tensor([sequence])).logits.softmax(-1) for m in (base, model))
        sums.append((p * (p / q).log()).sum().item())
    measured = measure_divergence("kl", model, base, sequences, batch_tokens=8)
    lengths = [5, 2, 3]
    wanted = [total / length for total, length in zip(sums, lengths)]
    assert measured.items == pytest.approx(wanted, abs=1e-4)
    assert measured.value == pytest.approx(np.mean(wanted), abs=1e-4)
    assert measured.name == "kl"
    assert measured.value > 1e-3


def test_a_model_does_not_diverge_from_itself():
    measured = measure_divergence(
        "kl", tiny_model(), tiny_model(), [[3, 4, 5], [6, 7, 8]], precision="bf16"
    )
    assert measured.items == [0.0, 0.0]


def test_a_memory_that_was_just_inserted_changes_nothing():
    measured = measure_divergence("kl", memory_model(), tiny_model(), [[3, 4, 5], [6, 7, 8, 9]])
    assert measured.items == [0.0, 0.0]


def test_divergence_does_not_depend_on_the_batch_size():
    models = memory_model(initial_values="random"), tiny_model()
    sequences = [[3 + (5 * i + j) % 40 for j in range(2 + i % 4)] for i in range(7)]
    one, many = (measure_divergence("kl", *models, sequences, n).items for n in (1, 100))
    assert one == pytest.approx(many, abs=1e-5)


# ---------------------------------------------------------------------- errors and manners


def test_errors_name_the_parameter_and_what_is_allowed():
    model, lm = tiny_model(), tiny_lm()

    def exam(options: list[str], answer: int) -> Measurement:
        return measure_exam(lm, [ExamQuestion("q", "one", options, answer)])

    calls = {
        "precision='half' is unknown": lambda: SharedContextLM(
            model, word_tokenizer(), precision="half"
        ),
        "questions is empty": lambda: measure_exam(lm, []),
        "answer=2 and options=": lambda: exam(["two", "three"], 2),
        "no option empty": lambda: exam(["two", ""], 0),
        "request 1 has .* maximum is 64": lambda: exam(["two", some_words(0, 70)], 0),
        "aliases=.*none empty": lambda: measure_knowledge(lm, [Known("one", aliases=["?"])], [[]]),
        "shown has 0 lists of examples for 1": lambda: measure_knowledge(lm, [Known("one")], []),
        "sections is empty": lambda: measure_prose(lm, []),
        "sections: number 0 has 1 tokens": lambda: measure_prose(lm, [Article("one")], 8),
        "window=7 must be an even": lambda: measure_prose(lm, [Article("one")], 7),
        "window=512 must .* the model's 64": lambda: measure_prose(lm, [Article("one two")]),
        "sequences is empty": lambda: measure_divergence("kl", model, model, []),
        "sequences have 0 to 2 tokens": lambda: measure_divergence(
            "kl", model, model, [[3, 4], []]
        ),
        "allowed: 1 to 64": lambda: measure_divergence("kl", model, model, [[3] * 65]),
        "batch_tokens=0 must be": lambda: measure_divergence("kl", model, model, [[3]], 0),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_lm_eval_is_quiet_and_its_log_level_put_back(caplog):
    before = logging.getLogger("lm_eval").level
    measure_exam(tiny_lm(), exam_questions(2))
    assert not [record for record in caplog.records if record.name.startswith("lm_eval")]
    assert logging.getLogger("lm_eval").level == before


def test_measuring_changes_neither_the_model_nor_the_random_numbers():
    model = memory_model().train()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    lm = SharedContextLM(model, word_tokenizer(), precision="bf16")
    measure_exam(lm, exam_questions(2))
    measure_knowledge(lm, [Known("one")], [[Known("two")]])
    assert model.training
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == frozen
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()
