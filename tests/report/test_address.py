"""Where the code lives: said by one setting, or by the clone, or by nobody, and never invented."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml

from smf_lib.report.book.address import Code, code_of
from smf_lib.report.book.build import read_settings, stage_settings
from smf_lib.report.book.pages import BookError
from smf_lib.study.profiles import PROFILE_DIR

REPOSITORY = PROFILE_DIR.parent
NOTEBOOKS = sorted(REPOSITORY.glob("notebooks/*.ipynb"))


def clone(folder, remote):
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    if remote:
        subprocess.run(["git", "-C", str(folder), "remote", "add", "origin", remote], check=True)
    return folder


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/owner/name.git",
        "https://user:secret@github.com/owner/name",
        "git@github.com:owner/name.git",
        "ssh://git@github.com/owner/name/",
    ],
)
def test_a_clone_from_a_public_host_knows_its_address(remote, tmp_path):
    assert code_of(clone(tmp_path, remote), {}).url == "https://github.com/owner/name"


def test_colab_is_offered_only_where_notebooks_know_the_address(tmp_path):
    url = "https://github.com/owner/name"
    of_clone = code_of(clone(tmp_path, url), {})
    of_setting = code_of(tmp_path, {"repository": {"url": url}})
    assert "colab_url" not in of_clone.theme_options()["launch_buttons"]
    assert "colab_url" in of_setting.theme_options()["launch_buttons"]
    assert of_clone.theme_options()["launch_buttons"]["binderhub_url"] == "https://mybinder.org"


@pytest.mark.parametrize("remote", ["", "/srv/git/name", "https://git.inside.example/owner/name"])
def test_no_other_address_is_taken_for_one(remote, tmp_path):
    code = code_of(clone(tmp_path, remote), {"repository": {"url": ""}})
    assert code.url == "" and code.theme_options() == {} and code.link("a.py") == ""
    assert "http" not in code.footer("Drawn")


def test_the_setting_comes_before_the_clone(tmp_path):
    settings = {"repository": {"url": "https://gitlab.com/group/part/name/", "branch": "next"}}
    code = code_of(clone(tmp_path, "https://github.com/owner/name"), settings)
    assert (code.url, code.branch) == ("https://gitlab.com/group/part/name", "next")
    assert "colab_url" not in code.theme_options()["launch_buttons"]


@pytest.mark.parametrize(
    "url", ["github.com/owner/name", "https://github.com/owner", "https://x.y/a/b"]
)
def test_a_setting_that_is_no_address_is_refused(url, tmp_path):
    with pytest.raises(
        BookError, match=r"repository\.url=.*must be like https://github\.com/owner"
    ):
        code_of(tmp_path, {"repository": {"url": url}})


def test_the_repository_has_a_setting_and_citation_names_the_same_address():
    url = read_settings(REPOSITORY)["repository"]["url"]
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text()).get("repository-code", "")
    assert url == cited
    cells = {path: nbformat.read(path, 4).cells[1] for path in NOTEBOOKS}
    assert len(cells) == 10 and len({cell.source for cell in cells.values()}) == 1
    assert f'REPOSITORY = "{url}"' in cells[NOTEBOOKS[0]].source


@pytest.mark.parametrize("address", ["", "the clone's"])
def test_in_colab_the_first_cell_fetches_and_installs_the_code(address, tmp_path, monkeypatch):
    cell = nbformat.read(NOTEBOOKS[0], 4).cells[1]
    assert "remove-cell" in cell.metadata["tags"]  # and no page shows it
    monkeypatch.chdir(tmp_path)
    exec(cell.source, {})  # noqa: S102 - not in Colab: nothing
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setitem(sys.modules, "google.colab", object())
    url = clone(tmp_path / "origin", "").as_posix() if address else ""
    pip = tmp_path / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text(f"#!/bin/sh\necho $* > {tmp_path}/asked\n")
    pip.chmod(0o755)
    monkeypatch.setenv("PATH", f"{pip.parent}{os.pathsep}{os.environ['PATH']}")
    said = cell.source.replace('REPOSITORY = ""', f'REPOSITORY = "{url}"')
    if not url:
        with pytest.raises(SystemExit, match="no public address to install from"):
            exec(said, {})  # noqa: S102
        return
    exec(said, {})  # noqa: S102
    assert Path.cwd() == tmp_path / "smf" and (Path.cwd() / ".git").is_dir()
    assert (tmp_path / "asked").read_text() == "install --quiet -e smf[book]\n"


def test_pages_have_buttons_and_links_where_the_address_is_known(tmp_path):
    code = Code("https://github.com/owner/name", "main", "a" * 40, False, set=True)
    site = stage_settings(REPOSITORY, tmp_path, {"root": "book/intro"}, "Drawn <today>", code)
    staged = yaml.safe_load((site / "_config.yml").read_text())
    assert "repository" not in staged and "local_extensions" not in staged["sphinx"]
    options = staged["sphinx"]["config"]["html_theme_options"]
    assert options["use_edit_page_button"] and options["use_issues_button"]
    assert set(options["launch_buttons"]) == {"notebook_interface", "binderhub_url", "colab_url"}
    assert options["extra_footer"] == (
        '<p>Drawn &lt;today&gt;, by <a href="https://github.com/owner/name/commit/'
        f'{"a" * 40}">commit {"a" * 10}</a>. Code: <a href="https://github.com/owner/name">'
        "https://github.com/owner/name</a>.</p>"
    )
    assert code.link("smf_lib/a.py", 7).endswith(f"/blob/{'a' * 40}/smf_lib/a.py#L7")
