"""Profile `paper`: its settings are the paper's, its arms those of every profile of the task."""

import peft
import pytest
import torch
import yaml
from helpers_hub import medmcqa_row, oasst1_row, serve, trivia_row, wikitext_lines, write_rows
from helpers_models import paper_model

from smf_lib.method.background import memories
from smf_lib.study.keys import run_keys
from smf_lib.study.profiles import load_profile
from smf_lib.study.study import Study


@pytest.fixture(scope="module")
def paper():
    return load_profile("paper")


def memory_of(paper, method):
    return paper.run(method, 1).settings.peft_config(paper.memory)


STAGE_1 = ("retrofit-additive", "retrofit-replacement")
STAGE_2 = {
    "additive-kl": "kl",
    "additive-tfidf": "tfidf",
    "additive-s-kl": "kl",
    "additive-s-tfidf": "tfidf",
    "replacement-kl": "kl",
    "replacement-tfidf": "tfidf",
}


def test_the_papers_model_and_data(paper):
    assert (paper.model.source, paper.model.revision) == ("Qwen/Qwen2.5-0.5B-Instruct", None)
    exam = paper.exam
    assert (exam.source, exam.train_split, exam.test_split) == (
        "openlifescienceai/medmcqa",
        "train",
        "validation",
    )
    assert (exam.train_rows, exam.test_rows, exam.option_rows) == (60000, 1000, None)
    assert (exam.single_choice, exam.format, exam.order) == (True, "lettered", "file")
    wikitext = paper.probes.wikitext
    assert (wikitext.source, wikitext.config) == ("Salesforce/wikitext", "wikitext-103-v1")
    assert (wikitext.split, wikitext.lines, wikitext.window) == ("test", 1000, 1024)
    trivia = paper.probes.triviaqa
    assert (trivia.source, trivia.config) == ("mandarjoshi/trivia_qa", "rc.nocontext")
    assert (trivia.split, trivia.questions, trivia.shots, trivia.order) == (
        "validation",
        1000,
        0,
        "file",
    )
    assert len(paper.seeds) == 3 and paper.evaluation.split == "test"


@pytest.mark.parametrize("method", [*STAGE_1, *STAGE_2])
def test_the_papers_memory(paper, method):
    memory = memory_of(paper, method)
    assert memory.layers == [6, 12, 18]
    assert (memory.num_subkeys, memory.num_heads, memory.top_k, memory.key_dim) == (128, 4, 16, 256)
    assert (memory.gated, memory.query_norm, memory.share_values) == (True, False, False)
    assert (memory.initial_values, memory.initial_scale) == ("random", 0.01)
    assert memory.integration == ("replacement" if "replacement" in method else "additive")


@pytest.mark.parametrize("method", STAGE_1)
def test_the_papers_stage_1(paper, method):
    settings, memory = paper.methods[method], memory_of(paper, method)
    assert (settings.stage, settings.learning_rate) == ("retrofit", 5e-4)
    assert (memory.update, memory.trainable) == ("dense", "memory")
    text, training = paper.retrofit.text, paper.retrofit.training
    assert (text.source, text.split, text.rows) == ("OpenAssistant/oasst1", "train", None)
    assert text.at_most == 50000
    assert (training.epochs, training.batch_size * training.gradient_accumulation) == (2, 16)
    assert training.max_length == 1024


@pytest.mark.parametrize("method, rule", list(STAGE_2.items()))
def test_the_papers_stage_2(paper, method, rule):
    settings, memory = paper.methods[method], memory_of(paper, method)
    assert settings.start == f"retrofit-{memory.integration}"
    assert (settings.learning_rate, memory.rule, memory.rows_per_step) == (5e-4, rule, 512)
    assert (memory.update, memory.max_grad_norm) == ("sparse", 1.0)
    assert memory.trainable == ("values+scale" if "-s-" in method else "values")
    background = paper.background
    assert (background.sequences, background.text.source) == (2000, "OpenAssistant/oasst1")


def test_the_papers_training(paper):
    training = paper.training
    assert (training.epochs, training.batch_size * training.gradient_accumulation) == (3, 16)
    assert (training.max_length, training.warmup_steps, training.max_grad_norm) == (1024, 100, 1.0)
    lora = paper.methods["lora"]
    config = lora.peft_config(paper.memory)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 32, 0.05)
    assert (config.target_modules, lora.learning_rate) == ("all-linear", 2e-4)
    assert (paper.methods["full"].kind, paper.methods["full"].learning_rate) == ("full", 5e-5)


