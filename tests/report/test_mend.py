"""What the builder leaves undone is mended in built pages."""

import json

from bs4 import BeautifulSoup
from py_mini_racer import MiniRacer

from smf_lib.report.book.mend import mend

PAGE = """<html data-content_root="../"><head>
<script defer src="../_static/scripts/fontawesome.js?digest=1"></script></head><body>
<main role="main"><article><section id="top"><h1>Rows<a class="headerlink">#</a></h1>
<p>A row &lt;b&gt; is a <em>pair</em>.</p><script>x</script>
<section id="part"><h2>Part</h2><p>"Two" &amp; three</p></section></section></article>
<div role="list" class="citation-list"><p role="doc-biblioentry">x</p></div></main></body></html>"""
SEARCH = '<html><body><script src="_static/searchtools.js?v=1"></script></body></html>'


def site(folder):
    for name, text in {"book/one.html": PAGE, "search.html": SEARCH}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "_static").mkdir()
    (folder / "_static" / "template.html").write_text(PAGE)
    mend(folder)
    return folder


def test_icons_and_lists(tmp_path):
    page = (site(tmp_path) / "book" / "one.html").read_text()
    assert "fontawesome.js" not in page and 'role="list"' not in page
    assert (tmp_path / "_static" / "template.html").read_text() == PAGE


def test_a_search_from_the_disk_finds_every_page_s_text_by_section(tmp_path):
    site(tmp_path)
    scripts = [
        s["src"]
        for s in BeautifulSoup((tmp_path / "search.html").read_text(), "html.parser").find_all(
            "script"
        )
    ]
    assert scripts == ["_static/excerpts.js", "_static/searchtools.js?v=1"]
    found = answers(tmp_path, "file:///home/a%20b/", ["book/one.html", "book/other.html"])
    page = BeautifulSoup(found[0], "html.parser").find(attrs={"role": "main"})
    assert page.find(id="part").text.strip() == 'Part "Two" & three'
    assert " ".join(page.text.split()) == 'Rows A row <b> is a pair. Part "Two" & three'
    assert page.find("b") is None and page.find("script") is None
    assert found[1] == "asked file:///home/a%20b/book/other.html"


def test_from_a_server_pages_are_fetched(tmp_path):
    site(tmp_path)
    found = answers(tmp_path, "https://x.example/", ["book/one.html"])
    assert found == ["asked https://x.example/book/one.html"]


def answers(folder, home, names):
    """What `fetch` of these pages gives in a search page at `home`, in a stand-in for a browser."""
    script = (folder / "_static" / "excerpts.js").read_text()
    browser = f"""
    const home = {json.dumps(home)};
    const location = {{protocol: home.split("/")[0], href: home + "search.html"}};
    const document = {{documentElement: {{dataset: {{content_root: "./"}}}}}};
    class URL {{ constructor(a, b) {{
      this.href = a.includes("://") ? a : home + a.replace("./", ""); }} }}
    class Response {{ constructor(text) {{ this.body = text; }} }}
    const window = {{fetch: (a) => ({{then: (f) => f({{body: "asked " + a}})}})}};
    Promise.resolve = (x) => ({{then: (f) => f(x)}});
    """
    asked = f"""
    {json.dumps(names)}.forEach((n) => window.fetch(home + n).then((r) => out.push(r.body)));
    JSON.stringify(out)"""
    return json.loads(MiniRacer().eval(f"{browser}{script}\nconst out = [];{asked}"))
