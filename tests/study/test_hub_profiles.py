"""Profiles whose data come from the Hub, planned without it: one line says what is missing.

With folders of invented rows in the places of the data sets all of their runs are planned. Rows are
as many as the profiles ask for; of `paper`, a hundredth.
"""

import subprocess
import sys
import time

import pytest
import yaml
from helpers_book import REPOSITORY, environment_of
from helpers_hub import (
    dolly_row,
    medmcqa_row,
    oasst1_row,
    trivia_row,
    wikitext_lines,
    write_rows,
)

from smf_lib.study.__main__ import main
from smf_lib.study.profiles import load_profile

HUNDREDTH = {
    "exam": {"train_rows": 600, "validation_rows": 10, "test_rows": 10},
    "probes": {"wikitext": {"lines": 10}, "triviaqa": {"questions": 10}},
    "background": {"sequences": 20},
    "retrofit": {"text": {"at_most": 500}},
}
CHANGES = {"medmcqa": {}, "medmcqa-smollm2": {}, "medmcqa-qwen-coder": {}, "paper": HUNDREDTH}
MODELS = [name for name in CHANGES if load_profile(name).model.source != "embedded"]


@pytest.fixture(scope="module")
def filled(tmp_path_factory, datasets_cache):
    """A folder with every data set, where the profiles name it: a path goes before a Hub id."""
    root = tmp_path_factory.mktemp("filled")
    exam = {
        "train": [medmcqa_row(n) for n in range(1828)],
        "validation": [medmcqa_row(n) for n in range(2000, 4400)],
    }
    questions = [trivia_row(n) for n in range(600)]
    for place in ("openlifescienceai/medmcqa", "data/medmcqa"):
        write_rows(root / place, **exam)
    for place in ("mandarjoshi/trivia_qa", "data/trivia_qa"):
        write_rows(root / place, train=questions[:12], validation=questions[12:])
    for place in ("Salesforce/wikitext", "data/wikitext-2-raw"):
        write_rows(root / place, test=wikitext_lines() * 60)
    write_rows(root / "OpenAssistant" / "oasst1", train=[oasst1_row(n) for n in range(1100)])
    write_rows(root / "data" / "dolly", train=[dolly_row(n) for n in range(1100)])
    return root


def small(name, folder):
    """The path of a profile that is `name` with a tiny random model."""
    path = folder / f"{name}-small.yaml"
    content = {"extends": name, "name": path.stem, "model": {"source": "tiny-random"}}
    path.write_text(yaml.safe_dump(content | CHANGES[name]))
    return str(path)


def keys(profile):
    main(["keys", "--profile", profile])


def dry_run(profile, root):
    """Exit status and output of a dry run of the build."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "--nolock"]
    done = subprocess.run(
        [*command, "--cores", "1", "--dry-run", "--config", f"profile={profile}", "--", "book"],
        cwd=root,
        env=environment_of(REPOSITORY),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", CHANGES)
def test_all_runs_are_planned_where_the_data_are(name, filled, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SMF_ROOT", str(filled))
    keys(small(name, tmp_path))
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == [spec.run_id for spec in load_profile(name).runs()]
    assert all("(no record yet)" in left for left in lines.values())


@pytest.mark.parametrize("name", CHANGES)
def test_without_data_one_line_says_what_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    source = load_profile(name).exam.source
    with pytest.raises(SystemExit) as ended:
        keys(small(name, tmp_path))
    said = str(ended.value)
    assert said.startswith(f"error: exam.source={source!r} is not a folder here and could not be")
    assert "into a folder and set exam.source to its path" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", MODELS)
def test_without_its_model_one_line_says_so(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        keys(name)
    said = str(ended.value)
    assert said.startswith("error: model.source") and load_profile(name).model.source in said
    assert "set it to" in said and len(said.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_a_dry_run_of_the_build_plans_as_much_or_says_the_same(name, filled, tmp_path):
    status, plan = dry_run(small(name, tmp_path), filled)
    assert status == 0, plan[-3000:]
    assert plan.count("rule finetune:") == len(load_profile(name).runs())
    began = time.monotonic()
    status, said = dry_run(small(name, tmp_path), tmp_path)
    assert status != 0 and time.monotonic() - began < 60
    assert said.count("exam.source=") == 1 and "Traceback" not in said, said
    assert not (tmp_path / "work").exists()
