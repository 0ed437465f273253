"""Rows from the Hub or from a folder: the same rows, and one clear error when there are none."""

import errno
import gzip
import json
import logging
import os
import resource
import subprocess
import sys
from functools import partial

import datasets
import pytest
from helpers_hub import dolly_row, medmcqa_row, write_rows

from smf_lib.study.models import resolve_model
from smf_lib.study.settings import ModelSettings
from smf_lib.study.tasks.hub import load_rows, locate

HUB_ID = "openlifescienceai/medmcqa"


def test_a_path_that_exists_is_taken_and_all_else_is_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "data" / "mine").mkdir(parents=True)
    assert locate("data/mine", tmp_path) == str(tmp_path / "data" / "mine")
    assert locate(str(tmp_path / "data"), "/nowhere") == str(tmp_path / "data")
    assert locate(HUB_ID, tmp_path) == HUB_ID
    monkeypatch.chdir(tmp_path.parent)
    assert locate("mine", tmp_path) == "mine"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("~/data", "/nowhere") == str(tmp_path / "data")


def test_hub_and_folder_give_the_same_rows(hub, data):
    split, columns = "train[:5]+validation[50%:]", {"question", "cop"}
    there = load_rows("exam.source", HUB_ID, split, columns, "/nowhere", revision="abc")
    here = load_rows("exam.source", "medmcqa", split, columns, data)
    assert hub == [(HUB_ID, None, split, "abc")]
    assert there.to_list() == here.to_list()
    assert len(here) == 5 + 12 and here[0] == medmcqa_row(0) and here[5]["id"] == "id-112"


def test_the_configuration_is_for_the_hub_alone(hub, data):
    arguments = ("test", {"text"})
    source = "Salesforce/wikitext"
    there = load_rows("f", source, *arguments, "/nowhere", config="wikitext-103-v1")
    here = load_rows("f", "wikitext", *arguments, data, config="wikitext-103-v1")
    assert there.to_list() == here.to_list()
    with pytest.raises(ValueError, match=r"f='Salesforce/wikitext' is not a folder.*'wikitext-9'"):
        load_rows("f", source, *arguments, "/nowhere", config="wikitext-9")


@pytest.mark.parametrize("extension", ["json", "parquet", "csv"])
def test_other_formats(tmp_path, datasets_cache, extension):
    rows = [dolly_row(number) for number in range(3)]
    made = datasets.Dataset.from_list(rows)
    getattr(made, f"to_{extension}")(str(tmp_path / f"train.{extension}"))
    found = load_rows("f", str(tmp_path), "train", {"response"}, "/nowhere")
    assert found.to_list() == rows


def test_csv_has_the_texts_that_stand_in_it(tmp_path, datasets_cache):
    """Nothing but an empty cell is missing, and "1.50" is not the number 1.5."""
    (tmp_path / "train.CSV").write_text(
        "text,price,number,zip\nNA,1.50,7,01\nNone,2,,02\n,3e5,-1,03\nnull,nan,0,04\n"
    )
    rows = load_rows("f", str(tmp_path), "train", {"text"}, "/")
    assert rows["text"][:] == ["NA", "None", None, "null"]
    assert rows["price"][:] == ["1.50", "2", "3e5", "nan"]
    assert rows["number"][:] == [7, None, -1, 0]
    assert rows["zip"][:] == ["01", "02", "03", "04"]


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_data(tmp_path, monkeypatch, number):
    def load(*args, **kwargs):
        try:
            raise OSError(number, os.strerror(number), "/cache/x")
        except OSError as error:
            raise datasets.exceptions.DatasetGenerationError("An error occurred") from error

    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    monkeypatch.setattr(datasets, "load_dataset", load)
    for source in (str(tmp_path), "nobody/nothing"):
        with pytest.raises(ValueError, match="^the cache of data sets, .* HF_DATASETS_CACHE to a"):
            load_rows("f", source, "train", {"a"}, "/")


