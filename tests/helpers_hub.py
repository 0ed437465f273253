"""Invented data in the Hub's columns, a tiny Qwen2, and a stand-in for the Hub that serves them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import datasets
import huggingface_hub
from helpers_models import tiny_model
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
DATA = {  # Hub id: (folder, the configurations that there are)
    "openlifescienceai/medmcqa": ("medmcqa", {None}),
    "mandarjoshi/trivia_qa": ("trivia_qa", {"rc.nocontext"}),
    "Salesforce/wikitext": ("wikitext", {"wikitext-103-v1", "wikitext-103-raw-v1"}),
    "OpenAssistant/oasst1": ("oasst1", {None}),
}
LETTER = datasets.ClassLabel(names=["a", "b", "c", "d"])


def medmcqa_row(number: int, **changes) -> dict:
    """One question; every third has no explanation, every fourth may have several answers."""
    return {
        "id": f"id-{number}",
        "question": f"Which sign points to disease {number}?",
        "opa": f"Fever of type {number}",
        "opb": f"Rash {number}",
        "opc": f"Cough {number}",
        "opd": f"Pain in place {number}",
        "cop": number % 3,
        "choice_type": "multi" if number % 4 == 3 else "single",
        "exp": f"Disease {number} is known by it." if number % 3 else None,
        "subject_name": "Invented",
        "topic_name": None,
    } | changes


def trivia_row(number: int, **changes) -> dict:
    aliases = [f"Town {number}", f"The town of {number}"]
    found = {"value": f"Town {number}", "aliases": aliases, "normalized_value": f"town {number}"}
    return {
        "question": f"Where was king {number} born?",
        "question_id": f"tc-{number}",
        "question_source": "invented",
        "answer": found,
    } | changes


def wikitext_lines() -> list[dict]:
    """Three articles, with sections, in the tokenised form, and empty lines between."""
    lines = []
    for name, about in (("Bell", "A bell"), ("Salt Road", "The road"), ("Tide", "The tide")):
        lines += ["", f" = {name} = \n", ""]
        lines += [f" {about} is well @-@ known , and {n} years old . \n" for n in range(3)]
        lines += ["", f" = = Use of {name} = = \n", "", f" {about} has its uses . \n"]
    return [{"text": line} for line in lines]


def oasst1_row(number: int, **changes) -> dict:
    return {
        "message_id": f"m-{number}",
        "parent_id": None,
        "role": "assistant",
        "lang": "en",
        "rank": float(number % 2),
        "deleted": False,
        "text": f"Reply {number}: first boil water, then wait for {number} minutes, and stir.",
    } | changes


def dolly_row(number: int, **changes) -> dict:
    return {
        "prompt": f"How does one do task {number}?",
        "category": "open_qa",
        "response": f"Task {number} is done in {number} steps, none of which is hard to do.",
    } | changes


def write_rows(folder: Path, **splits: list[dict]) -> Path:
    """Write `<split>.jsonl` files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    return folder


def write_data(folder: Path) -> Path:
    """Every data set, in a folder each."""
    hidden = [medmcqa_row(number, cop=-1) for number in range(200, 204)]
    write_rows(
        folder / "medmcqa",
        train=[medmcqa_row(n) for n in range(40)],
        validation=[medmcqa_row(n) for n in range(100, 124)],
        test=hidden,
    )
    write_rows(
        folder / "trivia_qa",
        train=[trivia_row(n) for n in range(12)],
        validation=[trivia_row(n) for n in range(20, 30)],
    )
    write_rows(folder / "wikitext", train=wikitext_lines(), test=wikitext_lines())
    write_rows(folder / "oasst1", train=[oasst1_row(n) for n in range(40)])
    write_rows(folder / "dolly", train=[dolly_row(n) for n in range(40)])
    return folder


def write_qwen2(folder: Path) -> Path:
    """A Qwen2 of 4 layers and width 32 with random weights, one token a byte.

    Its special tokens are Qwen2.5's: a text begins with none, a turn ends with `<|im_end|>`.
    """
    vocabulary = sorted(ByteLevel.alphabet()) + ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(BPE({token: index for index, token in enumerate(vocabulary)}, merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    named = {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **named).save_pretrained(folder)
    model = tiny_model(
        "Qwen2",
        vocab_size=len(vocabulary) + 5,
        intermediate_size=64,
        max_position_embeddings=4096,
        initializer_range=0.1,
        tie_word_embeddings=True,
        bos_token_id=256,
        eos_token_id=258,
        pad_token_id=256,
    )
    model.save_pretrained(folder)
    return folder


def serve(monkeypatch, data: Path, model: Path | None = None) -> list[tuple]:
    """Let the Hub's clients find the data sets in `data`, and the model, under their Hub ids.

    Files are read by the real `load_dataset`, with the column types that the Hub has. Returns the
    list of (id, configuration, split, revision) that are asked for.
    """
    asked, load = [], datasets.load_dataset

    def load_dataset(path, name=None, split=None, revision=None, **options):
        if path not in DATA:
            return load(path, name, split=split, revision=revision, **options)
        asked.append((path, name, split, revision))
        folder, configurations = DATA[path]
        if name not in configurations:
            raise ValueError(f"BuilderConfig {name!r} not found. Available: {configurations}")
        files = {file.stem: str(file) for file in (data / folder).glob("*.jsonl")}
        wanted = set(re.findall(r"[a-z]+", split))
        chosen = {name: file for name, file in files.items() if name in wanted}
        rows = load("json", data_files=chosen, split=split, **options)
        return rows.cast_column("cop", LETTER) if folder == "medmcqa" else rows

    def snapshot_download(repo_id, **options):
        if repo_id != MODEL or model is None:
            raise FileNotFoundError(f"no repository {repo_id}")
        asked.append((repo_id, None, None, options.get("revision")))
        return str(model)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked
