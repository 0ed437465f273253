"""Run one notebook with papermill: progress as plain lines, the executed copy whole or not at all.

    python smf_lib/study/notebooks.py notebooks/02_finetune.ipynb out.ipynb -p method lora -p seed 1

What no run could be about is refused in one line before a kernel starts: a parameter that the
notebook does not have, or a value of another type than its cell of parameters says.

The workflow calls this file as a script, so it imports nothing of the package: the kernel does.
"""

import argparse
import ast
import getpass
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

SECONDS_BETWEEN_TICKS = 15.0
ORPHANED = 3
# Without it every kernel warns that it talks to this process over a local port.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=ERROR"]
SUM = "sha256"  # in an executed copy's metadata: the sum of all else in it
# A file or folder by its whole path, which no word, address or encoded picture runs into.
ABSOLUTE = re.compile(r"(?<![\w./~)+=-])(?:/[^/\s'\"<>|:;,)]+){2,}")


class PlainLines:
    """A text stream that turns progress bars into lines of their own, some seconds apart.

    A bar redraws itself after a carriage return; here a redrawn line is written only when
    `seconds` have passed since the last one, or when the line is finished.
    """

    def __init__(self, name: str, streams: list[TextIO], seconds: float = SECONDS_BETWEEN_TICKS):
        self.name, self.streams, self.seconds = name, streams, seconds
        self._line, self._redrawn, self._last = "", False, 0.0

    def write(self, text: str) -> int:
        """Take text of any length; return its length."""
        for character in text:
            if character == "\n":
                self._emit()
                self._redrawn = False
            elif character == "\r":
                self._redrawn = True
                if time.monotonic() - self._last >= self.seconds:
                    self._emit()
                else:
                    self._line = ""
            else:
                self._line += character
        return len(text)

    def flush(self) -> None:
        """Pass on what is complete; a redrawn line that is due is passed on as it stands."""
        if self._redrawn and time.monotonic() - self._last >= self.seconds:
            self._emit()

    def say(self, line: str) -> None:
        """Write one line, marked with the name."""
        for stream in self.streams:
            stream.write(f"[{self.name}] {line}\n")
            stream.flush()

    def _emit(self) -> None:
        if self._line.strip():
            self.say(self._line.rstrip())
            self._last = time.monotonic()
        self._line = ""


def heading(cells: list[Any], index: int) -> str:
    """The last heading above the cell, or "" if there is none."""
    for cell in reversed(cells[: index + 1]):
        if cell.cell_type == "markdown":
            for line in reversed(cell.source.splitlines()):
                if line.startswith("#"):
                    return line.lstrip("#").strip()
    return ""


TYPES: dict[str, Callable[[Any], bool]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
    "None": lambda value: value is None,
    "list[str]": lambda value: isinstance(value, list) and all(map(TYPES["str"], value)),
    "list[float]": lambda value: isinstance(value, list) and all(map(TYPES["float"], value)),
}


def check_parameters(source: Path, parameters: dict[str, Any]) -> None:
    """Refuse parameters that a notebook does not have, and values of another type than it says.

    A parameter's type is the annotation in the cell tagged `parameters`: `str`, `int`, `float`,
    `list[str]`, `list[float]`, or several with " or " between them, in quotes ("float or None").

    Raises:
        ValueError: the file is missing or no notebook; no such parameter; another type.
    """
    try:
        cells = nbformat.read(source, 4).cells
    except (OSError, ValueError, nbformat.reader.NotJSONError) as error:
        raise ValueError(f"{source} is no notebook that can be read ({error})") from None
    tagged = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    types: dict[str, str] = {}
    for node in ast.parse("\n".join(tagged)).body:
        if isinstance(node, ast.AnnAssign):
            kind = node.annotation
            written = kind.value if isinstance(kind, ast.Constant) else ast.unparse(kind)
            types[ast.unparse(node.target)] = str(written)
        elif isinstance(node, ast.Assign):
            types[ast.unparse(node.targets[0])] = ""
    for name, value in parameters.items():
        if name not in types:
            raise ValueError(
                f"{name}={value!r}: {source.name} has no such parameter; it has {', '.join(types)}"
            )
        allowed = [kind for kind in types[name].split(" or ") if kind]
        if allowed and not any(TYPES[kind](value) for kind in allowed):
            raise ValueError(f"{name}={value!r} must be {types[name]} (in {source.name})")


def run_notebook(
    source: str | Path, target: str | Path, parameters: dict[str, Any], log: str | Path
) -> None:
    """Run `source` with the parameters and keep the executed copy as `target`.

    What cells print goes to standard output and to `log`. The copy appears under its name when
    all cells are done; a run that fails leaves it as `<name>.failed.ipynb` beside it. Of a progress
    bar the copy keeps how it ended. It carries its sum, and names no folder of this machine.

    Raises:
        PapermillExecutionError: a cell failed.
        ValueError: as `check_parameters`.
    """
    source, target, log = Path(source), Path(target), Path(log)
    check_parameters(source, parameters)
    for folder in (target.parent, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.stem}.part.ipynb")
    failed = target.with_name(f"{target.stem}.failed.ipynb")
    failed.unlink(missing_ok=True)
    with log.open("w", encoding="utf-8") as file:
        lines, warnings = (PlainLines(target.stem, [sys.stdout, file]) for _ in range(2))
        papermill_engines.register("narrated", _narrated(lines))
        started = time.monotonic()
        try:
            papermill.execute_notebook(
                source,
                scratch,
                parameters,
                engine_name="narrated",
                progress_bar=False,
                stdout_file=lines,
                stderr_file=warnings,
                extra_arguments=KERNEL_ARGUMENTS,
            )
            _tidy(scratch)
            finish(scratch)
            os.replace(scratch, target)
        except PapermillExecutionError as error:
            _tidy(scratch)
            os.replace(scratch, failed)
            file.write(f"{error}\n")
            lines.say(f"failed: {error.ename}: {error.evalue}")
            lines.say(f"the executed copy is {failed}, all that it printed is in {log}")
            raise
        except DeadKernelError:
            lines.say("failed: its kernel was ended, most likely because memory ran out")
            lines.say(
                "end what else is running, or lower training.batch_size; the same command goes on"
            )
            raise
        finally:
            scratch.unlink(missing_ok=True)
        lines.say(f"done in {time.monotonic() - started:.0f} s")


