"""The paper's protocols against plain computations, and lm-eval's own against lm-eval itself."""

import math
import runpy
import string
from pathlib import Path

import lm_eval
import numpy as np
import pytest
import torch
import yaml
from helpers_hub import wikitext_lines
from helpers_models import memory_model, tiny_model
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from smf_lib.study.evaluation import protocols
from smf_lib.study.evaluation.harness import make_task, run_task
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.evaluation.protocols import (
    measure_letters,
    measure_options,
    measure_trivia,
    measure_trivia_exact,
    measure_wikitext,
    measure_words,
    paper_normalise,
)
from smf_lib.study.tasks.corpora import pages
from smf_lib.study.tasks.exam import ExamQuestion
from smf_lib.study.tasks.formats import FORMATS
from smf_lib.study.tasks.probes import KnowledgeQuestion

SPECIAL = ["<pad>", "<s>", "</s>"]
SPACE, NEWLINE = "\u0120", "\u010a"  # as byte-level tokenizers write them
CHARACTERS = [*SPECIAL, SPACE, NEWLINE, *string.ascii_letters, *string.digits, *".,:?@=-"]
LINES = [row["text"] for row in wikitext_lines() if row["text"].strip()]


@pytest.fixture(scope="module")
def tokenizer():
    """One token a character, without an unknown one, so that whatever is generated is text."""
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(CHARACTERS)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def random_model(kind="plain"):
    model = tiny_model(
        "Qwen2", vocab_size=len(CHARACTERS), max_position_embeddings=1024, initializer_range=0.5
    )
    if kind == "memory":
        model = memory_model(model=model, initial_values="random", initial_scale=0.5)
    return model.eval()


def exam_questions(n=16):
    options = ["iron", "the third rib", "no sign", "a rash of the left hand"]
    return [
        ExamQuestion(
            f"q{i}",
            f"Which of {i} is known by {options[i % 3]}?",
            [f"{options[(i + j) % 4]} {i * j}" for j in range(4)],
            (i * i + i // 4) % 4,
        )
        for i in range(n)
    ]


def trivia(n=8, aliases=()):
    """Questions whose aliases are invented, but for those of which `aliases` has one."""
    return [
        KnowledgeQuestion(
            f"t{i}",
            "trivia",
            f"Where was king {i} born",
            "Ur",
            ["no such town", aliases[i]] if i < len(aliases) and aliases[i] else ["no such town"],
        )
        for i in range(n)
    ]


@pytest.fixture
def run_tasks(monkeypatch):
    """The logs of every task that lm-eval runs."""
    kept = []
    monkeypatch.setattr(
        protocols, "run_task", lambda *given: kept.append(run_task(*given)) or kept[-1]
    )
    return kept


# ---------------------------------------------------------------------- lm-eval's own tasks


def bundled_task(file):
    """A task of lm-eval as its YAML file has it, but for where the rows come from."""
    path = Path(lm_eval.__file__).parent / "tasks" / file

    class Loader(yaml.SafeLoader):
        pass

    def function(loader, node):
        module, _, name = node.value.rpartition(".")
        return runpy.run_path(str(path.parent / f"{module}.py"))[name]

    Loader.add_constructor("!function", function)
    config = yaml.load(path.read_text(), Loader)
    for name in [*config]:
        if name.startswith("dataset_") or name.endswith("_split") or name == "metadata":
            del config[name]
    return config


def log_probabilities(samples):
    return [score for sample in samples for ((score, _),) in sample["resps"]]


@pytest.mark.parametrize("kind", ["plain", "memory"])
def test_letters_are_those_of_lm_eval(tokenizer, run_tasks, kind):
    model, questions = random_model(kind), exam_questions()
    measured = measure_letters(SharedContextLM(model, tokenizer), questions)
    names = ("question", "opa", "opb", "opc", "opd", "cop")
    rows = [dict(zip(names, (q.question, *q.options, q.answer))) for q in questions]
    wanted = run_task(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3),
        make_task(bundled_task("medmcqa/medmcqa.yaml"), rows),
    )
    assert log_probabilities(run_tasks[0]) == pytest.approx(log_probabilities(wanted), abs=1e-3)
    assert measured.items == [sample["acc"] for sample in wanted]
    assert 0 < sum(measured.items) < measured.n == 16 and measured.name == "letter_accuracy"
    assert measured.task_version == "Yaml"  # lm-eval gives this task no number


