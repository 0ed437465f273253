"""The blocks of the chapter "In your own training", run as they stand there on a tiny model."""

from __future__ import annotations

import re
import shutil

import pytest
import yaml
from helpers_training import PAGE, PYTHON, REPOSITORY, run, touched, write_folder

from smf_lib import ProductKeyMemory
from smf_lib.method import rules
from smf_lib.method.row_adam import MOST_ON_DEVICE, chooses_on_device
from smf_lib.method.rules import RULES

SHELL = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFERENCE = """
import torch
from datasets import load_dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from smf_lib import SparseMemoryConfig

config = SparseMemoryConfig(task_type="CAUSAL_LM", rule="count", trainable="values+scale")
model = get_peft_model(AutoModelForCausalLM.from_pretrained("model"), config)
torch.manual_seed(0)
for name, parameter in model.named_parameters():  # as after a first training
    if name.endswith((".values", ".smf_scale.default")):
        torch.nn.init.normal_(parameter.data, std=10)
trainer = DPOTrainer(
    model=model,
    args=DPOConfig(
        "trained-again", learning_rate=1e-1, logging_steps=1, max_steps=2, report_to=[], bf16=False
    ),
    train_dataset=load_dataset("json", data_files="preferences.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
lines = [line for line in trainer.state.log_history if "loss" in line]
print("losses", *[line["loss"] for line in lines])
print("norms", *[min(line["grad_norm"], line["smf/row_grad_norm"]) for line in lines])
"""
PROCESSES = """
import atexit, sys

@atexit.register
def say():
    state = sys.modules.get("accelerate.state")
    if state is not None and state.PartialState._shared_state:
        print(f"one of {state.PartialState().num_processes} processes")
"""
RATES = re.compile(r"^\| ([^|]+) \| (\d\S*) \| (\S+) to (\S+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page's blocks read, and its scripts."""
    return write_folder(tmp_path_factory.mktemp("training"))


def test_the_scripts_train_what_they_save(folder):
    scripts = [name for name, _ in PYTHON.findall(PAGE.read_text("utf-8"))]
    assert scripts.pop(scripts.index("quantised.py")) == "quantised.py"  # tests/quantised
    assert scripts.pop(scripts.index("sharded.py")) == "sharded.py"  # below
    assert scripts == ["trainer.py", "sft.py", "dpo.py", "loop.py", "exporting.py"]
    code = f"import runpy\nfor name in {scripts}: runpy.run_path(name, run_name='__main__')"
    said = run(folder, "-c", code)
    for name in ("adapter", "adapter-sft", "adapter-dpo"):
        assert touched(folder / name) > 0
    norms = re.findall(r"'grad_norm': '?([\d.e-]+)", said)
    assert len(norms) >= 3 and all(float(norm) > 0 for norm in norms)
    assert said.count("smf/rows_chosen") == len(norms)
    first_dpo_loss = said[: said.index("rewards/chosen")].rpartition("'loss': ")[2]
    assert float(re.match(r"'?([\d.]+)", first_dpo_loss)[1]) == pytest.approx(0.6931, abs=1e-3)
    assert "teaches memory rows next to nothing" not in said


def test_the_reference_of_a_trained_memory_is_what_it_was(folder):
    """The scale is trained too (+S), and TRL keeps a copy of the adapter as the reference.

    Nothing is told to the trainer, and its log says how large the gradient of rows is.
    """
    said = run(folder, "-c", REFERENCE)
    first, second = map(float, said[said.index("losses") :].split()[1:3])
    assert first == pytest.approx(0.6931, abs=1e-4) and second != pytest.approx(0.6931, abs=1e-4)
    assert all(float(norm) > 0 for norm in said[said.index("norms") :].split()[1:3])


def test_two_processes_and_lm_eval_from_the_command_line(folder):
    blocks = [block.split() for block in SHELL.findall(PAGE.read_text("utf-8"))]
    setting, *launch = blocks[0]
    variables = dict([setting.split("=")])
    (also,) = re.findall(r"`(torchrun [^`]*)`", PAGE.read_text("utf-8"))
    assert launch[:2] == ["accelerate", "launch"] and blocks[1][0] == "torchrun"
    assert [block[0] for block in blocks[2:]] == ["lm_eval", "lm_eval"]
    with (folder / "sitecustomize.py").open("a") as starts:
        starts.write(PROCESSES)
    accelerate = ("accelerate.commands.launch", *launch[2:])
    for command in (accelerate, ("torch.distributed.run", *also.split()[1:])):
        shutil.rmtree(folder / "adapter", ignore_errors=True)
        said = run(folder, "-m", *command, **variables)
        assert said.count("one of 2 processes") == 2, said
        assert touched(folder / "adapter") > 0
    run(folder, "-m", "torch.distributed.run", *blocks[1][1:])
    assert touched(folder / "adapter-sharded") > 0
    assert (folder / "checkpoint" / ".metadata").is_file()
    run(folder, "exporting.py")
    scores = [run(folder, "-m", *lm_eval, "--limit", "8", inside="tasks") for lm_eval in blocks[2:]]
    tables = [re.search(r"minimal_pairs *\|.*\|acc.*", said)[0] for said in scores]
    assert tables[0] == tables[1]


def test_the_rules_that_wait_for_a_gpu_are_those_that_the_page_names():
    """The rules of this library, on a table of the default size and on a small one."""
    (said,) = re.findall(r"^.*These wait in every step.*$", PAGE.read_text("utf-8"), re.MULTILINE)
    own = [name for name, rule in RULES.items() if rule.score.__module__ == rules.__name__]
    for subkeys, wait in ((128, {"random", "all"}), (64, {"random"})):
        memory = ProductKeyMemory(2, subkeys, 1, 1, 2)
        assert {name for name in own if not chooses_on_device(memory, name)} == wait
    assert set(re.findall(r"rule `(\w+)`", said)) == {"random", "all"}
    memory = ProductKeyMemory(2, 128, 1, 1, 2, rows_per_step=MOST_ON_DEVICE)
    assert chooses_on_device(memory, "kl")
    memory.rows_per_step += 1
    assert not chooses_on_device(memory, "kl")
    assert said.count(f" {MOST_ON_DEVICE:,}") == 2


@pytest.mark.parametrize("page", ["README.md", "book/own_training.md"])
def test_the_rates_are_those_of_the_profiles(page):
    quick, frontier = (
        yaml.safe_load((REPOSITORY / "profiles" / f"{name}.yaml").read_text("utf-8"))["methods"]
        for name in ("quick", "frontier")
    )
    labels = {quick[name]["label"]: name for name in quick}
    rates = RATES.findall((REPOSITORY / page).read_text("utf-8"))
    assert len(rates) == 4
    for label, first, low, high in rates:
        name = labels[label]
        assert float(first) == quick[name]["learning_rate"]
        swept = frontier[name]["learning_rate"]
        assert (float(low), float(high)) == (min(swept), max(swept))
