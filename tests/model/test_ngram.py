"""Runs of tokens find their rows, wherever a context says that they stand."""

import itertools

import numpy as np
import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import MODERN_PARTS
from groundup.config.sections import OptimizerConfig
from groundup.model import ngram
from groundup.model.context import NO_TOKEN, Causal, KVCache, SharedPrefix
from groundup.model.gpt import GPT, IGNORED, NextTokenLoss
from groundup.model.ngram import NGrams
from groundup.optim.optimizer import build_optimizer

CONFIG = ModelConfig(
    n_layer=2, n_head=2, n_embd=16, block_size=12, vocab_size=9, ngram=4, ngram_rows=150, ngram_width=9, **MODERN_PARTS
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
    expected = [[[NO_TOKEN, 5, 6]], [[NO_TOKEN, NO_TOKEN, 5]], [[NO_TOKEN] * 3], [[NO_TOKEN] * 3]]
    assert Causal().previous_ids(one, 4).tolist() == expected


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
    context = SharedPrefix(places, branch)
    assert context.previous_ids(row, 2).tolist() == [
        [[NO_TOKEN, 1, 2, 3, 4, 3, 6, 7, 3]],
        [[NO_TOKEN, NO_TOKEN, 1, 2, 3, 2, 3, 6, 2]],
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


class Text(list):
    def read(self, start: int, n: int) -> np.ndarray:
        return np.array(self[start : start + n])


TEXT = Text(np.random.default_rng(3).integers(0, 9, 400).tolist())


def unlike(window: list[int]) -> bool:
    """No pair in it comes twice."""
    pairs = list(itertools.pairwise(window))
    return len(set(pairs)) == len(pairs)


def counted(width: int = 9, text: Text = TEXT, rows: int = 10_000) -> NGrams:
    config = CONFIG.model_copy(update={"ngram_width": width, "ngram_rows": rows})
    return GPT(config).init_weights(torch.Generator().manual_seed(0)).ngrams.eval()


def told(tables: NGrams, run: list[int]) -> torch.Tensor:
    """The table's row for a run of tokens, the first first."""
    return tables.tables[len(run) - 2][tables.rows([torch.tensor(token) for token in reversed(run)])]


@pytest.mark.parametrize("piece", [ngram.PIECE, 1, 7, 399, 400])
def test_the_tables_hold_what_followed_each_run(piece, monkeypatch):
    monkeypatch.setattr(ngram, "PIECE", piece)
    tables = counted()
    tables.count(TEXT)
    tables.count(TEXT)  # anew, not again
    for n in (2, 3, 4):
        for start in range(0, 399 - n, 5):
            run = TEXT[start : start + n]
            next_ones = [TEXT[i + n] for i in range(len(TEXT) - n) if TEXT[i : i + n] == run]
            assert told(tables, run).tolist() == [*np.bincount(next_ones, minlength=9), len(next_ones)]
        assert tables.tables[n - 2][:, -1].sum() == len(TEXT) - n


def test_a_token_is_left_out_of_what_it_is_told():
    """Of a text of its own, a model is told what the rest of the text says."""
    tables, place = counted(), next(i for i in range(20, 400) if unlike(TEXT[i - 12 : i + 1]))
    window = torch.tensor([TEXT[place - 12 : place]])
    targets = torch.tensor([TEXT[place - 11 : place + 1]])
    tables.up.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    tables.count(TEXT)
    with tables.on_counted_text():
        without = tables.add(torch.zeros(1, 12, 16), window, Causal(), targets)[0][0, -1]
    rest = Text(TEXT)
    for n, table in enumerate(tables.tables, start=2):  # taken off by hand
        run = TEXT[place - n : place]
        table[tables.rows([torch.tensor(token) for token in reversed(run)])] -= (
            torch.eye(10)[TEXT[place]] + torch.eye(10)[9]
        )
    assert rest == TEXT
    by_hand = tables.add(torch.zeros(1, 12, 16), window, Causal(), None)[0][0, -1]
    torch.testing.assert_close(without, by_hand)


@pytest.mark.parametrize("width", [9, 4])
def test_what_was_seen_once_says_nothing_about_itself(width):
    """All runs of a text in which none comes twice: left out, every table is silent."""
    text = Text(range(9))
    tables = counted(width, text)
    tables.count(text)
    window, targets = torch.arange(8)[None], torch.arange(1, 9)[None]
    unseen = counted(width).add(torch.zeros(1, 8, 16), window, Causal(), None)[0]
    tables.train()
    torch.testing.assert_close(tables.add(torch.zeros(1, 8, 16), window, Causal(), targets)[0], unseen)
    tables.eval()
    assert not torch.allclose(tables.add(torch.zeros(1, 8, 16), window, Causal(), targets)[0], unseen)


def test_no_place_is_told_what_follows_a_later_one():
    """The pair 2 3 comes twice: neither place may hear of the other, for attention would carry it on."""
    tables, text = counted(text=TEXT), Text([1, 2, 3, 4, 5, 6, 2, 3, 7, 8, 1])
    tables.up.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    tables.count(text)
    window, targets = torch.tensor([text[:10]]), torch.tensor([text[1:]])
    tables.train()
    x, shares = tables.add(torch.zeros(1, 10, 16), window, Causal(), targets)
    empty = GPT(CONFIG).init_weights(torch.Generator().manual_seed(0)).ngrams
    empty.up.weight.data.copy_(tables.up.weight)
    silent, nothing = empty.add(torch.zeros(1, 10, 16), window, Causal(), None)
    torch.testing.assert_close(x, silent)
    torch.testing.assert_close(shares, nothing)


def test_targets_that_are_not_scored_are_not_taken_off():
    tables = counted()
    tables.count(TEXT)
    window = torch.tensor([TEXT[:12]])
    tables.train()
    nothing = torch.full_like(window, IGNORED)
    x = torch.zeros(1, 12, 16)
    torch.testing.assert_close(tables.add(x, window, Causal(), nothing)[0], tables.add(x, window, Causal(), None)[0])


def test_tables_stay_while_the_rest_learns():
    gpt = GPT(CONFIG).init_weights(torch.Generator().manual_seed(0))
    gpt.ngrams.count(TEXT)
    before = {name: p.clone() for name, p in gpt.named_parameters()}
    optimizer = build_optimizer(gpt.named_parameters(), OptimizerConfig(name="muon"))
    for _ in range(2):  # the head begins at zero, so that in the first step it alone learns
        NextTokenLoss(gpt)(torch.tensor([TEXT[:12]]), torch.tensor([TEXT[1:13]])).backward()
        optimizer.step()
    same = {name for name, p in gpt.named_parameters() if torch.equal(p, before[name])}
    assert {"ngrams.code", *(f"ngrams.tables.{n}" for n in range(3))} <= same
    assert "ngrams.up.weight" not in same


def test_too_many_tokens_are_not_said_of_one_by_one():
    config = CONFIG.model_copy(update={"vocab_size": 1025, "ngram_width": 2000, "ngram_rows": 10})
    assert not NGrams(config).speaks
    assert counted().speaks