@pytest.mark.parametrize("window", [32, 1024])
def test_words_are_those_of_lm_eval(tokenizer, window):
    model = random_model()
    measured = measure_words(SharedContextLM(model, tokenizer, window=window), LINES)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, max_length=window)
    rows = [{"page": page} for page in pages(LINES)]
    samples = run_task(lm, make_task(bundled_task("wikitext/wikitext.yaml"), rows))
    wanted = [sample["word_perplexity"] for sample in samples]
    assert [words for _, words in measured.items] == [words for _, words in wanted]
    assert [-loss for loss, _ in measured.items] == pytest.approx(
        [log_p for log_p, _ in wanted], rel=1e-6, abs=1e-3
    )
    totals = np.sum(wanted, axis=0)
    assert measured.value == pytest.approx(math.exp(-totals[0] / totals[1]))
    assert (measured.name, measured.n) == ("word_perplexity", 3)
    assert measured.task_version == "2.0"


def test_words_are_read_in_windows_no_longer_than_the_model_takes(tokenizer):
    model = tiny_model("Qwen2", vocab_size=len(CHARACTERS))  # 64 positions
    wide, narrow, half = (
        measure_words(SharedContextLM(model, tokenizer, window=window), LINES).items
        for window in (2048, 64, 32)
    )
    assert wide == narrow != half


@pytest.mark.parametrize("shots", [0, 2])
def test_exact_match_is_that_of_lm_eval(tokenizer, run_tasks, shots):
    model, examples = random_model(), trivia(12)[-shots:] if shots else []
    lm = SharedContextLM(model, tokenizer)
    said = measure_trivia_exact(lm, trivia(), examples) and [
        sample["filtered_resps"][0] for sample in run_tasks[0]
    ]
    assert len(set(said)) > 3
    # case and punctuation do not count; the second answer is not among its aliases
    questions = trivia(aliases=[text.upper() + "?" for text in said])
    questions[1].aliases.pop()
    measured = measure_trivia_exact(lm, questions, examples)
    config = bundled_task("triviaqa/default.yaml")
    config["generation_kwargs"]["max_gen_toks"] = 32  # not 256: no alias is so long
    if shots:
        config |= {
            "num_fewshot": shots,
            "fewshot_config": {
                "sampler": "first_n",
                "samples": [
                    {"question": q.question, "answer": {"aliases": [q.answer]}} for q in examples
                ],
            },
        }
    rows = [{"question": q.question, "answer": {"aliases": q.aliases}} for q in questions]
    hflm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2)
    wanted = run_task(hflm, make_task(config, rows))
    assert [s["arguments"][0][0] for s in run_tasks[1]] == [s["arguments"][0][0] for s in wanted]
    assert measured.items == [sample["exact_match"] for sample in wanted]
    assert measured.items[1] == 0 and sum(measured.items) > 3
    assert (measured.name, measured.task_version) == ("exact_match", "3.0")


# ---------------------------------------------------------------------- the paper's protocols


def mean_log_probability(model, tokenizer, context, text):
    """As a plain loop would have it: one text, one forward pass, the model's own loss."""
    ids = torch.tensor([tokenizer(context + text).input_ids])
    labels = ids.clone()
    labels[:, : len(tokenizer(context).input_ids)] = -100
    with torch.no_grad():
        return -model(input_ids=ids, labels=labels).loss.item()


@pytest.mark.parametrize("kind", ["plain", "memory"])
@pytest.mark.parametrize("name", ["lettered", "cloze"])
def test_options_are_scored_by_their_mean_log_probability(tokenizer, monkeypatch, name, kind):
    model, questions, text_format = random_model(kind), exam_questions(), FORMATS[name]
    scored, score = [], SharedContextLM.score
    monkeypatch.setattr(
        SharedContextLM,
        "score",
        lambda *given, **more: scored.append((given[1], score(*given, **more))) or scored[0][1],
    )
    measured = measure_options(SharedContextLM(model, tokenizer), questions, text_format)
    wanted = [
        mean_log_probability(model, tokenizer, text_format.prompt(q), text)
        for q in questions
        for text in text_format.continuations(q)
    ]
    ((pairs, sums),) = scored
    means = [total / len(text) for (_, text), (total, _) in zip(pairs, sums)]
    assert means == pytest.approx(wanted, abs=1e-3)
    best = np.reshape(wanted, (-1, 4)).argmax(1)
    assert measured.items == [float(b == q.answer) for b, q in zip(best, questions)]
    assert 0 < sum(measured.items) < 16 and measured.name == "exam_accuracy"
    totals = np.reshape([total for total, _ in sums], (-1, 4)).argmax(1)
    assert (totals != best).any(), "sums and means choose the same options: nothing is tested"


