"""Slides show the figures and sentences of the book's pages, and leave out what there is not."""

import shutil

from bs4 import BeautifulSoup
from helpers_book import PNG, notebook, write
from nbformat import v4

from smf_lib.report.book.slides import make_slides
from smf_lib.study.profiles import PROFILE_DIR

BOOK = PROFILE_DIR.parent / "book"


def staged(folder, pages=("00_frontier",)):
    shutil.copytree(BOOK / "_static", folder / "book" / "_static")
    shutil.copytree(BOOK / "teachers", folder / "book" / "teachers")
    for name in pages:
        page = notebook(("draw()",), ("say()",))
        page.cells[-2].metadata["mystnb"] = {"figure": {}, "image": {"alt": 'A "line"\n<b>'}}
        page.cells[-2].outputs = [v4.new_output("display_data", {"image/png": PNG})]
        words = "\n".join(f"- **Sentence** {n}." for n in range(6))
        page.cells[-1].outputs = [v4.new_output("display_data", {"text/markdown": words})]
        write(page, folder / "notebooks" / f"{name}.ipynb")
    made = make_slides(folder, folder / "assets" / "slides.html")
    return BeautifulSoup(made.read_text(), "html.parser").find_all("section")


def test_every_slide_has_a_heading_and_notes_with_minutes(tmp_path):
    slides = staged(tmp_path)
    assert len(slides) >= 12
    assert all(s.find(["h1", "h2"]) and s.find("aside") for s in slides)
    minutes = [s.aside.text.split(".")[0] for s in slides[1:-1]]
    assert minutes[0] == "0 to 10" and minutes[-1] == "87 to 90"
    assert [m.split()[-1] for m in minutes[:-1]] == [m.split()[0] for m in minutes[1:]]


def test_figures_and_sentences_are_those_of_the_pages(tmp_path):
    slides = staged(tmp_path)
    images = [image for s in slides for image in s.find_all("img")]
    assert {image["src"].partition(";")[0] for image in images} == {
        "data:image/png",
        "data:image/svg+xml",
    }
    assert 'A "line" <b>' in {image["alt"] for image in images}
    (said,) = [s for s in slides if s.h2 and s.h2.text == "In words"]
    assert [item.text for item in said.find_all("li")] == [f"Sentence {n}." for n in range(4)]


def test_without_pages_slides_have_their_words(tmp_path):
    slides = staged(tmp_path, pages=())
    assert len([image for s in slides for image in s.find_all("img")]) == 1
    assert "<!--" not in str(slides)
