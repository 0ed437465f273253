"""Time of measuring: `SharedContextLM` and lm-eval's `HFLM`, on the same model and questions.

The exam (four continuations of a prompt) and the knowledge probe (greedy answers after examples, as
many questions after the same ones as the study has) are scored by both; outcomes are compared too.
"""

from __future__ import annotations

from lm_eval.models.huggingface import HFLM

from benchmarks.common import interleave, medians, options, ratio, report, timed
from smf_lib.study.evaluation.evaluate import measure_exam, measure_knowledge
from smf_lib.study.evaluation.lm import SharedContextLM
from smf_lib.study.files import find_root
from smf_lib.study.materials import Materials
from smf_lib.study.profiles import load_profile

BATCH = 16  # HFLM's texts a batch
LMS = ("shared", "hflm")


def main(argv: list[str] | None = None) -> None:
    arguments = options(__doc__, argv)
    count, rounds, warmup = (6, 1, 0) if arguments.small else (60, 3, 1)
    study = Materials(load_profile("smoke" if arguments.small else "quick"), find_root())
    model, tokenizer = study.load_base()
    model = model.to("cpu").eval()
    lms = {
        "shared": SharedContextLM(model, tokenizer, precision="fp32"),
        "hflm": HFLM(pretrained=model, tokenizer=tokenizer, batch_size=BATCH, device="cpu"),
    }
    questions = study.exam.test[:count]
    known, shown = study.knowledge
    measures = {
        "exam": lambda lm: measure_exam(lm, questions),
        "knowledge": lambda lm: measure_knowledge(lm, known[:count], shown[:count]),
    }
    results = {}
    for name, measure in measures.items():
        outcomes: dict[str, list] = {}

        def once(of: str, measure=measure, outcomes=outcomes) -> float:
            return timed(lambda: outcomes.update({of: measure(lms[of]).items}))

        actions = {of: lambda of=of, once=once: once(of) for of in LMS}
        seconds = interleave(actions, rounds, warmup)
        results[name] = {
            "questions": len(outcomes["shared"]),
            "same_outcome": sum(a == b for a, b in zip(*(outcomes[of] for of in LMS), strict=True)),
            "median_seconds": medians(seconds),
            "hflm_against_shared": ratio(seconds, "hflm", "shared"),
        }
    settings = {
        "model": study.model_files.name,
        "precision": "fp32",
        "hflm_batch_size": BATCH,
        "examples": len(shown[0]),
        "rounds": rounds,
    }
    report("scoring_vs_hflm", arguments, settings, results)


if __name__ == "__main__":
    main()
