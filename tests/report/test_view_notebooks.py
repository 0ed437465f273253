"""Notebooks that only draw: they need records, and neither model nor data."""

import shutil

import nbformat
import pytest

from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.study import Study

REPOSITORY = PROFILE_DIR.parent
STUDY = "medmcqa-qwen-coder"


@pytest.mark.parametrize("name", ["03_results", "05_cost"])
def test_a_recorded_study_is_drawn_without_its_model_and_data(name, tmp_path, monkeypatch):
    shutil.copytree(REPOSITORY / "results" / STUDY, tmp_path / "results" / STUDY)
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    with pytest.raises(ValueError, match="data/medmcqa"):
        Study.load(STUDY)
    cells = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4).cells
    names = {}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), names)  # noqa: S102
            if "parameters" in cell.metadata.get("tags", []):
                names["profile"] = STUDY
    methods = {record.method for record in names["records"]}
    assert {"base", "lora", "smf-kl"} <= methods <= set(load_profile(STUDY).methods)
