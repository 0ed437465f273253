"""Every benchmark runs, at tiny shapes, and reports what its readers rely on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def run_benchmark(monkeypatch, capsys):
    """Runs a benchmark with --small, or whole, and returns the results that it prints."""
    monkeypatch.syspath_prepend(ROOT)

    def run(name: str, small: bool = True) -> dict:
        importlib.import_module(f"benchmarks.{name}").main(["--small"] if small else [])
        record = json.loads(capsys.readouterr().out)
        assert record["benchmark"] == name
        assert record["small"] is small
        assert record["hardware"]["cpu"] and record["versions"]["torch"] and record["threads"]
        return record["results"]

    return run


def assert_ratio(found: dict) -> None:
    assert 0 < found["least"] <= found["median"] <= found["most"]


def test_step_vs_table(run_benchmark):
    results = run_benchmark("step_vs_table")
    for around in ("model", "layer"):
        found = results[around]
        assert list(found["smf"]["median_seconds"]) == ["256", "4096"]
        for ratios in ("smf_time_against_smallest", "dense_time_against_smf"):
            for value in found[ratios].values():
                assert_ratio(value)
        for method in ("smf", "dense"):
            tables = [used["table_bytes"] for used in found[method]["memory"].values()]
            assert tables == [256 * 72 * 4, 4096 * 72 * 4]
            assert found[f"{method}_peak_bytes_per_table_byte"] is not None


def test_step_vs_methods(run_benchmark):
    (results,) = run_benchmark("step_vs_methods").values()
    assert set(results.pop("median_seconds")) == {
        "smf",
        "lora",
        "full",
        "smf, plain",
        "lora, plain",
        "full, plain",
    }
    for pair in ("smf_against_", "smf_against_plain_", "plain_smf_against_plain_"):
        for other in ("lora", "full"):
            assert_ratio(results.pop(pair + other))
    assert not results


def test_layer_vs_pkm(run_benchmark):
    (shape,) = run_benchmark("layer_vs_pkm").values()
    assert_ratio(shape["package_against_smf_lib"]["whole"])
    assert_ratio(shape["package_against_smf_lib"]["values"])


def test_on_device(run_benchmark):
    results = run_benchmark("on_device")
    assert set(results["step"]["smf_against"]) == {"floor", "ln_tuning", "lora", "full"}
    for found in results["step"]["smf_against"].values():
        assert_ratio(found)
    seconds = results["layer"].pop("median_seconds")
    assert len(seconds) == 10 and {name.partition(", ")[2] for name in seconds} == {
        "256 rows",
        "4096 rows",
    }
    for found in results["layer"].values():
        assert_ratio(found)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.on_device").main(["--device", "cuda"])
    assert "--device cuda: this torch sees no GPU; use --device cpu" in capsys.readouterr().err


def test_own_text_positions(run_benchmark):
    results = run_benchmark("own_text_positions")
    assert list(results) == ["bf16_against_fp32", "moved_by_1e-05", "moved_by_0.0001"]
    small, large = (results[f"moved_by_{by}"]["fp32"]["others"] for by in ("1e-05", "0.0001"))
    assert 0 < small["mean"] < large["mean"] and len(large["at"]) == 3
    for found in (results["bf16_against_fp32"], *results["moved_by_0.0001"].values()):
        assert list(found) == ["group", "others"]
        assert all(part["from_the_fourth_on"] > 0 for part in found.values())


def test_rows_read(run_benchmark):
    for table in run_benchmark("rows_read").values():
        for found in table.values():
            assert 0 <= found["rows_unread_by_both"] <= found["rows_unread_by_background"] <= 1
            assert 0 <= found["chosen_unread_by_both"] <= found["chosen_unread_by_background"] <= 1
            assert 0 < found["chosen_per_step"] and 0 <= found["task_reads_on_unread"] < 1


def test_saved_size(run_benchmark):
    results = run_benchmark("saved_size")
    assert results["lora_save_pretrained_bytes"] > 0
    patches: dict[int, set[int]] = {}
    for size in results["sizes"]:
        extra = size["row_patch_bytes"] - size["touched_values_bytes"]
        assert 0 < extra < 4096
        patches.setdefault(size["rows_touched_per_table"], set()).add(size["row_patch_bytes"])
        assert size["save_pretrained_bytes"] > size["tables_bytes"]
    assert all(max(sizes) - min(sizes) < 64 for sizes in patches.values())


def test_a_small_run_is_never_recorded(monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT)
    with pytest.raises(SystemExit):
        importlib.import_module("benchmarks.saved_size").main(["--small", "--record"])
    assert "--record with --small" in capsys.readouterr().err


def test_interleaving_starts_each_round_with_another_action(monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    common = importlib.import_module("benchmarks.common")
    order = []

    def action(name: str, seconds: float):
        return lambda: order.append(name) or seconds

    seconds = common.interleave({"a": action("a", 1.0), "b": action("b", 4.0)}, rounds=3, warmup=1)
    assert "".join(order) == "baabbaab"
    assert seconds == {"a": [1.0] * 3, "b": [4.0] * 3}
    assert common.ratio(seconds, "b", "a") == {"median": 4.0, "least": 4.0, "most": 4.0}
    assert common.medians(seconds) == {"a": 1.0, "b": 4.0}


def test_scoring_vs_hflm(run_benchmark):
    results = run_benchmark("scoring_vs_hflm")
    assert results.keys() == {"exam", "knowledge"}
    for found in results.values():
        assert found["questions"] == found["same_outcome"] == 6
        assert found["median_seconds"].keys() == {"shared", "hflm"}
        assert_ratio(found["hflm_against_shared"])


@pytest.mark.slow
def test_large_things_take_what_was_recorded(run_benchmark):
    """Within bounds that another machine keeps, and that a table taken twice or a loop does not."""
    recorded = json.loads((ROOT / "results" / "benchmarks" / "load.json").read_text())["results"]
    results = run_benchmark("load", small=False)
    assert results.keys() == recorded.keys()
    for part, used in results.items():
        before = recorded[part]
        assert 0 < used["processor_seconds"] < 4 * before["processor_seconds"], part
        assert 2**20 < used["peak_memory_bytes"] < 1.5 * before["peak_memory_bytes"], part
        assert 2**10 < used["page_bytes"] < 1.5 * before["page_bytes"], part
