"""In a notebook what our own checks refuse is shown as one line, and `%tb` shows where it was.

IPython shows every error with all the code on its way. Of a wrong parameter that is a page about
code that the reader did not write, with the line that says what to do at its end. All other errors,
ours too where nobody foresaw them, are shown as ever.
"""

from __future__ import annotations

import linecache
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]
KINDS = (ValueError, OSError)  # `NoRoomError` is one of the latter


def show_checks_in_one_line() -> None:
    """Where IPython runs, show refusals in a line, unless it was told to show errors in some way.

    Importing `smf_lib.study` calls it. `get_ipython().set_custom_exc((), None)` takes it back.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc(KINDS, _show)


def _show(
    shell: Any,
    kind: type[BaseException],
    error: BaseException,
    traceback: TracebackType,
    tb_offset: int | None = None,
) -> None:
    """Show an error as IPython does, of a refusal only the last line."""
    shell.showtraceback(
        (kind, error, traceback), tb_offset=tb_offset, exception_only=is_refusal(traceback)
    )


def is_refusal(traceback: TracebackType) -> bool:
    """Whether a `raise` that stands in this package raised it, and no library and no slip of ours.

    traceback: the error's, from its outermost frame.
    """
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    path = traceback.tb_frame.f_code.co_filename
    line = linecache.getline(path, traceback.tb_lineno).split()
    return line[:1] == ["raise"] and Path(path).resolve().is_relative_to(PACKAGE)
