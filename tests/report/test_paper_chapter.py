"""The chapter on the paper and its appendix: clean notebooks that run whatever is on record."""

import ast

import nbformat
import pytest
from helpers_records import paper_records

from smf_lib.report.paper.published import load_published
from smf_lib.study.profiles import PROFILE_DIR, load_profile
from smf_lib.study.records.results import write_record

NOTEBOOKS = PROFILE_DIR.parent / "notebooks"
MAIN = ("base", "full", "lora", "smf-kl", "additive-kl", "retrofit-additive")


@pytest.fixture(scope="module", params=["06_paper", "06_paper_tables"])
def cells(request):
    return nbformat.read(NOTEBOOKS / f"{request.param}.ipynb", 4).cells


def test_source_has_one_parameters_cell_and_no_outputs(cells):
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    tagged = [cell for cell in code if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    studies = ast.literal_eval(tagged[0].source.partition("=")[2].partition("#")[0].strip())
    assert studies == ["medmcqa-qwen-coder", "medmcqa-smollm2", "paper"]
    assert all(load_profile(name).exam.name == "medmcqa" for name in studies)


def test_notebook_defines_neither_class_nor_function(cells):
    for cell in cells:
        if cell.cell_type == "code":
            kinds = {type(node) for node in ast.walk(ast.parse(cell.source))}
            assert not kinds & {ast.ClassDef, ast.FunctionDef, ast.Lambda}


def test_the_chapter_says_which_protocol_is_not_the_papers():
    cells = nbformat.read(NOTEBOOKS / "06_paper.ipynb", 4).cells
    said = " ".join(" ".join(cell.source for cell in cells).split())
    others = [d.aspect for d in load_published().differences if d.aspect.startswith("Decoding")]
    assert others
    for aspect in others:
        assert f"The protocols are the paper's but for the d{aspect[1:]} ({{doc}}`06_paper_" in said


@pytest.mark.parametrize(
    "recorded",
    [
        {},
        {"medmcqa-smollm2": ("base",)},
        {"medmcqa-smollm2": ("lora",)},
        {"medmcqa-qwen-coder": MAIN, "medmcqa-smollm2": ("base", "full", "smf-kl"), "paper": MAIN},
    ],
    ids=["nothing", "the base alone", "an arm without its base", "three studies"],
)
def test_every_cell_runs_whatever_is_on_record(cells, recorded, tmp_path, monkeypatch, capsys):
    for profile, methods in recorded.items():
        for record in paper_records(profile, methods):
            write_record(
                tmp_path / "results" / profile / "reference" / f"{record.run_id}.json", record
            )
    monkeypatch.setenv("SMF_ROOT", str(tmp_path))
    names = {}
    for cell in cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, cell.id, "exec"), names)  # noqa: S102
    said = capsys.readouterr().out
    if not recorded:
        assert "no study of these profiles is on record yet" in said
    for profile, methods in recorded.items():
        assert f"{len(methods)} records of study {profile}/reference" in said
