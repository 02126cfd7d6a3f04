"""The learning-rate search finds a good rate, reproducibly."""

import json
import math
import sys
from itertools import pairwise

import pytest
import torch

from groundup.cli import main
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import preset
from groundup.config.sections import OptimizerConfig
from groundup.errors import ConfigError, TrainingError, UsageError
from groundup.optim.optimizer import scale_lrs
from groundup.run.dataset import PreparedData
from groundup.run.lr_search import (
    CANDIDATE_RATIO,
    CANDIDATES,
    MAX_LOWER_CANDIDATES,
    RANGE_START_RATIO,
    DivergenceDetector,
    ShortRuns,
    candidates,
    lower_candidates,
    successive_halving,
    tune_learning_rate,
)
from groundup.run.resolve import detect_machine, resolve_config
from groundup.ui.display import PlainDisplay

TINY = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.1},
    "train": {"max_steps": 100, "batch_tokens": 256, "threads": 1, "precision": "fp32", "device": "cpu"},
    "schedule": {"warmup_steps": 10},
    "evaluate": {"tokens": 2_000},
}


def tune(prepared, *, steps=16, **changes):
    values = {name: {**TINY.get(name, {}), **changes.get(name, {})} for name in {*TINY, *changes}}
    config = merge_and_validate([preset("gpt2-nano"), ConfigSource("test", {**values, "data": str(prepared)})])
    return tune_learning_rate(config, PlainDisplay(lambda line: None), steps=steps)


@pytest.fixture(scope="module")
def tuned(prepared):
    return tune(prepared)


def test_the_curve_falls_and_rises_and_candidates_are_below_the_rate_that_diverged(tuned):
    rates = [rate for rate, _ in tuned.curve]
    losses = [loss for _, loss in tuned.curve]
    assert rates == sorted(rates)
    assert min(losses) < losses[0] - 0.2
    assert losses[-1] > min(losses)
    assert all(trial.learning_rate < tuned.diverged_at for trial in tuned.rounds[0].trials)


def test_half_of_each_round_is_kept_by_loss_and_trains_twice_as_long(tuned):
    assert [(r.steps, len(r.trials)) for r in tuned.rounds] == [(4, 8), (8, 4), (16, 2)]
    for before, after in pairwise(tuned.rounds):
        by_loss = sorted(before.trials, key=lambda t: math.inf if t.loss is None else t.loss)
        assert {t.learning_rate for t in after.trials} == {t.learning_rate for t in by_loss[: len(after.trials)]}
    best = min(tuned.rounds[-1].trials, key=lambda t: t.loss)
    assert tuned.learning_rate == best.learning_rate
    assert tuned.options == f"--optimizer.learning_rate {tuned.learning_rate:g}"


@pytest.mark.parametrize("start", [1e-7, 5.0])
def test_a_bad_learning_rate_is_not_chosen_however_far_off_it_is(prepared, tuned, start):
    found = tune(prepared, optimizer={"learning_rate": start})
    assert tuned.learning_rate / 10 < found.learning_rate < tuned.learning_rate * 10
    assert 1e-3 < found.learning_rate < 0.5


def test_the_same_seed_finds_the_same_bit_for_bit_and_another_does_not(prepared, tuned):
    assert tune(prepared) == tuned
    assert tune(prepared, train={"seed": 1}).curve != tuned.curve


def test_with_muon_all_peaks_move_alike(prepared):
    muon = {"name": "muon", "learning_rate": 0.004, "matrix_learning_rate": 0.02, "embedding_learning_rate": 0.2}
    found = tune(prepared, steps=8, optimizer=muon)
    expected = scale_lrs(OptimizerConfig(**muon), found.learning_rate)
    assert found.peak_lrs == {
        f"optimizer.{name}": getattr(expected, name)
        for name in ("learning_rate", "matrix_learning_rate", "embedding_learning_rate")
    }
    assert max(found.peak_lrs.values()) <= 10


@pytest.mark.parametrize(
    "changes", [{"optimizer": {"name": "sgd", "ema_decay": 0.9}}, {"schedule": {"name": "onecycle"}}]
)
def test_other_recipes_are_tuned_too(prepared, changes):
    assert tune(prepared, steps=8, **changes).learning_rate > 0


