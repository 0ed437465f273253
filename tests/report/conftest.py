"""What several tests of the report start from."""

from __future__ import annotations

import pytest

from smf_lib.study.records.results import write_record


@pytest.fixture
def results(tmp_path, monkeypatch):
    """A function that writes records into a results folder of the test's own."""
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))

    def write(records):
        for record in records:
            folder = tmp_path / "results" / record.profile / record.study
            write_record(folder / f"{record.run_id}.json", record)

    return write