def test_a_disk_without_room_for_the_cache_is_named(tmp_path, monkeypatch):
    """A limit on the size of files stands for a disk that is full."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "train.jsonl").write_text("".join(f'{{"a": "{n:0999}"}}\n' for n in range(999)))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(ValueError, match="^the cache of data sets, .*cache, cannot be written"):
            load_rows("f", str(tmp_path), "train", {"a"}, "/")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_data_that_cannot_be_read_are_not_blamed_on_the_cache(tmp_path, monkeypatch):
    def load(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "train.jsonl"))

    (tmp_path / "train.jsonl").write_text('{"a": 1}\n')
    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(ValueError, match="the folder has no rows of split 'train'"):
        load_rows("f", str(tmp_path), "train", {"a"}, "/")


def shards(folder, rows, name):
    folder.mkdir(parents=True, exist_ok=True)
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        path = folder / f"{name}-{number:05d}-of-00002.parquet"
        datasets.Dataset.from_list(part).to_parquet(str(path))


@pytest.mark.parametrize("config", [None, "rc.nocontext"])
def test_shards_as_the_hub_keeps_them(tmp_path, datasets_cache, config):
    rows = [dolly_row(number) for number in range(5)]
    folder = tmp_path / (config or "data")
    shards(folder, rows, "train")
    shards(folder, rows[:2], "test")
    (tmp_path / "README.md").write_text("a card")
    load = partial(load_rows, "f", str(tmp_path), columns={"response"}, root="/", config=config)
    assert load(split="train").to_list() == rows
    assert load(split="test+train[:1]").to_list() == [*rows[:2], rows[0]]


ROWS = [dolly_row(number) for number in range(7)]
CARD = """---
configs:
- config_name: one
  data_files:
  - split: train
    path: one/train-*
  - split: test
    path: one/test-*
- config_name: two
  data_files:
  - split: train
    path: of-all.parquet
---
A card.
"""
SINGLE = "---\nconfigs:\n- config_name: own\n  data_files: [{split: test, path: b/*.jsonl}]\n---\n"
TYPED = """---
dataset_info:
  features:
  - {name: prompt, dtype: string}
  - {name: category, dtype: {class_label: {names: {'0': other, '1': open_qa}}}}
  - {name: response, dtype: string}
