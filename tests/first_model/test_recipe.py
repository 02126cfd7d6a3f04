"""A quickstart's choices are possible, sensible and explained for any text, device and time."""

from hypothesis import given
from hypothesis import strategies as st

from groundup.first_model.recipe import (
    MAX_EPOCHS,
    SHAPES,
    Device,
    build_recipe,
    choose_context,
    choose_run_length,
    choose_shape,
    minutes,
)
from groundup.planning.choice import MIN_STEPS

LAPTOP = Device("cpu", 9e11)
GPU = Device("cuda", 6e14)
SLOW = Device("cpu", 2e10)

DEVICES = st.sampled_from([LAPTOP, GPU, SLOW])
MINUTES = st.floats(0.01, 600)
BYTES = st.integers(300, 10**10)


@given(BYTES, st.floats(1, 6000), MINUTES, DEVICES, st.sampled_from([66, 257, 2048, 50_257]))
def test_every_recipe_is_a_config_that_fits_its_text(n_bytes, ratio, minutes, device, vocab):
    tokens = max(100, int(n_bytes / ratio))
    config, choices = build_recipe(device, minutes * 60, "data", tokens, n_bytes, vocab)
    assert config.train.max_time == minutes * 60
    assert tokens >= 4 * config.model.block_size or config.model.block_size == 8
    assert config.train.batch_tokens == config.batch_size * config.model.block_size
    assert all(choice.reason and choice.value for choice in choices)
    assert [choice.what for choice in choices] == ["context", "model", "batch"]


@given(st.integers(1_000, 10**9), MINUTES, DEVICES)
def test_more_time_and_more_text_never_mean_a_smaller_model(tokens, minutes, device):
    def place(seconds: float, n: int) -> int:
        return SHAPES.index(choose_shape(device, seconds, n)[0])

    assert place(minutes * 60, tokens) <= place(2 * minutes * 60, tokens)
    assert place(minutes * 60, tokens) <= place(minutes * 60, 2 * tokens)


def test_a_small_text_keeps_the_model_small_with_a_reason():
    shape, why = choose_shape(GPU, 3600, 20_000)
    assert shape == SHAPES[0]
    assert "memorize" in why


def test_a_short_text_gets_a_context_that_it_contains_several_times():
    assert choose_context(1_000_000, 1_000_000, 180)[0] > choose_context(300, 300, 180)[0]
    block_size, choice = choose_context(300, 300, 180)
    assert block_size * 4 <= 300
    assert "few sequences" in choice.reason


def test_epochs_are_limited_even_if_time_allows_more():
    config, _ = build_recipe(LAPTOP, 180, "data", 1_000_000, 1_000_000, 257)
    same, choice = choose_run_length(config, 2.0, 1_000_000)
    assert same.train == config.train
    assert choice.what == "training"
    shorter, choice = choose_run_length(config, 500.0, 1_000_000)
    assert (shorter.train.epochs, shorter.train.max_time, shorter.train.time_limit) == (MAX_EPOCHS, None, 180)
    assert "memorize" in choice.reason
    assert choose_run_length(config, None, 1_000_000)[0].train == config.train


def test_minutes_are_shown_in_the_singular_and_plural():
    assert [minutes(seconds) for seconds in (60, 61.2, 150, 600)] == [
        "1 minute",
        "1.02 minutes",
        "2.5 minutes",
        "10 minutes",
    ]


@given(st.integers(100, 10**8), st.floats(0.001, 1e5))
def test_there_are_enough_steps_and_several_evaluations(tokens, epochs):
    config, _ = build_recipe(LAPTOP, 180, "data", tokens, tokens, 257)
    assert config.train.batch_tokens <= max(config.model.block_size, tokens / 16)
    resolved, _ = choose_run_length(config, epochs, tokens)
    steps = (resolved.train.epochs or epochs) * tokens / config.train.batch_tokens
    assert steps >= min(MIN_STEPS, epochs * tokens / config.train.batch_tokens) - 1
    assert resolved.evaluate.every_steps <= max(1, steps / 5)


def test_with_little_compute_sequences_and_steps_are_short():
    slow, fast = (Device("cpu", flops) for flops in (1e11, 1e12))
    config, _ = build_recipe(slow, 12, "d", 1_000_000, 1_000_000, 66)
    longer, _ = build_recipe(fast, 12, "d", 1_000_000, 1_000_000, 66)
    assert (config.model.block_size, config.train.batch_tokens) == (64, 1024)
    assert (longer.model.block_size, longer.train.batch_tokens) == (128, 2048)