def sum_of(notebook: dict) -> str:
    """The SHA-256 of a notebook's JSON without the sum in its metadata, as 64 digits."""
    metadata = {name: value for name, value in notebook["metadata"].items() if name != SUM}
    content = json.dumps({**notebook, "metadata": metadata}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def is_whole(path: Path) -> bool:
    """Whether an executed copy is as `run_notebook` wrote it."""
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        return notebook["metadata"][SUM] == sum_of(notebook)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def finish(path: Path) -> None:
    """Name no folder and no user of this machine in an executed copy, and note its sum."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = without_places(cell["source"])
        if "outputs" in cell:
            cell["outputs"] = without_places(cell["outputs"])
    notebook["metadata"] = without_places(notebook["metadata"])
    notebook["metadata"][SUM] = sum_of(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def without_places(content: Any) -> Any:
    """JSON-like content whose texts name no folder of this machine and not its user.

    The folder of the study becomes ".", the home folder "~", the environment "(environment)", any
    other path of a file or folder that there is its last name; in paths of what is gone the
    user's name becomes "(user)".
    """
    if isinstance(content, dict):
        return {name: without_places(value) for name, value in content.items()}
    if isinstance(content, list):
        return [without_places(value) for value in content]
    if not isinstance(content, str):
        return content
    places = {os.environ.get("SMF_ROOT") or os.getcwd(): ".", os.getcwd(): "."}
    places |= {sys.prefix: "(environment)", sys.base_prefix: "(python)", str(Path.home()): "~"}
    for place in sorted(places, key=len, reverse=True):
        injected = place.encode("unicode_escape").decode().replace('"', '\\"')  # as papermill does
        for written in {place, repr(place)[1:-1], injected} if len(place) > 1 else ():
            whole = rf"(?<![\w./~-]){re.escape(written)}(?![\w-])"
            content = re.sub(whole, places[place], content)
    return ABSOLUTE.sub(_last_name, content)


def _last_name(found: re.Match) -> str:
    if os.path.lexists(found[0]):
        return os.path.basename(found[0])
    return "/".join("(user)" if part == _user() else part for part in found[0].split("/"))


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a process whose user has no name
        return ""


def _tidy(path: Path) -> None:
    """Join the neighbouring pieces of a stream, and keep of a redrawn line what it was last."""
    notebook = nbformat.read(path, 4)
    for cell in notebook.cells:
        outputs = cell.get("outputs", [])
        kept = outputs[:1]
        for output in outputs[1:]:
            last = kept[-1]
            if "stream" == output.output_type == last.output_type and output.name == last.name:
                last.text += output.text
            else:
                kept.append(output)
        for output in (one for one in kept if one.output_type == "stream"):
            lines = output.text.split("\n")
            output.text = "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)
        if outputs:
            cell.outputs = kept
    nbformat.write(notebook, path)


def _narrated(lines: PlainLines) -> type[NBClientEngine]:
    class Narrated(NBClientEngine):
        """papermill's own engine, saying which cell it has come to."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            plain_start = nb_man.cell_start
            code = [i for i, cell in enumerate(nb_man.nb.cells) if cell.cell_type == "code"]

            def cell_start(cell: Any, cell_index: int, **options: Any) -> Any:
                if cell.cell_type == "code":
                    place = code.index(cell_index) + 1
                    above = heading(nb_man.nb.cells, cell_index)
                    lines.say(f"cell {place} of {len(code)}" + (f": {above}" if above else ""))
                return plain_start(cell, cell_index, **options)

            nb_man.cell_start = cell_start
            return super().execute_managed_notebook(nb_man, kernel_name, **kwargs)

    return Narrated


def end_with_parent() -> None:
    """End this process soon after the one that started it has ended, even by `kill -9`.

    A run that nobody waits for any more must not meet the run that takes its place.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(ORPHANED)

    threading.Thread(target=watch, daemon=True).start()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Run one notebook with papermill.")
    parser.add_argument("source", type=Path, help="the notebook")
    parser.add_argument("target", type=Path, help="where its executed copy goes")
    parser.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), dest="given",
        help="a parameter; its value is read as YAML: 1, 3e-4, text, null, [kl, tfidf]",
    )  # fmt: skip
    parser.add_argument("--parameters", type=json.loads, default={}, help="a JSON object of them")
    parser.add_argument("--log", type=Path, help="where all lines go (default: beside the copy)")
    options = parser.parse_args(arguments)
    end_with_parent()
    try:
        given = {name: _value(text) for name, text in options.given}
        log = options.log or options.target.with_suffix(".log")
        run_notebook(options.source, options.target, {**options.parameters, **given}, log)
    except (PapermillExecutionError, DeadKernelError):
        return 1
    except OSError as error:
        name = error.filename or options.target
        print(f"{name} cannot be written ({error.strerror}); make room there", file=sys.stderr)
        return 1
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _value(text: str) -> Any:
    """A value from a command line: YAML, in which 3e-4 is a number as well."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


if __name__ == "__main__":
    sys.exit(main())
