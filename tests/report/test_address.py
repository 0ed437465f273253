"""Where the code lives: said by one setting, or by the clone, or by nobody, and never invented."""

import subprocess

import pytest
import yaml

from smf_lib.report.book.address import Code, code_of
from smf_lib.report.book.build import read_settings, stage_settings
from smf_lib.report.book.pages import BookError
from smf_lib.study.profiles import PROFILE_DIR

REPOSITORY = PROFILE_DIR.parent


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


def test_pages_have_buttons_and_links_where_the_address_is_known(tmp_path):
    code = Code("https://github.com/owner/name", "main", "a" * 40, False)
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
