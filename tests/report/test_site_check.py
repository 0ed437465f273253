"""The check of built pages finds what it must find, and nothing in a good site."""

import pytest

from smf_lib.report.book.site_check import check_site

GOOD = """<html><head><link rel="stylesheet" href="a.css">
<link rel="canonical" href="https://example.org/">
<script src="_static/m.js"></script></head>
<body><article><h1 id="top">Title</h1><a href="two.html#part">on</a> <a href="#top">up</a>
<a href="https://example.org/">a link to follow</a> <div class="math"><math><mi>x</mi></math></div>
<figure><img src="p.png" alt="A plot."><figcaption>Figure 1</figcaption></figure>
<code>{doc}`x`</code></article></body></html>"""


@pytest.fixture
def site(tmp_path):
    files = {
        "index.html": GOOD,
        "two.html": '<html><body><article><p id="part">x</p></article></body></html>',
        "search.html": "<html><body></body></html>",
        "searchindex.js": 'Search.setIndex({"docnames": ["two"]})',
        "a.css": "a {background: url(p.png)}",
        "p.png": "x",
        "_static/m.js": "",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_a_good_site_has_no_problems(site):
    assert check_site(site) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("two.html#part", "three.html", "'three.html' leads to no file"),
        ("two.html#part", "../outside.html", "'../outside.html' leads to no file"),
        ("two.html#part", "two.html#other", "'two.html#other' leads to no place in two.html"),
        ('"#top"', '"#bottom"', "'#bottom' leads to no place"),
        ('src="p.png"', 'src="q.png"', "'q.png' leads to no file"),
        ('alt="A plot."', "", "image p.png has no alternative text"),
        ("<figcaption>Figure 1</figcaption>", "", "image p.png has no caption"),
        ('href="a.css"', 'href="https://cdn.example/a.css"', "fetches https://cdn.example/a.css"),
        ('src="_static/m.js"', 'src="//cdn.example/m.js"', "fetches //cdn.example"),
        ("<math><mi>x</mi></math>", "<code>x</code>", "mathematics is not drawn: 'x'"),
        ("<h1", "<style>@import 'https://x.example/f.css'</style><h1", "fetches https://x.example"),
        ("<h1", '<script>load("https://x.example/t.js")</script><h1', "fetches https://x.example"),
        ("<code>", "<p>{doc}`x`</p><code>", "shows a role as text"),
    ],
)
def test_each_fault_is_found(site, before, after, problem):
    assert before in GOOD
    (site / "index.html").write_text(GOOD.replace(before, after, 1))
    problems = check_site(site)
    assert any(problem in p for p in problems), problems


def test_fonts_from_elsewhere_in_a_style_sheet(site):
    (site / "a.css").write_text("@font-face {src: url('https://fonts.example/a.woff2')}")
    assert check_site(site) == ["a.css: fetches https://fonts.example/a.woff2"]


def test_search_must_know_every_page(site):
    (site / "searchindex.js").write_text('Search.setIndex({"docnames": []})')
    assert check_site(site) == ["two.html: is not in the search index"]
    (site / "searchindex.js").unlink()
    assert "search cannot work" in check_site(site)[0]


def test_no_site_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no built book"):
        check_site(tmp_path)
