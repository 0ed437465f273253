"""The check by a browser finds what it must find, and nothing in a good page.

Skipped where there is no Chromium, or the packages that drive it are not installed.
"""

import pytest

from smf_lib.report.book import browser_check
from smf_lib.report.book.browser_check import check_in_browser, missing

needs_browser = pytest.mark.skipif(bool(missing()), reason=f"missing: {missing()}")
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


WIDE_TABLE = "<table><tr><td>" + "</td><td>".join(["a_word_that_does_not_break"] * 12)
LATE = """<script>requestAnimationFrame(() => requestAnimationFrame(() => {
document.querySelector("h1").style.marginTop = "500px"}))</script>"""
FAULTS = {
    "<script>nosuch()</script>": "(390 pixels): console: nosuch is not defined",
    '<img alt="x" src="https://x.example/a.png">': "fetches https://x.example/a.png",
    f"{WIDE_TABLE}</td></tr></table>": "(390 pixels): the page scrolls sideways",
    f'<div style="overflow-x: auto">{WIDE_TABLE}</td></tr></table></div>': "(print): table",
    '<p style="width: 50px; overflow: hidden">wwwwwwwwwwwwwwwwwwwwwwwww</p>': '" is cut off',
    '<p style="color: #ddd; background: #fff">pale</p>': "(light): axe: color-contrast (serious",
    "<button></button>": "(light): axe: button-name (critical",
    '<div style="background: #111; height: 99px"></div>': "(print): div. has a dark ground",
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


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="no built book"):
        check_in_browser(tmp_path)
    (tmp_path / "index.html").write_text("")
    monkeypatch.setattr(browser_check, "BROWSERS", ("nosuch-browser",))
    with pytest.raises(ValueError, match="missing: .*a browser .nosuch-browser"):
        check_in_browser(tmp_path)
