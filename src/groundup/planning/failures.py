"""What failures cost a long run, and how often to save: Young's and Daly's formulas, and a simulation beside them.

Young: "A first order approximation to the optimum checkpoint interval", Communications of the ACM 17 (1974), 530.
Daly: "A higher order estimate of the optimum checkpoint interval for restart dumps", Future Generation Computer
Systems 22 (2006), 303. Failures are a Poisson process that strikes any time, also while a checkpoint is written and
during a restart, which then begins again; what was done since the last checkpoint is lost. All times are in seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# 419 unexpected interruptions in 54 days on 16,384 H100s: the Llama 3 report (arXiv:2407.21783), section 3.3.4.
GPU_MTBF = 54 * 24 * 3600 * 16_384 / 419  # seconds; 50,676 hours
RESTART = (
    600.0  # seconds from a failure to the first new step: Daly's examples (his figures 3 to 5); an assumption here
)
# BLOOM-176B wrote 2.3 TB in 40 s from 48 nodes of eight (github.com/stas00/ml-engineering, training/fault-tolerance).
NODE_WRITES = 2.3e12 / 40 / 48  # bytes/s that one node writes to shared storage

SEED = 1974
TRIALS, MOST_TRIALS = 400, 100_000  # independent runs; more where failures are rare …
DRAWN = 40_000.0  # … so that so many of them are drawn in all
SIMULATED = 400.0  # failures that are simulated of each run at most; a longer one is that many times over
FARTHEST = 500.0  # exponents beyond which a run never ends, whatever the digits


def young(dump: float, mtbf: float) -> float:
    """Work between checkpoints of `dump` seconds: √(2·δ·M), with M the mean time between failures of the whole job."""
    return math.sqrt(2 * dump * mtbf)


def daly(dump: float, mtbf: float) -> float:
    """The same to higher order: √(2·δ·M)·(1 + √(δ/2M)/3 + δ/2M/9) − δ, and M where δ ≥ 2·M."""
    if dump >= 2 * mtbf:
        return mtbf
    share = dump / (2 * mtbf)
    return young(dump, mtbf) * (1 + math.sqrt(share) / 3 + share / 9) - dump


@dataclass(frozen=True)
class Reliability:
    """A job that fails: mean time between failures of all its parts together, time of a checkpoint and of a restart."""

    mtbf: float
    dump: float
    restart: float = RESTART

    @property
    def interval(self) -> float:
        """Daly's."""
        return daly(self.dump, self.mtbf)

    def expected(self, work: float, interval: float) -> float:
        """Mean time that `work` takes: n·M·e^(R/M)·(e^((τ+δ)/M) − 1), n pieces of τ (Daly); may be inf."""
        pieces, piece = cut(work, interval)
        if (piece + self.dump + self.restart) / self.mtbf > FARTHEST:
            return math.inf
        return pieces * self.mtbf * math.exp(self.restart / self.mtbf) * math.expm1((piece + self.dump) / self.mtbf)

    def failures(self, work: float, interval: float) -> float:
        """How many are to be expected: one every `mtbf`, however the time is spent."""
        return self.expected(work, interval) / self.mtbf

    def simulate(self, work: float, interval: float, trials: int | None = None, seed: int = SEED) -> Simulation:
        """The same by drawing failures: the mean of `trials` independent runs. `expected` must be far from infinite.

        Time until the next failure is drawn once a failure, not once a piece: an exponential one remembers nothing.
        Of a run with thousands of failures only a part is simulated, and the mean and its error scaled.
        """
        pieces, piece = cut(work, interval)
        failures = self.failures(work, interval)
        share = min(1.0, SIMULATED / max(1.0, failures))
        simulated = max(1, round(pieces * share))
        many = trials or round(min(max(TRIALS, DRAWN / max(1.0, failures)), MOST_TRIALS))
        spent = self._spent(simulated, piece + self.dump, many, np.random.default_rng(seed)) * (pieces / simulated)
        # Where hardly one failure was drawn, the sample does not know its own spread: Poisson's, with all of a piece.
        rare = math.sqrt(failures / many) * (piece + self.dump + self.restart) if failures < 1 else 0.0
        return Simulation(float(spent.mean()), max(rare, float(spent.std(ddof=1)) / math.sqrt(many)))

    def _spent(self, pieces: int, each: float, trials: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Seconds until `pieces` of `each` are done, (trials,)."""
        left, spent = np.full(trials, float(pieces)), np.zeros(trials)
        while (running := left > 0).any():
            life = random.exponential(self.mtbf, trials)
            done = np.minimum(left, life // each)
            finished = done == left
            spent += np.where(running, np.where(finished, left * each, life + self._outage(trials, random)), 0.0)
            left -= np.where(running, done, 0.0)
        return spent

    def _outage(self, trials: int, random: np.random.Generator) -> NDArray[np.float64]:
        """Seconds from a failure until a restart has gone through, (trials,)."""
        outage, down = np.zeros(trials), np.ones(trials, dtype=bool)
        while down.any():
            life = random.exponential(self.mtbf, trials)
            outage += np.where(down, np.minimum(life, self.restart), 0.0)
            down &= life < self.restart
        return outage


@dataclass(frozen=True)
class Simulation:
    """Mean seconds of the simulated runs, and the standard error of that mean."""

    mean: float
    error: float


def cut(work: float, interval: float) -> tuple[int, float]:
    """`work` in equal pieces, none longer than `interval`: how many, and how long."""
    pieces = max(1, math.ceil(work / interval))
    return pieces, work / pieces
