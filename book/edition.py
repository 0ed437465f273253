"""What `jupyter-book build .` does in a clone: it gives the published edition, as `make published`.

The folder holds notebooks without outputs, so pages cannot be built from it as it stands. This
Sphinx extension draws the recorded studies, builds the edition below work/published, and puts its
pages where Jupyter Book would have put them.
"""

import shutil
from pathlib import Path

from sphinx.application import Sphinx


def setup(app: Sphinx) -> None:
    """Build the edition in place of the folder, and end."""
    try:
        from smf_lib.report.book.pages import BookError
        from smf_lib.report.book.published import publish
    except ImportError as error:
        raise SystemExit(
            f"this book is built in the project's own environment ({error}); run: make published"
        ) from None
    if app.outdir.name != "html":
        raise SystemExit("only pages are built in this way; for PDF and ePub run: make published")
    source = Path(app.srcdir)
    print("Drawing the recorded studies, as make published does (about two minutes)", flush=True)
    try:
        first = publish(source, source)
    except BookError as error:
        raise SystemExit(str(error)) from None
    shutil.copytree(first.parent, app.outdir, dirs_exist_ok=True)
    print(f"The published edition: {app.outdir / 'index.html'}")
    raise SystemExit(0)
