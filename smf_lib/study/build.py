"""What a run starts from: its model before training, with its memory's background reads, its rows.

Building never trains. A run that goes on from another's memory needs that run to be trained.
"""

from __future__ import annotations

import torch
from peft import get_peft_model
from torch import nn
from transformers import PreTrainedTokenizerBase, set_seed

from ..method.background import collect_background, memories
from ..method.config import SparseMemoryConfig
from ..method.files import whole
from ..method.registration import PEFT_TYPE
from ..method.sites import default_layers
from .files import making
from .kept import RunFiles, load_adapter
from .keys import parent_of, reads_key
from .materials import Materials
from .models import load_tokenizer
from .precision import autocast, resolve_precision
from .profiles import RunSpec
from .settings import BackgroundSettings
from .tasks.formats import training_row


def build(study: Materials, spec: RunSpec) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The untrained model of a run: the base model, with the method's adapter if it has one.

    The seed decides the initialisation (of the memory too) and the order of training. A memory
    gets its background reads here, and before them the trained memory of the run that it goes on
    from.

    Raises:
        ValueError: the run that this one goes on from is not trained; a question is longer than
            training.max_length.
    """
    if spec.settings.kind != "base":
        training_rows(study, spec)  # a question that is too long is an error before long work
    parent = parent_of(study.profile, spec)
    start = None if parent is None else RunFiles.of(study, parent).weights
    if parent is not None and start is None:
        raise ValueError(
            f"run {spec.run_id!r} goes on from run {parent.run_id!r}, which is not trained; train "
            "that first: study.train(parent, *study.build(parent)) with study.parent(spec)"
        )
    set_seed(spec.seed)
    model, tokenizer = study.load_base()
    if spec.settings.kind != "peft":
        return model, tokenizer
    limit = study.profile.training_of(spec.settings).max_grad_norm
    config = spec.settings.peft_config(study.profile.memory, limit)
    if config.peft_type != PEFT_TYPE:
        return get_peft_model(model, config), tokenizer
    config.seed += spec.seed
    background, text = study.profile.background_of(spec.settings), None
    if config.update == "sparse":
        text = study.background_text((model, tokenizer), background)
    model = get_peft_model(model, config)
    if start is not None:
        load_adapter(model, start)
    if text is not None:
        read_background(study, model, text, parent, background)
    return model, tokenizer


def memory_config(study: Materials) -> SparseMemoryConfig:
    """The profile's memory with its seed, for looking at a memory without training it."""
    settings = {"task_type": "CAUSAL_LM", **study.profile.memory.model_dump()}
    config = SparseMemoryConfig(**settings)
    if config.layers is None:
        config.layers = default_layers(study.empty_model().config.num_hidden_layers)
    return config


def build_memory(study: Materials) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """The base model with the profile's untrained memory and its background reads."""
    model, tokenizer = study.load_base()
    text = study.background_text((model, tokenizer))
    model = get_peft_model(model, memory_config(study))
    read_background(study, model, text)
    return model, tokenizer


def read_background(
    study: Materials,
    model: nn.Module,
    text: list[list[int]],
    parent: RunSpec | None = None,
    background: BackgroundSettings | None = None,
) -> None:
    """Give a model's memories their background reads; counted once for a shape, then kept.

    `parent` is the run that trained the memory before, None for a new memory; `background` the
    settings that `text` is made by, None for the profile's.
    """
    key = reads_key(study, model.peft_config["default"], parent, background)
    path = study.kept / f"reads-{key.digest}.pt"
    tables = {id(m.table): m.table for m in memories(model).values()}.values()
    names = ("background_counts", "background_documents", "n_background_documents")
    with making(path) as missing:
        if missing:
            with autocast(model.device.type, resolve_precision(study.profile.training.precision)):
                collect_background(model, text)
            with whole(path) as scratch:
                torch.save([[getattr(t, n).cpu() for n in names] for t in tables], scratch)
    for table, counted in zip(tables, torch.load(path, weights_only=True)):
        for name, counts in zip(names, counted):
            getattr(table, name).copy_(counts)


def general_text(study: Materials, spec: RunSpec, name: str) -> list[list[int]]:
    """Token ids of a run's "background" or "retrofit" text, cut to training.max_length."""
    longest = study.profile.training.max_length
    if name == "background":
        background = study.profile.background_of(spec.settings)
        return [ids[:longest] for ids in study.background_text(settings=background)]
    tokenizer = load_tokenizer(study.model_files)
    return [tokenizer(text).input_ids[:longest] for text in study.texts(name) or ()]


def training_rows(study: Materials, spec: RunSpec) -> list[dict]:
    """What a run is trained on: token ids and labels, one text or question a row; kept.

    Raises:
        ValueError: a question is longer than training.max_length.
    """
    stage, kept = spec.settings.stage, study.__dict__.setdefault("kept_rows", {})
    if stage not in kept:
        tokenizer = load_tokenizer(study.model_files)
        if stage == "retrofit":
            limit = study.profile.retrofit.training.max_length
            texts = [tokenizer(text).input_ids[:limit] for text in study.texts("retrofit")]
            kept[stage] = [training_row(ids, ids) for ids in texts if len(ids) > 1]
        else:
            kept[stage] = [study.encode(question, tokenizer) for question in study.exam.train]
    return kept[stage]
