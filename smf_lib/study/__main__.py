"""The study from the command line.

    python -m smf_lib.study run --profile medmcqa --method lora smf-kl --seed 1 2
    python -m smf_lib.study run --profile quick sweep --jobs 4 --seconds 3500
    accelerate launch --num_processes 4 -m smf_lib.study run --profile paper --method lora --seed 1
    python -m smf_lib.study keys --profile quick

`run` does what the notebook `02_finetune` does, on one process or on several that share each batch,
and both find what the other has finished: train on several GPUs here, and `make book` then only
draws. With `--jobs` it does so many runs side by side (see `many`), all of a profile if no method
is named. `keys` says which runs would be trained or measured again, and why, and does nothing.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import NoReturn

import psutil
from tqdm import tqdm

from .files import find_root
from .kept import what_is_left
from .materials import Materials
from .profiles import load_profile

STOPPED = 130  # as shells have it: 128 and the number of SIGINT


def main(arguments: list[str] | None = None, started: float | None = None) -> None:
    """Run a subcommand; `started` is the `time.time()` from which `--seconds` counts, None for now.

    Raises:
        SystemExit: a setting that cannot work, with one line that says which; runs that failed.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smf_lib.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="build, train, measure and record runs")
    run.add_argument("--profile", nargs="+", required=True, help="names, or YAML files' paths")
    run.add_argument("--method", nargs="+", help="default: all of the profile")
    run.add_argument("--seed", type=int, nargs="+", help="default: all of the method")
    run.add_argument("--learning-rate", type=float, help="default: all of the method")
    run.add_argument(
        "--jobs", type=int, help="how many runs side by side, in processes of their own"
    )
    run.add_argument(
        "--seconds",
        type=float,
        help="with --jobs: how long there is, from the start of the command; what is still "
        "running is ended some ten seconds later",
    )
    keys = commands.add_parser("keys", help="what would be trained or measured again, and why")
    keys.add_argument("--profile", required=True, help="a name, or a YAML file's path")
    options = parser.parse_args(arguments)
    started = started or time.time()
    if options.command == "keys":
        print_keys(options.profile)
    else:
        if options.seconds is not None and options.jobs is None:
            parser.error(f"--seconds {options.seconds:g} needs --jobs; add --jobs 1")
        run_all(options, started)


def print_keys(profile: str) -> None:
    """For each run of a profile a line: what it still needs, and why."""
    try:
        study = Materials(load_profile(profile), find_root())
        left = {spec.run_id: what_is_left(study, spec) for spec in study.profile.runs()}
    except ValueError as error:
        sys.exit(f"error: {error}")
    for run_id, what in left.items():
        print(f"{run_id}: {what}")


def run_all(options: argparse.Namespace, started: float) -> None:
    """Build, train, measure and record the runs that the options of `run` name."""
    from .many import Job, check_limits, chosen_runs, run_many
    from .room import NoRoomError, check_room
    from .study import Study  # with the evaluation harness, which is slow to import
    from .training import processes

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    try:
        if options.jobs is not None:
            check_limits(options.jobs, options.seconds)
        jobs: list[Job] = []
        named: dict[str, str] = {}
        for profile in dict.fromkeys(options.profile):
            study = Study.load(profile)
            if study.profile.name in named:
                raise ValueError(
                    f"profile={profile!r} has the name {study.profile.name!r}, as has "
                    f"{named[study.profile.name]!r}, and both would write the same records; leave "
                    "one out, or give it another name"
                )
            named[study.profile.name] = profile
            training, rows = study.profile.training, len(study.exam.train)
            processes.check_share("training.batch_size", training.batch_size, rows)
            runs = chosen_runs(study.profile, options.method, options.seed, options.learning_rate)
            check_room(study, runs)
            jobs += [Job(profile, study, spec) for spec in runs]
        if options.jobs is None:
            run_here(jobs)
            return
    except ValueError as error:
        sys.exit(f"error: {error}")
    except NoRoomError as error:
        _end(f"error: {error}", 1)
    except KeyboardInterrupt:
        _end("stopped; the same command goes on with what is not finished", STOPPED)
    left = None if options.seconds is None else options.seconds - (time.time() - started)
    try:
        outcome = run_many(jobs, options.jobs, left)
    except KeyboardInterrupt:  # before the first run began
        _end("stopped; the same command goes on with what is not finished", STOPPED)
    print("\n".join(outcome.lines()))
    if outcome.failed or outcome.interrupted:
        sys.exit(1)


def _end(line: str, status: int) -> NoReturn:
    """End with a line of its own, whatever bar stands on the screen."""
    tqdm.write(line, file=sys.stderr)
    sys.exit(status)


def run_here(jobs: list) -> None:
    """Do runs one after another in this process; measuring is done by the first process alone."""
    from .many import metric_lines
    from .study import run
    from .training import processes

    processes.join()
    for job in jobs:
        record = run(job.study, job.spec)
        for line in metric_lines(record):
            print(f"{job.spec.run_id}: {line}")
    processes.leave()


if __name__ == "__main__":
    main(started=psutil.Process().create_time())  # with the time that imports took
