"""Records with invented numbers, for tests of results, statistics, figures and tables."""

import numpy as np

from smf_lib.study.profiles import load_profile
from smf_lib.study.records.results import Record

LABELS = {
    "base": "Base model",
    "full": "Full finetuning",
    "lora": "LoRA r 16",
    "smf-kl": "SMF, KL",
    "smf-tfidf": "SMF, TF-IDF",
}
PROVENANCE = {
    "versions": {"python": "3.11.7", "torch": "2.13.0", "peft": "0.21.2"},
    "hardware": {
        "cpu": "Test CPU",
        "cores": 2,
        "memory_bytes": 24 * 2**30,
        "gpu": None,
        "platform": "Linux",
    },
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}


def metric(items, value, stderr=0.01):
    return {"value": float(value), "stderr": float(stderr), "n": len(items), "items": items}


def metrics(exam, prose, knowledge, kl):
    pairs = np.asarray(prose, dtype=float)
    return {
        "exam_accuracy": metric(exam, np.mean(exam)),
        "prose_perplexity": metric(prose, np.exp(pairs[:, 0].sum() / pairs[:, 1].sum())),
        "knowledge_accuracy": metric(knowledge, np.mean(knowledge)),
        "self_kl": metric(kl, np.mean(kl)),
    }


def make_record(
    method="lora",
    rate=1e-4,
    seed=0,
    study="local",
    profile="quick",
    split="test",
    drop=(),
    exam=(1, 0, 1, 1),
    prose=((300.0, 100), (310.0, 100)),
    knowledge=(1, 0, 1),
    kl=(0.01, 0.02),
    loss=(3.0, 2.0),
    cost=None,
    selection=None,
    label=None,
    run_id=None,
    provenance=None,
    precision=None,
):
    """A complete record; every argument replaces one part of it."""
    kind = method if method in ("base", "full") else "peft"
    measured = metrics(list(exam), [list(pair) for pair in prose], list(knowledge), list(kl))
    for name in drop:
        del measured[name]
    trained = kind != "base"
    return Record.model_validate(
        {
            "schema_version": 1,
            "run_id": run_id or (f"{method}-{rate:g}-s{seed}" if trained else f"base-s{seed}"),
            "profile": profile,
            "study": study,
            "method": method,
            "label": label or LABELS.get(method, method),
            "seed": seed,
            "status": "complete",
            "settings": {
                "method": {
                    "kind": kind,
                    "learning_rate": rate if trained else None,
                    "settings": {"r": 16} if method == "lora" else {},
                },
                "training": {"epochs": 1, "batch_size": 8},
                **({"precision": precision} if precision else {}),
            },
            "model": {
                "name": "SmolLM2-135M-Instruct",
                "source": "embedded",
                "sha256": "ab" * 32,
                "parameters": 134_515_008,
            },
            "data": {
                "exam": {
                    "name": "icd10",
                    "sha256": "cd" * 32,
                    "split": split,
                    "train_rows": 1000,
                    "rows": len(exam),
                },
                "prose": {"sha256": "ef" * 32, "articles": len(prose), "words": 9000},
                "knowledge": {"sha256": "01" * 32, "questions": len(knowledge), "shots": 5},
                "self_text": {"sha256": "23" * 32, "sequences": len(kl), "tokens": 128},
            },
            "metrics": measured,
            "baselines": {"chance": 0.25, "majority": 0.27},
            "cost": cost
            or dict.fromkeys(
                (
                    "train_seconds",
                    "train_tokens",
                    "steps",
                    "tokens_per_second",
                    "peak_memory_bytes",
                    "trainable_parameters",
                    "updated_parameters",
                    "saved_bytes",
                    "total_seconds",
                ),
                0,
            ),
            "selection": selection or {},
            "training_log": [{"step": i, "loss": value} for i, value in enumerate(loss, 1)]
            if trained
            else [],
            "created": "2026-01-01T00:00:00+00:00",
            **(provenance or PROVENANCE),
        }
    )


TRUE_EFFECTS = {
    "base": (0.0, 0.0, 0.0, 0.0),
    "full": (0.28, 0.012, 0.03, 0.050),
    "lora": (0.27, 0.10, 0.11, 0.110),
    "smf-kl": (0.235, -0.001, 0.0, 0.004),
    "smf-tfidf": (0.21, 0.0, -0.003, 0.003),
}
SIZES = {"exam": 400, "articles": 40, "knowledge": 400, "sequences": 64}
GIB = 2**30
COSTS = {
    "base": (0, 0, 0, 0),
    "full": (249, 3.1 * GIB, 134_515_008, 538_000_000),
    "lora": (271, 2.2 * GIB, 4_884_480, 19_600_000),
    "smf-kl": (132, 1.6 * GIB, 2_125_440, 30_200_000),
    "smf-tfidf": (131, 1.6 * GIB, 2_712_960, 31_000_000),
}


