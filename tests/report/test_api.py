"""The book's reference page, built from the docstrings as they are."""

import dataclasses
import io
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from peft import PeftConfig
from sphinx.application import Sphinx

import smf_lib

REPOSITORY = Path(__file__).resolve().parents[2]
# another test may have built a book in this process, whose registrations are there still
AGAIN = [f"app.add_{what}" for what in ("node", "directive", "role", "generic_role")]


def test_reference_page_shows_every_public_name_and_every_setting_without_a_warning(tmp_path):
    config = yaml.safe_load((REPOSITORY / "_config.yml").read_text("utf-8"))["sphinx"]["config"]
    (tmp_path / "index.md").write_text((REPOSITORY / "book" / "api.md").read_text("utf-8"))
    used = ("default_role", "napoleon_numpy_docstring", "nitpick_ignore_regex")
    extensions = [name for name in config["extensions"] if name.startswith("sphinx.ext.")]
    said = io.StringIO()
    app = Sphinx(
        srcdir=tmp_path,
        confdir=None,
        outdir=tmp_path / "html",
        doctreedir=tmp_path / "doctrees",
        buildername="html",
        confoverrides={
            "extensions": ["myst_parser", *extensions],
            "nitpicky": True,
            "suppress_warnings": AGAIN,
            **{name: config[name] for name in used},
        },
        status=None,
        warning=said,
    )
    app.build()
    assert said.getvalue() == ""
    page = BeautifulSoup((tmp_path / "html" / "index.html").read_text("utf-8"), "html.parser")
    assert [name for name in smf_lib.__all__ if page.find(id=f"smf_lib.{name}") is None] == []
    text = page.find(id="smf_lib.SparseMemoryConfig").parent.find("dd").get_text(" ")
    inherited = {field.name for field in dataclasses.fields(PeftConfig)}
    own = {field.name for field in dataclasses.fields(smf_lib.SparseMemoryConfig)} - inherited
    assert [name for name in sorted(own) if name not in text.split()] == []
