"""Run a command that ends at once, with all that it started, when this process is told to end.

    python smf_lib/study/stoppable.py python -m snakemake ...

Snakemake itself waits for the jobs that are running, which can be a quarter of an hour. What is
being written then is never taken for whole, so it can be ended at any moment. The Makefile calls
this file as a script, so it imports nothing of the package.
"""

import os
import signal
import subprocess
import sys
from types import FrameType

import psutil

TOLD = ("SIGINT", "SIGTERM", "SIGHUP")  # Ctrl-C, `kill`, a terminal that is closed
STOPPABLE = "SMF_STOPPABLE"  # set for the command: it ends when this process has ended
GRACE_SECONDS = 2.0


class _Stopped(Exception):
    pass


def _stop(number: int, frame: FrameType | None) -> None:
    for name in TOLD:
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise _Stopped(number)


def run(command: list[str]) -> int:
    """Run a command; returns its exit status, or 128 and the number of the signal that ended it."""
    # A terminal tells all of its processes. The command is begun deaf to that; this one tells it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    process = subprocess.Popen(command, env=os.environ | {STOPPABLE: "1"})
    try:
        for name in TOLD:
            signal.signal(getattr(signal, name), _stop)
        return process.wait()
    except _Stopped as stopped:
        _end(process)
        print("stopped; the same command goes on with what is not finished", file=sys.stderr)
        return 128 + int(stopped.args[0])


def _end(process: subprocess.Popen) -> None:
    """End a process, then all that it started, which is given some seconds to tidy up."""
    others = []
    try:
        others = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        pass
    process.kill()
    for end in (psutil.Process.terminate, psutil.Process.kill):
        for other in others:
            try:
                end(other)
            except psutil.NoSuchProcess:
                continue
        _, others = psutil.wait_procs(others, timeout=GRACE_SECONDS)
    process.wait()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