def simulated(method, effect, seed=0, split="test", **changes):
    """A record whose items are drawn around a true (gain, log perplexity, loss, KL) effect."""
    gain, nll, lost, kl = effect
    items = np.random.default_rng(11 if split == "test" else 12)
    luck = np.random.default_rng([seed, *map(ord, method), int(1e6 * changes.get("rate", 0))])
    exam_n = SIZES["exam"] if split == "test" else 200
    ability, knows = items.random(exam_n), items.random(SIZES["knowledge"])
    tokens = items.integers(150, 500, SIZES["articles"])
    rate = items.normal(3.28, 0.25, SIZES["articles"])
    noise = 0.0 if method == "base" else 1.0
    exam = ability + noise * luck.normal(0, 0.08, exam_n) < 0.48 + gain
    knowledge = knows + noise * luck.normal(0, 0.02, SIZES["knowledge"]) < 0.40 - lost
    shift = nll + noise * luck.normal(0, 0.004, SIZES["articles"])
    total = (rate + shift) * tokens
    divergence = noise * kl * luck.lognormal(0, 0.4, SIZES["sequences"])
    seconds, peak, updated, saved = COSTS.get(method, COSTS["smf-kl"])
    steps = 125 if seconds else 0
    curve = 0.9 + 2.4 * np.exp(-np.arange(steps) / 30) + luck.normal(0, 0.12, steps)
    return make_record(
        method=method,
        seed=seed,
        split=split,
        exam=exam.astype(int).tolist(),
        prose=[[float(a), int(b)] for a, b in zip(total, tokens, strict=True)],
        knowledge=knowledge.astype(int).tolist(),
        kl=divergence.tolist(),
        loss=curve.tolist(),
        cost={
            "train_seconds": seconds,
            "train_tokens": 41_000 if seconds else 0,
            "steps": steps,
            "tokens_per_second": 41_000 / seconds if seconds else 0,
            "peak_memory_bytes": int(peak),
            "trainable_parameters": updated * 2,
            "updated_parameters": updated,
            "saved_bytes": saved,
            "total_seconds": 3 * seconds,
        },
        selection={
            str(layer): {"rows": 4096, "rows_touched": 1230, "updates": 64_000}
            for layer in (8, 15, 22)
        }
        if method.startswith("smf")
        else {},
        **changes,
    )


def study_records(study="local", seeds=(0,), methods=tuple(TRUE_EFFECTS), shift=0.0):
    """The main comparison on the test split, with effects like those of the spike."""
    return [
        simulated(
            method,
            (TRUE_EFFECTS[method][0] - shift * (method != "base"), *TRUE_EFFECTS[method][1:]),
            seed,
            study=study,
        )
        for method in methods
        for seed in (seeds if method != "base" else (0,))
    ]


def sweep_records(study="sweep"):
    """Four learning rates a method on the validation split; drift grows with the rate."""
    rates = {"full": 1e-5, "lora": 5e-5, "smf-kl": 3e-3, "smf-tfidf": 3e-3}
    records = [simulated("base", (0, 0, 0, 0), split="validation", study=study)]
    for method, lowest in rates.items():
        gain, nll, lost, kl = TRUE_EFFECTS[method]
        for step in range(4):
            rate = lowest * 3**step
            reached = gain * (0.55, 0.85, 1.05, 0.9)[step]
            force = (0.1, 0.4, 1.0, 3.5)[step]
            effect = (reached, nll * force, lost * force, kl * force)
            records.append(simulated(method, effect, split="validation", study=study, rate=rate))
    return records


PAPER_EFFECTS = {
    "base": (0.0, 0.0, 0.0, 0.0),
    "full": (0.054, 0.30, 0.09, 0.30),
    "lora": (0.046, 0.15, 0.06, 0.20),
    "smf-kl": (0.030, 0.004, 0.0, 0.010),
    "smf-tfidf": (0.020, 0.002, 0.0, 0.006),
    "smf-random": (0.020, 0.006, 0.01, 0.012),
    "smf-all": (0.035, 0.012, 0.01, 0.020),
    "retrofit-additive": (0.002, -0.03, 0.0, 0.05),
    "additive-kl": (0.025, -0.03, 0.004, 0.06),
    "additive-tfidf": (0.003, -0.028, 0.002, 0.052),
    "additive-s-kl": (0.034, 0.0, 0.03, 0.08),
    "additive-s-tfidf": (0.024, -0.01, 0.02, 0.07),
    "retrofit-replacement": (-0.01, 0.22, 0.08, 0.30),
    "replacement-kl": (0.01, 0.23, 0.077, 0.32),
    "replacement-tfidf": (0.011, 0.23, 0.05, 0.31),
    "osf": (0.04, 0.08, 0.05, 0.10),
    "ia3": (0.015, 0.001, 0.005, 0.004),
    "ln-tuning": (0.01, 0.0, 0.0, 0.003),
}


