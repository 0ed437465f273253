"""Numbers in words."""

import pytest

from smf_lib.report.text import listed, rate_text, signed


@pytest.mark.parametrize(
    ("rate", "text"), [(1e-4, "1e-4"), (1.35e-3, "1.35e-3"), (0.03, "3e-2"), (2.0, "2e0")]
)
def test_rates_are_written_as_people_do(rate, text):
    assert rate_text(rate) == text


def test_words():
    assert signed(-0.04, 1) == "+0.0" and signed(-0.06, 1) == "-0.1"
    assert listed(["a", "b", "a", "c"]) == "a, b and c" and listed([]) == ""
