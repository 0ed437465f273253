"""Conflicting rows of two patches, moved to the free rows with the nearest keys."""

import pytest
import torch
from helpers_patches import OWNER, assert_same_state, fresh, state, train

from smf_lib.method.patches.compose import compose
from smf_lib.method.patches.identity import memory_mlps
from smf_lib.method.patches.move import nearness
from smf_lib.method.patches.patch import RowPatch


@pytest.fixture(scope="module")
def patches():
    return [RowPatch.from_model(train(fresh(), seed)) for seed in (1, 2)]


def test_the_first_keeps_its_rows_and_the_second_takes_its_changes_along(patches):
    first, second = patches
    found = compose(first, second, "moved", fresh())
    assert found.n_shared and found.n_shared == sum(map(len, found.moved.values()))
    assert found.patch.n_rows == first.n_rows + second.n_rows
    for name, pairs in found.moved.items():
        given_up, taken = pairs.T.contiguous()
        both, one, other = found.patch.tables[name], first.tables[name], second.tables[name]
        assert torch.equal(given_up, found.shared_rows[name])
        assert len(taken.unique()) == len(taken)
        assert not torch.isin(taken, torch.cat([one.rows, other.rows])).any()
        for table, rows, places in ((one, one.rows, one.rows), (other, given_up, taken)):
            mine = table.after[torch.searchsorted(table.rows, rows)]
            assert torch.equal(both.after[torch.searchsorted(both.rows, places)], mine)


def test_a_row_goes_where_both_of_its_sub_keys_are_nearest(patches):
    first, second = patches
    model = fresh()
    found = compose(first, second, "moved", model)
    memory = memory_mlps(model, "default")[OWNER].smf_memory["default"]
    n, near = memory.num_subkeys, nearness(memory)
    free = set(range(n * n)) - set(first.tables[OWNER].rows.tolist())
    free -= set(second.tables[OWNER].rows.tolist())
    updates = dict(zip(second.tables[OWNER].rows.tolist(), second.tables[OWNER].updates.tolist()))
    pairs = sorted(found.moved[OWNER].tolist(), key=lambda pair: (-updates[pair[0]], pair[0]))
    for row, target in pairs:
        scores = {t: float(near[0, row // n, t // n] + near[1, row % n, t % n]) for t in free}
        assert scores[target] == max(scores.values())
        free.remove(target)
    assert torch.allclose(near.diagonal(dim1=1, dim2=2), torch.tensor(float(memory.num_heads)))


def test_what_was_moved_comes_out_again_to_the_bit(patches):
    model = fresh(initial_values="random")
    before = state(model)
    random = [RowPatch.from_model(train(fresh(initial_values="random"), seed)) for seed in (1, 2)]
    patch = compose(*random, "moved", model).patch
    patch.apply(model)
    patch.revert(model)
    assert_same_state(model, before)


def test_without_a_model_in_which_neither_is_nothing_is_moved(patches):
    first, second = patches
    with pytest.raises(ValueError, match="'moved' needs a model"):
        compose(first, second, "moved")
    with pytest.raises(ValueError, match="do not fit the model: .*memory keys"):
        compose(first, second, "moved", fresh(seed=3))
    model = fresh()
    first.apply(model)
    with pytest.raises(ValueError, match="hold other values than the patch expects"):
        compose(first, second, "moved", model)


def test_a_table_without_room_is_refused():
    full = [RowPatch.from_model(train(fresh(rule="all"), seed, steps=40)) for seed in (1, 2)]
    with pytest.raises(ValueError, match=r"\d+ rows of .* were changed by both and only \d+ are"):
        compose(*full, "moved", fresh(rule="all"))
