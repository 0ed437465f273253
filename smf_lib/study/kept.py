"""What a run leaves on disk, under its keys, and what is therefore left to do.

work/kept/<method>-<training key>/
    adapter/                 what was trained, for `PeftModel.from_pretrained`
    rows.safetensors         for sparse memory also as a row patch, for `smf_lib.RowPatch`
    weights/                 of full finetuning, where the profile says `keep: full` or another
                             method starts from it
    sums.json                the sums of all these files
    training.json            what training took, and a copy of it; written last
    <metric>-<metric key>.json
    provenance.json, footprint.json

Profiles that train the same share it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import BaseFileLock, FileLock
from peft import (
    PeftConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..method.files import whole
from ..method.patches.patch import RowPatch
from ..method.registration import PEFT_TYPE
from .files import file_sha256, keep_json, kept_json, say_damaged
from .keys import RunKeys, changed_parts, run_keys
from .materials import Materials
from .models import ModelFiles, load_model
from .profiles import RunSpec
from .records.record import KeysPart, Record
from .records.results import ResultsError, read_record


@dataclass(frozen=True)
class RunFiles:
    """The files of one run.

    Attributes:
        folder: where they lie.
        kind: "base", "full" or "peft", the run's kind.
        keys: what they depend on.
        keeps: whether what is trained is kept.
    """

    folder: Path
    kind: str
    keys: RunKeys
    keeps: bool

    @classmethod
    def of(cls, study: Materials, spec: RunSpec) -> RunFiles:
        """The files of a run under today's keys."""
        keys = run_keys(study, spec)
        folder = study.kept / f"{spec.method}-{keys.training.digest}"
        return cls(folder, spec.settings.kind, keys, study.profile.is_kept(spec))

    @property
    def lock(self) -> BaseFileLock:
        """What a process holds while it does the run, or trains it; one object in a process."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return FileLock(self.folder.with_name(f".{self.folder.name}.lock"), is_singleton=True)

    @property
    def training(self) -> Path:
        """What training took; there once a run is trained."""
        return self.folder / "training.json"

    @property
    def footprint(self) -> Path:
        """How large what was trained is."""
        return self.folder / "footprint.json"

    @property
    def provenance(self) -> Path:
        """Where and with what the run was begun."""
        return self.folder / "provenance.json"

    @property
    def outcomes(self) -> tuple[Path, Path]:
        """The files that say what training took: the same twice."""
        return self.training, self.training.with_suffix(".copy.json")

    @property
    def outcome(self) -> dict[str, Any] | None:
        """What training took, from the copy where the file is lost; None if it is not done."""
        for path in self.outcomes:
            if (found := kept_json(path)) is not None:
                return found
        return None

    def keep_outcome(self, outcome: dict[str, Any]) -> None:
        """Note, twice, that the run is trained and what it took."""
        for path in reversed(self.outcomes):
            keep_json(path, outcome)

    @property
    def is_trained(self) -> bool:
        """Whether the run was trained to its end (the base model needs no training)."""
        return self.kind == "base" or self.outcome is not None

    @property
    def place(self) -> Path:
        """The folder for what is trained."""
        return self.folder / ("adapter" if self.kind == "peft" else "weights")

    @property
    def weights(self) -> Path | None:
        """The folder of what was trained, None if it was not kept, not trained, or is damaged."""
        kept = self.kind != "base" and self.is_trained and self.place.is_dir()
        return self.place if kept and self.has_its_sums(self.place) else None

    @property
    def patch(self) -> Path:
        """The row patch of a sparse memory."""
        return self.folder / "rows.safetensors"

    @property
    def patch_is_whole(self) -> bool:
        """Whether the row patch is as it was written, if there was one."""
        return self.has_its_sums(self.patch)

    def note_sums(self) -> None:
        """Note the sums of what was trained."""
        paths = [p for p in sorted(self.place.rglob("*")) if p.is_file()]
        paths += [self.patch] if self.patch.is_file() else []
        sums = {p.relative_to(self.folder).as_posix(): file_sha256(p) for p in paths}
        keep_json(self.folder / "sums.json", sums)

    def has_its_sums(self, path: Path) -> bool:
        """Whether a file, or all files of a folder, are what was written; says so if not.

        What was written before there were sums, or whose list of them is lost, is taken as it is.
        """
        sums = kept_json(self.folder / "sums.json") or {}
        name = path.relative_to(self.folder).as_posix()
        for own, expected in sums.items():
            if own == name or own.startswith(f"{name}/"):
                file = self.folder / own
                if not file.is_file() or _sum_of(file, *_state(file)) != expected:
                    say_damaged(file)
                    return False
        return True

    def metric(self, name: str) -> Path:
        """The file of one metric."""
        return self.folder / f"{name}-{self.keys.metrics[name].digest}.json"

    @cached_property
    def unmeasured(self) -> list[str]:
        """Metrics that are not measured yet."""
        return [
            name
            for name in self.keys.metrics
            if "metric" not in (kept_json(self.metric(name)) or ())
        ]

    @property
    def must_train(self) -> bool:
        """Whether training has to be done: it was not, or its weights are needed and gone."""
        if self.kind == "base":
            return False
        needed = self.keeps or bool(self.unmeasured)
        return not self.is_trained or (needed and self.weights is None)


def _state(path: Path) -> tuple[int, int]:
    return path.stat().st_size, path.stat().st_mtime_ns


@cache
def _sum_of(path: Path, size: int, changed: int) -> str:
    """The sum of a file as it was at that size and time."""
    return file_sha256(path)


# ---------------------------------------------------------------------- weights


def save_weights(
    files: RunFiles,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    parent: RunFiles | None,
) -> None:
    """Keep what was trained, whole or not at all; a sparse memory also as a row patch.

    Full weights get their tokenizer, so that the folder can be any profile's `model.source`.
    `parent`: the run that the memory goes on from.
    """
    with whole(files.place) as scratch:
        model.save_pretrained(scratch)
        if files.kind == "full":
            tokenizer.save_pretrained(scratch)
    save_patch(files, model, parent)
    files.note_sums()


def save_patch(files: RunFiles, model: nn.Module, parent: RunFiles | None) -> None:
    """Keep what was trained of a sparse memory as a row patch; see `save_weights`.

    Where training diverged there is none: a patch holds numbers.
    """
    if files.kind == "full" or not is_finite(get_peft_model_state_dict(model)):
        return
    config = model.peft_config["default"]
    sparse = config.peft_type == PEFT_TYPE and config.update == "sparse"
    if not sparse or config.trainable == "memory":
        return
    if parent is None:
        RowPatch.from_model(model).save(files.patch)
        return
    model.load_adapter(parent.place, "start")
    try:
        RowPatch.from_model(model, start="start").save(files.patch)
    finally:
        model.delete_adapter("start")


def load_weights(files: RunFiles, model: nn.Module) -> None:
    """Put what a run trained into its model as it was built."""
    if files.kind == "peft":
        load_adapter(model, files.place)
        return
    trained, _ = load_model(ModelFiles(files.folder.name, "", files.place, ""))
    model.load_state_dict(trained.state_dict())


def load_adapter(model: nn.Module, folder: Path) -> None:
    """Put a trained adapter into a model that has one of the same shape.

    One whose training diverged too, which a sparse memory refuses where PEFT loads it.

    Raises ValueError, naming them, unless both hold the same tensors.
    """
    path = folder / "adapter_model.safetensors"
    state, own = load_file(path), get_peft_model_state_dict(model)
    differing = sorted(set(state) ^ set(own)) + sorted(
        name for name in set(state) & set(own) if state[name].shape != own[name].shape
    )
    if differing:
        raise ValueError(f"{path} and the model differ in {', '.join(differing)}")
    if is_finite(state):
        set_peft_model_state_dict(model, state)
        return
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def with_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """A base model with a trained adapter; with one whose training diverged too."""
    if is_finite(load_file(folder / "adapter_model.safetensors")):
        return PeftModel.from_pretrained(model, folder)
    adapted = get_peft_model(model, PeftConfig.from_pretrained(folder))
    load_adapter(adapted, folder)
    return adapted


def is_finite(state: dict[str, torch.Tensor]) -> bool:
    """Whether all numbers of what was trained are finite: they are not where training diverged."""
    return all(bool(tensor.isfinite().all()) for tensor in state.values())


# ---------------------------------------------------------------------- what is left to do


@dataclass(frozen=True)
class Left:
    """What a run still needs.

    Attributes:
        train: whether it is trained.
        measure: names of the metrics that are measured.
        why: what changed since its last record, or why there is nothing to go on from.
    """

    train: bool
    measure: list[str]
    why: str

    @property
    def nothing(self) -> bool:
        """Whether the record is current."""
        return not (self.train or self.measure or self.why)

    def __str__(self) -> str:
        if not self.train and not self.measure:
            return "nothing to train or measure"
        measured = f"measure {', '.join(self.measure)}" if self.measure else "measure nothing"
        return f"{'train, ' if self.train else ''}{measured} ({self.why})"


def what_is_left(study: Materials, spec: RunSpec) -> Left:
    """What has to be done for a run's record to be current, and why; loads no model."""
    files, record = RunFiles.of(study, spec), local_record(study, spec)
    if record is not None and record.keys is not None and _holds(record.keys, files.keys):
        return Left(False, [], "")
    why = _reason(study, spec, files, record)
    return Left(files.must_train, files.unmeasured, why)