@pytest.mark.parametrize("method", ["retrofit-additive", "retrofit-replacement", "additive-kl"])
def test_the_papers_memory_has_52_million_parameters_and_44_million_values(paper, method):
    with torch.device("meta"):
        model = peft.get_peft_model(paper_model(), memory_of(paper, method))
    found = memories(model).values()
    assert [memory.values.shape for memory in found] == [(16384, 896)] * 3
    values = sum(memory.values.numel() for memory in found)
    total = sum(p.numel() for memory in found for p in memory.parameters())
    assert round(values / 1e6) == 44 and round(total / 1e6) == 52


def test_the_papers_lora_has_all_seven_projections(paper):
    with torch.device("meta"):
        model = peft.get_peft_model(paper_model(), paper.methods["lora"].peft_config(paper.memory))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    adapted = {name.partition(".lora_")[0].rpartition(".")[2] for name in trained}
    assert adapted == {
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    }


def test_the_arms_of_the_paper_are_the_same_in_every_profile_of_its_task(paper):
    for name in ("medmcqa", "medmcqa-smollm2"):
        profile = load_profile(name)
        assert profile.methods.keys() == paper.methods.keys() - {"additive-kl-2048"}
        for arm, method in profile.methods.items():
            own, papers = method.model_dump(), paper.methods[arm].model_dump()
            own.pop("learning_rate"), papers.pop("learning_rate")
            assert own == papers, (name, arm)
    assert set(load_profile("medmcqa-qwen-coder").methods) >= {
        "base",
        "smf-kl",
        "smf-tfidf",
        "lora",
        "full",
        "additive-kl",
        "replacement-kl",
        *STAGE_1,
    }


def test_the_profile_starts_on_data_of_the_real_proportions(
    tmp_path, qwen2, datasets_cache, monkeypatch
):
    """A hundredth of every data set: fewer replies pass the filter than the limit allows."""
    data = tmp_path / "data"
    train = [medmcqa_row(n) for n in range(1828)]
    write_rows(
        data / "medmcqa", train=train, validation=[medmcqa_row(n) for n in range(2000, 2042)]
    )
    write_rows(data / "trivia_qa", validation=[trivia_row(n) for n in range(179)])
    write_rows(data / "wikitext", test=wikitext_lines())
    replies = [oasst1_row(n, lang="en" if n % 2 else "es") for n in range(400)]
    prompts = [oasst1_row(n, role="prompter") for n in range(400, 844)]
    write_rows(data / "oasst1", train=[*replies, *prompts])
    serve(monkeypatch, data, qwen2)
    content = {
        "extends": "paper",
        "name": "hundredth",
        "exam": {"train_rows": 600, "validation_rows": 10, "test_rows": 10},
        "probes": {"wikitext": {"lines": 10}, "triviaqa": {"questions": 10}},
        "background": {"sequences": 20},
        "retrofit": {"text": {"at_most": 500}},
        "memory": {"layers": [1, 2]},
    }
    path = tmp_path / "hundredth.yaml"
    path.write_text(yaml.safe_dump(content))
    study = Study.load(path, tmp_path)
    assert len(set(study.texts("retrofit"))) == 200
    content["retrofit"]["text"]["at_most"] = 70
    path.write_text(yaml.safe_dump(content))
    assert len(Study.load(path, tmp_path).texts("retrofit")) == 70
    assert (len(study.exam.train), len(study.exam.test)) == (600, 10)
    content["background"]["text"] = {"source": "OpenAssistant/oasst1", "seed": 0}  # for all runs
    content["exam"]["train_seed"] = None
    path.write_text(yaml.safe_dump(content))
    shared = Study.load(path, tmp_path)
    for method, parts in (("lora", []), ("smf-kl", ["background"])):
        one, two = (study.profile.run(method, seed) for seed in (1, 2))
        assert apart(study, one, two) == [*parts, "seed", "training rows"]
        assert apart(shared, one, two) == ["seed"]
    rows, views = study.training_rows(one), [study.at(spec) for spec in (one, two)]
    assert [len(view.exam.train) for view in views] == [600, 600] and len(rows) == 600
    assert rows != study.training_rows(two)
    assert views[0].exam.validation == views[1].exam.validation == study.exam.validation
    assert views[0].exam.test == views[1].exam.test == study.exam.test
    held_out = {q.id for q in study.exam.validation}
    assert not held_out & {q.id for view in views for q in view.exam.train}
    texts = [view.texts("background") for view in views]
    assert len(texts[0]) == len(texts[1]) == 20 and texts[0] != texts[1]


def apart(study, one, two):
    """The parts in which the training keys of two runs differ; they are measured on the same."""
    first, second = run_keys(study, one), run_keys(study, two)
    for name, key in first.metrics.items():
        assert key.changed(second.metrics[name].parts) == ["training"]
    return sorted(first.training.changed(second.training.parts))