def sliding_windows(model, ids, window):
    """(summed loss, tokens) a window, as a plain loop with the model's own loss has it."""
    found, previous = [], 0
    for begin in range(0, ids.shape[1], window // 2):
        end = min(begin + window, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : previous - begin] = -100
        tokens = int((labels[:, 1:] != -100).sum())
        with torch.no_grad():
            loss = model(input_ids=ids[:, begin:end], labels=labels).loss.item()
        found.append((loss * tokens, tokens))
        previous = end
        if end == ids.shape[1]:
            return found


@pytest.mark.parametrize("length", [2, 31, 32, 33, 48, 49, 200])
def test_perplexity_is_that_of_sliding_windows(tokenizer, length):
    model = random_model("memory" if length == 200 else "plain")
    lines = ["".join(letter for line in LINES for letter in line if letter.isalpha())[:length]]
    ids = tokenizer(lines[0], return_tensors="pt").input_ids
    wanted = sliding_windows(model, ids, 32)
    measured = measure_wikitext(SharedContextLM(model, tokenizer), lines, 32)
    assert [tokens for _, tokens in measured.items] == [tokens for _, tokens in wanted]
    assert [loss for loss, _ in measured.items] == pytest.approx(
        [loss for loss, _ in wanted], abs=1e-3
    )
    losses, tokens = np.sum(wanted, axis=0)
    assert tokens == ids.shape[1] - 1
    assert measured.value == pytest.approx(math.exp(losses / tokens), rel=1e-4)
    assert (measured.name, measured.n) == ("prose_perplexity", len(wanted))


def test_lines_are_one_text(tokenizer):
    lm = SharedContextLM(random_model(), tokenizer)
    apart = measure_wikitext(lm, [" a b \n", "c . \n", " d"], 32)
    assert apart.items == measure_wikitext(lm, ["a b\n\nc .\n\nd"], 32).items


def generated(model, tokenizer, questions):
    """What the model's own greedy decoding says."""
    found = []
    for question in questions:
        ids = tokenizer(f"Question: {question.question}\nAnswer:", return_tensors="pt").input_ids
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, do_sample=False
        )
        found.append(tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))
    return found


def test_trivia_is_right_if_an_alias_is_in_what_the_model_generates(tokenizer, run_tasks):
    model = random_model()
    said = generated(model, tokenizer, trivia(16))
    # the last letters, so that an answer that was cut early does not hold them
    aliases = [text.strip()[-6:].lower() if i % 2 else "" for i, text in enumerate(said)]
    assert any("\n" in text[1:-6] for text in said), "no line end is generated: nothing is tested"
    measured = measure_trivia(SharedContextLM(model, tokenizer), trivia(16, aliases))
    assert [sample["resps"][0][0] for sample in run_tasks[0]] == said
    wanted = [
        float(bool(alias) and paper_normalise(alias) in paper_normalise(text))
        for alias, text in zip(aliases, said)
    ]
    assert measured.items == wanted and sum(wanted) > 4
    assert (measured.name, measured.n) == ("knowledge_accuracy", 16)


@pytest.fixture
def scripted(monkeypatch):
    """One answer to all questions instead of a model's, and the requests that were made."""

    def script(answer):
        seen = []

        def generate(self, requests, disable_tqdm=False):
            seen.extend(request.args for request in requests)
            return [answer] * len(requests)

        monkeypatch.setattr(SharedContextLM, "generate_until", generate)
        return seen

    return script


@pytest.mark.parametrize(
    "answer, alias, lenient, strict",
    [
        (" Paris", "Paris", 1, 1),
        (" the PARIS!", "Paris", 1, 0),
        (" It is Paris, France", "Paris", 1, 0),
        (" a comparison", "Paris", 1, 0),  # within another word: the weakness of the rule
        (" Pari", "Paris", 0, 0),
        (" Cote d'Ivoire", "Côte d'Ivoire", 0, 0),  # accented letters are blanks for the paper
        (" C te d Ivoire", "Côte d’Ivoire", 1, 0),
        ("", "Paris", 0, 0),
        (" anything", "the", 0, 0),  # nothing is left of the alias, which would be in everything
        (" U.S.", "u.s.", 1, 1),
    ],
)
def test_the_papers_rule_is_lenient_and_lm_evals_strict(
    tokenizer, scripted, answer, alias, lenient, strict
):
    scripted(answer)
    question = [KnowledgeQuestion("q", "trivia", "Where?", alias, ["no such town", alias])]
    lm = SharedContextLM(tiny_model(), tokenizer)
    assert measure_trivia(lm, question).items == [lenient]
    assert measure_trivia_exact(lm, question).items == [strict]


