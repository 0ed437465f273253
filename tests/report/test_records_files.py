"""Every page that draws records hands them out."""

import io
import zipfile

import nbformat
from helpers_book import executed, figure_html, html_output, notebook
from helpers_records import make_record, study_records

from smf_lib.report.book.address import Code
from smf_lib.report.book.build import write_page
from smf_lib.report.book.published import FROM_RECORDS
from smf_lib.report.book.records_files import DRAWN, archive_of
from smf_lib.report.figures import runs
from smf_lib.study.records.results import write_record

HERE = Code("", "main", None, False)
THERE = Code("https://github.com/owner/name", "main", "b" * 40, False)


def test_an_archive_has_the_studies_that_the_page_draws(tmp_path):
    for name in ("quick/reference", "sweep/reference", "frontier/reference"):
        write_record(tmp_path / name / "base.json", make_record("base", run_id="base"))
    made = archive_of("03_results", tmp_path, "quick")
    names = zipfile.ZipFile(io.BytesIO(made)).namelist()
    assert names == ["results/quick/reference/base.json", "results/sweep/reference/base.json"]
    assert made == archive_of("03_results", tmp_path, "quick")
    assert archive_of("06_paper", tmp_path, "quick") is None
    assert archive_of("01_build_memory", tmp_path, "quick") is None
    assert set(FROM_RECORDS) <= set(DRAWN)


def drawn(path, code, records=None):
    """The cells of a page whose last cell has drawn a figure."""
    by = "smf_lib/report/figures/runs.py:exam_accuracy:12"
    html = figure_html().replace("<figure>", f'<figure data-drawn-by="{by}">')
    page = executed(notebook(("draw()",)), [html_output(html)])
    page.cells = [c for c in page.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    write_page(page, {}, path, "Header.", code, records)
    return nbformat.read(path, 4).cells


def test_a_page_offers_its_records_and_leads_from_figures_to_cell_and_function(tmp_path):
    cells = drawn(tmp_path / "03_results.ipynb", HERE, b"zip")
    assert "the records that it draws <files/03_results_records.zip>" in cells[0].source
    assert (tmp_path / "files" / "03_results_records.zip").read_bytes() == b"zip"
    label, code = cells[-2:]
    assert label.source == "(cell-fig-03-results-1)=" and code.source == "draw()"
    caption = code.metadata["mystnb"]["figure"]["caption"]
    assert "Drawn by {download}`exam_accuracy <files/runs.py>`" in caption
    assert caption.endswith("in this {ref}`cell <cell-fig-03-results-1>`.)")
    assert (tmp_path / "files" / "runs.py").is_file()


def test_where_the_repository_is_known_the_function_is_shown_there(tmp_path):
    caption = drawn(tmp_path / "p.ipynb", THERE)[-1].metadata["mystnb"]["figure"]["caption"]
    line = "https://github.com/owner/name/blob/" + "b" * 40 + "/smf_lib/report/figures/runs.py#L12"
    assert f"[`exam_accuracy`]({line})" in caption
    assert not (tmp_path / "files" / "runs.py").exists()


def test_a_figure_knows_who_drew_it():
    file, name, line = runs.exam_accuracy(study_records()).drawn_by.split(":")
    assert (file, name) == ("smf_lib/report/figures/runs.py", "exam_accuracy") and int(line) > 1
