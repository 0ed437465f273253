"""Recorded benchmarks: read, counted and drawn; what is missing is said in a line."""

from __future__ import annotations

import json

import pytest

from smf_lib.report import figures
from smf_lib.report.analysis.step_cost import (
    NAMES,
    expected_steps,
    multiplications,
    read_benchmark,
)
from smf_lib.report.figures import Figure

SHORT, LONG = "8 x 36 tokens, loss on 9", "8 x 128 tokens, loss on 128"
METHODS_SETTINGS = {
    "layers": 30,
    "precision": "bf16",
    "lora": {"r": 16},
    "memory": {
        "layers": [8, 15, 22],
        "num_subkeys": 64,
        "num_heads": 4,
        "top_k": 16,
        "key_dim": 128,
    },
    "shape": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "key_value_size": 192,
        "vocab_size": 49_152,
    },
    "batches": {
        SHORT: {"sequences": 8, "length": 36, "scored": 9},
        LONG: {"sequences": 8, "length": 128, "scored": 128},
    },
}


def ratio(value: float) -> dict:
    return {"median": value, "least": value, "most": value}


def table_result(first: float) -> dict:
    rows = [128**2, 256**2, 512**2, 1024**2]

    def cases(seconds: list[float], copies: int) -> dict:
        return {
            "median_seconds": {str(n): s for n, s in zip(rows, seconds)},
            "memory": {
                str(n): {
                    "table_bytes": n * 2304,
                    "peak_bytes": 10**9 + copies * n * 2304,
                    "above_model_bytes": 10**8 + copies * n * 2304,
                }
                for n in rows
            },
        }

    return {
        "smf": cases([first * g for g in (1, 1.02, 1.1, 1.2)], 1),
        "dense": cases([first * g for g in (1.3, 2, 6, 24)], 4),
        "smf_time_against_smallest": {str(n): ratio(1 + n / 4e6) for n in rows},
        "dense_time_against_smf": {str(n): ratio(1 + n / 5e4) for n in rows},
    }


def step(smf: float) -> dict:
    seconds = {
        "smf": smf,
        "lora": 2.1 * smf,
        "full": 1.8 * smf,
        "smf, plain": 1.3 * smf,
        "lora, plain": 3 * smf,
        "full, plain": 2.5 * smf,
    }
    return {
        "median_seconds": seconds,
        "smf_against_lora": ratio(0.476),
        "smf_against_full": ratio(0.556),
        "smf_against_plain_lora": ratio(0.333),
        "smf_against_plain_full": ratio(0.4),
    }


def saved_sizes() -> list[dict]:
    return [
        {
            "rows_per_table": n,
            "tables": 3,
            "rows_touched_per_table": t,
            "row_patch_bytes": 3 * t * 2312 + 900,
            "save_pretrained_bytes": 3 * n * 2320 + 10**6,
        }
        for n in (4096, 16_384, 65_536)
        for t in (128, 512, 1024, 2048, 4096)
    ]


RESULTS = {
    "step_vs_table": (
        {"precision": "bf16"},
        {a: table_result(s) for a, s in (("model", 0.3), ("layer", 0.03))},
    ),
    "step_vs_methods": (METHODS_SETTINGS, {SHORT: step(0.4), LONG: step(1.6)}),
    "layer_vs_pkm": (
        {"precision": "fp32"},
        {
            f"{tokens} tokens, {n**2} rows": {
                "package_against_smf_lib": {
                    "whole": ratio(1 + 10 / n),
                    "values": ratio(1 + n / 128),
                }
            }
            for tokens in (512, 2048)
            for n in (64, 128, 256)
        },
    ),
    "scoring_vs_hflm": (
        {"model": "A model", "precision": "fp32", "hflm_batch_size": 16, "rounds": 3},
        {
            name: {
                "questions": 60,
                "same_outcome": 59,
                "median_seconds": {"shared": 10.0, "hflm": 10 * times},
                "hflm_against_shared": {"median": times, "least": 2.4, "most": 3.6},
            }
            for name, times in (("exam", 2.58), ("knowledge", 3.34))
        },
    ),
    "on_device": (
        {"precision": "fp32", "sequences": 8, "length": 64, "rows": [16_384, 1_048_576]},
        {
            "step": {
                "median_seconds": {
                    "floor": 0.9,
                    "ln_tuning": 1.2,
                    "smf": 1.0,
                    "lora": 1.8,
                    "full": 2.0,
                },
                "smf_against": {
                    "lora": {"median": 0.55, "least": 0.5, "most": 0.61},
                    "ln_tuning": ratio(0.83),
                    "floor": ratio(1.11),
                    "full": ratio(0.5),
                },
            },
            "layer": {
                "median_seconds": {
                    f"{name}, {rows} rows": seconds * scale
                    for rows, scale in ((16_384, 1.0), (1_048_576, 1.6))
                    for name, seconds in {
                        "smf": 0.04,
                        "sparse_adam": 0.12,
                        "read": 0.006,
                        "read_by_csr": 0.02,
                        "rows_copied": 0.015,
                    }.items()
                },
                "smf_growth": ratio(1.61),
                "smf_against_sparse_adam": ratio(0.33),
                "smf_against_rows_copied": ratio(2.7),
                "read_against_csr": ratio(0.3),
                "read_against_rows_copied": ratio(0.4),
            },
        },
    ),
    "saved_size": ({}, {"sizes": saved_sizes(), "lora_save_pretrained_bytes": 19_600_000}),
    "rows_read": (
        {
            "model": "a model",
            "rows_per_step": 512,
            "tokens": {"background": 32_768, "prose": 12_776, "task": 10_541},
        },
        {
            str(n): {
                layer: {
                    "rows_unread_by_background": n / 2**21 + extra,
                    "chosen_unread_by_background": n / 2**23 + extra,
                    "chosen_unread_by_both": n / 2**24,
                }
                for layer, extra in (("8", 0.01), ("15", 0.0))
            }
            for n in (1024, 16_384, 1_048_576)
        },
    ),
}
ON_GPU = RESULTS["on_device"][1] | {"layer": dict(RESULTS["on_device"][1]["layer"])}
ON_GPU["layer"]["median_seconds"] = ON_GPU["layer"]["median_seconds"] | {
    f"{name}, {rows} rows": 0.002
    for name in ("smf_plain", "read_by_kernel")
    for rows in (16_384, 1_048_576)
}
RESULTS["on_device_cuda"] = (RESULTS["on_device"][0] | {"length": 512}, ON_GPU)


