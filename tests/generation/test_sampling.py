"""Draws follow the filtered distribution."""

import math
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from groundup.errors import UsageError
from groundup.generation import sampler
from groundup.generation.filters import Counts, LogitBias, MinP, TopK, TopP, filters_of
from groundup.generation.sampler import RowSampler, Sampler, choose
from groundup.generation.sampling import Sampling

CPU = torch.device("cpu")
LOGITS = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))


def draw(logits: torch.Tensor, rows: list[RowSampler]) -> list[int]:
    """The next token of each row."""
    found = choose(logits, [position for row in rows for position in row.positions()])
    for row, token in zip(rows, found, strict=True):
        row.add(token)
    return found


def shares(sampler: Sampler, n: int = 4000) -> list[float]:
    drawn = torch.stack([sampler(LOGITS)[0] for _ in range(n)])
    return (torch.bincount(drawn, minlength=4) / n).tolist()


def test_draws_follow_the_probabilities():
    assert shares(Sampler()) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_temperature_sharpens():
    squares = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    assert shares(Sampler(t=0.5)) == pytest.approx((squares / squares.sum()).tolist(), abs=0.03)


def test_temperature_zero_is_greedy():
    assert Sampler(t=0)(LOGITS).tolist() == [0]


def test_top_k_keeps_k_and_renormalises():
    assert shares(Sampler(k=2)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert TopK(9)(LOGITS, []).isfinite().all()


@pytest.mark.parametrize(("p", "kept"), [(0.4, 1), (0.5, 1), (0.6, 2), (0.81, 3), (1.0, 4)])
def test_top_p_keeps_the_fewest_that_reach_p(p, kept):
    shuffled = LOGITS[:, [2, 0, 3, 1]]
    alive = TopP(p)(shuffled, []).isfinite()
    assert alive.sum() == kept
    assert alive[0, 1]  # the likeliest token is always kept


def test_a_rows_draws_do_not_depend_on_the_other_rows():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    together, alone = Sampler(seed=7), Sampler(seed=7)
    for _ in range(20):
        assert together(logits)[0] == alone(logits[:1])[0]


def test_rows_and_seeds_differ():
    logits = torch.zeros(2, 1000)
    a, b = Sampler(seed=1), Sampler(seed=2)
    first, second = a(logits).tolist(), b(logits).tolist()
    assert len({*first, *second}) == 4


def test_filtered_tokens_are_never_drawn():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, -torch.inf]])
    sampler = Sampler(seed=0)
    assert {sampler(logits).item() for _ in range(200)} == {1}


def filtered(logits: list[float], prompt: list[int], generated: list[int], **options: Any) -> list[float]:
    """Logits after the filters of a row."""
    counts, row = Counts(prompt, len(logits)), torch.tensor([logits])
    for token in generated:
        counts.add(token)
    for keep in filters_of(Sampling(**options)):
        row = keep(row, [counts])
    return row[0].tolist()


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest():
    assert MinP(0.3)(LOGITS, []).isfinite().tolist() == [[True, True, True, False]]
    assert MinP(1.0)(LOGITS, []).isfinite().sum() == 1
    assert MinP(0.0)(LOGITS, []).isfinite().all()


def test_repetition_penalty_makes_tokens_of_prompt_and_text_less_likely():
    found = filtered([2.0, -2.0, 2.0, -2.0], [0, 1], [1], repetition_penalty=2.0, temperature=0)
    assert found == [1.0, -4.0, 2.0, -2.0]


@pytest.mark.parametrize("penalty", [1e-300, 1e-40, 1e40, 1e300])
def test_no_repetition_penalty_excludes_every_token(penalty):
    found = filtered([2.0, -2.0, 0.0, 90.0], [0, 1, 2, 3], [], repetition_penalty=penalty, temperature=1e-4, min_p=0.5)
    assert any(map(math.isfinite, found))
    assert not any(map(math.isnan, found))


def test_presence_and_frequency_penalties_count_generated_tokens_alone():
    options = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "temperature": 0}
    assert filtered([1.0, 1.0, 1.0], [0], [1, 2, 2], **options) == [1.0, 0.25, 0.0]


def test_bias_is_added_and_its_ends_exclude():
    assert LogitBias(((1, 3.5), (2, -100.0)))(torch.zeros(2, 3), []).tolist() == [[0.0, 3.5, -math.inf]] * 2
    extreme = torch.tensor([[500.0, 0.0, -500.0]])
    assert LogitBias(((1, 100.0), (2, 100.0)))(extreme, []).tolist() == [[-math.inf, 0.0, -500.0]]
    assert LogitBias(((0, -100.0),))(extreme, []).argmax() == 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("bias", "allowed"), [({0: -100}, {1, 2, 3}), ({3: 100}, {3}), ({1: 100, 2: 100}, {1, 2})])
def test_a_biased_row_never_gives_what_is_excluded(bias, allowed, temperature):
    row = RowSampler(Sampling(temperature, logit_bias=bias), 0)
    assert {draw(LOGITS, [row])[0] for _ in range(100)} <= allowed


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1e-9},
        {"temperature": 1e-4},
        {"top_p": 1e-9},
        {"top_p": 1e-300},
        {"top_k": 1},
        {"min_p": 1},
        {"temperature": 1e-4, "top_p": 1e-45, "min_p": 1},
    ],
)
def test_the_limits_of_options_are_greedy(options):
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(3)) * 40
    row = RowSampler(Sampling(**options), 0)
    assert {draw(logits, [row])[0] for _ in range(20)} == {int(logits.argmax())}