---
"""
LAYOUTS = {
    "oasst1": {
        "data/train-00000-of-00001-b42a775f407cee45.parquet": ROWS[:4],
        "data/validation-00000-of-00001-134b8fd0c89408b6.parquet": ROWS[4:],
        "2023-04-12_oasst_ready.messages.jsonl.gz": ROWS[:1],
        "2023-04-12_oasst_all.trees.jsonl.gz": ROWS[:2],
        "README.md": "---\nlicense: apache-2.0\n---\n",
    },
    "dolly": {"databricks-dolly-15k.jsonl": ROWS, "README.md": "no head"},
    "a card of two configurations": {
        "README.md": CARD,
        "one/train-00000-of-00002.parquet": ROWS[:2],
        "one/train-00001-of-00002.parquet": ROWS[2:5],
        "one/test-00000-of-00001.parquet": ROWS[5:],
        "of-all.parquet": ROWS,
    },
    "a card of one configuration": {"README.md": SINGLE, "a/train.jsonl": [], "b/x.jsonl": ROWS},
    "a card of types": {"README.md": TYPED, "train.jsonl": ROWS},
    "shards in the root": {
        "train-00000-of-00002.parquet": ROWS[:3],
        "train-00001-of-00002.parquet": ROWS[3:],
    },
    "a folder a split": {
        "train/a.jsonl": ROWS[:2],
        "train/b.jsonl": ROWS[2:5],
        "test/c.jsonl": ROWS,
    },
    "keywords": {"my_train-set.jsonl": ROWS[:2], "the.dev.jsonl": ROWS[2:], "notes.json": ROWS},
    "several names": {"easy.jsonl.gz": ROWS[:3], "hard.jsonl.gz": ROWS[3:]},
    "tabs": {"train.tsv": "prompt\tresponse\nWhat?\tThis.\nWho?\tShe.\n"},
}


def laid_out(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = content if isinstance(content, str) else "".join(map(json_line, content))
        if name.endswith(".parquet"):
            datasets.Dataset.from_list(content).to_parquet(str(path))
        else:
            path.write_bytes(gzip.compress(lines.encode()) if ".gz" in name else lines.encode())
    return str(folder)


def json_line(row):
    return json.dumps(row) + "\n"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_copy_of_a_repository_has_the_splits_that_the_hubs_client_finds(
    tmp_path, datasets_cache, layout
):
    folder = laid_out(tmp_path / "copy", LAYOUTS[layout])
    names = datasets.get_dataset_config_names(folder)
    assert len(names) == (2 if "two" in layout else 1)
    for name in names:
        wanted = datasets.load_dataset(folder, name)
        for split, rows in wanted.items():
            config = name if len(names) > 1 else None
            found = load_rows("f", folder, split, set(), "/", config=config)
            assert rows.num_rows and found.to_list() == rows.to_list()
            assert found.features == rows.features


def test_a_configuration_that_a_card_lacks_is_refused(tmp_path, datasets_cache):
    folder = laid_out(tmp_path / "copy", LAYOUTS["a card of two configurations"])
    for config in (None, "three"):
        with pytest.raises(ValueError, match=r"README has the configurations one, two; name one"):
            load_rows("f", folder, "train", set(), "/", config=config)


@pytest.mark.parametrize("split", ["dev", "easy", "easy+dev[:1]"])
def test_a_split_may_have_a_name_of_its_own(tmp_path, datasets_cache, split):
    """One that `datasets` has no word for, or another word."""
    files = {"train.jsonl": ROWS[:1], "easy.jsonl": ROWS[1:3], "dev.jsonl": ROWS[3:]}
    folder = laid_out(tmp_path / "own", files)
    wanted = {"dev": ROWS[3:], "easy": ROWS[1:3], "easy+dev[:1]": ROWS[1:4]}[split]
    assert load_rows("f", folder, split, set(), "/").to_list() == wanted
    assert load_rows("f", folder, "validation", set(), "/").to_list() == ROWS[3:]


def test_a_script_beside_the_data_is_not_asked(tmp_path, datasets_cache):
    """`datasets` takes none any more, but older copies of repositories hold one."""
    folder = laid_out(tmp_path / "copy", {"copy.py": "import nothing", "train.jsonl": ROWS})
    assert load_rows("f", folder, "train", set(), "/").to_list() == ROWS


@pytest.mark.parametrize("shards", [1, 3])
def test_what_save_to_disk_left(tmp_path, datasets_cache, shards):
    rows = [dolly_row(number) for number in range(4)]
    splits = {"train": rows, "test": rows[:1]}
    made = datasets.DatasetDict({n: datasets.Dataset.from_list(r) for n, r in splits.items()})
    made.save_to_disk(str(tmp_path / "saved"), num_shards={"train": shards, "test": 1})
    for split, wanted in splits.items():
        assert load_rows("f", "saved", split, {"response"}, tmp_path).to_list() == wanted
    assert load_rows("f", "saved", "train[:50%]", set(), tmp_path).to_list() == rows[:2]


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_compressed_files(tmp_path, datasets_cache, extension):
    rows = [dolly_row(number) for number in range(3)]
    made = datasets.Dataset.from_list(rows)
    plain = tmp_path / f"plain.{extension}"
    getattr(made, "to_json" if extension == "jsonl" else "to_csv")(str(plain))
    (tmp_path / f"train.{extension}.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    assert load_rows("f", str(tmp_path), "train", {"response"}, "/").to_list() == rows


@pytest.mark.parametrize(
    "files, split, message",
    [
        ({"train.jsonl": "{}"}, "test", r"no rows of split 'test' \(it has train.jsonl\)"),
        ({}, "train", r"holds 0 data files"),
        ({"README.md": "x"}, "train", r"holds 0 data files"),
        ({"train.jsonl": "{}", "test.csv": "a"}, "train", r"holds 2 data files of 2 formats"),
        ({"train.jsonl": "{}", "train.csv": "a"}, "train", r"holds two data files of one split"),
        ({"train.jsonl": "{}", "train.json": "{}"}, "train", r"holds two data files of one split"),
        (
            {"test.jsonl": "{}", "test-hard.jsonl": "{}"},
            "test",
            r"test.jsonl is the split test, and test-hard.jsonl would be read with it",
        ),
        (
            {"README.md": "---\na: {b\n---\n", "train.jsonl": "{}"},
            "train",
            r"the head of its README.md is no YAML",
        ),
        ({"train.jsonl": "{"}, "train", r"no rows of split 'train'"),
    ],
    ids=[
        "split",
        "empty",
        "no data",
        "mixed",
        "mixed, one split",
        "twice",
        "two of a word",
        "head",
        "damaged",
    ],
)
def test_what_is_wrong_with_a_folder_is_said(tmp_path, datasets_cache, files, split, message):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text + "\n")
    with pytest.raises(ValueError, match=rf"^exam.source='mine': the folder has .*{message}"):
        load_rows("exam.source", "mine", split, set(), tmp_path)


def test_files_that_are_not_asked_for_may_have_other_columns(tmp_path, datasets_cache):
    write_rows(tmp_path, train=[{"cop": 1}], test=[{"cop": "B", "note": "another source"}])
    train, test = (
        load_rows("f", str(tmp_path), split, {"cop"}, "/nowhere") for split in ("train", "test[:1]")
    )
    assert train.column_names == ["cop"] and train["cop"][0] == 1 and test["cop"][0] == "B"


def test_a_lacking_column_is_named(tmp_path, datasets_cache):
    write_rows(tmp_path, train=[{"question": "?", "opa": "x"}])
    with pytest.raises(ValueError, match=r"has the columns question, opa and lacks cop, opb;"):
        load_rows("exam.source", str(tmp_path), "train", {"question", "cop", "opb"}, "/nowhere")


def test_a_split_that_the_hub_lacks_is_an_error_that_names_it(hub):
    with pytest.raises(ValueError, match=r"exam.source='openlifescienceai/medmcqa'.*dev"):
        load_rows("exam.source", HUB_ID, "dev", set(), "/nowhere")


def test_the_hubs_log_level_is_put_back(hub):
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    load_rows("f", HUB_ID, "train", set(), "/nowhere")
    with pytest.raises(ValueError):
        load_rows("f", HUB_ID, "dev", set(), "/nowhere")
    assert logger.level == before


def test_offline_one_error_names_the_field_the_id_and_the_local_alternative(tmp_path):
    """In a process of its own: the clients read these variables when they are imported."""
    program = (
        "import sys\n"
        "from smf_lib.study.tasks.hub import load_rows\n"
        "try:\n"
        f"    load_rows('exam.source', '{HUB_ID}', 'train[:50%]+validation', set(), '.')\n"
        "except ValueError as error:\n"
        "    sys.stdout.write(str(error))\n"
    )
    offline = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HF_DATASETS_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"exam.source='{HUB_ID}' is not a folder here and could not be")
    assert "train.jsonl" in done.stdout and "exam.source to its path" in done.stdout
    assert "data/medmcqa" in done.stdout and "\n" not in done.stdout
    assert done.stderr == ""


def test_offline_a_model_is_one_error_too():
    with pytest.raises(ValueError, match=r"model.source: 'Qwen/no-such'.*a \*\.gguf file"):
        resolve_model(ModelSettings(source="Qwen/no-such"))