def local_record(study: Materials, spec: RunSpec) -> Record | None:
    """This machine's record of a run, None if there is none or none that can be read.

    A damaged one is told in a line: it is made again, from what is kept.
    """
    path = study.results / study.STUDY / f"{spec.run_id}.json"
    try:
        return read_record(path)
    except ResultsError as error:
        if path.exists():
            _say_record(str(error))
        return None


@cache
def _say_record(fault: str) -> None:
    print(f"record {fault}; it is made again from what is kept", file=sys.stderr)


def _holds(recorded: KeysPart, keys: RunKeys) -> bool:
    """Whether a record with the keys `recorded` was made under these and has all their metrics."""
    kept = {name: key.key for name, key in recorded.metrics.items()}
    return recorded.training.key == keys.training.digest and all(
        kept.get(name) == key.digest for name, key in keys.metrics.items()
    )


def _reason(study: Materials, spec: RunSpec, files: RunFiles, record: Record | None) -> str:
    if record is None:
        return "begun before" if files.folder.is_dir() else "no record yet"
    if record.keys is None:
        return "recorded before keys were kept"
    changed = changed_parts(record.keys, study, spec)
    new = [name for name in files.keys.metrics if name not in record.keys.metrics]
    words = [f"{', '.join(changed)} changed"] if changed else []
    words += [f"{', '.join(new)} not measured before"] if new else []
    if files.is_trained and files.must_train:
        words.append(
            "the weights of this full finetuning were not kept, `keep: full` in the profile keeps "
            "them"
        )
    return "; ".join(words) or "the precision of this machine is another"
