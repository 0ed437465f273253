"""The study from the command line.

    python -m smf_lib.study run --profile medmcqa --method lora smf-kl --seed 1 2
    accelerate launch --num_processes 4 -m smf_lib.study run --profile paper --method lora --seed 1
    python -m smf_lib.study keys --profile quick

`run` does what the notebook `02_finetune` does, on one process or on several that share each batch,
and both find what the other has finished: train on several GPUs here, and `make book` then only
draws. `keys` says which runs would be trained or measured again, and why, and does nothing.
"""

from __future__ import annotations

import argparse
import sys

from .files import find_root
from .kept import what_is_left
from .materials import Materials
from .profiles import load_profile


def main(arguments: list[str] | None = None) -> None:
    """Run a subcommand.

    Raises:
        SystemExit: a setting that cannot work, with one line that says which.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smf_lib.study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="build, train, measure and record runs")
    run.add_argument("--method", nargs="+", required=True, help="of the profile's methods")
    run.add_argument("--seed", type=int, nargs="+", help="default: the profile's first")
    run.add_argument("--learning-rate", type=float, help="default: the profile's")
    keys = commands.add_parser("keys", help="what would be trained or measured again, and why")
    for command in (run, keys):
        command.add_argument("--profile", required=True, help="a name, or a YAML file's path")
    options = parser.parse_args(arguments)
    if options.command == "keys":
        print_keys(options.profile)
    else:
        run_all(options.profile, options.method, options.seed, options.learning_rate)


def print_keys(profile: str) -> None:
    """For each run of a profile a line: what it still needs, and why."""
    try:
        study = Materials(load_profile(profile), find_root())
        left = {spec.run_id: what_is_left(study, spec) for spec in study.profile.runs()}
    except ValueError as error:
        sys.exit(f"error: {error}")
    for run_id, what in left.items():
        print(f"{run_id}: {what}")


def run_all(
    profile: str, methods: list[str], seeds: list[int] | None, learning_rate: float | None
) -> None:
    """Build, train, measure and record runs; measuring is done by the first process alone."""
    from .study import Study, run  # with the evaluation harness, which is slow to import
    from .training import processes

    try:
        study = Study.load(profile)
        seeds = seeds or study.profile.seeds[:1]
        specs = [study.profile.run(m, seed, learning_rate) for m in methods for seed in seeds]
        processes.check_share("training.batch_size", study.profile.training.batch_size)
    except ValueError as error:
        sys.exit(f"error: {error}")
    specs = list({spec.run_id: spec for spec in specs}.values())  # the base model has one seed
    processes.join()
    for spec in specs:
        record = run(study, spec)
        for name, metric in record.metrics.items() if record else ():
            print(
                f"{spec.run_id}: {name} {metric.value:.4g} "
                f"(standard error {metric.stderr:.2g}, n {metric.n})"
            )
    processes.leave()


if __name__ == "__main__":
    main()
