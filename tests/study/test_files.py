"""Files and folders appear whole or not at all."""

import json
import os
import threading
import time

import pytest

from smf_lib.method.files import put_in_place, whole
from smf_lib.study.files import making, write_json, write_whole


@pytest.mark.parametrize("content", ["a line\nßé\r\n", b"\x00\xff"])
def test_text_and_bytes_are_written_as_they_are(tmp_path, content):
    path = tmp_path / "new" / "folder" / "a.json"
    write_whole(path, "old and longer than what follows")
    write_whole(str(path), content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(path.parent.iterdir()) == [path]


def test_nothing_has_the_name_before_all_is_written(tmp_path):
    path = tmp_path / "a.json"
    with whole(path) as scratch:
        scratch.write_text("half")
        assert not path.exists()
        assert scratch.parent == tmp_path and scratch.suffix != ".json"
        assert scratch.name.startswith(".")
    assert path.read_text() == "half"


@pytest.mark.parametrize("folder", [False, True])
def test_an_error_leaves_what_was_there(tmp_path, folder):
    path = tmp_path / "a"
    write_whole(path / "part" if folder else path, "old")
    with pytest.raises(KeyError), whole(path) as scratch:
        write_whole(scratch / "part" if folder else scratch, "new")
        raise KeyError
    assert (path / "part" if folder else path).read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_replacement_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_whole(path, "old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), whole(tmp_path / "a"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_takes_the_place_of_another(tmp_path):
    made, path = tmp_path / "made", tmp_path / "site"
    write_whole(path / "old", "1")
    write_whole(made / "new", "2")
    put_in_place(made, path)
    assert [p.name for p in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    made, path = tmp_path / "made", tmp_path / "site"
    write_whole(path / "old", "1")
    write_whole(made / "new", "2")
    rename = os.replace

    def fail(before, after):
        if before == made:
            raise OSError("disk full")
        rename(before, after)

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        put_in_place(made, path)
    assert (path / "old").read_text() == "1"
    assert sorted(tmp_path.iterdir()) == [made, path]


@pytest.mark.parametrize("path", [".", "..", "a/.."])
def test_the_folder_one_is_in_cannot_be_replaced(path):
    with pytest.raises(ValueError, match="cannot be replaced as a whole"), whole(path):
        pass


def test_writers_of_one_file_do_not_meet(tmp_path):
    with whole(tmp_path / "a") as first, whole(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_one_process_makes_a_file_and_the_others_wait_for_it(tmp_path):
    made, path = [], tmp_path / "folder" / "text.json"

    def make(number: int) -> None:
        with making(path) as missing:
            if missing:
                made.append(number)
                time.sleep(0.2)
                write_json(path, number)

    threads = [threading.Thread(target=make, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and json.loads(path.read_text()) == made[0]
