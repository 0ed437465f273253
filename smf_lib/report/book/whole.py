"""The book in one file: an ePub by Sphinx, and a PDF that Chromium prints of all pages in one.

LaTeX would set a PDF more finely, and is gigabytes that a workflow would install each time; the
printed one has the same figures, tables and mathematics as the pages. Where there is no Chromium
there is no PDF, and pages do not offer one.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml
from bs4 import BeautifulSoup

from .browser_check import launch, missing
from .pages import BookError

NAME = "sparse-memory-finetuning"
MOVING = re.compile(r"^```\{raw\} html\n<section class=\"move\".*?^```$", re.DOTALL | re.MULTILINE)
IN_A_BROWSER = "*(A piece that moves stands here on the pages that a browser shows.)*"
OFFER = "<!-- files -->"
SIZE = "size-of-the-{}"
# Before printing: solutions are open; what a kernel was told and links to headings are left out.
PREPARE = """
() => {
  const left_out = ".headerlink, .cell details.hide.above-input";
  for (const e of document.querySelectorAll(left_out)) e.remove();
  for (const e of document.querySelectorAll("details:not(.hide)")) e.open = true;
}
"""
FOOT = (
    '<div style="font-size: 8px; width: 100%; text-align: center; color: #555">'
    '<span class="pageNumber"></span></div>'
)


class Files:
    """The files of the staged book `draft`, made while its pages are.

    Chapters offer them where they have the comment `<!-- files -->`: in the draft an empty file of
    unknown size stands for each, until `put_into` puts the files into the built pages.

    Args:
        draft: the staged book.
        logs: a folder for what the builders say.
    """

    def __init__(self, draft: Path, logs: Path):
        self._copy = draft.with_name(f"{draft.name}-files")
        shutil.rmtree(self._copy, ignore_errors=True)
        shutil.copytree(draft, self._copy)
        for chapter in (self._copy / "book").rglob("*.md"):
            chapter.write_text(MOVING.sub(IN_A_BROWSER, chapter.read_text("utf-8")), "utf-8")
        makers = {"ePub": _epub, **({} if missing() else {"PDF": _pdf})}
        links = []
        for kind in makers:
            name = f"{NAME}.{kind.lower()}"
            (draft / "book" / name).touch()
            links.append(f"{{download}}`{kind} </book/{name}>` ({SIZE.format(kind)})")
        for chapter in (draft / "book").rglob("*.md"):
            said = f"The whole book in one file: {' or '.join(links)}."
            chapter.write_text(chapter.read_text("utf-8").replace(OFFER, said), "utf-8")
        pool = ThreadPoolExecutor(len(makers))
        self._made = {kind: pool.submit(make, self._copy, logs) for kind, make in makers.items()}
        pool.shutdown(wait=False)

    def put_into(self, html: Path) -> None:
        """Wait for the files and put them, and their sizes, into the built pages under `html`.

        Raises:
            BookError: a builder fails; its log says why.
        """
        sizes = {}
        for kind, made in self._made.items():
            path = made.result()
            for target in html.glob(f"_downloads/*/{path.name}"):
                shutil.copyfile(path, target)
            sizes[SIZE.format(kind)] = f"{path.stat().st_size / 1e6:.1f} MB"
        for page in (*html.glob("book/**/*.html"), *html.glob("_sources/book/**/*.md")):
            before = after = page.read_text("utf-8")
            for unknown, size in sizes.items():
                after = after.replace(unknown, size)
            if after != before:
                page.write_text(after, "utf-8")
        for folder in self._copy.parent.glob(f"{self._copy.name}*"):
            shutil.rmtree(folder)


def _epub(site: Path, logs: Path) -> Path:
    def change(config: dict[str, Any]) -> None:
        config |= {
            "epub_basename": NAME, "epub_show_urls": "no", "epub_uid": NAME, "version": "1",
            "epub_css_files": ["book.css"], "html_js_files": [],
        }  # fmt: skip
        config["epub_tocscope"] = "includehidden"

    return _well_formed(_build(site, "epub", change, logs) / f"{NAME}.epub")


def _well_formed(epub: Path) -> Path:
    """Write the ePub again with pages that are XML, as its readers want, and say which have MathML.

    Raw HTML in chapters and the outputs of notebooks need not be XML.
    """
    with zipfile.ZipFile(epub) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    package = parts["content.opf"].decode()
    for name, content in parts.items():
        if name.endswith(".xhtml"):
            page = BeautifulSoup(content, "html.parser")
            for script in page.find_all("script"):
                script.decompose()
            parts[name] = str(page).encode()
            if page.find("math"):
                entry = f'href="{name}"'
                package = package.replace(entry, f'{entry} properties="mathml"', 1)
    parts["content.opf"] = package.encode()
    with zipfile.ZipFile(epub, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("mimetype", parts.pop("mimetype"), zipfile.ZIP_STORED)
        for name, content in parts.items():
            archive.writestr(name, content)
    return epub


def _pdf(site: Path, logs: Path) -> Path:
    built = _build(site, "singlehtml", lambda config: None, logs)
    target = built / f"{NAME}.pdf"
    # The builder writes addresses as from the top folder, and the page into the first chapter's.
    root = yaml.safe_load((site / "_toc.yml").read_text("utf-8"))["root"]
    whole = shutil.copyfile(built / f"{root}.html", built / "whole.html")
    with launch() as browser:
        page = browser.new_page()
        page.goto(whole.as_uri(), wait_until="load", timeout=120_000)
        page.evaluate(PREPARE)
        page.pdf(
            path=str(target),
            format="A4",
            scale=0.85,
            outline=True,
            tagged=True,
            print_background=True,
            display_header_footer=True,
            header_template="<span></span>",
            footer_template=FOOT,
            margin={"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"},
        )
    return target


def _build(site: Path, builder: str, change: Any, logs: Path) -> Path:
    """Build a copy of the staged book by another builder of Sphinx; returns the folder it made."""
    copy = site.with_name(f"{site.name}-{builder}")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(site, copy)
    config = yaml.safe_load((copy / "_config.yml").read_text("utf-8"))
    settings = config["sphinx"]["config"]
    # A book in one file has no buttons, and of a notebook in it the theme would ask for its source.
    settings["html_theme_options"].pop("launch_buttons", None)
    change(settings)
    (copy / "_config.yml").write_text(yaml.safe_dump(config, sort_keys=False), "utf-8")
    start = "from jupyter_book.cli.main import main; main()"
    command = [sys.executable, "-c", start, "build", "--builder", "custom"]
    log = logs / f"{builder}.log"
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(
            [*command, "--custom-builder", builder, str(copy)],
            check=False, stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    if done.returncode:
        raise BookError(f"the builder {builder} failed; all it said is in {log}")
    return copy / "_build" / builder