def record(name: str) -> dict:
    settings, results = RESULTS[name]
    return {
        "benchmark": name.removesuffix("_cuda"),
        "device": "A GPU" if name.endswith("_cuda") else "cpu",
        "small": False,
        "settings": settings,
        "results": results,
        "threads": 2,
        "hardware": {"cpu": "A processor", "cores": 2},
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "benchmarks").mkdir()
    for name in NAMES:
        (tmp_path / "benchmarks" / f"{name}.json").write_text(json.dumps(record(name)))
    return tmp_path


SAID = {
    "step_vs_table": "Within a model: at 1.05 M rows the sparse step takes 1.26 times",
    "step_vs_methods": "0.48 of the time of LoRA and 0.56 of that of full finetuning",
    "layer_vs_pkm": "To the right of the line smf_lib is faster",
    "saved_size": "LoRA takes 19.6 MB",
    "on_device": "0.55 [0.50, 0.61] of LoRA r 16, 0.83 [0.83, 0.83] of layer-norm tuning, 1.11 "
    "[1.11, 1.11] of frozen, gradient down to the memory and 0.50 [0.50, 0.50] of full finetuning. "
    "The layer alone, at 1.05 M rows, takes 1.61 [1.61, 1.61] times what it takes at 16.4 k",
    "on_device_cuda": "The engine beside its bounds (A GPU, fp32; medians",
    "rows_read": "of all rows, and of the 512 that TF-IDF chooses in a step; dotted, those that",
    "scoring_vs_hflm": (
        "takes 2.6 times as long on the exam questions (2.4 to 3.6) and 3.3 times as long on the "
        "knowledge questions (2.4 to 3.6). Equal outcomes: 59 of 60 on the exam "
    ),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_benchmark_is_drawn_with_its_numbers(folder, name):
    drawn = figures.benchmark(folder, name)
    assert isinstance(drawn, Figure) and drawn.png()[:4] == b"\x89PNG"
    assert SAID[name] in drawn.caption and len(drawn.alt) > 100
    assert ("kernel" in drawn.alt) == (name == "on_device_cuda")


def test_shares_of_rows_are_means_over_layers(folder):
    drawn = figures.benchmark(folder, "rows_read")
    assert "of 1,048,576 rows 50 % of the table and 13 % of the chosen rows" in drawn.alt
    table, chosen, _ = drawn.fig.axes[0].lines
    assert table.get_ydata()[-1] == pytest.approx(50.5)
    assert chosen.get_ydata()[-1] == pytest.approx(13.0)


@pytest.mark.parametrize("name", NAMES)
def test_texts_lie_inside_the_figure(folder, name):
    fig = figures.benchmark(folder, name).fig
    fig.draw_without_rendering()
    outer = fig.bbox
    for ax in fig.axes:
        for text in [*ax.texts, ax.title, *ax.get_yticklabels()]:
            box = text.get_window_extent()
            assert box.x0 >= outer.x0 - 1 and box.x1 <= outer.x1 + 1, text.get_text()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_said_in_a_line(tmp_path, name):
    missing = figures.benchmark(tmp_path, name)
    command = name.replace("_cuda", " --device cuda")
    assert repr(missing) == f"not on record: run python -m benchmarks.{command} --record"


def test_other_files_are_refused_by_name(folder):
    with pytest.raises(ValueError, match="'speed' is no benchmark.*step_vs_table"):
        read_benchmark(folder, "speed")
    file = folder / "benchmarks" / "saved_size.json"
    for text, reason in (
        ("{", "not a benchmark's record"),
        ("[]", "not a benchmark's record"),
        (json.dumps(record("saved_size") | {"small": True}), "not a full run"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=f"saved_size.json is {reason}"):
            read_benchmark(folder, "saved_size")


def test_multiplications_count_the_parameters_that_each_pass_uses():
    found = multiplications(METHODS_SETTINGS, LONG)
    body = 30 * (2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536) + 576 * 49_152
    assert body == 134_479_872  # the linear maps of SmolLM2-135M, its head among them
    assert found["full"] == (body, body, body)
    assert found["lora"][2] == 4_884_480  # the trainable parameters of LoRA r 16
    lookup = 4 * 128 * (576 + 64) + 4 * 16 * 576
    assert found["smf"][0] == body + 3 * lookup
    assert found["smf"][1] == body - 9 * 3_538_944 + 2 * lookup  # nothing up to layer 8's MLP
    shown = expected_steps(record("step_vs_methods"))
    assert list(shown["sparse memory against it"])[3:] == ["1.00", "0.84", "0.59"]
    head, short = 576 * 49_152, multiplications(METHODS_SETTINGS, SHORT)
    assert short["full"][0] == body - 0.75 * head  # 9 of 36 tokens bear loss
    assert expected_steps(None).empty
