"""Pages from executed notebooks."""

import copy

import pytest
from helpers_book import PNG, executed, figure_html, html_output, notebook, write
from nbformat import v4

from smf_lib.report.book.pages import (
    BookError,
    as_page,
    for_download,
    number_tables,
    read_notebook,
    used_values,
    with_outputs,
)
from smf_lib.report.book.tabs import in_tabs

SOURCE = notebook("## Look", ("print(seed)",))


def page_of(source, outputs, root, **options):
    done = executed(source, outputs, profile="tiny", seed=3)
    kept = with_outputs(source, done, "nb", root)
    return as_page(kept, used_values(done), "nb_one", "HEADER", **options)


def test_one_parameters_table_takes_the_place_of_both_cells(tmp_path):
    page = page_of(SOURCE, [], tmp_path)
    assert [c.cell_type for c in page.cells] == ["markdown", "markdown", "markdown", "code"]
    assert "| `seed` | `3` | `0` |  | a whole number |" in page.cells[1].source
    assert "injected-parameters" not in str(page) and "papermill" not in page.metadata


def test_header_stands_between_title_and_text(tmp_path):
    page = page_of(SOURCE, [], tmp_path)
    assert page.cells[0].source == "# A title\n\nHEADER\n\nSome text."


def test_notebook_without_a_title_is_refused(tmp_path):
    with pytest.raises(BookError, match="must begin with a title"):
        page_of(notebook(("1",), title="no title"), [], tmp_path)


def test_text_of_the_source_is_shown_with_outputs_of_the_run(tmp_path):
    done = executed(SOURCE, [v4.new_output("stream", name="stdout", text="3\n")], seed=3)
    corrected = notebook("## Look closely", ("print(seed)",))
    page = with_outputs(corrected, done, "nb", tmp_path)
    assert page.cells[2].source == "## Look closely"
    assert page.cells[3].outputs[0].text == "3\n"


def test_other_code_than_was_run_is_refused(tmp_path):
    with pytest.raises(BookError, match="nb was executed with other code"):
        with_outputs(notebook("## Look", ("print(1)",)), executed(SOURCE), "nb", tmp_path)


def test_the_cell_that_installs_in_colab_is_not_compared(tmp_path):
    install = v4.new_code_cell("import os", metadata={"tags": ["remove-cell"]})
    source = copy.deepcopy(SOURCE)
    source.cells.insert(1, install)
    said = [v4.new_output("stream", name="stdout", text="3\n")]
    for done in (executed(SOURCE, said), executed(source, said)):
        page = with_outputs(source, done, "nb", tmp_path)
        assert page.cells[-1].outputs == said and not page.cells[1].outputs


def test_a_run_that_failed_is_refused(tmp_path):
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=[])
    with pytest.raises(BookError, match="ended with an error"):
        with_outputs(SOURCE, executed(SOURCE, [error]), "nb", tmp_path)


def test_outputs_lose_bars_warnings_widgets_and_paths_of_the_machine(tmp_path):
    outputs = [
        v4.new_output("stream", name="stdout", text="0%\r50%\r100%\n"),
        v4.new_output("stream", name="stderr", text="Warning"),
        v4.new_output("display_data", {"text/markdown": "", "text/plain": "<Markdown object>"}),
        v4.new_output(
            "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}
        ),
        v4.new_output("stream", name="stdout", text=f"wrote {tmp_path}/work/x.json\n"),
    ]
    page = page_of(SOURCE, outputs, tmp_path)
    assert [o.text for o in page.cells[-1].outputs] == ["100%\nwrote work/x.json\n"]


def test_figures_get_image_caption_text_and_a_name_each(tmp_path):
    outputs = [html_output(figure_html()), html_output(figure_html("It costs $5.", "Bars."))]
    page = page_of(SOURCE, outputs, tmp_path)
    first, second = page.cells[-2:]
    assert first.outputs[0].data["image/png"].strip() == PNG
    assert first.metadata["mystnb"] == {
        "figure": {"caption": "Gain, \\*95 %\\* interval.", "name": "fig-nb-one-1"},
        "image": {"alt": "A line that goes up."},
    }
    assert second.source == "" and second.metadata["tags"] == ["remove-input"]
    assert second.metadata["mystnb"]["figure"] == {
        "caption": "It costs \\$5.",
        "name": "fig-nb-one-2",
    }


def test_tables_get_a_number_and_a_name_each(tmp_path):
    one = "<table id='T_1'><caption>Rows: {}.</caption><tr><td>1</td></tr></table>"
    outputs = [html_output(one.format("runs")), html_output(figure_html()),
               html_output(one.format("rules"))]  # fmt: skip
    page = page_of(SOURCE, outputs, tmp_path)
    html = "".join(o.data.get("text/html", "") for cell in page.cells[-2:] for o in cell.outputs)
    for number, rows in enumerate(("runs", "rules"), start=1):
        said = f'<span class="table-number">Table {number}.</span> Rows: {rows}.</caption>'
        assert f'<caption id="tab-nb-one-{number}">{said}' in html
    assert html.count("Table") == 2
    number_tables(page.cells, "again-")
    assert "again-" not in str(page.cells)


def test_tables_in_tabs_have_the_same_number_in_each(tmp_path):
    made = [
        with_outputs(
            SOURCE,
            executed(SOURCE, [html_output(TABLE.format(n)), html_output(SAME)]),
            "nb",
            tmp_path,
        )
        for n in (1, 2)
    ]
    page = in_tabs({"one": made[0], "two": made[1]}, tmp_path / "nb")
    text = page.cells[-1].source
    assert text.count("Table 1.</span> Rows.") == 2 and text.count("Table 2.</span> Same.") == 2
    assert "id=" not in text


TABLE = "<table><caption>Rows.</caption><tr><td>{}</td></tr></table>"
SAME = "<table><caption>Same.</caption></table>"


def test_tables_stay_as_they_are(tmp_path):
    page = page_of(SOURCE, [html_output("<table><tr><td>1</td></tr></table>")], tmp_path)
    assert "<table>" in page.cells[-1].outputs[0].data["text/html"]


def test_download_holds_the_values_that_were_used(tmp_path):
    done = executed(SOURCE, profile="tiny", seed=3)
    copy = for_download(with_outputs(SOURCE, done, "nb", tmp_path), used_values(done))
    assert (
        copy.cells[1].source == "profile = 'tiny'  # a profile's name\nseed = 3  # a whole number"
    )
    assert len(copy.cells) == len(SOURCE.cells)


def test_missing_and_broken_files_are_named(tmp_path):
    with pytest.raises(BookError, match="x.ipynb is missing"):
        read_notebook(tmp_path / "x.ipynb")
    path = write(SOURCE, tmp_path / "y.ipynb")
    path.write_text(path.read_text()[:100])
    with pytest.raises(BookError, match="y.ipynb is not a whole notebook"):
        read_notebook(path)
