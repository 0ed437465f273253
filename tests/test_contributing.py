"""The recipes of CONTRIBUTING.md, run as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from smf_lib.study.records.results import read_record

REPOSITORY = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_a_rule_a_probe_an_exam_and_a_baseline_of_ones_own_are_used_and_recorded(tmp_path):
    blocks = BLOCK.findall((REPOSITORY / "CONTRIBUTING.md").read_text("utf-8"))
    for name, text in blocks:
        (tmp_path / name).write_text(text, "utf-8")
    assert len(blocks) == 1 + len(list(tmp_path.glob("*.py"))) >= 5
    run = ["-m", "smf_lib.study", "run", "--profile", str(tmp_path / "mine.yaml")]
    done = subprocess.run(
        [sys.executable, *run, "--method", "smf-ratio", "lora-shrunk"],
        cwd=REPOSITORY,
        env=os.environ | {"SMF_ROOT": str(tmp_path)},
        text=True,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    record = read_record(tmp_path / "results" / "mine" / "local" / "smf-ratio-seed0.json")
    assert record.data.exam.name == "sums" and record.metrics["exam_accuracy"].n == 8
    assert record.metrics["code_perplexity"].n == 2
    assert record.settings["method"]["settings"]["rule"] == "ratio" and record.selection
    shrunk = read_record(tmp_path / "results" / "mine" / "local" / "lora-shrunk-seed0.json")
    assert shrunk.settings["method"]["baseline"] == "shrink"
    assert shrunk.settings["method"]["baseline_settings"] == {"factor": 0.5}
