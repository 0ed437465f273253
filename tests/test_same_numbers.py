"""`benchmarks.same_numbers`: a change that changes no number is told from one that does."""

from __future__ import annotations

import shutil

import pytest
from helpers_training import REPOSITORY

PROFILE = """
extends: smoke
name: few
title: Few
description: One way to train.
evaluation: {probes: []}
methods: {full: null, lora: null, smf-kl: null}
"""
LAYER = "method/layer.py"


@pytest.fixture
def copies(tmp_path):
    """Makes copies of the code in which one text of a module stands for another."""

    def copy(name, module=LAYER, old="", new=""):
        root = tmp_path / name
        for folder in ("smf_lib", "profiles"):
            skipped = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / folder, root / folder, ignore=skipped)
        path = root / "smf_lib" / module
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        return root

    return copy


def test_a_module_that_is_new_was_not_counted_before(copies, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.same_numbers import changes

    before, parted = copies("before"), copies("parted")
    (parted / "smf_lib" / "study" / "training" / "more.py").write_text("X = 1\n")
    (entry,) = changes(before, parted, "c" * 40, "Parted.")
    assert (entry.module, entry.before) == ("study/training/more.py", "") and entry.after


@pytest.mark.slow
def test_equal_numbers_and_others(copies, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    from benchmarks.same_numbers import changes, differing, numbers

    profile = tmp_path / "few.yaml"
    profile.write_text(PROFILE)
    before, renamed = copies("before"), copies("renamed", LAYER, "linear_bound", "widest")
    (entry,) = changes(before, renamed, "c" * 40, "A name.")
    assert entry.module == LAYER and entry.before != entry.after
    assert changes(before, copies("same"), "c" * 40, "Nothing.") == []
    counted = "row_updates[rows] += "
    other = copies("other", "method/row_adam.py", f"{counted}1", f"{counted}2")
    assert [e.module for e in changes(before, other, "c" * 40, "")] == ["method/row_adam.py"]
    found = {
        root: numbers(root, profile, tmp_path / f"{root.name} runs")
        for root in (before, renamed, other)
    }
    assert differing(found[before], found[renamed]) == []
    places = differing(found[before], found[other])
    assert "record smf-tfidf-seed0" in places and "record base" not in places
    assert any(place.startswith("weights smf-tfidf ") for place in places)
    more = {place: x | {"a new field": 1} if "record" in place else x
            for place, x in found[before].items()}  # fmt: skip
    assert differing(found[before], more) == []
    assert set(differing(more, found[before])) == {place for place in more if "record" in place}
