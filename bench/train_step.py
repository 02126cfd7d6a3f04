"""Subject `train-step`: whole training steps, ours and nanoGPT's, on the same weights, batches and hyperparameters.

The model is the one that nanoGPT's README gives for a machine without a GPU, in fp32 and eager mode. Ours runs as
`groundup train` runs it: the real loop, batches computed from (seed, cursor), every step written to a log. nanoGPT's
model and optimizer run in the loop of its train.py, with everything that is not arithmetic left out: it is handed the
starts of its windows, and it neither logs nor prints. Where `train.precision: auto` chooses bf16, as nanoGPT on a CPU
cannot, that is a row of its own.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bench.measure import Options, Result, gemm_gflops, interleaved, seconds
from bench.nanogpt import HINT, quiet, twin
from groundup.checkpoint.run import Log
from groundup.data.batches import Batches
from groundup.data.shards import Tokens
from groundup.model.count import flops_per_token
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.optim.rules import build_optimizer
from groundup.optim.schedule import build_schedule
from groundup.sections import OptimizerConfig, ScheduleConfig
from groundup.seeds import mix
from groundup.shape import ModelConfig
from groundup.training.device import Name, autocast, choose_precision, reseed
from groundup.training.feed import Feed
from groundup.training.guard import Guard
from groundup.training.hooks import log_step
from groundup.training.horizon import Steps
from groundup.training.loop import Progress, StepInfo, fit

SHAPE = ModelConfig(
    n_layer=4, n_head=4, n_embd=128, block_size=64, vocab_size=65, bias=False, dropout=0.0, activation="gelu"
)
BATCH = 12  # windows a step
ADAMW = OptimizerConfig(learning_rate=1e-3, weight_decay=0.1, beta1=0.9, beta2=0.99, grad_clip=1.0)
SEED = 1337
CPU = torch.device("cpu")

COMPARED = 100  # steps of warm-up, whose losses must agree
BOUND = 1e-3  # nats a token; the same sums in another order differ by far less
STEPS = 150  # a round
ROUNDS = 9


def run(options: Options) -> Result:
    """Tokens a second, ratios to nanoGPT, and the largest difference of the fp32 losses."""
    rounds = options.rounds_or(ROUNDS)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as logs:
        tokens, vocab_size = _tokens(options.text, Path(folder))
        batches = Batches(Tokens([tokens]), SHAPE.block_size, SEED)
        config = SHAPE.model_copy(update={"vocab_size": vocab_size})

        def ours(precision: Name) -> Ours:
            log = logs.enter_context(closing(Log(Path(folder) / f"{precision}.jsonl")))
            return Ours(_drawn(config), batches, log, precision)

        contenders: dict[str, Ours | Theirs] = {"groundup": ours("fp32")}
        if options.nanogpt:
            starts = batches.starts(0, BATCH * (COMPARED + rounds * STEPS)).reshape(-1, BATCH)
            contenders["nanoGPT"] = Theirs(twin(_drawn(config), options.nanogpt), tokens, starts)
        if (auto := choose_precision("auto", CPU).name) != "fp32":
            contenders[f"groundup, {auto}"] = ours(auto)
        losses = {name: contender.train(COMPARED) for name, contender in contenders.items()}
        rows = interleaved({name: partial(_speed, each) for name, each in contenders.items()}, rounds)
    result = Result("train-step: 4 layers, 128 wide, 12 x 64 tokens", "tokens/s", rows, baseline="nanoGPT")
    share = rows[0].median * flops_per_token(config) / (gemm_gflops() * 1e9)
    result.notes.append(f"groundup's arithmetic in fp32 runs at {share:.0%} of the speed of a large matrix product")
    if not options.nanogpt:
        result.notes.append(HINT)
        return result
    apart = float(np.abs(np.subtract(losses["groundup"], losses["nanoGPT"])).max())
    sentence = f"fp32 losses of the first {COMPARED} steps differ by {apart:.1e} nats a token at most (bound {BOUND})"
    (result.notes if apart < BOUND else result.failures).append(sentence)  # a NaN fails
    return result


def _drawn(config: ModelConfig) -> GPT:
    """The same weights each time."""
    return GPT(config).init_weights(torch.Generator().manual_seed(SEED))


class Ours:
    """A run of groundup that can be carried on."""

    def __init__(self, gpt: GPT, batches: Batches, log: Log, precision: Name) -> None:
        self.loss_sum = NextTokenLoss(gpt)
        self.optimizer = build_optimizer(gpt.named_parameters(), ADAMW)
        self.feed = Feed(batches, BATCH, BATCH, CPU)
        self.log, self.autocast, self.progress = log, autocast(precision, CPU), Progress()

    def train(self, steps: int) -> list[float]:
        """The losses of the next `steps` steps."""
        losses: list[float] = []

        def note(info: StepInfo) -> None:
            losses.append(info.loss)

        fit(
            self.loss_sum,
            self.optimizer,
            self.feed,
            build_schedule(ScheduleConfig(name="constant"), ADAMW.learning_rate, None),
            Steps(self.progress.step + steps),
            self.progress,
            clip=ADAMW.grad_clip,
            autocast=self.autocast,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            reseed=lambda step: reseed(int(mix(SEED, step)[0]), CPU),
            guard=Guard(),
            average=lambda: None,
            stop=lambda: False,
            hooks=[log_step(self.log.write), note],
        )
        return losses


class Theirs:
    """nanoGPT's model and optimizer in the loop of its train.py, the windows' starts given."""

    def __init__(self, model: Any, tokens: NDArray[np.uint16], starts: NDArray[np.int64]) -> None:
        self.model, self.tokens, self.starts, self.step = model, tokens, starts, 0
        with quiet():
            betas = (ADAMW.beta1, ADAMW.beta2)
            self.optimizer = model.configure_optimizers(ADAMW.weight_decay, ADAMW.learning_rate, betas, "cpu")

    def train(self, steps: int) -> list[float]:
        """The losses of the next `steps` steps."""
        losses: list[float] = []
        for starts in self.starts[self.step : self.step + steps]:
            _, loss = self.model(self._read(starts), self._read(starts + 1))
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), ADAMW.grad_clip)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
        self.step += steps
        return losses

    def _read(self, starts: NDArray[np.int64]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(self.tokens[i : i + SHAPE.block_size].astype(np.int64)) for i in starts])


def _speed(contender: Ours | Theirs) -> float:
    return STEPS * BATCH * SHAPE.block_size / seconds(lambda: contender.train(STEPS))


def _tokens(text: Path | None, folder: Path) -> tuple[NDArray[np.uint16], int]:
    """Token ids in a file mapped into memory, as prepared data is, and the size of their vocabulary."""
    if text:
        characters, ids = np.unique(list(text.read_text(encoding="utf-8")), return_inverse=True)
        vocab_size = len(characters)
    else:
        ids, vocab_size = synthetic_text(), SHAPE.vocab
    path = folder / "train.bin"
    ids.astype("<u2").tofile(path)
    return np.memmap(path, "<u2", mode="r"), vocab_size


def synthetic_text(words: int = 200_000, lexicon: int = 2_000) -> NDArray[np.int64]:
    """About a million character ids below 65: made-up words, their frequencies after Zipf, 0 between them."""
    rng = np.random.default_rng(SEED)
    spelled = [np.append(rng.integers(1, SHAPE.vocab, rng.integers(1, 8)), 0) for _ in range(lexicon)]
    frequency = 1 / np.arange(1, lexicon + 1)
    return np.concatenate([spelled[i] for i in rng.choice(lexicon, words, p=frequency / frequency.sum())])
