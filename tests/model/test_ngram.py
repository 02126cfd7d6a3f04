"""N-grams are mapped to table rows, and the tables hold the tokens that followed them in the text."""

import itertools

import numpy as np
import pytest
import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import NANOCHAT_PARTS
from groundup.config.sections import OptimizerConfig
from groundup.model import build_model, ngram
from groundup.model.context import SharedPrefix, SlotCache
from groundup.model.gpt import GPT, IGNORED, NextTokenLoss
from groundup.model.ngram import NO_TOKEN, NGramGPT, NGrams, leave_one_out, previous_ids
from groundup.optim.optimizer import build_optimizer

CONFIG = ModelConfig(
    n_layer=2,
    n_head=2,
    n_embd=16,
    block_size=12,
    vocab_size=9,
    ngram=4,
    ngram_rows=150,
    ngram_width=9,
    **NANOCHAT_PARTS,
)


@pytest.fixture(scope="module")
def model() -> NGramGPT:
    gpt = NGramGPT(CONFIG).eval()
    for parameter in gpt.parameters():  # as initialised, tables and head are zero
        parameter.data.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(parameter.numel()))
    return gpt


def ids(rows: int = 2, n: int = 12) -> torch.Tensor:
    return torch.randint(9, (rows, n), generator=torch.Generator().manual_seed(4))


def test_previous_ids_of_consecutive_tokens():
    one = torch.tensor([[5, 6, 7]])
    expected = [[[NO_TOKEN, 5, 6]], [[NO_TOKEN, NO_TOKEN, 5]], [[NO_TOKEN] * 3], [[NO_TOKEN] * 3]]
    assert previous_ids(one, torch.arange(3), 4).tolist() == expected
    assert previous_ids(one, torch.arange(1, 3), 4).tolist() == [[row[1:] for row in rows] for rows in expected]
    assert previous_ids(one, torch.arange(3)[None], 4).tolist() == expected


def test_previous_ids_of_packed_documents_end_at_their_beginning():
    row, positions = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[0, 1, 0, 1]])
    assert previous_ids(row, positions, 2).tolist() == [[[NO_TOKEN, 5, NO_TOKEN, 7]], [[NO_TOKEN] * 4]]


@pytest.mark.parametrize("chunks", [[12], [1] * 12, [5, 1, 6], [2, 2, 8]])
def test_cached_chunks_give_the_logits_of_one_pass(model, chunks):
    cache = model.new_cache(2)
    with torch.no_grad():
        logits = torch.cat([model(part, cache) for part in ids().split(chunks, dim=1)], dim=1)
        torch.testing.assert_close(logits, model(ids()), atol=1e-5, rtol=1e-5)


def test_a_cache_without_ids_is_refused(model):
    with pytest.raises(TypeError, match="new_cache"):
        model(ids(), SlotCache(CONFIG.n_layer, CONFIG.block_size, 2))


