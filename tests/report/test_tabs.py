"""Executions of one notebook on one page: what is the same once, what differs in tabs."""

from base64 import b64decode

from helpers_book import PNG, executed, figure_html, html_output, notebook
from nbformat import v4

from smf_lib.report.book.pages import with_outputs
from smf_lib.report.book.tabs import in_tabs

SOURCE = notebook("## Look", ("print(seed)",))


def tabbed(folder, *outputs, **options):
    runs = [with_outputs(SOURCE, executed(SOURCE, out), "nb", folder) for out in outputs]
    titles = [f"run *{number}*" for number in range(len(runs))]
    return in_tabs(dict(zip(titles, runs)), folder / "files" / "nb", **options)


def stream(text):
    return v4.new_output("stream", name="stdout", text=text)


def test_what_differs_stands_in_a_tab_for_each_below_its_code(tmp_path):
    page = tabbed(tmp_path, [stream("3\n")], [stream("```\n4\n")])
    assert [c.cell_type for c in page.cells] == ["markdown", "code", "markdown", "code", "markdown"]
    assert page.cells[3].source == "print(seed)" and not page.cells[3].outputs
    tabs = page.cells[4].source
    assert tabs.count("{tab-item}") == 2 and r"{tab-item} run \*1\*" in tabs
    assert "```text\n3\n```" in tabs and "````text\n```\n4\n````" in tabs


def test_what_is_the_same_stands_once(tmp_path):
    page = tabbed(tmp_path, [stream("3\n")], [stream("3\n")])
    assert "tab-set" not in str(page) and page.cells[-1].outputs[0].text == "3\n"


def test_figures_tables_and_words_find_their_place(tmp_path):
    html = figure_html().replace("<figure>", '<figure data-drawn-by="a.py:draw:3">')
    table = html_output("<table><tr><td>1</td></tr></table>")
    words = v4.new_output("display_data", {"text/markdown": "- **One**"})
    page = tabbed(
        tmp_path, [html_output(html)], [table, words], [],
        code_link=lambda file, name, line: f"[{name}]({file}#{line})",
    )  # fmt: skip
    tabs = page.cells[-1].source
    assert (tmp_path / "files/nb/03-00-0.png").read_bytes() == b64decode(PNG)
    assert "{figure} nb/03-00-0.png\n:alt: A line that goes up.\n\nGain, " in tabs
    assert "(Drawn by [draw](a.py#3).)" in tabs
    assert '```{raw} html\n<div class="cell_output"><table>' in tabs
    assert "- **One**" in tabs and "Nothing." in tabs
