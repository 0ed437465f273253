"""What a run leaves on disk, under its keys, and what is therefore left to do.

work/kept/<method>-<training key>/
    adapter/                 what was trained, for `PeftModel.from_pretrained`
    rows.safetensors         for sparse memory also as a row patch, for `smf_lib.RowPatch`
    weights/                 of full finetuning, where the profile says `keep: full` or another
                             method starts from it
    training.json            what training took; written last
    <metric>-<metric key>.json
    provenance.json, footprint.json

Profiles that train the same share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..method.files import whole
from ..method.patches.patch import RowPatch
from ..method.registration import PEFT_TYPE
from .files import kept_json
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
    def training(self) -> Path:
        """What training took; there once a run is trained."""
        return self.folder / "training.json"

    @property
    def is_trained(self) -> bool:
        """Whether the run was trained to its end (the base model needs no training)."""
        return self.kind == "base" or "log" in (kept_json(self.training) or ())

    @property
    def place(self) -> Path:
        """The folder for what is trained."""
        return self.folder / ("adapter" if self.kind == "peft" else "weights")

    @property
    def weights(self) -> Path | None:
        """The folder of what was trained, None if it was not kept or not trained."""
        kept = self.kind != "base" and self.is_trained and self.place.is_dir()
        return self.place if kept else None

    @property
    def patch(self) -> Path:
        """The row patch of a sparse memory."""
        return self.folder / "rows.safetensors"

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
    if files.kind == "full":
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

    Raises ValueError, naming them, unless both hold the same tensors.
    """
    path = folder / "adapter_model.safetensors"
    state, own = load_file(path), get_peft_model_state_dict(model)
    differing = sorted(set(state) ^ set(own)) + sorted(
        name for name in set(state) & set(own) if state[name].shape != own[name].shape
    )
    if differing:
        raise ValueError(f"{path} and the model differ in {', '.join(differing)}")
    set_peft_model_state_dict(model, state)


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
    """This machine's record of a run, None if there is none or none that can be read."""
    try:
        return read_record(study.results / study.STUDY / f"{spec.run_id}.json")
    except ResultsError:
        return None


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
