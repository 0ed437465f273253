"""Prepared rows whose files in the cache of `datasets` were changed are prepared again."""

import gzip
import json
import shutil

import datasets
import pytest
from helpers_hub import DATA, dolly_row

from smf_lib.study.files import say_damaged
from smf_lib.study.tasks.hub import load_rows

ROWS = [dolly_row(number) for number in range(40)]
HUB_ID = next(iter(DATA))


def jsonl(folder):
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))


def listed(folder):
    (folder / "train.json").write_text(json.dumps(ROWS))


def compressed(folder):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (folder / "train.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def csv(folder):
    rows = [row | {"number": number} for number, row in enumerate(ROWS)]
    datasets.Dataset.from_list(rows).to_csv(str(folder / "train.csv"))


def parquet(folder):
    datasets.Dataset.from_list(ROWS).to_parquet(str(folder / "train.parquet"))


def saved(folder):
    made = datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)})
    made.save_to_disk(str(folder), num_shards={"train": 2})


def flipped(place):
    """One bit changed at a place, a share of the file's length."""

    def damage(path):
        content = bytearray(path.read_bytes())
        content[min(int(place * len(content)), len(content) - 1)] ^= 1
        path.write_bytes(content)

    return damage


def turned_into_another_answer(path):
    """As a flip in the middle of a text is, which nothing of the Arrow format tells."""
    path.write_bytes(path.read_bytes().replace(b"of", b"ov"))


DAMAGES = [flipped(0), flipped(0.3), flipped(0.5), flipped(0.8), flipped(1)]
DAMAGES += [lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"{}")]
DAMAGES += [lambda path: path.write_bytes(path.read_bytes()[:-9]), lambda path: path.unlink()]


def told(capsys):
    """The lines about damage since the last call, each of which is told once in a process."""
    say_damaged.cache_clear()
    return [line for line in capsys.readouterr().err.splitlines() if "made again" in line]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def kept(cache):
    """Every file of the cache that is no lock."""
    return [p for p in sorted(cache.rglob("*")) if p.is_file() and p.suffix != ".lock"]


def check(load, cache, capsys):
    """Whatever becomes of a file of the cache, the rows are the same, and it is said once."""
    rows = load().to_list()
    files = kept(cache)
    assert {path.suffix for path in files} == {".arrow", ".json"} and not told(capsys)
    assert len(files) >= 3  # rows, what is noted about them, and their sums
    assert load().to_list() == rows and kept(cache) == files and not told(capsys)
    for path in files:
        for damage in DAMAGES:
            damage(path)
            assert load().to_list() == rows, path
            assert told(capsys), path
            assert load().to_list() == rows and not told(capsys), path
    for path in files:
        turned_into_another_answer(path) if path.suffix == ".arrow" else path.write_text("[]")
    assert load().to_list() == rows and told(capsys)


@pytest.mark.parametrize("write", [jsonl, listed, compressed, csv, parquet, saved])
def test_damaged_rows_of_a_folder_are_prepared_again(write, cache, tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    write(source)
    check(lambda: load_rows("f", str(source), "train", {"response"}, "/"), cache, capsys)


def test_damaged_rows_of_the_hub_are_prepared_again(hub, cache, capsys):
    check(lambda: load_rows("f", HUB_ID, "train", {"question"}, "/nowhere"), cache, capsys)


def test_two_splits_of_the_hub_share_a_folder(hub, cache, capsys):
    for split in ("train", "validation", "train[:2]", "validation", "train"):
        assert load_rows("f", HUB_ID, split, {"question"}, "/nowhere").num_rows
    assert len(list((cache / "smf_lib").glob("*.json"))) == 1 and not told(capsys)


def test_a_source_that_was_edited_is_read_anew_and_nothing_is_damaged(cache, tmp_path, capsys):
    jsonl(tmp_path)
    before = load_rows("f", str(tmp_path), "train", {"response"}, "/").to_list()
    path = tmp_path / "train.jsonl"
    path.write_text(path.read_text().replace("steps", "moves"))
    after = load_rows("f", str(tmp_path), "train", {"response"}, "/").to_list()
    assert [row["response"].replace("steps", "moves") for row in before] == [
        row["response"] for row in after
    ]
    assert not told(capsys)
    shutil.rmtree(cache)
    assert load_rows("f", str(tmp_path), "train", {"response"}, "/").to_list() == after
    assert not told(capsys)
