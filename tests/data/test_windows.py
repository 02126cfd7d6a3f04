"""Batches are a pure function of seed and cursor, and an epoch is a permutation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.data.windows import ShuffledWindows, feistel_permutation, layout_of
from groundup.errors import DataError


class Counting:
    """Tokens whose id is their position, so that a sequence shows where it was read."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def read(self, start: int, n: int) -> np.ndarray:
        assert 0 <= start <= start + n <= self.n, "read past the split"
        return np.arange(start, start + n)


@given(n=st.integers(1, 5000), key=st.integers(0, 2**64 - 1))
def test_feistel_permutation_is_a_permutation(n, key):
    order = feistel_permutation(np.arange(n, dtype=np.uint64), n, key)
    assert np.array_equal(np.sort(order), np.arange(n))


def test_feistel_permutation_works_far_beyond_memory():
    n = 10**15
    places = feistel_permutation(np.arange(1000, dtype=np.uint64), n, key=1)
    assert len(set(places.tolist())) == 1000
    assert places.max() < n
    assert abs(places.mean() / n - 0.5) < 0.05  # spread over the full range


def test_orders_of_different_keys_have_nothing_in_common():
    a, b = (feistel_permutation(np.arange(1000, dtype=np.uint64), 1000, key) for key in (1, 2))
    assert (a == b).sum() < 10
    assert abs(np.corrcoef(a.astype(float), np.arange(1000))[0, 1]) < 0.15


@given(n=st.integers(9, 400), cursor=st.integers(0, 1000), rows=st.integers(1, 40))
def test_any_cut_of_the_cursor_gives_the_same_windows(n, cursor, rows):
    batches = ShuffledWindows(Counting(n), 8, seed=3)
    complete = batches.read(cursor, rows)
    one_by_one = np.concatenate([batches.read(cursor + i, 1) for i in range(rows)])
    assert np.array_equal(complete, one_by_one)
    assert complete.shape == (rows, 9)


@given(n=st.integers(9, 400), epoch=st.integers(0, 5))
def test_an_epoch_visits_each_window_once(n, epoch):
    batches = ShuffledWindows(Counting(n), 8, seed=3)
    starts = np.sort(batches.window_starts(epoch * batches.per_epoch, batches.per_epoch))
    assert len(starts) == batches.per_epoch
    assert (np.diff(starts) >= 8).all(), "none overlap"
    assert starts[-1] + 8 < n


@settings(max_examples=25)
@given(n=st.integers(9, 400))
def test_every_token_but_the_first_is_a_target_within_a_few_epochs(n):
    """Those at the ends in a quarter of the epochs or more, if there are several windows."""
    batches, epochs = ShuffledWindows(Counting(n), 8, seed=3), 64
    seen = np.bincount(batches.read(0, epochs * batches.per_epoch)[:, 1:].ravel(), minlength=n)
    assert (seen[1:] > 0).all()
    if batches.per_epoch > 4:
        assert (seen[1:] > epochs // 4).all()


def test_runs_of_earlier_versions_keep_their_windows():
    batches = ShuffledWindows(Counting(100), 8, seed=3, layout=1)
    first, second = [81, 9, 41, 17, 57, 65, 33, 1, 73, 49, 25], [84, 76, 44, 12, 52, 28, 36, 60, 68, 4, 20]
    assert batches.window_starts(0, 22).tolist() == first + second
    assert (layout_of({"step": 3}), layout_of({"sequence_layout": 2}), layout_of({})) == (1, 2, 2)
    with pytest.raises(DataError, match="only a newer groundup has it"):
        ShuffledWindows(Counting(100), 8, seed=3, layout=3)


def test_cuts_shift_between_epochs():
    batches = ShuffledWindows(Counting(10_000), 64, seed=0)
    offsets = {int(batches.window_starts(epoch * batches.per_epoch, 1)[0]) % 64 for epoch in range(10)}
    assert len(offsets) > 5


def test_seeds_give_different_orders():
    a, b = (ShuffledWindows(Counting(10_000), 64, seed).window_starts(0, 100) for seed in (0, 1))
    assert (a == b).sum() < 10


def test_step_a_million_of_ten_billion_tokens_opens_at_once():
    batches = ShuffledWindows(Counting(10**10), 1024, seed=0)
    assert batches.read(10**6 * 512, 2).shape == (2, 1025)


def test_a_split_shorter_than_a_window_is_refused_with_a_block_size_that_fits():
    with pytest.raises(DataError, match=r"8 tokens.*--model\.block_size 2"):
        ShuffledWindows(Counting(8), 8, seed=0)
