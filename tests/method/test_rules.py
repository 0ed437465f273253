"""Row selection: each rule against a plain NumPy reference, ties and edges included."""

from __future__ import annotations

import runpy

import numpy as np
import pytest
import torch
from helpers_models import (
    adamw,
    memory_config,
    memory_model,
    tables,
    tiny_model,
    tokens,
    train_step,
)
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from smf_lib import collect_background, register_rule, select_rows
from smf_lib.method.background import read_rows
from smf_lib.method.rules import RULES, BackgroundReads, Reads, count_reads, get_rule


def numpy_scores(
    rule: str,
    counts: dict[int, int],
    background: np.ndarray,
    documents: np.ndarray,
    n_documents: int,
) -> dict[int, float]:
    """Score of each read row, straight from the papers' formulas."""
    total, scores = sum(counts.values()), {}
    for row, count in counts.items():
        p = count / total
        if rule == "kl":
            q = (background[row] + 1) / (background.sum() + len(background))
            scores[row] = p * np.log(p / q)
        elif rule == "tfidf":
            scores[row] = p * np.log((n_documents + 1) / (documents[row] + 1))
        else:
            scores[row] = count
    return scores


@st.composite
def batches(draw):
    """A table of few rows with small counts, so that ties are common."""
    rows = draw(st.integers(2, 12))
    reads = draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=30))
    n_documents = draw(st.integers(1, 4))
    documents = draw(st.lists(st.integers(0, n_documents), min_size=rows, max_size=rows))
    background = [d * draw(st.integers(1, 3)) for d in documents]
    return reads, np.array(background), np.array(documents), n_documents


@pytest.mark.parametrize("rule", ["kl", "tfidf", "count"])
@given(batch=batches(), rows_per_step=st.integers(1, 14))
def test_selection_equals_the_numpy_reference_ties_included(rule, batch, rows_per_step):
    reads, background, documents, n_documents = batch
    counts = {row: reads.count(row) for row in set(reads)}
    scores = numpy_scores(rule, counts, background, documents, n_documents)
    given_background = BackgroundReads(
        torch.tensor(background), torch.tensor(documents, dtype=torch.int32), n_documents
    )
    read = count_reads([torch.tensor(reads)])
    assert dict(zip(read.rows.tolist(), read.counts.tolist())) == counts
    own = get_rule(rule).score(read, given_background)
    np.testing.assert_allclose(own, [scores[row] for row in read.rows.tolist()], rtol=1e-12)
    # Rows with the same counts have the same score, to the bit: the lower row id must win.
    ranked = sorted(counts, key=lambda row: (-round(scores[row], 12), row))
    chosen = select_rows(read, rule, rows_per_step, given_background).tolist()
    assert chosen == sorted(ranked[:rows_per_step])


def test_equal_scores_go_to_the_lower_row():
    reads = count_reads([torch.tensor([[9, 4, 7], [4, 7, 9]])])
    assert select_rows(reads, "count", 2).tolist() == [4, 7]
    background = BackgroundReads(torch.zeros(10, dtype=torch.int64), torch.zeros(10), 3)
    for rule in ("kl", "tfidf"):
        assert select_rows(reads, rule, 1, background).tolist() == [4]


def test_kl_prefers_rows_that_the_background_does_not_read():
    background = BackgroundReads(torch.tensor([50, 0, 50, 0]), torch.tensor([5, 0, 5, 0]), 5)
    reads = count_reads([torch.tensor([0] * 6 + [1] * 4 + [2] * 6 + [3] * 4)])
    assert select_rows(reads, "count", 2).tolist() == [0, 2]
    assert select_rows(reads, "kl", 2, background).tolist() == [1, 3]
    assert select_rows(reads, "tfidf", 2, background).tolist() == [1, 3]