def test_candidates_stay_within_what_a_config_allows():
    config = OptimizerConfig(name="muon", learning_rate=0.004, embedding_learning_rate=2.0)
    curve = [(0.001, 3.0), (0.01, 2.0), (0.019, 2.1)]
    for diverged_at in (None, 5.0):
        rates = candidates(config, curve, diverged_at)
        assert rates[0] == 0.02  # at which the embedding's is 10
    rates = candidates(OptimizerConfig(), curve, 0.1)
    assert len(rates) == CANDIDATES
    assert rates[0] == 0.025
    assert [a / b for a, b in pairwise(rates)] == pytest.approx([CANDIDATE_RATIO] * (CANDIDATES - 1), rel=0.05)
    assert candidates(OptimizerConfig(learning_rate=1e-12), [], 8e-12) == [2e-12, 1e-12]


@pytest.mark.parametrize(
    ("changes", "steps", "error", "sentence"),
    [
        ({}, 7, UsageError, "--steps 7: must be between 8 and"),
        (
            {"schedule": {"name": "wsd", "warmup_steps": 90}},
            8,
            ConfigError,
            "are longer than the run of 100 steps",
        ),
        ({"train": {"max_steps": None}}, 8, ConfigError, "no run length"),
        ({"model": {"vocab_size": 99}}, 8, ConfigError, "has 257 ids"),
    ],
)
def test_a_config_that_cannot_be_tried_is_one_sentence(prepared, changes, steps, error, sentence):
    with pytest.raises(error, match=sentence):
        tune(prepared, steps=steps, **changes)


@pytest.mark.parametrize(
    ("overflows", "loss", "norm", "allowed", "diverged"),
    [
        (False, 3.0, 1.0, True, False),
        (False, 3.0, math.inf, False, True),
        (False, math.nan, 1.0, False, True),
        (True, 3.0, math.inf, False, False),  # fp16 finding its scale
        (True, math.nan, math.nan, False, True),
    ],
)
def test_a_step_that_is_not_finite_is_rejected_and_ends_the_run(overflows, loss, norm, allowed, diverged):
    detector = DivergenceDetector(lambda: overflows)
    assert detector.allows_step(1, loss, norm) is allowed
    assert detector.diverged is diverged


@pytest.mark.parametrize(("scale", "diverged"), [(2.0**16, False), (0.5, True)])
def test_in_fp16_an_overflow_diverges_only_once_the_loss_scale_is_below_1(prepared, monkeypatch, scale, diverged):
    class Scaler(torch.amp.GradScaler):
        def get_scale(self):
            return scale

    monkeypatch.setattr("groundup.run.lr_search.loss_scaler", lambda *_: Scaler("cpu"))
    seen, original = [], DivergenceDetector.allows_step

    def overflow(self, step, loss, grad_norm):
        allowed = original(self, step, loss, math.inf)
        seen.append((allowed, self.diverged))
        return allowed

    monkeypatch.setattr(DivergenceDetector, "allows_step", overflow)
    runs = short_runs(prepared)
    runs.train(runs.config.optimizer, lambda step, fraction: 0.01, 1)
    assert seen == [(False, diverged)]


def short_runs(prepared) -> ShortRuns:
    data = PreparedData.open(prepared)
    config = merge_and_validate([preset("gpt2-nano"), ConfigSource("test", TINY)])
    machine, _ = detect_machine(config.train, prepared)
    return ShortRuns(resolve_config(config, data.tokenizer.n_vocab, machine), data)


def test_a_run_that_diverged_ends_at_once_and_has_no_loss(prepared):
    runs, seen = short_runs(prepared), []
    loss = runs.train(
        runs.config.optimizer,
        lambda step, fraction: 1e30 if step == 2 else 0.01,
        9,
        lambda info, _: seen.append(info.step),
    )
    assert loss is None
    assert seen == [1, 2, 3, 4]


def test_if_everything_diverges_a_lower_start_is_advised(prepared, monkeypatch):
    monkeypatch.setattr(
        "groundup.run.lr_search.DivergenceDetector.allows_step", lambda self, *_: setattr(self, "diverged", True)
    )
    with pytest.raises(TrainingError, match="tune again from there"):
        tune(prepared, steps=8)


EIGHT = [2.0**-i for i in range(8)]


