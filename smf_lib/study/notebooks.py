"""Run one notebook with papermill: progress as plain lines, the executed copy whole or not at all.

    python -P smf_lib/study/notebooks.py notebooks/02_finetune.ipynb out.ipynb \
        --log run.log --parameters '{"method": "lora", "seed": 1}'

The workflow calls this file as a script, so it imports nothing of the package: the kernel does.
"""

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import papermill
from nbclient.exceptions import DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

SECONDS_BETWEEN_TICKS = 15.0
ORPHANED = 3
# Without it every kernel warns that it talks to this process over a local port.
KERNEL_ARGUMENTS = ["--IPKernelApp.log_level=ERROR"]


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


def run_notebook(
    source: str | Path, target: str | Path, parameters: dict[str, Any], log: str | Path
) -> None:
    """Run `source` with the parameters and keep the executed copy as `target`.

    What cells print goes to standard output and to `log`. The copy appears under its name when
    all cells are done; a run that fails leaves it as `<name>.failed.ipynb` beside it.

    Raises:
        PapermillExecutionError: a cell failed.
    """
    source, target, log = Path(source), Path(target), Path(log)
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
            _write_without_places(scratch)
            os.replace(scratch, target)
        except PapermillExecutionError as error:
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


def _write_without_places(path: Path) -> None:
    """Put names in the place of this machine's folders in what the cells of a notebook print."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    places = {os.environ.get("SMF_ROOT") or os.getcwd(): ".", sys.prefix: "(environment)"}
    places |= {sys.base_prefix: "(python)", str(Path.home()): "~"}
    for cell in notebook["cells"]:
        if "outputs" in cell:
            text = json.dumps(cell["outputs"], ensure_ascii=False)
            for place in sorted(places, key=len, reverse=True):
                if len(place) > 1:
                    quoted = json.dumps(place, ensure_ascii=False)[1:-1]
                    text = text.replace(f"{quoted}/", f"{places[place]}/")
            cell["outputs"] = json.loads(text)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--parameters", type=json.loads, default={}, help="a JSON object")
    options = parser.parse_args(arguments)
    end_with_parent()
    try:
        run_notebook(options.source, options.target, options.parameters, options.log)
    except (PapermillExecutionError, DeadKernelError):
        return 1
    except OSError as error:
        name = error.filename or options.target
        print(f"{name} cannot be written ({error.strerror}); make room there", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