@pytest.mark.parametrize("rule", sorted(RULES))
def test_edges_of_rows_per_step_for_every_rule(rule):
    background = BackgroundReads(torch.ones(10, dtype=torch.int64), torch.ones(10), 1)
    reads = count_reads([torch.tensor([1, 3, 3, 8])])
    for rows_per_step in (3, 4, 1000):
        assert select_rows(reads, rule, rows_per_step, background).tolist() == [1, 3, 8]
    unlimited = get_rule(rule).unlimited
    assert len(select_rows(reads, rule, 1, background)) == (3 if unlimited else 1)
    nothing = count_reads([torch.empty(0, 4, dtype=torch.int64)])
    assert select_rows(nothing, rule, 5, background).tolist() == []


def test_random_differs_by_step_and_is_reproducible():
    rows, counts = torch.arange(100), torch.ones(100, dtype=torch.int64)
    picks = [select_rows(Reads(rows, counts, step), "random", 10).tolist() for step in (0, 1, 2, 0)]
    assert picks[0] == picks[3]
    assert picks[0] != picks[1] != picks[2]
    torch.manual_seed(7)  # the global generator plays no part
    assert select_rows(Reads(rows, counts, 1), "random", 10).tolist() == picks[1]
    chosen = torch.zeros(100)
    for step in range(300):
        chosen[select_rows(Reads(rows, counts, step), "random", 10)] += 1
    assert chosen.min() > 10 and chosen.max() < 60  # 30 expected of each


@pytest.fixture
def rare_rule():
    @register_rule("rare")
    def rare(reads, background):
        return -reads.counts.double()

    yield rare
    del RULES["rare"]


def test_a_registered_rule_is_known_to_the_configuration(rare_rule):
    model = memory_model(rule="rare", rows_per_step=2)
    ids = tokens(2, 9)
    expected = []
    for reads in read_rows(model, ids.tolist()).values():
        read = count_reads(reads)
        expected.append(sorted(zip(read.counts.tolist(), read.rows.tolist()))[:2])
    train_step(model, adamw(model), ids)
    for table, best in zip(tables(model), expected):
        assert table.row_updates.nonzero().flatten().tolist() == sorted(row for _, row in best)


def test_a_rule_of_ones_own_may_be_defined_again_and_no_other_takes_its_name(rare_rule, tmp_path):
    register_rule("rare")(rare_rule)

    def other(reads, background):
        return reads.counts.double()

    for different in (other, lambda reads, background: reads.counts):
        with pytest.raises(ValueError, match="'rare' is registered already; choose another"):
            register_rule("rare")(different)
    assert get_rule("rare").score is rare_rule

    source = "import smf_lib\n\n@smf_lib.register_rule('mine')\ndef mine(reads, background):\n"
    file = tmp_path / "my_rules.py"
    reads = count_reads([torch.tensor([1, 1, 2])])
    try:
        for name, sign in (("my_rules", "-"), ("my_rules", "+"), ("another_name", "-")):
            file.write_text(f"{source}    return {sign}reads.counts.double()\n")
            runpy.run_path(str(file), run_name=name)  # what importing it under that name runs
            assert select_rows(reads, "mine", 1).tolist() == ([1] if sign == "+" else [2])
    finally:
        RULES.pop("mine", None)


def test_an_adapter_of_a_rule_that_is_not_registered_loads_for_inference_only(rare_rule, tmp_path):
    model, ids = memory_model(rule="rare"), tokens(2, 9)
    train_step(model, adamw(model), ids)
    model.save_pretrained(tmp_path)
    expected = model(input_ids=ids).logits
    rule = RULES.pop("rare")
    try:
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert torch.equal(loaded(input_ids=ids).logits, expected)
        with pytest.raises(ValueError, match="rule='rare' is unknown.*module that registers it"):
            PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    finally:
        RULES["rare"] = rule


