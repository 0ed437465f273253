"""The check by a browser finds what it must find, and nothing in a good page.

Skipped where there is no Chromium, or the packages that drive it are not installed.
"""

import json
from pathlib import Path

import pytest

from smf_lib.report.book import browser_check
from smf_lib.report.book.browser_check import check_in_browser, missing

needs_browser = pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}")
FOLDED = '<div class="cell_output"><details><summary>More</summary>Text.</details></div>'
PRINT = Path(__file__).resolve().parents[2] / "book" / "_static" / "print.js"
PAGE = """<!DOCTYPE html>
<html lang="en"><head><title>One</title><meta name="viewport" content="width=device-width">
<style>body {{margin: 1em; background: #fff; color: #222}} .box {{width: 60px; overflow-x: auto}}
@media (prefers-color-scheme: dark) {{body {{background: #111; color: #eee}} h1 {{color: {dark}}}}}
@media print {{body {{background: #fff; color: #222}} .box {{width: auto; overflow: visible}}}}
</style></head>
<body><main><article><h1>One</h1><p>Some text.</p>
<div class="box" tabindex="0"><table><tr><td>one-long-word-in-a-cell</td></tr></table></div>{end}
</article></main></body></html>"""
SEARCH = """<!DOCTYPE html><html lang="en"><head><title>Search</title></head><body><main><article>
<h1>Search</h1><div id="search-results"><ul class="search"><li>One{excerpt}</li></ul></div>
</article></main></body></html>"""
EXCERPT = '<p class="context">memory</p>'


def said(folder, end="", dark="#eee", excerpt=EXCERPT):
    """What the check says of a book of one page with `end` at its end."""
    index = '<meta http-equiv="Refresh" content="0; url=book/one.html" />'
    pages = {"index.html": index, "search.html": SEARCH.format(excerpt=excerpt)}
    pages["book/one.html"] = PAGE.format(end=end, dark=dark)
    for name, text in pages.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return check_in_browser(folder, ["index.html", "book/one.html"])


@needs_browser
def test_a_good_page_has_no_problem(tmp_path):
    assert said(tmp_path) == []


@needs_browser
def test_what_an_output_folds_is_open_on_paper(tmp_path):
    assert said(tmp_path, f"{FOLDED}<script>{PRINT.read_text('utf-8')}</script>") == []


WIDE_TABLE = "<table><tr><td>" + "</td><td>".join(["a_word_that_does_not_break"] * 12)
LATE = """<script>requestAnimationFrame(() => requestAnimationFrame(() => {
document.querySelector("h1").style.marginTop = "500px"}))</script>"""
FAULTS = {
    "<script>nosuch()</script>": "(390 pixels): console: nosuch is not defined",
    '<img alt="x" src="https://x.example/a.png">': "fetches https://x.example/a.png",
    f"{WIDE_TABLE}</td></tr></table>": "(390 pixels): the page scrolls sideways",
    f'<div style="overflow-x: auto">{WIDE_TABLE}</td></tr></table></div>': "(print): table",
    f'<div style="overflow: auto">{WIDE_TABLE}</td></tr></table></div>': "from its first column",
    '<p style="width: 50px; overflow: hidden">wwwwwwwwwwwwwwwwwwwwwwwww</p>': '" is cut off',
    '<p style="color: #ddd; background: #fff">pale</p>': "(light): axe: color-contrast (serious",
    "<button></button>": "(light): axe: button-name (critical",
    '<div style="background: #111; height: 99px"></div>': "(print): div. has a dark ground",
    FOLDED: "(print): 'More' is folded",
    LATE: "(1300 pixels): the layout shifts by",
    f"<!-- {'x' * 1_500_000} -->": "index.html: weighs 1.5 MB",
}


@needs_browser
def test_each_fault_is_found(tmp_path):
    problems = said(tmp_path, "\n".join(FAULTS))
    for problem in FAULTS.values():
        assert any(problem in found for found in problems), (problem, problems)


@needs_browser
def test_dark_colours_and_a_search_without_excerpts(tmp_path, monkeypatch):
    monkeypatch.setattr(browser_check, "PATIENCE", 300)
    problems = said(tmp_path, dark="#222", excerpt="")
    assert any("(dark): axe: color-contrast" in p for p in problems)
    assert any("search.html: a search for 'memory' shows no excerpt" in p for p in problems)
    assert not any("(light)" in p for p in problems)


PIECE = """<div data-move="{name}"><label>x <input type="range" min="0" max="9" value="{value}"
oninput="{does}"></label><output></output><svg role="img" aria-label="a"></svg><p>one</p></div>"""
SAYS = "this.closest('div').querySelector('p').textContent = this.value"
PIECES = {
    PIECE.format(name="good", value=1, does=SAYS): "",
    PIECE.format(name="at-its-end", value=9, does=SAYS): "",
    "<div data-move=words>No study is on record.</div>": "",
    PIECE.format(name="still", value=1, does=""): "says the same after its first control",
    PIECE.format(name="number", value=1, does="this.parentNode.nextSibling.value = this.value"): (
        "says the same after its first control"
    ),
    PIECE.format(name="broken", value=1, does=f"{SAYS}; nosuch()"): "console: nosuch is not",
    "<div data-move=empty><noscript>Words.</noscript></div>": "draws nothing",
}


@needs_browser
def test_a_piece_that_draws_nothing_or_does_nothing_is_told(tmp_path):
    problems = said(tmp_path, "\n".join(PIECES))
    for piece, problem in PIECES.items():
        name = piece.split("data-move=")[1].strip('"').split(">")[0].split('"')[0]
        found = [told for told in problems if f"the piece {name!r}" in told]
        assert len(found) == bool(problem) and all(problem in told for told in found), found


@needs_browser
def test_the_books_pieces_move():
    """As they stand in the chapters, beside their scripts, without the rest of a page."""
    book = Path(__file__).resolve().parents[2] / "book"
    curves = {"study": "a", "curves": [
        {"label": "A", "gains": [0, 5, 9], "drifts": [0.001, 0.01, 0.1]},
        {"label": "B", "gains": [0, 4, 8], "drifts": [0.002, 0.02, 0.2]},
    ]}  # fmt: skip
    held = f'<script type="application/json" id="recorded-curves">{json.dumps(curves)}</script>'
    names = [path.stem for path in (book / "_static" / "moves").glob("*.js")]
    scripts = ["arithmetic", "page", *sorted({*names} - {"arithmetic", "page"})]
    with browser_check.launch() as browser:
        page = browser.new_page()
        places = "".join(f'<div data-move="{name}"></div>' for name in scripts[2:])
        page.set_content(f"<!DOCTYPE html><body>{held}{places}</body>")
        for name in scripts:
            page.add_script_tag(path=book / "_static" / "moves" / f"{name}.js")
        assert page.locator("[data-move]").count() >= 5
        assert list(browser_check._moved(page)) == []


@needs_browser
def test_all_rules_are_asked_in_the_dark_too(tmp_path):
    """What only the dark shows is held against every rule, not against those of colours alone."""
    hidden = "<style>i {display: none} @media (prefers-color-scheme: dark) {i {display: block}}"
    problems = said(tmp_path, f"{hidden}</style><i><button></button></i>")
    assert any("(dark): axe: button-name (critical" in told for told in problems)
    assert not any("(light)" in told for told in problems)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no built book"):
        check_in_browser(tmp_path)
    (tmp_path / "index.html").write_text("")
    monkeypatch.setattr(browser_check, "BROWSERS", ("nosuch-browser",))
    with pytest.raises(ValueError, match="missing: .*a browser .nosuch-browser"):
        check_in_browser(tmp_path)