def paper_records(
    profile="medmcqa-smollm2", methods=tuple(PAPER_EFFECTS), seeds=(0,), study="reference"
):
    """Every arm of the paper's comparison, with effects like the published ones."""
    named = {name: method.label for name, method in load_profile("medmcqa").methods.items()}
    records = []
    for method in methods:
        for seed in seeds if method != "base" else (0,):
            run_id = "base" if method == "base" else f"{method}-seed{seed}"
            made = {"profile": profile, "study": study, "label": named[method], "run_id": run_id}
            record = simulated(method, PAPER_EFFECTS[method], seed, **made)
            for standard, own in {
                "word_perplexity": "prose_perplexity", "exact_match": "knowledge_accuracy"
            }.items():  # fmt: skip
                record.metrics[standard] = record.metrics[own].model_copy()
            stage = "retrofit" if method.startswith("retrofit") else "exam"
            record.settings["method"]["stage"] = stage
            records.append(record)
    return records


# True gain and KL at each rate of a curve; further probes follow from the divergence.
FRONTIER = {
    "full": ((1e-5, 0.06, 0.012), (5e-5, 0.14, 0.07), (1e-4, 0.20, 0.25)),
    "lora": ((1e-4, 0.06, 0.05), (2e-4, 0.13, 0.2), (5e-4, 0.18, 0.4)),
    "smf-tfidf": ((3e-2, 0.06, 0.003), (1e-1, 0.13, 0.012), (3e-1, 0.18, 0.06)),
    "smf-kl": ((3e-2, 0.06, 0.008), (1e-1, 0.13, 0.06), (3e-1, 0.18, 0.3)),
    "smf-random": ((3e-2, 0.06, 0.02), (1e-1, 0.13, 0.1), (3e-1, 0.18, 0.4)),
    "smf-tfidf-3": ((1e-2, 0.07, 0.003), (3e-2, 0.14, 0.009)),
    "wise-ft-0.5": ((1e-4, 0.10, 0.03),),
    "wise-ft-0.8": ((1e-4, 0.16, 0.11),),
}
MEMORY = {"layers": [8, 15, 22], "num_subkeys": 64, "top_k": 16, "rows_per_step": 512}
# Variants of `smf-tfidf`: settings that differ, and times its drift.
ABLATIONS = {
    "smf-tfidf": ({}, 1.0),
    "t64": ({"settings": {"rows_per_step": 64}}, 0.6),
    "t4096": ({"settings": {"rows_per_step": 4096}}, 4.0),
    "table128": ({"settings": {"num_subkeys": 128}}, 0.5),
    "layers6": ({"settings": {"layers": [5, 10, 15, 20, 25, 29]}}, 1.5),
    "background64": ({"background": {"sequences": 64}}, 1.2),
    "prose": ({"background": {"sequences": 120, "text": {"source": "shipped"}}}, 1.1),
    "dense-moments": (
        {"baseline": "released", "baseline_settings": {"dense_moments": True}}, 1.8
    ),
    "sgd": ({"baseline": "sgd"}, 2.5),
}  # fmt: skip


def curve_records(curves, profile, study, seeds, methods=None, **labels):
    """A study of curves {method: (rate, gain, KL), ...}, its settings those that `methods` add."""
    records = [simulated("base", (0, 0, 0, 0), profile=profile, study=study, run_id="base")]
    for method, points in curves.items():
        for rate, gain, kl in points:
            for seed in seeds:
                effect = (gain, 0.3 * kl, 0.1 * kl, kl)
                run = {"profile": profile, "study": study, "rate": rate}
                run |= {"label": labels.get(method), "run_id": f"{method}-lr{rate:g}-seed{seed}"}
                records.append(simulated(method, effect, seed, **run))
                own = records[-1].settings
                own |= {"memory": dict(MEMORY), "background": {"sequences": 256, "text": None}}
                if method.startswith("smf") or methods:
                    own["method"] |= {"peft_type": "SPARSE_MEMORY"}
                    rule = {"settings": {"rule": method.split("-")[1] if not methods else "tfidf"}}
                    own["method"] |= rule
                given = (methods or {}).get(method, ({}, 1.0))[0]
                own["method"] |= given
                own["background"] = own["background"] | given.get("background", {})
                if "settings" in given:
                    own["method"]["settings"] = {"rule": "tfidf", **given["settings"]}
                if method.endswith("-3"):
                    own["training"] = own["training"] | {"epochs": 3}
                if method.startswith("wise-ft"):
                    own["method"] |= {"curve": "wise-ft", "kind": "peft"}
    return records


def frontier_records(study="reference", seeds=(0, 1, 2), methods=tuple(FRONTIER)):
    """Curves of several rates a method on the test split, three seeds."""
    curves = {method: FRONTIER[method] for method in methods}
    labels = {"wise-ft-0.5": "WiSE-FT (0.5)", "wise-ft-0.8": "WiSE-FT (0.8)"}
    return curve_records(curves, "frontier", study, seeds, **labels)


def ablation_records(study="reference", seeds=(0, 1), names=tuple(ABLATIONS)):
    """Variants of `smf-tfidf` at two rates, each with a drift that is a multiple of its own."""
    curves = {
        name: tuple(
            (rate, gain, kl * ABLATIONS[name][1]) for rate, gain, kl in FRONTIER["smf-tfidf"][1:]
        )
        for name in names
    }
    return curve_records(curves, "ablations", study, seeds, methods=ABLATIONS)
