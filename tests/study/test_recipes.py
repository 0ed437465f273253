"""The examples in the registries' docstrings work as they stand, from an imported file."""

import re
import textwrap

import pytest
import yaml

from smf_lib.study import baselines, exams, metrics
from smf_lib.study.profiles import PROFILE_DIR, load_profile

REGISTRIES = {
    metrics: (metrics.METRICS, "code_perplexity"),
    exams: (exams.EXAMS, "sums"),
    baselines: (baselines.BASELINES, "shrink"),
}


@pytest.fixture(params=REGISTRIES, ids=lambda module: module.__name__.rpartition(".")[2])
def recipe(request):
    """A registry, the name that its example registers, and the example; undone afterwards."""
    registry, name = REGISTRIES[request.param]
    (block,) = re.findall(r"^    from .*\n(?:(?:    .*)?\n)+", request.param.__doc__, re.MULTILINE)
    yield registry, name, textwrap.dedent(block)
    registry.pop(name, None)
    registry.functions.pop(name, None)


def test_an_example_registers_from_a_file_that_a_profile_imports(recipe, tmp_path):
    registry, name, code = recipe
    (tmp_path / "mine.py").write_text(code)
    content = yaml.safe_load((PROFILE_DIR / "smoke.yaml").read_text())
    content |= {"name": "mine", "imports": ["mine.py"]}
    if registry is metrics.METRICS:
        content["evaluation"] = {"probes": [name]}
    elif registry is exams.EXAMS:
        content["exam"] = {"name": name, "test_rows": 50}
    else:
        content["methods"]["full"] |= {"baseline": name, "baseline_settings": {"factor": 0.5}}
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(content))
    profile = load_profile(path)
    assert registry.source_of(name) == tmp_path / "mine.py"
    if registry is metrics.METRICS:
        assert metrics.metric_names(profile) == ["exam_accuracy", name]
        assert metrics.describe_data(None, [name])[name]["rows"] == 2
    elif registry is exams.EXAMS:
        exam = exams.build_exam(profile.exam, tmp_path)
        assert (len(exam.train), len(exam.test)) == (150, 50)
    else:
        assert profile.methods["full"].baseline == name
