"""Successive halving of learning rates (Jamieson & Talwalkar 2016, arXiv:1502.07943): the better half trains longer.

It starts from a row of candidates, and looks below them where the best may lie there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from groundup.errors import TrainingError

ROUNDS = 3
CANDIDATES = 2**ROUNDS
LOWEST = 1e-3  # of a learning rate: where a range test of it begins


@dataclass(frozen=True)
class LRTrial:
    """One short run."""

    learning_rate: float
    loss: float | None  # nats a token, held out; None: it diverged


@dataclass(frozen=True)
class Round:
    """Candidates that trained equally long, by falling learning rate."""

    steps: int
    trials: list[LRTrial]


def successive_halving(
    train: Callable[[float, int], float | None],
    rates: Sequence[float],
    lower: Sequence[float],
    steps: int,
    say: Callable[[str], None],
) -> list[Round]:
    """Rounds of ever fewer and longer runs, the last of them `steps` long. TrainingError where all of one diverge.

    `train` gives the held-out loss of a learning rate after so many steps, None where it diverges. `rates` fall, and
    so do those in `lower`, which are below them: the first round goes on with these while its lowest is its best. A
    later round does while all of its own diverge, for what learns in a short run may diverge in a longer one.
    """
    rounds: list[Round] = []
    for n in range(ROUNDS):
        length = steps >> (ROUNDS - 1 - n)
        say(f"round {n + 1}  {len(rates)} learning rates, {length} steps each")
        trials: list[LRTrial] = []
        known = [trial.learning_rate for trial in rounds[0].trials] if rounds else lower
        wants_lower = _none_left if rounds else _lowest_is_best
        for rate in [*rates, *(rate for rate in known if rate < rates[-1])]:
            if len(trials) >= len(rates) and not wants_lower(trials):
                break
            trials.append(LRTrial(rate, train(rate, length)))
            say(f"         {rate:<8g} {said(trials[-1].loss)}")
        rounds.append(Round(length, trials))
        if _none_left(trials):
            raise TrainingError(
                f"optimizer.learning_rate: the loss diverged from {trials[-1].learning_rate:g} up to {rates[0]:g}; "
                f"give --optimizer.learning_rate {LOWEST * trials[-1].learning_rate:.1g}, and tune again from there"
            )
        most = min(CANDIDATES >> (n + 1), max(1, len(trials) // 2))
        kept = sorted((trial for trial in trials if trial.loss is not None), key=rank)[:most]
        rates = sorted((trial.learning_rate for trial in kept), reverse=True)
    return rounds


def rank(trial: LRTrial) -> tuple[float, float]:
    """By loss, and of equal ones the lower learning rate first."""
    return (math.inf if trial.loss is None else trial.loss, trial.learning_rate)


def said(loss: float | None) -> str:
    """A loss in words."""
    return "diverged" if loss is None else f"{loss:.4f}"


def _lowest_is_best(trials: list[LRTrial]) -> bool:
    return trials[-1].loss is not None and min(trials, key=rank) is trials[-1]


def _none_left(trials: list[LRTrial]) -> bool:
    return all(trial.loss is None for trial in trials)
