"""Sequence-length warm-up: short sequences first, the same tokens, full length in the end."""

import numpy as np
import pytest
import torch

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import Config
from groundup.errors import ConfigError
from groundup.training.micro_batches import BatchLoader, build_seq_len, sequence_lengths, split_sequences


def seq_len(**train):
    values = {"model": {"block_size": 64}, "train": {"batch_tokens": 128, **train}}
    config = Config.model_validate(values)
    return build_seq_len(config.train.seq_len_warmup_from, config.train.seq_len_warmup_until, config.model.block_size)


def test_the_length_doubles_at_equal_distances_up_to_block_size():
    length = seq_len(seq_len_warmup_from=8, seq_len_warmup_until=0.6)
    assert [length(x) for x in (0.0, 0.19, 0.21, 0.39, 0.41, 0.59, 0.6, 1.0)] == [8, 8, 16, 16, 32, 32, 64, 64]


def test_all_lengths_are_known_before_training():
    assert sequence_lengths(8, 64) == [8, 16, 32, 64]
    assert sequence_lengths(None, 64) == [64]


@pytest.mark.parametrize(
    "train", [{}, {"seq_len_warmup_from": 64}, {"seq_len_warmup_from": 8, "seq_len_warmup_until": 0.0}], ids=str
)
def test_without_a_warm_up_sequences_have_block_size_tokens(train):
    length = seq_len(**train)
    assert {length(x) for x in (0.0, 0.3, 1.0)} == {64}


def test_a_shorter_sequence_keeps_its_own_targets():
    tokens = torch.arange(18).view(2, 9)
    ids, targets = split_sequences(tokens[:, :-1], tokens[:, 1:].contiguous(), 4)
    assert ids.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12], [13, 14, 15, 16]]
    assert torch.equal(targets, ids + 1)


@pytest.mark.parametrize(("first", "fits"), [(10, 8), (3, 4), (65, 64), (100, 64), (2**40, 64)])
def test_a_length_that_does_not_double_up_to_block_size_is_refused_with_one_that_does(first, fits):
    source = ConfigSource("a test", {"train": {"seq_len_warmup_from": first}, "model": {"block_size": 64}})
    with pytest.raises(ConfigError, match=rf"train.seq_len_warmup_from {first} does not become .* {fits} does"):
        merge_and_validate([source])


def test_the_last_micro_batch_is_marked_with_shorter_sequences_too():
    class Count:
        block_size = 8

        def read(self, cursor, n):
            return np.arange(9) + np.arange(cursor, cursor + n)[:, None]

    loader = BatchLoader(Count(), 3, torch.device("cpu"), seq_len=lambda fraction: 4 if fraction < 0.5 else 8)
    assert [(len(ids), last) for ids, _, last in loader.micro_batches(0, 0.1, 2)] == [(4, False), (2, True)]
    assert [(len(ids), last) for ids, _, last in loader.micro_batches(0, 0.9, 2)] == [(2, False), (1, True)]
