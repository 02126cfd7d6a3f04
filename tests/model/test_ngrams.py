"""Runs of tokens find their rows, wherever a context says that they stand."""

import pytest
import torch

from groundup.model.context import NOTHING, Branching, Causal, KVCache
from groundup.model.gpt import GPT
from groundup.model.ngrams import NGrams
from groundup.presets import MODERN_PARTS
from groundup.shape import ModelConfig

CONFIG = ModelConfig(
    n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=9, ngram=4, ngram_rows=150, ngram_width=3, **MODERN_PARTS
)


@pytest.fixture(scope="module")
def model() -> GPT:
    gpt = GPT(CONFIG).eval()
    for parameter in gpt.parameters():  # as drawn, tables and head are silent
        parameter.data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return gpt


def ids(rows: int = 2, n: int = 12) -> torch.Tensor:
    return torch.randint(9, (rows, n), generator=torch.Generator().manual_seed(4))


def test_earlier_tokens_are_those_before():
    one = torch.tensor([[5, 6, 7]])
    expected = [[[NOTHING, 5, 6]], [[NOTHING, NOTHING, 5]], [[NOTHING] * 3], [[NOTHING] * 3]]
    assert Causal().earlier(one, 4).tolist() == expected


@pytest.mark.parametrize("pieces", [[12], [1] * 12, [5, 1, 6], [2, 2, 8]])
def test_a_cache_remembers_what_it_was_given(model, pieces):
    cache = KVCache(CONFIG.n_layer, CONFIG.block_size)
    with torch.no_grad():
        logits = torch.cat([model(part, cache) for part in ids().split(pieces, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids()), atol=1e-5, rtol=1e-5)


def test_each_branch_follows_the_beginning(model):
    """Beginning 1 2 3; branches 4 5 and 6 7 8; one token of padding."""
    row = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 0]])
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1]])
    places = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5, 0]])
    context = Branching(places, branch)
    assert context.earlier(row, 2).tolist() == [
        [[NOTHING, 1, 2, 3, 4, 3, 6, 7, 3]],
        [[NOTHING, NOTHING, 1, 2, 3, 2, 3, 6, 2]],
    ]
    with torch.no_grad():
        both = model(row, context)[0]
        torch.testing.assert_close(both[3:5], model(torch.tensor([[1, 2, 3, 4, 5]]))[0, 3:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both[5:8], model(torch.tensor([[1, 2, 3, 6, 7, 8]]))[0, 3:], atol=1e-5, rtol=1e-5)


def test_runs_have_rows_of_their_own_where_the_table_holds_them():
    tables = NGrams(CONFIG)
    assert tables.sizes == [100, 150, 150]
    pairs = torch.cartesian_prod(torch.arange(-1, 9), torch.arange(-1, 9))
    assert sorted(tables.rows([pairs[:, 0], pairs[:, 1]]).tolist()) == list(range(100))


def test_shared_rows_are_shared_evenly_and_the_order_of_tokens_matters():
    tables = NGrams(CONFIG.model_copy(update={"ngram_rows": 700, "vocab_size": 29}))
    runs = torch.cartesian_prod(*[torch.arange(-1, 29)] * 3)  # 27,000 for 700 rows
    rows = tables.rows(list(runs.T))
    counts = torch.bincount(rows, minlength=700)
    assert rows.min() >= 0
    assert len(counts) == 700
    assert counts.min() > 0
    assert counts.max() < 3 * 27_000 / 700
    assert not torch.equal(rows, tables.rows(list(runs.flip(1).T)))


def test_the_longest_ids_do_not_overflow():
    tables = NGrams(CONFIG.model_copy(update={"ngram": 8, "vocab_size": 2**21, "ngram_rows": 1000}))
    rows = tables.rows([torch.tensor([2**21 - 1])] * 8)
    assert 0 <= rows.item() < 1000


def test_only_the_last_tokens_count(model):
    """A run of four reaches three back: with attention silenced, nothing older matters."""
    gpt = GPT(CONFIG).eval()
    gpt.load_state_dict(model.state_dict())
    for block in gpt.h:
        block.attn.c_proj.weight.data.zero_()
    changed = ids().clone()
    changed[:, 3] = (changed[:, 3] + 1) % 9
    with torch.no_grad():
        different = (gpt(ids()) - gpt(changed)).abs().amax((0, 2)) > 1e-6
    assert different.tolist() == [place in (3, 4, 5, 6) for place in range(12)]