def test_examples_are_shown_in_order_and_end_answers_at_the_line(tokenizer, scripted):
    seen = scripted(" Ur")
    shots = [
        KnowledgeQuestion("a", "", "Who?", "Ann", ["Ann", "A."]),
        KnowledgeQuestion("b", "", "When?", "1066", ["1066"]),
    ]
    lm = SharedContextLM(tiny_model(), tokenizer)
    measure_trivia(lm, trivia(1), shots)
    measure_trivia(lm, trivia(1))
    (with_shots, how), (without, plain) = seen
    shown = "Question: Who?\nAnswer: Ann\n\nQuestion: When?\nAnswer: 1066\n\n"
    assert with_shots == shown + without
    assert without == "Question: Where was king 0 born\nAnswer:"
    assert how == {"until": ["\n"], "max_gen_toks": 32, "do_sample": False}
    assert plain == {"until": [], "max_gen_toks": 32, "do_sample": False}


@pytest.mark.parametrize(
    "text, wanted",
    [
        (" The  Eiffel Tower. ", "eiffel tower."),
        ("A cat, an owl and the dog", "cat owl and dog"),
        ("Theatre-goer", "theatre-goer"),
        ("Malmö", "malm"),
        ("x_y & z", "x y z"),
        ("THE", ""),
        ("a.b", ".b"),
        ("3,000", "3 000"),
    ],
)
def test_paper_normalise(text, wanted):
    assert paper_normalise(text) == wanted


# ---------------------------------------------------------------------- all of them


def every_measure(model, tokenizer, batch_tokens=1536):
    lm, questions = SharedContextLM(model, tokenizer, batch_tokens, window=64), exam_questions(6)
    return {
        "options": measure_options(lm, questions, FORMATS["lettered"]),
        "letters": measure_letters(lm, questions),
        "wikitext": measure_wikitext(lm, LINES[:5], 64),
        "words": measure_words(lm, LINES[:5]),
        "trivia": measure_trivia(lm, trivia(5), trivia(2)),
        "exact": measure_trivia_exact(lm, trivia(5)),
    }


def test_the_batch_size_changes_nothing(tokenizer, run_tasks):
    model = random_model()
    small, large = (every_measure(model, tokenizer, batch_tokens=n) for n in (64, 10**5))
    for name in small:
        first, second = (np.ravel(found[name].items) for found in (small, large))
        assert first == pytest.approx(second, rel=1e-5, abs=1e-3), name
    texts = [[s["resps"] for s in samples] for samples in run_tasks if "exact" in str(samples[0])]
    assert len(texts) == 2 and texts[0] == texts[1]


def test_a_model_that_diverged_has_no_numbers(tokenizer):
    model = random_model()
    with torch.no_grad():
        model.lm_head.weight.fill_(math.nan)
    measured = every_measure(model, tokenizer)
    for name in ("options", "letters"):
        assert np.isnan([measured[name].value, *measured[name].items]).all(), name
    for name in ("wikitext", "words"):
        assert math.isnan(measured[name].value), name
        assert all(math.isnan(loss) for loss, _ in measured[name].items), name


def test_precision_reaches_the_measures(tokenizer):
    full, half = (
        measure_wikitext(SharedContextLM(random_model(), tokenizer, 1536, precision), LINES[:5], 64)
        for precision in ("fp32", "bf16")
    )
    assert full.value != half.value == pytest.approx(full.value, rel=0.1)


def test_errors_name_the_parameter(tokenizer):
    lm, short = (SharedContextLM(model, tokenizer) for model in (random_model(), tiny_model()))
    calls = {
        "questions is empty": lambda: measure_options(lm, [], FORMATS["cloze"]),
        "questions is empty; ": lambda: measure_letters(lm, []),
        "questions is empty; give": lambda: measure_trivia(lm, []),
        "questions is empty; give at": lambda: measure_trivia_exact(lm, []),
        "lines is empty": lambda: measure_wikitext(lm, []),
        "lines is empty; ": lambda: measure_words(lm, []),
        "lines hold 1 tokens; two are needed": lambda: measure_wikitext(lm, ["a"]),
        "window=33 must be an even": lambda: measure_wikitext(lm, LINES, 33),
        "window=2048 must .* the model's 1024": lambda: measure_wikitext(lm, LINES, 2048),
        "request 0 has .* maximum is 64": lambda: measure_trivia(short, trivia()),
    }
    for message, call in calls.items():
        with pytest.raises(ValueError, match=message):
            call()
