"""Windows in pieces: short at first, the same tokens, whole in the end."""

import pytest
import torch

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import Config
from groundup.errors import ConfigError
from groundup.training.loop import split_sequences
from groundup.training.seq_len_warmup import build_ramp, lengths


def config(**train) -> Config:
    return Config.model_validate({"model": {"block_size": 64}, "train": {"batch_tokens": 128, **train}})


def test_pieces_double_at_equal_distances_until_windows_are_whole():
    ramp = build_ramp(config(seq_len_warmup_from=8, seq_len_warmup_until=0.6))
    assert [ramp(x) for x in (0.0, 0.19, 0.21, 0.39, 0.41, 0.59, 0.6, 1.0)] == [8, 8, 16, 16, 32, 32, 64, 64]


def test_all_lengths_are_known_beforehand():
    assert lengths(config(seq_len_warmup_from=8)) == [8, 16, 32, 64]
    assert lengths(config()) == [64]


@pytest.mark.parametrize(
    "train", [{}, {"seq_len_warmup_from": 64}, {"seq_len_warmup_from": 8, "seq_len_warmup_until": 0.0}], ids=str
)
def test_without_a_ramp_windows_are_whole(train):
    ramp = build_ramp(config(**train))
    assert {ramp(x) for x in (0.0, 0.3, 1.0)} == {64}


def test_a_piece_is_a_sequence_with_its_own_targets():
    tokens = torch.arange(18).view(2, 9)
    ids, targets, last = next(split_sequences([(tokens[:, :-1], tokens[:, 1:].contiguous(), True)], 4))
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12], [13, 14, 15, 16]]
    assert torch.equal(targets, ids + 1)
    assert last


@pytest.mark.parametrize(("first", "fits"), [(10, 8), (3, 4), (65, 64), (100, 64), (2**40, 64)])
def test_what_does_not_double_up_to_the_window_is_refused_with_what_would(first, fits):
    asked = ConfigSource("a test", {"train": {"seq_len_warmup_from": first}, "model": {"block_size": 64}})
    with pytest.raises(ConfigError, match=rf"train.seq_len_warmup_from {first} does not become .* {fits} does"):
        merge_and_validate([asked])
