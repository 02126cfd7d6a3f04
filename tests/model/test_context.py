"""The KV cache gives the logits of a single pass."""

import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.model.gpt import GPT

CONFIG = ModelConfig(n_layer=3, n_head=2, n_embd=32, block_size=24, vocab_size=50)


@pytest.fixture(scope="module")
def model() -> GPT:
    return GPT(CONFIG).init_weights(torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize("chunks", [[24], [1] * 24, [5, 1, 1, 17], [1, 23], [8, 8, 8]])
def test_cached_chunks_give_the_logits_of_one_pass(model, chunks):
    ids = torch.randint(50, (2, 24), generator=torch.Generator().manual_seed(1))
    cache = model.new_cache()
    with torch.no_grad():
        logits = torch.cat([model(part, cache) for part in ids.split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids), atol=1e-5, rtol=1e-5)


def test_a_full_cache_raises(model):
    cache = model.new_cache()
    with torch.no_grad():
        model(torch.zeros(1, 24, dtype=torch.long), cache)
        with pytest.raises(ValueError, match="exceed the context of 24"):
            model(torch.zeros(1, 1, dtype=torch.long), cache)
