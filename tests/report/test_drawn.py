"""What chapters take from records: a figure of a page, curves as data; or nothing, and no gap."""

import json
import re

import pytest
from helpers_book import executed, figure_html, html_output, notebook, write
from helpers_records import frontier_records

from smf_lib.report.book.drawn import place
from smf_lib.report.book.pages import as_page
from smf_lib.study.records.results import write_record

CHAPTER = """# First page

<!-- figure notebooks/00_frontier 1 fig-first
Read up the *dashed* line.
-->

<!-- curves frontier smf-tfidf lora nosuch -->
"""


@pytest.fixture
def site(tmp_path):
    drawn = executed(notebook(("figure",)), [html_output(figure_html())])
    write(as_page(drawn, {}, "00_frontier", ""), tmp_path / "notebooks" / "00_frontier.ipynb")
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text(CHAPTER)
    return tmp_path


def test_a_figure_comes_with_its_words_and_the_chapters_caption(site):
    place(site, site / "results")
    text = (site / "book" / "intro.md").read_text()
    wanted = "```{figure} fig-first.png\n:name: fig-first\n:alt: A line that goes up.\n"
    assert f"{wanted}\nRead up the *dashed*" in text and "<!-- figure" not in text
    assert (site / "book" / "fig-first.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<!-- curves" in text  # nothing is recorded


def test_curves_are_those_of_the_recorded_runs(site):
    records = frontier_records(methods=("lora", "smf-tfidf"))
    for record in records:
        write_record(site / "results/frontier/reference" / f"{record.run_id}.json", record)
    place(site, site / "results")
    text = (site / "book" / "intro.md").read_text()
    data = json.loads(re.search(r"<script[^>]*>(.*)</script>", text)[1])
    assert data["study"] == "frontier/reference"
    labels = {record.label for record in records if record.method != "base"}
    assert {curve["label"] for curve in data["curves"]} == labels
    for curve in data["curves"]:
        assert len(curve["gains"]) == len(curve["drifts"]) > 1 and min(curve["drifts"]) > 0


def test_a_page_without_such_a_figure_leaves_nothing_of_it(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "intro.md").write_text(CHAPTER)
    place(tmp_path, tmp_path / "results")
    text = (tmp_path / "book" / "intro.md").read_text()
    assert "figure" not in text and "<!-- curves" in text
