"""One study: the steps of a run in order, each kept on disk as soon as it is finished.

    study = Study.load("quick")
    spec = study.profile.run("smf-kl", seed=0)
    model, tokenizer = study.build(spec)
    outcome = study.train(spec, model, tokenizer)
    measurements = study.measure(spec, model, tokenizer)
    record = study.record(spec, outcome, measurements)

What is finished is kept under `work/<profile>/`, in places named after everything that it depends
on, so that a step that was done is not done again and a changed setting never meets old files.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import time
from functools import cached_property
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from ..method.background import collect_background, memories
from ..method.config import SparseMemoryConfig
from ..method.files import whole
from ..method.registration import NAME, PEFT_TYPE
from ..method.rules import get_rule
from ..method.sites import default_layers, find_mlps
from .evaluation.measuring import measure_metric
from .files import short_hash, write_json
from .materials import Materials, find_root
from .metrics import METRICS, describe_data, metric_names
from .models import load_tokenizer
from .precision import autocast, resolve_precision
from .profiles import RunSpec, load_profile
from .records.recording import NO_FOOTPRINT, build_record, footprint
from .records.results import Metric, Record, provenance, write_record
from .records.sources import code_digest
from .tasks.formats import training_row
from .training import processes
from .training.train import TrainingOutcome, finetune, peak_memory


class Study(Materials):
    """A profile with the steps of its runs."""

    @classmethod
    def load(cls, profile: str, root: str | Path | None = None) -> Study:
        """The study of a profile, by its name or path, checked before anything long starts.

        Raises:
            ValueError: as `load_profile`; too few exam questions for the rows asked for; data or a
                model that cannot be found; a model with too few layers or no recognisable MLP, or
                too short for the texts to be measured on; a method's modules that it lacks.
        """
        study = cls(load_profile(profile), Path(root) if root else find_root())
        _ = study.exam, study.prose, study.knowledge, study.texts("background")
        if any(method.stage == "retrofit" for method in study.profile.methods.values()):
            study.texts("retrofit")
        describe_data(study, [n for n in metric_names(study.profile) if not METRICS[n].is_shipped])
        shape = study.empty_model()
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
        if not self.exam.split(evaluation.split):
            raise ValueError(
                f"evaluation.split={evaluation.split!r}: the exam has no such questions; set "
                f"exam.{evaluation.split}_rows"
            )
        longest = getattr(shape.config, "max_position_embeddings", None) or math.inf
        wanted = {}
        if "prose" in evaluation.probes and probes.wikitext:
            wanted["probes.wikitext.window"] = probes.wikitext.window
        if "self_text" in evaluation.probes:
            wanted["probes.self_text_tokens"] = probes.self_text_tokens
        for field, tokens in wanted.items():
            if tokens > longest:
                raise ValueError(
                    f"{field}={tokens} is more than the model's {longest} tokens; lower it"
                )

    # ------------------------------------------------------------------ the steps of a run

    def parent(self, spec: RunSpec) -> RunSpec | None:
        """The run whose trained memory this one goes on from, or None."""
        start = spec.settings.start
        return None if start is None else self.profile.run(start, spec.seed)

    def digest(self, spec: RunSpec) -> str:
        """A short name for all that the outcome of a run depends on: settings, data, code."""
        p, parent = self.profile, self.parent(spec)
        settings = [spec.settings, p.training, p.memory, p.evaluation, p.probes, p.background]
        content = [s.model_dump() for s in settings]
        if spec.settings.stage == "retrofit":
            content += [p.retrofit.model_dump(), self.retrofit_hash]
        before = None if parent is None else self.digest(parent)
        precision = resolve_precision(p.training.precision)
        data = (self.model_files.sha256, self.exam.sha256, self.data_hash)
        return short_hash(content, before, precision, spec.seed, data, self.code)

    @cached_property
    def code(self) -> str:
        """The digest of the code that decides what a run computes."""
        return code_digest(
            "method", "background", "training.train", "evaluation.measuring", "tasks.corpora",
            "tasks.probes",
        )  # fmt: skip

    def run_dir(self, spec: RunSpec) -> Path:
        return self.work / "runs" / f"{spec.run_id}-{self.digest(spec)}"

    def build(self, spec: RunSpec) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The untrained model of a run: the base model, with the method's adapter if it has one.

        The seed decides the initialisation (of the memory too) and the order of training. A
        memory gets its background reads here, and before them the trained memory of the run that
        it goes on from, which is trained first if that was not done.
        """
        if spec.settings.kind != "base":
            self.training_rows(spec)  # a question that is too long is an error before long work
        parent = self.parent(spec)
        if parent is not None and not self._adapter(parent).is_file():
            self.train(parent, *self.build(parent))
        set_seed(spec.seed)
        model, tokenizer = self.load_base()
        if spec.settings.kind != "peft":
            return model, tokenizer
        limit = self.profile.training.max_grad_norm
        config = spec.settings.peft_config(self.profile.memory, limit)
        if config.peft_type != PEFT_TYPE:
            return get_peft_model(model, config), tokenizer
        config.seed += spec.seed
        text = self.background_text((model, tokenizer)) if config.update == "sparse" else None
        model = get_peft_model(model, config)
        if parent is not None:
            _load_adapter(model, self._adapter(parent))
        if text is not None:
            self.collect_background(model, text, None if parent is None else self.digest(parent))
        return model, tokenizer

    def _adapter(self, spec: RunSpec) -> Path:
        """Where the trained memory of a retrofit run is kept for those that go on from it."""
        return self.run_dir(spec) / "adapter" / "adapter_model.safetensors"

    def memory_config(self) -> SparseMemoryConfig:
        """The profile's memory with its seed, for looking at a memory without training it."""
        settings = {"task_type": "CAUSAL_LM", **self.profile.memory.model_dump()}
        config = SparseMemoryConfig(**settings)
        if config.layers is None:
            config.layers = default_layers(self.empty_model().config.num_hidden_layers)
        return config

    def build_memory(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The base model with the profile's untrained memory and its background reads."""
        model, tokenizer = self.load_base()
        text = self.background_text((model, tokenizer))
        model = get_peft_model(model, self.memory_config())
        self.collect_background(model, text)
        return model, tokenizer

    def check_selection(self, layer: int | None, batches: int, rules: list[str]) -> None:
        """Raise ValueError unless the layer has a memory, there are so many training batches, and
        every rule is registered."""
        layers = self.memory_config().layers
        if layer is not None and layer not in layers:
            raise ValueError(f"layer={layer!r} has no memory; choose one of {layers}, or None")
        most = len(self.exam.train) // self.profile.training.batch_size
        if not isinstance(batches, int) or not 1 <= batches <= most:
            raise ValueError(f"batches={batches!r} must be a whole number from 1 to {most}")
        if len(rules) < 2:
            raise ValueError(f"rules={rules!r} must name at least two rules to compare")
        for rule in rules:
            get_rule(rule)

    def collect_background(
        self, model: nn.Module, text: list[list[int]], trained: str | None = None
    ) -> None:
        """Give a model's memories their background reads; counted once for a shape, then kept.

        `trained` names the run that trained the memory before, None for a new memory.
        """
        found = memories(model).values()
        config = model.peft_config["default"].to_dict()
        for name in ("rule", "rows_per_step", "max_grad_norm", "trainable", "target_modules"):
            config.pop(name)  # none of these decides which rows are read
        precision = resolve_precision(self.profile.training.precision)
        parts = (self.model_files.sha256, config, text, precision, trained, self.code)
        path = self.work / f"reads-{short_hash(*parts)}.pt"
        tables = {id(m.table): m.table for m in found}.values()
        names = ("background_counts", "background_documents", "n_background_documents")
        if not path.is_file():
            with autocast(model.device.type, precision):
                collect_background(model, text)
            with whole(path) as scratch:
                torch.save([[getattr(t, n).cpu() for n in names] for t in tables], scratch)
        for table, kept in zip(tables, torch.load(path, weights_only=True)):
            for name, counts in zip(names, kept):
                getattr(table, name).copy_(counts)

    def train(self, spec: RunSpec, model: nn.Module, tokenizer) -> TrainingOutcome:
        """Train the model of a run in place, going on from its last checkpoint."""
        path = self.run_dir(spec) / "training.json"
        if spec.settings.kind == "base":
            return TrainingOutcome(0.0, 0, 0, peak_memory(), [])
        retrofit = spec.settings.stage == "retrofit"
        kept = self._adapter(spec).is_file() if retrofit else not self._unmeasured(spec)
        if path.is_file() and kept:  # nothing that would need the trained model is left to do
            if retrofit:
                _load_adapter(model, self._adapter(spec))
            return TrainingOutcome(**json.loads(path.read_text()))
        settings = self.profile.retrofit.training if retrofit else self.profile.training
        self._keep_provenance(spec)
        outcome = finetune(
            model,
            tokenizer,
            self.training_rows(spec),
            settings,
            spec.learning_rate,
            spec.seed,
            self.run_dir(spec),
        )
        model.eval()
        if processes.is_first():
            if retrofit:
                _save_adapter(model, self._adapter(spec))
            write_json(self.run_dir(spec) / "footprint.json", footprint(model))
            write_json(path, dataclasses.asdict(outcome))
        processes.wait_for_all()
        return outcome

    def training_rows(self, spec: RunSpec) -> list[dict]:
        """What a run is trained on: token ids and labels, one text or question a row; kept.

        Raises:
            ValueError: a question is longer than training.max_length.
        """
        stage, kept = spec.settings.stage, self.__dict__.setdefault("kept_rows", {})
        if stage not in kept:
            tokenizer = load_tokenizer(self.model_files)
            if stage == "retrofit":
                limit = self.profile.retrofit.training.max_length
                texts = [tokenizer(text).input_ids[:limit] for text in self.texts("retrofit")]
                kept[stage] = [training_row(ids, ids) for ids in texts if len(ids) > 1]
            else:
                kept[stage] = [self.encode(question, tokenizer) for question in self.exam.train]
        return kept[stage]

    def measure(self, spec: RunSpec, model: nn.Module, tokenizer) -> dict[str, Metric]:
        """Exam accuracy and the profile's forgetting probes, each kept as soon as it is done."""
        for metric in self._unmeasured(spec):
            self._keep_provenance(spec)
            started = time.perf_counter()
            kept = measure_metric(self, metric, model, tokenizer)
            seconds = time.perf_counter() - started
            write_json(self._metric_path(spec, metric), {"metric": kept, "seconds": seconds})
        return {m: Metric(**self._measured(spec, m)["metric"]) for m in metric_names(self.profile)}

    def record(self, spec: RunSpec, outcome: TrainingOutcome, metrics: dict[str, Metric]) -> Record:
        """Write the run's record to results/<profile>/local/<run_id>.json and return it.

        It tells the time and place of the run itself, also where another process writes it. The
        run's checkpoints are removed.
        """
        folder = self.run_dir(spec)
        size = (
            json.loads((folder / "footprint.json").read_text()) if outcome.steps else NO_FOOTPRINT
        )
        measuring = sum(self._measured(spec, metric)["seconds"] for metric in metrics)
        record = build_record(
            self,
            spec,
            outcome,
            metrics,
            size,
            seconds=outcome.seconds + measuring,
            provenance=json.loads((folder / "provenance.json").read_text()),
        )
        write_record(self.results / self.STUDY / f"{spec.run_id}.json", record)
        for checkpoint in self.run_dir(spec).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return record

    def _keep_provenance(self, spec: RunSpec) -> None:
        """Note where and with what a run is begun, once."""
        path = self.run_dir(spec) / "provenance.json"
        if processes.is_first() and not path.is_file():
            write_json(path, provenance())

    def _measured(self, spec: RunSpec, metric: str) -> dict:
        return json.loads(self._metric_path(spec, metric).read_text())

    def _metric_path(self, spec: RunSpec, metric: str) -> Path:
        return self.run_dir(spec) / f"{metric}.json"

    def _unmeasured(self, spec: RunSpec) -> list[str]:
        names = metric_names(self.profile)
        return [m for m in names if not self._metric_path(spec, m).is_file()]


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
            f"methods.{method}: target_modules={sorted(targets)} are not in the model, whose linear "
            f"maps are {', '.join(sorted(linear))}"
        )


def _save_adapter(model: nn.Module, path: Path) -> None:
    """Keep a trained memory, whole or not at all; `path` is its safetensors file."""
    with whole(path.parent) as scratch:
        model.save_pretrained(scratch)


def _load_adapter(model: nn.Module, path: Path) -> None:
    """Put a trained memory into a model that has one of the same shape.

    Raises ValueError, naming them, unless both hold the same tensors.
    """
    state, own = load_file(path), get_peft_model_state_dict(model)
    differing = sorted(set(state) ^ set(own)) + sorted(
        name for name in set(state) & set(own) if state[name].shape != own[name].shape
    )
    if differing:
        raise ValueError(f"{path} and the model differ in {', '.join(differing)}")
    set_peft_model_state_dict(model, state)
