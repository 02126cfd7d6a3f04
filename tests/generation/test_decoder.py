"""A step of a decoder gives the logits of a single pass, for rows with different numbers of new tokens."""

import random

import pytest
import torch

from groundup.generation.model_decoder import ModelDecoder

CPU, CONTEXT = torch.device("cpu"), 16


def ids(n: int, seed: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(256) for _ in range(n)]


@pytest.mark.parametrize("name", ["gpt1", "gpt2", "modern", "nanochat", "fast-small"])
@pytest.mark.parametrize("cached", [(3, 9, 6), (4, 4, 4), (11, 15, 13)])  # the last ones leave no room for padding
@torch.inference_mode()
def test_rows_get_different_numbers_of_tokens_and_forget_some(name, cached, model_of):
    model = model_of(name)
    decoder = ModelDecoder(model, CPU, 4)
    rows = [ids(CONTEXT, seed) for seed in range(3)]
    for slot, (row, n) in enumerate(zip(rows, cached, strict=True)):
        decoder.extend(slot, row[:n], 0)
    wrong = [[0, 1], [2], [3, 4, 5]]
    decoder.step(wrong)
    for slot, n in enumerate(cached):
        decoder.slots.truncate(slot, n)
    new = [row[n : n + count] for row, n, count in zip(rows, cached, (4, 1, 2), strict=True)]
    found = decoder.step(new).split([len(own) for own in new])
    for row, n, own, logits in zip(rows, cached, new, found, strict=True):
        alone = model(torch.tensor([row[: n + len(own)]]))[0, n:]
        torch.testing.assert_close(logits, alone[:, : decoder.vocab], atol=1e-3, rtol=1e-4)
