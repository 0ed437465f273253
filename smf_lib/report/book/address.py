"""Where the code of the book lives, and what pages have from knowing it: buttons and links.

One setting says it: `repository.url` in `_config.yml`, which notebooks repeat for Colab. Where that
is empty, it is the address that the clone came from, if that is a public one; where that is unknown
too, pages have no such button and no such link, and name the commit alone.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...study.records.provenance import git_state
from ..text import as_html
from .pages import BookError

HOSTS = ("github.com", "gitlab.com")
ADDRESS = re.compile(r"https://(?P<host>[\w.-]+)/(?P<path>[\w.-]+(?:/[\w.-]+)+?)(?:\.git)?/?")
REMOTE = re.compile(
    r"(?:https?://(?:[^@/]*@)?|ssh://git@|git@)(?P<host>[\w.-]+)[:/](?P<path>[\w./-]+?)(?:\.git)?/?"
)


@dataclass(frozen=True)
class Code:
    """The code that a book is built by.

    url: address of the repository, without a slash at the end, or "". branch: what pages are edited
    on. commit: what the pages were drawn by, or None outside of a repository. dirty: whether files
    differ from that commit. set: whether the setting names the address, as notebooks then do too.
    """

    url: str
    branch: str
    commit: str | None
    dirty: bool
    set: bool = False

    def link(self, path: str, line: int | None = None) -> str:
        """Address of a file as this commit has it, or "" where the repository's is unknown."""
        if not self.url:
            return ""
        return f"{self.url}/blob/{self.commit or self.branch}/{path}" + (
            f"#L{line}" if line else ""
        )

    def theme_options(self) -> dict[str, Any]:
        """The theme's options for its buttons: repository, edit, issue, and launching notebooks.

        In Colab a notebook fetches the code from the address that it names itself, so there is a
        button to it only where the setting has said that address.
        """
        if not self.url:
            return {}
        launch = {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
        if self.set and self.url.startswith("https://github.com/"):
            launch["colab_url"] = "https://colab.research.google.com"
        return {
            "repository_url": self.url,
            "repository_branch": self.branch,
            "path_to_docs": "",
            "use_repository_button": True,
            "use_edit_page_button": True,
            "use_issues_button": True,
            "launch_buttons": launch,
        }

    def footer(self, drawn: str) -> str:
        """The footer of every page, HTML: how and by which commit it was drawn, and the code.

        drawn: a sentence without its full stop.
        """
        text = as_html(drawn)
        if self.commit:
            changed = " with changes" if self.dirty else ""
            shown = f"commit {self.commit[:10]}"
            address = f"{self.url}/commit/{self.commit}"
            shown = f'<a href="{address}">{shown}</a>' if self.url and not self.dirty else shown
            text += f", by {shown}{changed}"
        where = f' Code: <a href="{self.url}">{self.url}</a>.' if self.url else ""
        return f"<p>{text}.{where}</p>"


def code_of(source: Path, config: dict[str, Any]) -> Code:
    """The code of a clone.

    source: the clone's folder; config: the content of its `_config.yml`.

    Raises:
        BookError: `repository.url` is set and is no address of a repository on a known host.
    """
    setting = config.get("repository") or {}
    url, branch = str(setting.get("url") or ""), str(setting.get("branch") or "main")
    named = bool(url)
    if url and (not (found := ADDRESS.fullmatch(url)) or found["host"] not in HOSTS):
        raise BookError(
            f"repository.url={url!r} in _config.yml is no address of a repository; it must be like "
            f"https://github.com/owner/name (or on {HOSTS[1]}), or empty"
        )
    if not url and (found := REMOTE.fullmatch(_remote(source))) and found["host"] in HOSTS:
        url = f"https://{found['host']}/{found['path']}"
    commit, dirty = git_state(source / "smf_lib" / "study" / "records")
    url = url.removesuffix("/").removesuffix(".git")
    return Code(url, branch, commit, bool(dirty), set=named)


def _remote(source: Path) -> str:
    """What the clone calls its origin, or ""."""
    command = ["git", "-C", str(source), "config", "--get", "remote.origin.url"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