def test_rows_with_different_options_are_chosen_as_if_alone():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(1))
    options = [
        Sampling(0), Sampling(seed=1), Sampling(top_k=3, seed=2), Sampling(0, logit_bias={4: 9}),
        Sampling(repetition_penalty=1.5, seed=4), Sampling(top_k=3, seed=6),
    ]  # fmt: skip
    together, alone = ([RowSampler(o, i, (1, 2), 50) for i, o in enumerate(options)] for _ in range(2))
    for _ in range(5):
        assert draw(logits, together) == [draw(logits[i : i + 1], [row])[0] for i, row in enumerate(alone)]


NUMBERS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -(10**400), -1e-9, -2.5])
@pytest.mark.parametrize("name", NUMBERS)
def test_values_that_are_no_options_are_refused_by_name(name, value):
    if name.endswith("e_penalty") or name == "frequency_penalty":
        value = value if value != -1e-9 else 2.5
    with pytest.raises(UsageError, match=rf"^{name} .*: must be "):
        Sampling(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k 0: must be 1 or more"),
        ({"top_p": 0}, "top_p 0: must be more than 0 and at most 1"),
        ({"top_p": 1.5}, "top_p 1.5: must be more than 0 and at most 1"),
        ({"min_p": 1.5}, "min_p 1.5: must be from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty 0: must be more than 0; 1 is off"),
        ({"presence_penalty": 2.1}, "presence_penalty 2.1: must be from -2 to 2; 0 is off"),
        ({"seed": -1}, "seed -1: must be 0 or more and below 2^63"),
        ({"seed": 2**63}, "seed 9223372036854775808: must be 0 or more"),
        ({"logit_bias": {5: 1e9}}, "logit_bias of id 5: 1000000000.0: must be from -100 to 100"),
        ({"logit_bias": {5: math.nan}}, "logit_bias of id 5: nan: must be from -100 to 100"),
    ],
)
def test_values_out_of_range_are_refused_with_the_remedy(options, message):
    with pytest.raises(UsageError) as error:
        Sampling(**options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("arguments", "name"), [((-1.0,), "temperature"), ((1.0, 0), "top_k"), ((1.0, None, 1.5), "top_p")]
)
def test_a_sampler_refuses_them_too(arguments, name):
    with pytest.raises(UsageError, match=name):
        Sampler(*arguments)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"seed": 4}, {"top_p": 0.9, "seed": 5}, {"frequency_penalty": 2, "seed": 6},
                {"repetition_penalty": 3, "temperature": 0}],
)  # fmt: skip
@pytest.mark.parametrize("right", [0, 1, 3])
def test_tokens_after_a_right_draft_are_those_that_are_chosen_one_by_one(options, right):
    """And the random number of a dropped position is that of the next one."""
    logits = torch.randn(12, 9, generator=torch.Generator().manual_seed(1)).mul(2)
    one, many = (RowSampler(Sampling(**options), 0, (1, 2), 9) for _ in range(2))
    chosen = [draw(logits[i : i + 1], [one])[0] for i in range(12)]
    for first in range(0, 12, right + 1):
        draft = [*chosen[first : first + right], *[(token + 1) % 9 for token in chosen[first + right : first + 3]]]
        found = choose(logits[first : first + len(draft) + 1], many.positions(draft)[: 12 - first])
        assert found[: right + 1] == chosen[first : first + right + 1]
        for token in found[: right + 1]:
            many.add(token)


DEVICE_OPTIONS = [{}, {"temperature": 0.0}, {"top_p": 0.5}, {"temperature": 0.5, "top_k": 3, "min_p": 0.1}]


@pytest.mark.parametrize("options", DEVICE_OPTIONS)
def test_tokens_are_chosen_where_the_logits_are(options):
    """On the device `meta`, tensors have no contents that could be waited for or copied."""
    (position,) = RowSampler(Sampling(**options), 0).positions()
    found = sampler._choose_alike(torch.empty(3, 50, device="meta"), [position] * 3)
    assert (found.device.type, found.shape) == ("meta", (3,))


def test_what_a_gpu_lacks_is_computed_on_the_cpu(monkeypatch):
    gpu, apple = torch.device("cuda", 0), torch.device("mps")
    plain, penalty = (filters_of(Sampling(top_k=3, repetition_penalty=r)) for r in (1.0, 1.1))
    assert [sampler._device(*each) for each in [(gpu, plain), (gpu, penalty), (apple, plain)]] == [gpu, CPU, CPU]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert sampler._device(gpu, plain) == CPU


class Called(TorchFunctionMode):
    """Names of the functions that are called on tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


def test_all_work_of_a_step_comes_before_the_first_ids_are_waited_for():
    rows = [RowSampler(Sampling(**options), i) for i, options in enumerate(DEVICE_OPTIONS)]
    positions = [position for row in rows for position in row.positions()]
    with Called() as called:
        choose(torch.randn(4, 50, generator=torch.Generator().manual_seed(0)), positions)
    work = [i for i, name in enumerate(called.names) if name in ("argmax", "searchsorted")]
    assert len(work) == called.names.count("tolist") == 4
    assert max(work) < called.names.index("tolist")
