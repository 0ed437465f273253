"""The blocks of the chapter "In your own training", run as they stand there on a tiny model."""

from __future__ import annotations

import re

import pytest
import yaml
from helpers_training import PAGE, PYTHON, REPOSITORY, run, touched, write_folder

SHELL = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
RATES = re.compile(r"^\| ([^|]+) \| (\d\S*) \| (\S+) to (\S+) \|$", re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the files that the page's blocks read, and its scripts."""
    return write_folder(tmp_path_factory.mktemp("training"))


def test_the_scripts_train_what_they_save(folder):
    scripts = [name for name, _ in PYTHON.findall(PAGE.read_text("utf-8"))]
    assert scripts == ["trainer.py", "sft.py", "dpo.py", "quantised.py", "loop.py"]
    scripts.remove("quantised.py")  # tests/quantised
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


def test_two_processes_and_lm_eval_from_the_command_line(folder):
    torchrun, lm_eval = (block.split() for block in SHELL.findall(PAGE.read_text("utf-8")))
    assert torchrun[0] == "torchrun" and lm_eval[0] == "lm_eval"
    run(folder, "-m", "torch.distributed.run", *torchrun[1:])
    assert touched(folder / "adapter") > 0
    said = run(folder, "-m", *lm_eval, "--limit", "8", inside="tasks")
    assert re.search(r"minimal_pairs *\|.*\|acc", said)


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