def test_scores_of_the_wrong_shape_are_refused():
    register_rule("scalar")(lambda reads, background: torch.tensor(1.0))
    try:
        with pytest.raises(ValueError, match=r"rule='scalar' returned scores of shape \(\) for 2"):
            select_rows(count_reads([torch.tensor([1, 2])]), "scalar", 1)
    finally:
        del RULES["scalar"]


def test_an_unknown_rule_is_refused_with_the_known_ones():
    known = "all, count, kl, random, tfidf"
    with pytest.raises(ValueError, match=f"rule='klx' is unknown; choose one of {known}"):
        memory_config(rule="klx")
    with pytest.raises(ValueError, match=f"rule='klx' is unknown; choose one of {known}"):
        select_rows(count_reads([torch.tensor([1])]), "klx", 1)


@pytest.mark.parametrize("rule", ["kl", "tfidf"])
def test_missing_background_is_refused_with_the_remedy(rule):
    message = f"rule='{rule}' compares with background reads.*collect_background.*rule='count'"
    with pytest.raises(ValueError, match=message):
        select_rows(count_reads([torch.tensor([1])]), rule, 1)
    model = memory_model(rule="count")
    for table in tables(model):
        table.rule = rule
    with pytest.raises(ValueError, match=message):
        train_step(model, adamw(model), tokens(2, 9))


def test_background_counts_do_not_depend_on_the_batch_size():
    model = memory_model()
    sequences = [tokens(1, length, seed=length)[0].tolist() for length in (3, 9, 5, 1, 7)]
    counted = []
    for batch_size in (1, 2, 8):
        collect_background(model, sequences, batch_size)
        counted.append(
            [(t.background_counts.clone(), t.background_documents.clone()) for t in tables(model)]
        )
    for layer in range(2):
        counts, documents = counted[0][layer]
        assert counts.sum() == sum(map(len, sequences)) * 2 * 4  # 2 heads, 4 reads each
        assert documents.max() <= 5
        for other_counts, other_documents in (counted[1][layer], counted[2][layer]):
            assert torch.equal(counts, other_counts) and torch.equal(documents, other_documents)


def test_layers_that_share_a_table_count_a_document_once():
    model = memory_model(share_values=True)
    collect_background(model, tokens(4, 9).tolist())
    (table,) = tables(model)
    reads = read_rows(model, tokens(4, 9).tolist())
    for row in range(table.num_rows):
        documents = [any((r[i] == row).any() for r in reads.values()) for i in range(4)]
        assert table.background_documents[row] == sum(documents)
    assert table.background_counts.sum() == 2 * 4 * 9 * 8
    assert table.background.total == 2 * 4 * 9 * 8
    collect_background(model, tokens(2, 9).tolist())  # replaces, and is not a stale sum
    assert table.background.total == 2 * 2 * 9 * 8 and table.background.n_documents == 2


def test_background_refuses_what_it_cannot_count():
    model = memory_model()
    with pytest.raises(ValueError, match="sequences is empty"):
        collect_background(model, [])
    with pytest.raises(ValueError, match="sequences holds an empty one"):
        collect_background(model, [[3, 4], []])
    with pytest.raises(ValueError, match="model=Linear has no memory"):
        read_rows(torch.nn.Linear(2, 2), [[1]])


def test_scores_that_are_nan_and_a_budget_of_nothing_are_refused():
    @register_rule("broken")
    def broken(reads, background):
        return torch.tensor([1.0, float("nan"), 2.0])

    reads = Reads(torch.tensor([1, 4, 7]), torch.tensor([1, 1, 1]))
    with pytest.raises(ValueError, match="rule='broken' returned NaN"):
        select_rows(reads, "broken", 2)
    for rows in (0, -1):
        with pytest.raises(ValueError, match=f"rows_per_step={rows} must be at least 1"):
            select_rows(reads, "count", rows)
    with pytest.raises(ValueError, match="batch_size=0 must be at least 1"):
        read_rows(memory_model(), [[1, 2]], batch_size=0)
