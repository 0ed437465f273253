"""One run from the command line, on one process or on several that share each batch.

    python -m smf_lib.study.run --profile medmcqa --method lora --seed 1
    accelerate launch --num_processes 4 -m smf_lib.study.run --profile paper --method lora --seed 1

It does what the notebook `02_finetune` does, and both find what the other has finished: train on
several GPUs here, and `make book` then only draws.
"""

from __future__ import annotations

import argparse
import sys

from .study import Study
from .training import processes


def main(argv: list[str] | None = None) -> None:
    """Build, train, measure and record one run; measuring is done by the first process alone.

    Raises:
        SystemExit: a setting that cannot work, with one line that says which.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smf_lib.study.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--profile", required=True, help="a profile's name, or a YAML file's path")
    parser.add_argument("--method", required=True, help="one of the profile's methods")
    parser.add_argument("--seed", type=int, default=None, help="default: the profile's first")
    parser.add_argument("--learning-rate", type=float, default=None, help="default: the profile's")
    arguments = parser.parse_args(argv)
    try:
        study = Study.load(arguments.profile)
        seed = study.profile.seeds[0] if arguments.seed is None else arguments.seed
        spec = study.profile.run(arguments.method, seed, arguments.learning_rate)
        processes.check_share("training.batch_size", study.profile.training.batch_size)
    except ValueError as error:
        sys.exit(f"error: {error}")
    processes.join()
    model, tokenizer = study.build(spec)
    outcome = study.train(spec, model, tokenizer)
    if processes.is_first():
        measured = study.measure(spec, model, tokenizer)
        study.record(spec, outcome, measured)
        for name, metric in measured.items():
            print(f"{name} {metric.value:.4g} (standard error {metric.stderr:.2g}, n {metric.n})")
    processes.leave()


if __name__ == "__main__":
    main()
