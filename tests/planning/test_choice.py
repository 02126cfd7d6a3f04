"""The preset that suits a text: by its size, the machine, and the time that people have."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.cli.plan import option_words
from groundup.config.presets import PRESETS
from groundup.errors import ConfigError
from groundup.planning.choice import (
    MAX_SECONDS,
    ONE_H100,
    PROPOSED,
    TWO_CORES,
    choose,
    fit_presets,
    propose,
    propose_for_text,
)
from groundup.planning.warnings import MAX_EPOCHS, warnings

DOCS = Path(__file__).parents[2] / "docs"
SLOW = TWO_CORES._replace(flops=TWO_CORES.flops / 20)
COMPUTERS = st.sampled_from([TWO_CORES, ONE_H100, SLOW])
SIZES = st.sampled_from([10**n * k for n in range(3, 13) for k in (1, 3)])  # bytes


@pytest.mark.parametrize(
    ("n_bytes", "computer", "tokenizer", "preset"),
    [
        (100_000, TWO_CORES, "byte", "gpt2-nano"),
        (1_115_394, TWO_CORES, "bpe:1024", "modern-micro"),  # a novel
        (1_115_394, ONE_H100, "bpe:1024", "modern-micro"),  # more would only memorize it
        (50_000_000, TWO_CORES, "bpe:4096", "modern-micro"),
        (50_000_000, ONE_H100, "bpe:4096", "modern-mini"),
        (40 * 10**9, ONE_H100, "gpt2", "gpt2"),
    ],
)
def test_tokenizer_and_preset_follow_the_text_and_the_computer(n_bytes, computer, tokenizer, preset):
    found, fit = propose_for_text(n_bytes, computer)
    assert (found, fit.preset) == (tokenizer, preset)
    assert fit.is_suitable


@settings(max_examples=25)
@given(SIZES, COMPUTERS, st.sampled_from([66, 257, 1024, 4096, 50_257]))
def test_what_is_proposed_is_never_warned_of_where_anything_suits(tokens, computer, vocab_size):
    fit = propose(tokens, tokens // 10, vocab_size, computer)
    everything = fit_presets(tokens, tokens // 10, vocab_size, computer.machine, computer.flops, names=PROPOSED)
    assert fit.preset in PROPOSED
    if any(each.is_suitable for each in everything):
        assert list(warnings(fit.plan)) == []
        assert fit.plan.seconds <= MAX_SECONDS[computer.machine.device]
    else:
        assert fit.preset == PROPOSED[0]


@settings(max_examples=25)
@given(SIZES, COMPUTERS, st.sampled_from([257, 1024, 4096]))
def test_a_larger_text_and_a_faster_machine_never_mean_a_smaller_model(tokens, computer, vocab_size):
    def place(n: int, flops: float) -> int:
        fit = propose(n, n // 10, vocab_size, computer._replace(flops=flops))
        return PROPOSED.index(fit.preset)

    here = place(tokens, computer.flops)
    assert here <= place(2 * tokens, computer.flops)
    assert here <= place(tokens, 2 * computer.flops)


def test_no_text_is_read_too_often():
    fits = {fit.preset: fit for fit in fit_presets(400_000, 40_000, 1024, TWO_CORES.machine, TWO_CORES.flops)}
    assert fits.keys() == PRESETS.keys()
    for fit in fits.values():
        # The steps of large presets are longer than the text.
        assert (
            fit.plan.epochs == pytest.approx(MAX_EPOCHS, rel=0.1)
            or fit.plan.epochs < MAX_EPOCHS
            or fit.plan.steps < 400
        )
    assert fits["modern-micro"].options == ["--train.epochs", "8"]
    large = fit_presets(10**9, 10**8, 1024, TWO_CORES.machine, TWO_CORES.flops, names=["modern-micro"])[0]
    assert large.options == []
    assert large.plan.steps == PRESETS["modern-micro"]["train"]["max_steps"]


def test_options_apply_to_every_preset_and_set_the_length():
    options = {"train": {"max_time": "10m"}}
    fits = fit_presets(10**6, 10**5, 1024, TWO_CORES.machine, TWO_CORES.flops, options=options)
    assert {fit.plan.seconds for fit in fits} == {600}
    assert all(fit.options == [] for fit in fits)
    assert choose(fits).preset == "modern-micro"
    with pytest.raises(ConfigError, match=r"command line: train\.max_stepz: unknown key"):
        fit_presets(400_000, 0, 1024, TWO_CORES.machine, None, options={"train": {"max_stepz": 1}})


def test_presets_whose_context_is_longer_than_the_text_are_left_out():
    assert [fit.preset for fit in fit_presets(100, 10, 257, TWO_CORES.machine, None)] == ["gpt2-nano"]
    assert propose(64, 0, 257, TWO_CORES) is None


def test_without_a_speed_time_is_unknown_and_the_smallest_is_taken():
    fits = fit_presets(10**6, 10**5, 1024, TWO_CORES.machine, None)
    assert {fit.time for fit in fits if fit.plan.fits} == {"unknown"}
    assert choose(fits).preset == PROPOSED[0]


def test_a_model_that_does_not_fit_is_not_proposed():
    small = replace(ONE_H100.machine, memory=2 * 10**9)
    fits = {fit.preset: fit for fit in fit_presets(10**10, 10**7, 50_257, small, ONE_H100.flops)}
    assert fits["gpt2"].time == "too large"
    assert not fits["gpt2"].is_suitable


def test_names_of_other_trainers_set_the_length_and_stay_in_the_command():
    machine, fits = TWO_CORES.machine, []
    for options in ({"max_iters": "40"}, {"train": {"max_steps": 40}}):
        fits += fit_presets(100_000, 10_000, 257, machine, None, options=options, names=["gpt2-nano"])
    assert fits[0].plan.config == fits[1].plan.config
    assert fits[0].epochs is None
    assert option_words({"data": "x", "lr": "1e-3", "model": {"n_layer": "2"}}) == [
        "--lr",
        "1e-3",
        "--model.n_layer",
        "2",
    ]


TEXTS = {
    10**5: "100 kB, some chapters",
    10**6: "1 MB, a novel",
    5 * 10**7: "50 MB, a shelf",
    10**10: "10 GB, web pages",
}


def table() -> list[str]:
    """The table of docs/training.md."""
    lines = ["| text | on 2 cores: tokenizer, preset, time | on an H100 |", "|---|---|---|"]
    for n_bytes, name in TEXTS.items():
        cells = []
        for computer in (TWO_CORES, ONE_H100):
            tokenizer, fit = propose_for_text(n_bytes, computer)
            assert fit.is_suitable
            time = fit.time if fit.plan.seconds > 60 else "less than a minute"
            cells.append(f"`{tokenizer}`, `{' '.join([fit.preset, *fit.options])}`, {time}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def test_the_table_in_the_documents_is_what_the_program_proposes():
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    assert "\n".join(table()) in text


def test_the_table_of_the_readme_agrees():
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) (kB|MB|GB), .*? \| `(.*?)` \| `(.*?)`, (\d+) minutes \| (.*?) \|$", text, re.M)
    assert len(rows) == 4
    for number, unit, tokenizer, preset, minutes, gpu in rows:
        n_bytes = int(number) * {"kB": 10**3, "MB": 10**6, "GB": 10**9}[unit]
        found, fit = propose_for_text(n_bytes, TWO_CORES)
        assert (tokenizer, preset) == (found, fit.preset)
        assert fit.plan.seconds / 60 == pytest.approx(int(minutes), abs=0.7)
        larger = propose_for_text(n_bytes, ONE_H100)[1].preset
        assert f"`{larger}`" in gpu or (larger == preset and gpu.startswith("the same"))


@pytest.mark.parametrize(("tokens", "remedy"), [(17_000, "give more text"), (400_000, "or --train.epochs 8")])
def test_few_epochs_are_no_remedy_for_a_text_too_small_to_learn_from(tokens, remedy):
    options = {"train": {"max_steps": 4000}}
    (fit,) = fit_presets(tokens, 2000, 512, TWO_CORES.machine, TWO_CORES.flops, options=options, names=["gpt2-nano"])
    (line,) = [line for line in warnings(fit.plan) if "helps little" in line]
    assert line.endswith(remedy)
