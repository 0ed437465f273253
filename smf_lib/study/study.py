"""One study: the steps of a run in order, each kept on disk as soon as it is finished.

    study = Study.load("quick")
    spec = study.profile.run("smf-kl", seed=0)
    model, tokenizer = study.build(spec)
    outcome = study.train(spec, model, tokenizer)
    measurements = study.measure(spec, model, tokenizer)
    record = study.record(spec, outcome, measurements)

and, whenever it was trained, `model, tokenizer = study.trained("smf-kl", seed=0)`.

What is finished is kept under `work/kept/`, in places named after everything that it depends
on (`keys`), so that a step that was done is not done again and a changed setting never meets old
files. Building never trains, training never measures, measuring never trains.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from filelock import BaseFileLock, Timeout
from peft import PeftConfig
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..method.config import SparseMemoryConfig
from ..method.files import remove
from ..method.registration import NAME
from ..method.rules import get_rule
from ..method.sites import default_layers, find_mlps
from . import build
from .baselines import Change, change_of
from .checkpoints import checked
from .evaluation.evaluate import WINDOW
from .evaluation.measuring import measure_metric
from .evaluation.reading import check_readable
from .files import find_root, keep_json, kept_json
from .kept import (
    RunFiles,
    load_weights,
    local_record,
    save_patch,
    save_weights,
    what_is_left,
    with_adapter,
)
from .keys import parent_of
from .lengths import check_readings
from .materials import Materials
from .metrics import METRICS, describe_data, metric_names
from .model_check import check_shapes, check_tokenizer
from .models import ModelFiles, load_model, load_tokenizer
from .names import check_text
from .precision import resolve_precision
from .profiles import RunSpec, load_profile, with_memory
from .recording import NO_FOOTPRINT, build_record, footprint
from .records.results import Metric, Record, provenance, write_record
from .room import check_memory, explains_no_room
from .sequences import MERGES, StageStart
from .training import processes
from .training.train import TrainingOutcome, finetune, peak_memory


class Study(Materials):
    """A profile with the steps of its runs."""

    @classmethod
    def load(cls, profile: str, root: str | Path | None = None, **memory: Any) -> Study:
        """The study of a profile, by its name or path, checked before anything long starts.

        memory: other settings of its memory, as `with_memory` takes them.

        Raises:
            ValueError: as `load_profile` and `with_memory`; too few exam questions for the rows
                asked for; data or a model that cannot be found; a model that keeps a recurrent
                state, has too few layers or no recognisable MLP, or is too short for the texts to
                be measured on; a method's modules that it lacks.
        """
        varied = with_memory(load_profile(profile), **memory)
        study = cls(varied, Path(root) if root else find_root())
        check_text(study.exam.notes)  # it becomes part of the record
        _ = study.prose, study.knowledge
        for method in study.profile.methods.values():
            study.texts("background", study.profile.background_of(method))
        if any(method.stage == "retrofit" for method in study.profile.methods.values()):
            study.texts("retrofit")
        describe_data(study, [n for n in metric_names(study.profile) if not METRICS[n].is_shipped])
        shape = study.empty_model()
        check_shapes(study.model_files, shape)
        check_tokenizer(study.model_files)
        check_readable(shape)
        study._check_lengths(shape)
        for name, method in study.profile.methods.items():
            if method.kind != "peft":
                continue
            config = study.profile.complete(method).peft_config(study.profile.memory)
            if method.peft_type == NAME:
                depth = shape.config.num_hidden_layers
                find_mlps(shape, config.layers or default_layers(depth))
            else:
                _check_targets(name, config, shape)
        return study

    def _check_lengths(self, shape: nn.Module) -> None:
        """Raise ValueError unless there are questions to score and the model takes the texts."""
        evaluation, probes = self.profile.evaluation, self.profile.probes
        for task in self.profile.task_names:
            if not self.exam_of(task).split(evaluation.split):
                place = f"tasks.{task}" if task in self.profile.tasks else "exam"
                raise ValueError(
                    f"evaluation.split={evaluation.split!r}: the exam has no such questions; set "
                    f"{place}.{evaluation.split}_rows"
                )
        longest = getattr(shape.config, "max_position_embeddings", None) or math.inf
        wanted = {}
        if "prose" in evaluation.probes and probes.wikitext:
            wanted["probes.wikitext.window"] = probes.wikitext.window
        elif "prose" in evaluation.probes and longest < WINDOW:
            raise ValueError(
                f"evaluation.probes: prose is read in windows of {WINDOW} tokens, more than the "
                f"model's {longest}; leave prose out, or set probes.wikitext with a smaller window"
            )
        if "self_text" in evaluation.probes:
            wanted["probes.self_text_tokens"] = probes.self_text_tokens
        if self.profile.background.text is None:  # texts from elsewhere may be shorter
            wanted["background.tokens"] = self.profile.background.tokens
        for name, method in self.profile.methods.items():
            own = self.profile.background_of(method)
            if method.background and own.text is None:
                wanted[f"methods.{name}.background.tokens"] = own.tokens
        for field, tokens in wanted.items():
            if tokens > longest:
                raise ValueError(
                    f"{field}={tokens} is more than the model's {longest} tokens; lower it"
                )
        check_readings(self, load_tokenizer(self.model_files), longest)

    # ------------------------------------------------------------------ the steps of a run

    def parent(self, spec: RunSpec) -> RunSpec | None:
        """The run whose trained memory or weights this one goes on from, or None."""
        return parent_of(self.profile, spec)

    def files(self, spec: RunSpec) -> RunFiles:
        """Where what a run leaves is kept, and what of it is there."""
        return RunFiles.of(self, spec)

    @explains_no_room
    def build(self, spec: RunSpec) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The model of a run before training, and its tokenizer; see `build.build`.

        A stage of a sequence has the weights of the stage before, unless it merges with them. One
        that is not trained yet and finds too little memory is refused before anything is loaded.
        """
        if not self.files(spec).is_trained:
            check_memory(self, [spec])
        model, tokenizer = build.build(self.at(spec), spec)
        parent = self.parent(spec)
        goes_on = spec.settings.task is not None and spec.settings.baseline != MERGES
        if parent is not None and goes_on and spec.settings.peft_type != NAME:
            load_weights(self.files(parent), model)
        return model, tokenizer

    def training_rows(self, spec: RunSpec) -> list[dict]:
        """What a run is trained on; see `build.training_rows`."""
        return build.training_rows(self.at(spec), spec)

    @explains_no_room
    def train(
        self, spec: RunSpec, model: nn.Module, tokenizer: PreTrainedTokenizerBase
    ) -> TrainingOutcome:
        """Train the model of a run in place, going on from its last checkpoint; keep the weights.

        What was trained before is loaded into the model instead. One case is left: the weights of
        a full finetuning that were not kept. If they are needed for a metric, it is trained again,
        and says so; if all is measured, the model stays as it was built. So that no other process
        does so meanwhile, this one has the run to itself until `measure` is done.
        """
        if spec.settings.kind == "base":
            return TrainingOutcome(0.0, 0, 0, peak_memory(), [])
        with self.alone(spec):
            files = self.files(spec)
            if processes.is_first():
                for leftover in files.folder.glob(".*-????????"):  # of one that was killed
                    remove(leftover)
            outcome = self._train(spec, model, tokenizer)
            others_would_train = files.must_train and processes.is_first()
            if others_would_train and files.folder not in self._held:
                self._held[files.folder] = files.lock
                files.lock.acquire()
        return outcome

    @cached_property
    def _held(self) -> dict[Path, BaseFileLock]:
        """Locks of runs whose weights are in this process alone, and not measured yet."""
        return {}

    @contextmanager
    def alone(self, spec: RunSpec) -> Iterator[bool]:
        """Have a run to oneself, as soon as no other process has it; within it, or in `train`, too.

        Processes that train together have it together. Yields whether another had it before.
        """
        lock, waited = self.files(spec).lock, False
        if processes.is_first():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(
                    f"run {spec.run_id} is being run by another process; waiting until it is done",
                    flush=True,
                )
                waited = True
                lock.acquire()
        try:
            processes.wait_for_all()
            yield waited
        finally:
            if processes.is_first():
                lock.release()

    def _train(
        self, spec: RunSpec, model: nn.Module, tokenizer: PreTrainedTokenizerBase
    ) -> TrainingOutcome:
        """`train` by the process that has the run to itself."""
        files = self.files(spec)
        parent = self.parent(spec)
        start = None if parent is None else self.files(parent)
        done = files.outcome
        if done is not None and not files.must_train:
            if files.weights is not None:
                load_weights(files, model)
            if processes.is_first():
                if any(kept_json(path) is None for path in files.outcomes):
                    files.keep_outcome(done)
                self._mend(files, model, start)
            return TrainingOutcome(**done)
        if done is not None:
            why = "are damaged" if files.place.is_dir() else "were not kept"
            print(
                f"run {spec.run_id} is trained again: its weights {why}, and "
                f"{', '.join(files.unmeasured) or 'another run'} needs them (`keep: full` in the "
                "profile keeps those of full finetuning)"
            )
        settings = self.profile.training_of(spec.settings)
        self._keep_provenance(files)
        change = self._change(spec, model)
        outcome = TrainingOutcome(0.0, 0, 0, peak_memory(), [])
        if change.trains:
            rows = self.training_rows(spec) if change.rows is None else change.rows
            with checked(files.folder):
                outcome = finetune(
                    model,
                    tokenizer,
                    rows,
                    settings,
                    cast("float", spec.learning_rate),  # the base model alone has none
                    spec.seed,
                    files.folder,
                    extra_loss=change.loss,
                    optimizer=change.optimizer,
                )
        if change.finish is not None:
            change.finish(model)
        model.eval()
        if processes.is_first():
            if files.keeps:
                save_weights(files, model, tokenizer, start)
            keep_json(files.footprint, footprint(model))
            files.keep_outcome(dataclasses.asdict(outcome))
        processes.wait_for_all()
        return outcome

    def _mend(self, files: RunFiles, model: nn.Module, start: RunFiles | None) -> None:
        """Make again, from a trained model, what else its run had left and what is damaged."""
        if kept_json(files.footprint) is None:
            keep_json(files.footprint, footprint(model))
        if files.weights is not None and not (
            files.patch_is_whole and kept_json(files.folder / "sums.json") is not None
        ):
            save_patch(files, model, start)
            files.note_sums()

    def train_before(self, spec: RunSpec) -> RunSpec | None:
        """Train the run that this one goes on from, and those before it, where they are not.

        Returns the run that it goes on from, or None.
        """
        parent = self.parent(spec)
        if parent is not None and self.files(parent).weights is None:
            self.train_before(parent)
            self.train(parent, *self.build(parent))
        return parent

    def _change(self, spec: RunSpec, model: nn.Module) -> Change:
        """What the method's baseline changes about the training of this model."""
        parent = self.parent(spec)
        start = StageStart(
            model,
            self.training_rows(spec),
            lambda name: build.general_text(self.at(spec), spec, name),
            spec.seed,
            resolve_precision(self.profile.training.precision),
            None if parent is None else lambda: self._trained(parent)[0],
            self.at(spec).learned_rows(),
        )
        return change_of(start, spec.settings.baseline, spec.settings.baseline_settings)

    @explains_no_room
    def measure(
        self, spec: RunSpec, model: nn.Module, tokenizer: PreTrainedTokenizerBase
    ) -> dict[str, Metric]:
        """Exam accuracy and the profile's forgetting probes, each kept as soon as it is done.

        Raises:
            ValueError: the run is not trained.
        """
        files = self.files(spec)
        if not files.is_trained:
            raise ValueError(
                f"run {spec.run_id!r} is not trained; call study.train(spec, model, tokenizer)"
            )
        for metric in files.unmeasured:
            self._keep_provenance(files)
            started = time.perf_counter()
            kept = measure_metric(self, metric, model, tokenizer)
            seconds = time.perf_counter() - started
            keep_json(files.metric(metric), {"metric": kept, "seconds": seconds})
        if files.folder in self._held:
            self._held.pop(files.folder).release()
        return {m: Metric(**_measured(files, m)["metric"]) for m in files.keys.metrics}

    @explains_no_room
    def record(self, spec: RunSpec, outcome: TrainingOutcome, metrics: dict[str, Metric]) -> Record:
        """Write the run's record to results/<profile>/local/<run_id>.json and return it.

        It tells the time and place of the run itself, also where another process writes it. The
        run's checkpoints are removed. A damaged record that it takes the place of is told.
        """
        local_record(self, spec)
        files = self.files(spec)
        self._keep_provenance(files)
        measuring = sum(_measured(files, metric)["seconds"] for metric in metrics)
        record = build_record(
            self,
            spec,
            outcome,
            metrics,
            NO_FOOTPRINT if spec.settings.kind == "base" else kept_json(files.footprint),
            seconds=outcome.seconds + measuring,
            provenance=kept_json(files.provenance),
            keys=files.keys,
        )
        write_record(self.results / self.STUDY / f"{spec.run_id}.json", record)
        for checkpoint in files.folder.glob("checkpoint-*"):
            shutil.rmtree(checkpoint, ignore_errors=True)
        return record

    def _keep_provenance(self, files: RunFiles) -> None:
        """Note where and with what a run is begun, once."""
        if processes.is_first() and kept_json(files.provenance) is None:
            keep_json(files.provenance, provenance())

    # ------------------------------------------------------------------ what was trained

    def trained(
        self, method: str, seed: int = 0, learning_rate: float | None = None
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The model that a run trained, on this machine's device, and its tokenizer.

        Raises:
            ValueError: an unknown run, one that is not trained, or a full finetuning whose
                weights were not kept.
        """
        return self._trained(self.profile.run(method, seed, learning_rate))

    def _trained(self, spec: RunSpec) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        if spec.settings.kind == "base":
            return self.load_base()
        files = self.files(spec)
        if files.weights is None:
            given = f"{spec.method!r}, {spec.seed}, {spec.learning_rate}"
            remedy = (
                "set `keep: full` in the profile and train it again"
                if files.is_trained
                else "train it with today's settings: `spec = study.profile.run("
                f"{given}); study.train(spec, *study.build(spec))`"
            )
            raise ValueError(f"the weights of run {spec.run_id!r} are not kept; {remedy}")
        model, tokenizer = self.load_base()
        if spec.settings.kind == "full":
            kept, _ = load_model(ModelFiles(spec.run_id, "", files.weights, ""))
            return kept.to(model.device), tokenizer
        return with_adapter(model, files.weights).eval(), tokenizer

    # ------------------------------------------------------------------ a memory to look at

    def memory_config(self) -> SparseMemoryConfig:
        """The profile's memory with its seed, for looking at a memory without training it."""
        return build.memory_config(self)

    @explains_no_room
    def build_memory(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The base model with the profile's untrained memory and its background reads."""
        return build.build_memory(self)

    def collect_background(self, model: nn.Module, text: list[list[int]]) -> None:
        """Give a model's untrained memories their background reads, counted once, then kept."""
        build.read_background(self, model, text)

    def check_selection(self, layer: int | None, batches: int, rules: list[str]) -> None:
        """Check what the notebook about selection is asked to show.

        Raises:
            ValueError: the layer has no memory, there are not so many training batches, or a rule
                is not registered.
        """
        layers = self.memory_config().layers or []
        if layer is not None and layer not in layers:
            raise ValueError(f"layer={layer!r} has no memory; choose one of {layers}, or None")
        most = len(self.exam.train) // self.profile.training.batch_size
        if not isinstance(batches, int) or not 1 <= batches <= most:
            raise ValueError(f"batches={batches!r} must be a whole number from 1 to {most}")
        if len(rules) < 2:
            raise ValueError(f"rules={rules!r} must name at least two rules to compare")
        for rule in rules:
            get_rule(rule)


def run(study: Study, spec: RunSpec, others: Sequence[tuple[Study, RunSpec]] = ()) -> Record | None:
    """One run from model to record, after the run that it goes on from, if that is not trained.

    One process at a time does a run; one that has waited takes the record that the other wrote.
    Processes that train together each call it; the first measures and gets the record.

    others: runs of other studies with the same training, which are measured and recorded too.
    """
    runs = ((study, spec), *others)
    with study.alone(spec) as waited:
        if waited and processes.count() == 1 and all(what_is_left(*one).nothing for one in runs):
            return local_record(study, spec)
        study.train_before(spec)
        model, tokenizer = study.build(spec)
        outcome = study.train(spec, model, tokenizer)
        if not processes.is_first():
            return None
        for other, same in others:
            other.record(same, outcome, other.measure(same, model, tokenizer))
        return study.record(spec, outcome, study.measure(spec, model, tokenizer))


def _measured(files: RunFiles, metric: str) -> dict:
    return kept_json(files.metric(metric))


def _check_targets(method: str, config: PeftConfig, shape: nn.Module) -> None:
    """Raise ValueError if a list of target modules names none of a model's."""
    targets = getattr(config, "target_modules", None)
    if not isinstance(targets, (list, set, tuple)) or not targets:
        return
    names = {name for name, _ in shape.named_modules()}
    if not any(n == target or n.endswith(f".{target}") for target in targets for n in names):
        linear = {
            n.rpartition(".")[2] for n, m in shape.named_modules() if isinstance(m, nn.Linear)
        }
        raise ValueError(
            f"methods.{method}: target_modules={sorted(targets)} are not in the model, whose "
            f"linear maps are {', '.join(sorted(linear))}"
        )
