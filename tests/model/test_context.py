"""The cache gives the logits of a single pass, for sequences of different lengths too."""

from collections.abc import Callable

import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.model import build_model
from groundup.model.gpt import GPT

CONFIG = ModelConfig(n_layer=3, n_head=2, n_embd=32, block_size=24, vocab_size=50)


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(CONFIG).init_weights(torch.Generator().manual_seed(0)).eval()


@pytest.fixture(scope="module", params=["gpt2", "rotary", "n-grams"])
def any_model(request) -> GPT:
    rotary = {"position_embedding": "rotary", "norm": "rmsnorm", "qk_norm": "after_rotary", "bias": False}
    parts = {"gpt2": {}, "rotary": rotary, "n-grams": {**rotary, "ngram": 4, "ngram_rows": 300, "ngram_width": 8}}
    model = build_model(CONFIG.model_copy(update=parts[request.param])).init_weights(torch.Generator().manual_seed(0))
    for table in model.ngrams.tables if request.param == "n-grams" else ():
        table.data.random_(9, generator=torch.Generator().manual_seed(2))
    return model.eval()


@pytest.mark.parametrize("chunks", [[24], [1] * 24, [5, 1, 1, 17], [1, 23], [8, 8, 8]])
def test_cached_chunks_give_the_logits_of_one_pass(model, chunks):
    ids = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache(2)
    with torch.no_grad():
        logits = torch.cat([model(part, cache) for part in ids.split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids), atol=1e-5, rtol=1e-5)


def test_a_full_cache_raises(model):
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.zeros(1, 24, dtype=torch.long), cache)
        with pytest.raises(ValueError, match="exceed the context of 24"):
            model(torch.zeros(1, 1, dtype=torch.long), cache)


def random_ids(n: int, seed: int) -> torch.Tensor:
    return torch.randint(50, (1, n), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("new", [1, 3])
@torch.no_grad()
def test_slots_of_different_lengths_give_the_logits_of_each_sequence_alone(any_model, new):
    cache, sequences = any_model.new_cache(4), [random_ids(n, n) for n in (9, 20, 7)]
    for slot, sequence in enumerate(sequences):
        cache.select(slot, 1)
        any_model(sequence[:, : -2 * new], cache)
    for rest in (2 * new, new):
        cache.select(0, 3)
        tokens = torch.cat([ids[:, ids.size(1) - rest :][:, :new] for ids in sequences])
        logits = any_model(tokens, cache)
    for ids, found in zip(sequences, logits, strict=True):
        torch.testing.assert_close(found, any_model(ids)[0, -new:], atol=1e-5, rtol=1e-5)


def to_another_slot_and_back(cache, saved) -> None:
    cache.move(0, 2)
    assert cache.lengths == [0, 0, 10]
    cache.move(2, 0)


def restored(cache, saved) -> None:
    cache.clear(0)
    cache.load(0, saved)


@pytest.mark.parametrize("change", [to_another_slot_and_back, restored])
@torch.no_grad()
def test_a_sequence_survives_a_move_and_being_saved(any_model, change: Callable):
    cache, ids = any_model.new_cache(3), random_ids(11, 0)
    cache.select(0, 1)
    any_model(ids[:, :10], cache)
    saved = cache.save(0)
    change(cache, saved)
    cache.select(0, 1)
    torch.testing.assert_close(any_model(ids[:, 10:], cache)[0, -1], any_model(ids)[0, -1], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_memory_held_before_has_no_effect(model, monkeypatch):
    """Rows of different lengths are computed up to the longest; 0 times NaN would be NaN."""
    empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *size, **o: empty(self, *size, **o).fill_(torch.nan))
    cache = model.new_cache(2)
    cache.select(0, 1)
    model(random_ids(20, 0), cache)
    cache.select(0, 2)
    assert model(torch.zeros(2, 1, dtype=torch.long), cache).isfinite().all()
