"""A damaged checkpoint is told in a line and removed; what is whole is gone on from."""

import json
import os
import pickle
import shutil

import pytest
import torch
from transformers import Trainer

from smf_lib.study.checkpoints import checked
from smf_lib.study.files import file_sha256, keep_json
from smf_lib.study.models import load_model, tiny_random_model
from smf_lib.study.settings import TrainingSettings
from smf_lib.study.training.train import finetune

ROWS = [
    {"input_ids": ids, "labels": ids, "attention_mask": [1] * len(ids)}
    for ids in ([3 + i, *range(5, 9 + i % 5)] for i in range(16))
]
SETTINGS = TrainingSettings(batch_size=2, checkpoint_every=2, precision="fp32")


def train(folder, stop=None):
    """Train for eight steps, or until the step `stop`; the weights and how many steps it took."""
    steps, one = [], Trainer.training_step

    def counted(self, *given, **named):
        if len(steps) == stop:
            raise KeyboardInterrupt
        steps.append(1)
        return one(self, *given, **named)

    model, tokenizer = load_model(tiny_random_model())
    with pytest.MonkeyPatch.context() as patch, checked(folder):
        patch.setattr(Trainer, "training_step", counted)
        finetune(model, tokenizer, ROWS, SETTINGS, 1e-3, 0, folder)
    return model.state_dict(), len(steps)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A training that was stopped at step 5, and the weights of one that was not."""
    folder = tmp_path_factory.mktemp("stopped")
    straight, steps = train(folder / "straight")
    assert steps == 8
    with pytest.raises(KeyboardInterrupt):
        train(folder / "run", stop=5)
    assert [p.name for p in (folder / "run").iterdir()] == ["checkpoint-4"]
    return folder / "run", straight


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_step(path):
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"global_step": 100}))


DAMAGES = [
    ("model.safetensors", flip),
    ("optimizer.pt", flip),
    ("scheduler.pt", os.unlink),
    ("rng_state.pth", os.unlink),
    ("trainer_state.json", other_step),
    ("complete.json", flip),
    ("sums-0.json", flip),
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_a_damaged_checkpoint_is_removed_and_the_result_is_the_same(
    file, damage, stopped, tmp_path, capsys
):
    folder, straight = stopped
    shutil.copytree(folder, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoint-4" / file)
    weights, steps = train(tmp_path / "run")
    assert steps == 8 and all(torch.equal(value, straight[n]) for n, value in weights.items())
    said = capsys.readouterr().err
    assert f"checkpoint-4 is damaged ({file}); training goes on from what is whole" in said


class Code:
    """Pickled, it writes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return (open, (self.mark, "w"))


def as_pickle(path, code):
    path.write_bytes(pickle.dumps(code))


def as_archive(path, code):
    torch.save({"state": code}, path)


@pytest.mark.parametrize("write", [as_pickle, as_archive])
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("sums", ["valid", "none"])
def test_a_checkpoint_with_code_in_it_is_removed_and_the_code_does_not_run(
    file, write, sums, stopped, tmp_path, capsys
):
    folder, straight = stopped
    checkpoint = shutil.copytree(folder, tmp_path / "run") / "checkpoint-4"
    write(checkpoint / file, Code(tmp_path / "ran"))
    if sums == "none":
        (checkpoint / "sums-0.json").unlink()
    else:
        keep_json(checkpoint / "sums-0.json", {file: file_sha256(checkpoint / file)})
    weights, steps = train(tmp_path / "run")
    assert not (tmp_path / "ran").exists()
    assert steps == 8 and all(torch.equal(value, straight[n]) for n, value in weights.items())
    assert f"checkpoint-4 is damaged ({file}); training goes on" in capsys.readouterr().err


def test_the_code_of_the_table_runs_where_nothing_holds_it(tmp_path):
    for write in (as_pickle, as_archive):
        write(tmp_path / "file", Code(tmp_path / "ran"))
        torch.load(tmp_path / "file", weights_only=False) if write is as_archive else pickle.loads(
            (tmp_path / "file").read_bytes()
        )
        (tmp_path / "ran").unlink()


def test_a_whole_one_is_gone_on_from_whatever_lies_beside_it(stopped, tmp_path, capsys):
    folder, straight = stopped
    shutil.copytree(folder, tmp_path / "run")
    shutil.copytree(folder / "checkpoint-4", tmp_path / "run" / "checkpoint-x")
    (tmp_path / "run" / "checkpoint-6").symlink_to(tmp_path / "nowhere")
    (tmp_path / "run" / "checkpoint-7").write_text("")
    weights, steps = train(tmp_path / "run")
    assert steps == 4 and all(torch.equal(value, straight[n]) for n, value in weights.items())
    said = capsys.readouterr().err
    assert "checkpoint-6 is no folder; it is removed" in said
    assert "checkpoint-x names no step; it is now aside-checkpoint-x" in said


def test_one_that_was_ended_before_its_sums_were_noted_is_taken(stopped, tmp_path):
    folder, straight = stopped
    shutil.copytree(folder, tmp_path / "run")
    (tmp_path / "run" / "checkpoint-4" / "sums-0.json").unlink()
    weights, steps = train(tmp_path / "run")
    assert steps == 4 and all(torch.equal(value, straight[n]) for n, value in weights.items())
    (tmp_path / "run" / "checkpoint-8" / "sums-0.json").unlink()
    (tmp_path / "run" / "checkpoint-8" / "rng_state.pth").unlink()
    assert train(tmp_path / "run")[1] == 8


def test_a_clock_that_is_set_back_does_not_cost_the_newest_checkpoint(stopped, tmp_path):
    """Trainer removes those that were written earlier; by their times, that is by their steps."""
    folder, _ = stopped
    assert (folder / "checkpoint-4").stat().st_mtime == 4
    run = shutil.copytree(folder, tmp_path / "run")
    assert train(run)[1] == 4 and [p.name for p in run.iterdir()] == ["checkpoint-8"]
