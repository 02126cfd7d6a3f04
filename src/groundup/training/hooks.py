"""Hooks: actions between steps. Each sees the finished step as a StepInfo; none can change training."""

import math
import time
from collections.abc import Callable

from groundup.training.loop import Hook, StepInfo

FAR_FROM_UNIFORM = 0.5  # nats; logits of variance s add s / 2 to the loss, so these vary by more than 1


def every(n: int, action: Hook, *, when_stopping: bool = False) -> Hook:
    """Run `action` every `n` steps (0: never) and at the end of the run; on a requested stop only `when_stopping`."""

    def hook(info: StepInfo) -> None:
        interrupted = info.stopping and not info.finished
        if when_stopping if interrupted else info.finished or (n and info.step % n == 0):
            action(info)

    return hook


def every_minutes(minutes: float | None, action: Hook, agree: Callable[[bool], bool] = bool) -> Hook:
    """Run `action` whenever that much time has passed since it last ran; None: never.

    `agree` makes one answer of those that several processes give.
    """
    last = time.monotonic()

    def hook(info: StepInfo) -> None:
        nonlocal last
        if minutes is not None and agree(time.monotonic() - last >= 60 * minutes):
            last = time.monotonic()
            action(info)

    return hook


def log_step(write: Callable[..., None]) -> Hook:
    """Log every step as a record `step`, or `skip` where the guard rejected it."""

    def hook(info: StepInfo) -> None:
        write(
            "step" if info.applied else "skip",
            step=info.step,
            tokens=info.tokens,
            loss=finite(info.loss),
            lr=info.lr,
            grad_norm=finite(info.grad_norm),
            tokens_per_s=round(info.tokens_per_s, 1),
            dt=round(info.dt, 6),
            elapsed=round(info.elapsed, 3),
            cursor=info.cursor,
            context=info.context,
        )

    return hook


def report_first_loss(vocab: int | None, message: Callable[[str], None]) -> Hook:
    """Report the first step's loss, which is that of the initial weights.

    It is compared with that of random guessing, ln V, with a warning where it is far off; `vocab` is None where the
    weights are not random, so that it should be lower.
    """

    def hook(info: StepInfo) -> None:
        if info.step != 1:
            return
        if vocab is None:
            message(f"start    first loss {info.loss:.2f}, with the initial weights")
            return
        uniform = math.log(vocab)
        message(f"start    first loss {info.loss:.2f} (random guessing over {vocab:,} tokens: {uniform:.2f})")
        if not abs(info.loss - uniform) <= FAR_FROM_UNIFORM:  # a NaN is far as well
            message(f"warning  the first loss is far from that: {_explanation(info.loss, uniform)}")

    return hook


def _explanation(loss: float, uniform: float) -> str:
    if not math.isfinite(loss):
        return "it is not finite; look for such weights (--init-from), or give --train.precision fp32"
    if loss > uniform:
        return f"{loss - uniform:.2f} nats above; the initial weights are too large (model.init)"
    return f"{uniform - loss:.2f} nats below; the targets leak into the input, or a few tokens are most of the text"


def finite(x: float) -> float | None:
    """x, or None where JSON has no number for it."""
    return x if math.isfinite(x) else None