def halved(loss, below=()):
    """The rounds of runs whose loss is a function of learning rate and steps."""
    lines = []
    return successive_halving(loss, EIGHT, list(below), 16, lines.append), lines


def rates(rounds):
    return [[trial.learning_rate for trial in round_.trials] for round_ in rounds]


def test_if_all_kept_rates_diverge_later_the_next_lower_ones_replace_them():
    def loss(rate, steps):  # a higher rate learns faster but diverges in a longer run
        return None if rate * steps > 0.5 else 3.0 - rate

    rounds, lines = halved(loss)
    assert rates(rounds) == [EIGHT, [*EIGHT[3:7]], [EIGHT[4], EIGHT[5]]]
    assert rounds[1].trials[0].loss is None

    def sooner(rate, steps):
        return None if rate * steps > (4 if steps == 4 else 0.25) else 3.0 - rate

    rounds, lines = halved(sooner)
    assert rates(rounds)[:2] == [EIGHT, EIGHT[:6]]  # four were kept; a fifth diverged, the sixth did not
    assert [trial.loss for trial in rounds[1].trials[:-1]] == [None] * 5
    assert rates(rounds)[2] == EIGHT[5:7]  # the one that was kept diverged in turn
    assert rounds[2].trials[-1].loss is not None
    assert f"         {EIGHT[0]:<8g} diverged" in lines


def test_a_later_round_fails_only_if_no_rate_is_left():
    sentence = f"diverged from {EIGHT[-1]:g} up to 1; .*{RANGE_START_RATIO * EIGHT[-1]:.1g}, and tune"
    with pytest.raises(TrainingError, match=sentence):
        halved(lambda rate, steps: None if steps > 4 else 3.0 - rate)


def test_if_all_of_the_first_round_diverge_the_search_ends():
    tried = []
    with pytest.raises(TrainingError, match="tune again from there"):
        halved(lambda rate, steps: tried.append(rate), [2.0**-8])
    assert tried == EIGHT


@pytest.mark.parametrize(("best", "added"), [(7, 1), (8, 2), (10, 4), (11, 4), (6, 0), (0, 0)])
def test_lower_rates_are_tried_while_the_lowest_is_the_best(best, added):
    below = [2.0**-i for i in range(8, 8 + MAX_LOWER_CANDIDATES)]
    rounds, _ = halved(lambda rate, steps: abs(math.log2(rate) + best), below)
    assert rates(rounds)[0] == EIGHT + below[:added]
    assert [len(round_.trials) for round_ in rounds] == [8 + added, 4, 2]
    assert min(rounds[-1].trials, key=lambda t: t.loss).learning_rate == 2.0**-best


def test_a_lowest_rate_that_diverged_is_not_the_best_and_a_single_survivor_is():
    below = [2.0**-8, 2.0**-9]
    rounds, _ = halved(lambda rate, steps: None if rate > EIGHT[-1] else 3.0 - rate, below)
    assert rates(rounds) == [[*EIGHT, *below[:1]], [EIGHT[-1], below[0]], [EIGHT[-1]]]


def test_lower_rates_stay_within_what_a_config_allows():
    assert lower_candidates(OptimizerConfig(), 0.01) == [0.005, 0.0025, 0.0013, 0.00063]
    assert lower_candidates(OptimizerConfig(learning_rate=1e-12), 3e-12) == [1.5e-12, 1e-12]
    assert lower_candidates(OptimizerConfig(learning_rate=1e-12), 1e-12) == []


def test_the_search_continues_right_below_its_lowest_candidate(prepared, monkeypatch):
    class CalledError(Exception): ...

    def halving(train, rates, lower, *rest):
        raise CalledError(rates[-1] / lower[0])

    monkeypatch.setattr("groundup.run.lr_search.successive_halving", halving)
    with pytest.raises(CalledError) as called:
        tune(prepared)
    assert called.value.args[0] == pytest.approx(CANDIDATE_RATIO, rel=0.05)  # rates are rounded


