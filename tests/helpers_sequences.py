"""Records of sequences of tasks with invented accuracies."""

from helpers_records import make_record

from smf_lib.study.records.record import Record

TASKS = ("icd10", "airports", "cities")
N = 40


def answers(share, n=N):
    """So many of n right, the first ones."""
    return [1] * round(share * n) + [0] * (n - round(share * n))


def record(method, tasks=(), seed=0, shares=(0.25, 0.25, 0.25), start=None, arm=None):
    """A run that has learned `tasks`, with its accuracies on all three."""
    kind = "base" if not tasks else method.partition(".")[0]
    found = make_record(
        kind, seed=seed, profile="sequence", exam=answers(shares[0]), label=method, run_id=None
    )
    content = found.model_dump(mode="json")
    content["method"], content["run_id"] = method, f"{method}-seed{seed}"
    if tasks:
        content["settings"]["method"] |= {
            "task": tasks[-1], "learned": list(tasks[:-1]), "start": start, "arm": arm or method,
        }  # fmt: skip
    for task, share in zip(TASKS[1:], shares[1:]):
        content["metrics"][f"task:{task}"] = {
            "value": share, "stderr": 0.01, "n": N, "items": answers(share),
            "about": {"title": task, "unit": "accuracy", "data": f"task:{task}"},
        }  # fmt: skip
        content["data"]["other"][f"task:{task}"] = {"sha256": task, "rows": N, "source": task}
        content["task_baselines"][task] = {"chance": 0.25, "majority": 0.26}
    content["data"]["exam"]["rows"] = N
    return Record.model_validate(content)


def way(method, levels, seed=0, order=TASKS, first=None):
    """The runs of an arm; levels: accuracies after each stage."""
    runs, start = [], None
    for number, shares in enumerate(levels, 1):
        tasks = order[:number]
        arm = first if first and number == 1 else method
        name = f"{arm}.{'-'.join(tasks)}"
        runs.append(record(name, tasks, seed, shares, start, arm.upper()))
        start = name
    return runs


LORA = [(0.75, 0.3, 0.25), (0.5, 0.7, 0.25), (0.4, 0.45, 0.8)]
SMF = [(0.7, 0.25, 0.25), (0.65, 0.6, 0.25), (0.65, 0.55, 0.7)]