def test_each_branch_follows_the_prefix(model):
    """Prefix 1 2 3; branches 4 5 and 6 7 8; one token of padding."""
    row = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 0]])
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1]])
    positions = torch.tensor([[0, 1, 2, 3, 4, 3, 4, 5, 0]])
    context = SharedPrefix(positions, branch)
    assert previous_ids(row, positions, 2).tolist() == [
        [[NO_TOKEN, 1, 2, 3, 4, 3, 6, 7, NO_TOKEN]],
        [[NO_TOKEN, NO_TOKEN, 1, 2, 3, 2, 3, 6, NO_TOKEN]],
    ]
    with torch.no_grad():
        both = model(row, context)[0]
        torch.testing.assert_close(both[3:5], model(torch.tensor([[1, 2, 3, 4, 5]]))[0, 3:], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(both[5:8], model(torch.tensor([[1, 2, 3, 6, 7, 8]]))[0, 3:], atol=1e-5, rtol=1e-5)


def test_ngrams_have_rows_of_their_own_where_the_table_holds_them_all():
    tables = NGrams(CONFIG)
    assert tables.sizes == [100, 150, 150]
    pairs = torch.cartesian_prod(torch.arange(-1, 9), torch.arange(-1, 9))
    assert sorted(tables.rows([pairs[:, 0], pairs[:, 1]]).tolist()) == list(range(100))


def test_hashed_rows_are_shared_evenly_and_depend_on_the_order_of_tokens():
    tables = NGrams(CONFIG.model_copy(update={"ngram_rows": 700, "vocab_size": 29}))
    runs = torch.cartesian_prod(*[torch.arange(-1, 29)] * 3)  # 27,000 for 700 rows
    rows = tables.rows(list(runs.T))
    counts = torch.bincount(rows, minlength=700)
    assert rows.min() >= 0
    assert len(counts) == 700
    assert counts.min() > 0
    assert counts.max() < 3 * 27_000 / 700
    assert not torch.equal(rows, tables.rows(list(runs.flip(1).T)))


def test_the_largest_ids_do_not_overflow():
    tables = NGrams(CONFIG.model_copy(update={"ngram": 8, "vocab_size": 2**21, "ngram_rows": 1000}))
    rows = tables.rows([torch.tensor([2**21 - 1])] * 8)
    assert 0 <= rows.item() < 1000


def test_only_the_last_tokens_count(model):
    """A 4-gram reaches three back: without attention, nothing older matters."""
    gpt = NGramGPT(CONFIG).eval()
    gpt.load_state_dict(model.state_dict())
    for block in gpt.h:
        block.attn.c_proj.weight.data.zero_()
    changed = ids().clone()
    changed[:, 3] = (changed[:, 3] + 1) % 9
    with torch.no_grad():
        different = (gpt(ids()) - gpt(changed)).abs().amax((0, 2)) > 1e-6
    assert different.tolist() == [position in (3, 4, 5, 6) for position in range(12)]


class Text(list):
    def read(self, start: int, n: int) -> np.ndarray:
        return np.array(self[start : start + n])


TEXT = Text(np.random.default_rng(3).integers(0, 9, 400).tolist())


def has_distinct_pairs(window: list[int]) -> bool:
    pairs = list(itertools.pairwise(window))
    return len(set(pairs)) == len(pairs)


def empty_model(width: int = 9, rows: int = 10_000) -> NGramGPT:
    config = CONFIG.model_copy(update={"ngram_width": width, "ngram_rows": rows})
    return NGramGPT(config).init_weights(torch.Generator().manual_seed(0)).eval()


def empty(width: int = 9) -> NGrams:
    return empty_model(width).ngrams


def table_row(tables: NGrams, tokens: list[int]) -> torch.Tensor:
    """Table row of an n-gram, its first token first."""
    return tables.tables[len(tokens) - 2][tables.rows([torch.tensor(token) for token in reversed(tokens)])]


def look_up(tables: NGrams, ids: torch.Tensor, targets: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and log frequencies of a causal sequence."""
    return tables.look_up([ids, *previous_ids(ids, torch.arange(ids.size(1)), len(tables.sizes))], targets)


@pytest.mark.parametrize("chunk", [ngram.CHUNK_TOKENS, 1, 7, 399, 400])
def test_the_tables_hold_what_followed_each_ngram(chunk, monkeypatch):
    monkeypatch.setattr(ngram, "CHUNK_TOKENS", chunk)
    tables = empty()
    tables.count(TEXT)
    tables.count(TEXT)  # replaces the previous counts
    for n in (2, 3, 4):
        for start in range(0, 399 - n, 5):
            tokens = TEXT[start : start + n]
            next_ones = [TEXT[i + n] for i in range(len(TEXT) - n) if TEXT[i : i + n] == tokens]
            assert table_row(tables, tokens).tolist() == [*np.bincount(next_ones, minlength=9), len(next_ones)]
        assert tables.tables[n - 2][:, -1].sum() == len(TEXT) - n


def test_leave_one_out_gives_the_features_of_the_rest_of_the_text():
    model = empty_model()
    tables, place = model.ngrams, next(i for i in range(20, 400) if has_distinct_pairs(TEXT[i - 12 : i + 1]))
    window = torch.tensor([TEXT[place - 12 : place]])
    targets = torch.tensor([TEXT[place - 11 : place + 1]])
    tables.count(TEXT)
    with leave_one_out(model):
        without = look_up(tables, window, targets)[0][0, -1]
    rest = Text(TEXT)
    for n, table in enumerate(tables.tables, start=2):  # subtracted by hand
        tokens = TEXT[place - n : place]
        table[tables.rows([torch.tensor(token) for token in reversed(tokens)])] -= (
            torch.eye(10)[TEXT[place]] + torch.eye(10)[9]
        )
    assert rest == TEXT
    torch.testing.assert_close(without, look_up(tables, window, None)[0][0, -1])


@pytest.mark.parametrize("width", [9, 4])
def test_ngrams_that_occur_once_are_unseen_while_training(width):
    """All n-grams of a text in which none occurs twice."""
    text = Text(range(9))
    tables = empty(width)
    tables.count(text)
    window, targets = torch.arange(8)[None], torch.arange(1, 9)[None]
    unseen = look_up(empty(width), window, None)[0]
    tables.train()
    torch.testing.assert_close(look_up(tables, window, targets)[0], unseen)
    tables.eval()
    assert not torch.allclose(look_up(tables, window, targets)[0], unseen)


def test_no_occurrence_reveals_what_follows_a_later_one():
    """The pair 2 3 occurs twice: all occurrences in the sequence are left out, for attention would combine them."""
    tables, text = empty(), Text([1, 2, 3, 4, 5, 6, 2, 3, 7, 8, 1])
    tables.count(text)
    window, targets = torch.tensor([text[:10]]), torch.tensor([text[1:]])
    tables.train()
    for found, unseen in zip(look_up(tables, window, targets), look_up(empty(), window, None), strict=True):
        torch.testing.assert_close(found, unseen)


def test_targets_that_are_not_scored_are_not_subtracted():
    tables = empty()
    tables.count(TEXT)
    window = torch.tensor([TEXT[:12]])
    tables.train()
    nothing = torch.full_like(window, IGNORED)
    torch.testing.assert_close(look_up(tables, window, nothing)[0], look_up(tables, window, None)[0])


def test_tables_are_not_learned():
    gpt = NGramGPT(CONFIG).init_weights(torch.Generator().manual_seed(0))
    gpt.ngrams.count(TEXT)
    before = {name: p.clone() for name, p in gpt.named_parameters()}
    optimizer = build_optimizer(gpt.named_parameters(), OptimizerConfig(name="muon"))
    for _ in range(2):  # the head starts at zero, so only the head changes in the first step
        NextTokenLoss(gpt)(torch.tensor([TEXT[:12]]), torch.tensor([TEXT[1:13]])).backward()
        optimizer.step()
    same = {name for name, p in gpt.named_parameters() if torch.equal(p, before[name])}
    assert {"ngrams.code", *(f"ngrams.tables.{n}" for n in range(3))} <= same
    assert "ngrams.up.weight" not in same


def test_large_vocabularies_get_no_frequencies_on_their_logits():
    config = CONFIG.model_copy(update={"vocab_size": 1025, "ngram_width": 2000, "ngram_rows": 10})
    assert not NGrams(config).adds_logits
    assert empty().adds_logits


def test_parameters_are_in_the_order_of_saved_models():
    names = [name.split(".")[0] for name, _ in build_model(CONFIG).named_parameters()]
    assert list(dict.fromkeys(names)) == ["wte", "ngrams", "h", "lm_head"]


def test_a_plain_gpt_refuses_a_config_with_ngrams():
    with pytest.raises(ValueError, match=r"describes an NGramGPT; use groundup\.build_model"):
        GPT(CONFIG)


def test_leave_one_out_is_a_no_op_for_other_models():
    gpt = build_model(CONFIG.model_copy(update={"ngram": 1}))
    with leave_one_out(gpt):
        assert type(gpt(ids())) is torch.Tensor