def test_out_of_memory_in_a_trial_a_smaller_micro_batch_is_advised(prepared, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(ShortRuns, "train", fail)
    with pytest.raises(
        TrainingError, match=r"^cpu: out of memory; give --train\.micro_batch_size 3, or a smaller model$"
    ):
        tune(prepared, steps=8, train={"micro_batch_size": 7})


def test_compile_is_off_with_a_message_and_its_spelling_is_checked(prepared, monkeypatch):
    lines = []
    monkeypatch.setattr("groundup.run.lr_search.range_test", lambda *_: sys.exit(9))
    for wanted, expected in (("on", True), ("off", False)):
        lines.clear()
        values = {**TINY, "train": TINY["train"] | {"compile": wanted}, "data": str(prepared)}
        with pytest.raises(SystemExit):
            tune_learning_rate(
                merge_and_validate([preset("gpt2-nano"), ConfigSource("test", values)]),
                PlainDisplay(lines.append),
                steps=8,
            )
        assert any(line.startswith("compile  off") for line in lines) is expected
    with pytest.raises(ConfigError, match=r"train\.compile: 'om' is not one of"):
        tune(prepared, train={"compile": "om"})


def test_without_validation_data_the_training_text_is_used_with_a_warning(tmp_path, sentences):
    import groundup

    (tmp_path / "text.txt").write_text(sentences(300))
    groundup.prepare(tmp_path / "text.txt", tmp_path / "data", tokenizer="byte", val_fraction=0)
    lines = []
    config = merge_and_validate([preset("gpt2-nano"), ConfigSource("test", {**TINY, "data": str(tmp_path / "data")})])
    assert tune_learning_rate(config, PlainDisplay(lines.append), steps=8).learning_rate > 0
    assert any("nothing was held out" in line for line in lines)


OPTIONS = [f"--{section}.{key}={value}" for section, values in TINY.items() for key, value in values.items()]


@pytest.fixture
def command(capsys, tmp_path, monkeypatch):
    """Run `groundup tune` in an empty folder: exit status, standard output, standard error."""
    monkeypatch.chdir(tmp_path)

    def call(*words):
        with pytest.raises(SystemExit) as exit_:
            main(["tune", *map(str, words)])
        assert list(tmp_path.iterdir()) == []
        return exit_.value.code, *capsys.readouterr()

    return call


def test_the_command_prints_curve_table_and_options(command, prepared, tuned):
    status, out, err = command("lr", "--data", prepared, "gpt2-nano", "--steps", 16, *OPTIONS)
    assert status == 0, err
    assert out.splitlines()[-1] == f"--optimizer.learning_rate {tuned.learning_rate:g}"
    assert f"the loss rose at {tuned.diverged_at:.2g}" in out
    (row,) = (line for line in out.splitlines() if line.endswith("best"))
    assert row.split() == [
        f"{tuned.learning_rate:g}",
        *(f"{t.loss:.4f}" for r in tuned.rounds for t in r.trials if t.learning_rate == tuned.learning_rate),
        "best",
    ]
    assert "round 3  2 learning rates, 16 steps each" in err


def test_json_is_one_object_and_nothing_else(command, prepared, tuned):
    status, out, _ = command("lr", "gpt2-nano", "--data", prepared, "--steps", 16, "--json", *OPTIONS)
    values = json.loads(out)
    assert status == 0
    assert values["learning_rate"] == tuned.learning_rate
    assert values["options"] == tuned.options
    assert [len(r["trials"]) for r in values["rounds"]] == [8, 4, 2]
    assert [(p["learning_rate"], p["loss"]) for p in values["curve"]] == tuned.curve


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "lr"),
        (["momentum"], "momentum"),
        (["lr", "gpt5", "--data", "x"], "preset 'gpt5': there is none; did you mean gpt"),
        (["lr"], "no prepared folder is named; give one with --data"),
        (["lr", "--data", "nowhere"], "nowhere: no manifest.json here"),
        (["lr", "--data", "x", "--steps", "many"], "'many'"),
        (["lr", "--data", "x", "--steps", "0"], "--steps 0: must be between 8 and 1,000,000"),
        (["lr", "--data", "x", "--step", "9"], "--step: unknown option; did you mean --steps?"),
        (["lr", "--data", "x", "--config", "no.yaml"], "no.yaml: cannot be read"),
        (["lr", "--data", "x", "--optimizer.learning_rate", "-1"], "optimizer.learning_rate"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(command, words, sentence):
    status, out, err = command(*words)
    assert (status, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1
