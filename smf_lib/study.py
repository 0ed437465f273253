"""One study: the steps of a run in order, each kept on disk as soon as it is finished.

    study = Study.load("quick")
    spec = study.profile.run("smf-kl", seed=0)
    model, tokenizer = study.build(spec)
    outcome = study.train(spec, model, tokenizer)
    measurements = study.measure(spec, model, tokenizer)
    record = study.record(spec, outcome, measurements, started=time.time())

What is finished is kept under `work/<profile>/`, in places named after everything that it depends
on, so that a step that was done is not done again and a changed setting never meets old files.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from peft import get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, set_seed

from . import evaluate, probes
from .architecture import default_layers, find_mlps
from .background import collect_background, memories
from .book.sources import code_digest
from .config import SparseMemoryConfig
from .exam import Exam, build_exam
from .models import ModelFiles, load_model, resolve_model
from .precision import resolve_precision
from .profiles import Profile, RunSpec, load_profile
from .recording import NO_FOOTPRINT, build_record, footprint, short_hash, write_json
from .registration import NAME, PEFT_TYPE
from .results import Metric, Record, write_record
from .selection import get_rule
from .train import TrainingOutcome, finetune, peak_memory


def find_root() -> Path:
    """Where work/ and results/ lie: SMF_ROOT if set, else the repository, else this folder."""
    if "SMF_ROOT" in os.environ:
        return Path(os.environ["SMF_ROOT"]).resolve()
    here = Path.cwd().resolve()
    for folder in (here, *here.parents):
        if (folder / "profiles").is_dir() and (folder / "smf_lib").is_dir():
            return folder
    return here


@dataclass(frozen=True)
class Study:
    """A profile and the folder its files go to."""

    STUDY: ClassVar[str] = "local"  # this machine's, beside recorded ones, in results/<profile>/

    profile: Profile
    root: Path

    @classmethod
    def load(cls, profile: str, root: str | Path | None = None) -> Study:
        """The study of a profile, by its name or path, checked before anything long starts.

        Raises:
            ValueError: as `load_profile`; too few exam questions for the rows asked for; a model
                that cannot be found, has too few layers or no recognisable MLP.
        """
        study = cls(load_profile(profile), Path(root) if root else find_root())
        probes.load_knowledge(study.profile.probes.knowledge_questions)
        probes.load_prose(study.profile.probes.prose_articles)
        _ = study.exam
        shape = study.empty_model()
        for method in study.profile.methods.values():
            if method.peft_type == NAME:
                config = method.peft_config(study.profile.memory)
                depth = shape.config.num_hidden_layers
                find_mlps(shape, config.layers or default_layers(depth))
        return study

    # ------------------------------------------------------------------ what a study is made of

    @property
    def work(self) -> Path:
        """Folder of everything that can be made again."""
        return self.root / "work" / self.profile.name

    @property
    def results(self) -> Path:
        """Folder of the records of this profile, one subfolder a study."""
        return self.root / "results" / self.profile.name

    @cached_property
    def model_files(self) -> ModelFiles:
        return resolve_model(self.profile.model)

    @cached_property
    def exam(self) -> Exam:
        return build_exam(self.profile.exam)

    def empty_model(self) -> nn.Module:
        """The base model's modules without their weights."""
        with torch.device("meta"):
            config = AutoConfig.from_pretrained(self.model_files.path)
            return AutoModelForCausalLM.from_config(config)

    def load_base(self) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The base model in float32 on this machine's device, and its tokenizer."""
        model, tokenizer = load_model(self.model_files)
        return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer

    def _own_text(self, name: str, sequences: int, tokens: int, seed: int, base=None):
        wanted = (self.model_files.sha256, sequences, tokens, seed)
        path = self.work / f"{name}-{short_hash(*wanted)}.json"
        if not path.is_file():
            model, tokenizer = base or self.load_base()
            text = probes.write_self_text(model, tokenizer, sequences, tokens, seed)
            write_json(path, text)
        return json.loads(path.read_text())

    def background_text(self, base=None) -> list[list[int]]:
        """Token ids of the background text, written by the base model once and then kept."""
        s = self.profile.background
        return self._own_text("background", s.sequences, s.tokens, s.seed, base)

    def self_text(self, base=None) -> list[list[int]]:
        """Token ids of the text on which the KL divergence from the base model is measured."""
        s = self.profile.probes
        return self._own_text(
            "self-text", s.self_text_sequences, s.self_text_tokens, s.self_text_seed, base
        )

    # ------------------------------------------------------------------ the steps of a run

    def digest(self, spec: RunSpec) -> str:
        """A short name for everything that the outcome of a run depends on, code included."""
        p = self.profile
        settings = [spec.settings, p.training, p.memory, p.evaluation, p.probes, p.background]
        content = [s.model_dump() for s in settings]
        precision = resolve_precision(p.training.precision)
        model, exam = self.model_files.sha256, self.exam.sha256
        code = code_digest("train", "method", "background", "evaluate", "probes")
        return short_hash(content, precision, spec.seed, model, exam, code)

    def run_dir(self, spec: RunSpec) -> Path:
        return self.work / "runs" / f"{spec.run_id}-{self.digest(spec)}"

    def build(self, spec: RunSpec) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """The untrained model of a run: the base model, with the method's adapter if it has one.

        The seed decides the initialisation (of the memory too) and the order of training. A
        memory gets its background reads here.
        """
        set_seed(spec.seed)
        model, tokenizer = self.load_base()
        if spec.settings.kind != "peft":
            return model, tokenizer
        config = spec.settings.peft_config(self.profile.memory)
        if config.peft_type == PEFT_TYPE:
            config.seed += spec.seed
            text = self.background_text((model, tokenizer))
            model = get_peft_model(model, config)
            self.collect_background(model, text)
            return model, tokenizer
        return get_peft_model(model, config), tokenizer

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

    def collect_background(self, model: nn.Module, text: list[list[int]]) -> None:
        """Give a model's memories their background reads; counted once for a shape, then kept."""
        found = memories(model).values()
        config = model.peft_config["default"].to_dict()
        for name in ("rule", "rows_per_step", "max_grad_norm", "trainable", "target_modules"):
            config.pop(name)  # none of these decides which rows are read
        path = self.work / f"reads-{short_hash(self.model_files.sha256, config, text)}.pt"
        tables = {id(m.table): m.table for m in found}.values()
        names = ("background_counts", "background_documents", "n_background_documents")
        if not path.is_file():
            collect_background(model, text)
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}")
            torch.save([[getattr(t, n).cpu() for n in names] for t in tables], scratch)
            os.replace(scratch, path)
        for table, kept in zip(tables, torch.load(path, weights_only=True)):
            for name, counts in zip(names, kept):
                getattr(table, name).copy_(counts)

    def train(self, spec: RunSpec, model: nn.Module, tokenizer) -> TrainingOutcome:
        """Train the model of a run in place, going on from its last checkpoint."""
        path = self.run_dir(spec) / "training.json"
        if spec.settings.kind == "base":
            return TrainingOutcome(0.0, 0, 0, peak_memory(), [])
        if path.is_file() and not self._unmeasured(spec):  # all was done before; nothing to repeat
            return TrainingOutcome(**json.loads(path.read_text()))
        outcome = finetune(
            model,
            tokenizer,
            self.exam.train,
            self.profile.training,
            spec.learning_rate,
            spec.seed,
            self.run_dir(spec),
        )
        model.eval()
        write_json(self.run_dir(spec) / "footprint.json", footprint(model))
        write_json(path, dataclasses.asdict(outcome))
        return outcome

    def measure(self, spec: RunSpec, model: nn.Module, tokenizer) -> dict[str, Metric]:
        """Exam accuracy and the profile's forgetting probes, each kept as soon as it is done."""
        p, settings = self.profile, self.profile.evaluation
        precision = resolve_precision(p.training.precision)
        for metric in self._unmeasured(spec):
            if metric == "exam_accuracy":
                questions = self.exam.split(settings.split)
                measured = evaluate.measure_exam(
                    model, tokenizer, questions, settings.batch_tokens, precision
                )
            elif metric == "prose_perplexity":
                articles = probes.load_prose(p.probes.prose_articles)
                measured = evaluate.measure_prose(model, tokenizer, articles, precision=precision)
            elif metric == "knowledge_accuracy":
                questions, shots = probes.load_knowledge(p.probes.knowledge_questions)
                measured = evaluate.measure_knowledge(
                    model, tokenizer, questions, shots[: p.probes.knowledge_shots],
                    settings.batch_tokens, precision,
                )
            else:
                base, base_tokenizer = self.load_base()
                text = self.self_text((base, base_tokenizer))
                measured = evaluate.measure_self_kl(model, base, text, precision=precision)
            metric_json = {k: getattr(measured, k) for k in ("value", "stderr", "n", "items")}
            write_json(self._metric_path(spec, metric), metric_json)
        kept = {m: self._metric_path(spec, m).read_text() for m in self._metrics()}
        return {metric: Metric(**json.loads(text)) for metric, text in kept.items()}

    def record(
        self, spec: RunSpec, outcome: TrainingOutcome, metrics: dict[str, Metric], started: float
    ) -> Record:
        """Write the run's record to results/<profile>/local/<run_id>.json and return it.

        `started` is `time.time()` at the start of the run. The run's checkpoints are removed.
        """
        kept = self.run_dir(spec) / "footprint.json"
        size = json.loads(kept.read_text()) if kept.is_file() else dict(NO_FOOTPRINT)
        record = build_record(self, spec, outcome, metrics, size, time.time() - started)
        write_record(self.results / self.STUDY / f"{spec.run_id}.json", record)
        for checkpoint in self.run_dir(spec).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        return record

    def _metric_path(self, spec: RunSpec, metric: str) -> Path:
        return self.run_dir(spec) / f"{metric}.json"

    def _metrics(self) -> list[str]:
        names = {
            "prose": "prose_perplexity",
            "knowledge": "knowledge_accuracy",
            "self_text": "self_kl",
        }
        return ["exam_accuracy", *(names[p] for p in self.profile.evaluation.probes)]

    def _unmeasured(self, spec: RunSpec) -> list[str]:
        return [m for m in self._metrics() if not self._metric_path(spec, m).is_file()]
