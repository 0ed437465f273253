"""What a build has started ends with it, within seconds and in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from smf_lib.study import stoppable

# like Snakemake it starts a job and waits for it, whatever it is told
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, lambda *told: None)
job = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(job.pid, flush=True)
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_ends_with_all_that_it_started(told):
    with subprocess.Popen(
        [sys.executable, stoppable.__file__, sys.executable, "-c", STUBBORN],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        job = psutil.Process(int(process.stdout.readline()))
        started = time.monotonic()
        # a terminal sends Ctrl-C to all processes
        (os.killpg if told == signal.SIGINT else os.kill)(process.pid, told)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 128 + told and time.monotonic() - started < 10
    assert said == "stopped; the same command goes on with what is not finished\n"
    assert not job.is_running() or job.status() == psutil.STATUS_ZOMBIE


def test_an_exit_status_is_passed_on():
    command = [sys.executable, stoppable.__file__, sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, check=False).returncode == 7


def test_a_run_from_the_command_line_ends_in_one_line(tmp_path):
    command = [sys.executable, "-m", "smf_lib.study", "run", "--profile", "smoke"]
    environment = os.environ | {"SMF_ROOT": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*command, "--method", "smf-kl"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=Path(stoppable.__file__).parents[2],
    ) as process:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("work/kept/*/provenance.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1] == "stopped; the same command goes on with what is not finished"
