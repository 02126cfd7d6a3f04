"""A training run as plain lines: for pipes, logs and the Python API."""

from __future__ import annotations

from collections.abc import Callable

from groundup.ui.panel import plain_evaluation, plain_line, visible


class PlainDisplay:
    """Tells a run line by line through `write`: every `log_every` steps, every evaluation and sample."""

    def __init__(self, write: Callable[[str], object], log_every: int = 10) -> None:
        self._write, self._log_every = write, log_every

    def step(
        self,
        *,
        step: int,
        loss: float,
        lr: float,
        grad_norm: float,
        dt: float,
        tokens_per_s: float,
        tokens: int,
        progress: float,
        elapsed: float,
    ) -> None:
        """One step; the first, the last and every `log_every`-th become a line."""
        if step == 1 or step % self._log_every == 0 or progress >= 1:
            line = plain_line(step=step, loss=loss, dt=dt, tokens_per_s=tokens_per_s, grad_norm=grad_norm, lr=lr)
            self._write(line)

    def evaluation(self, *, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> None:
        """One evaluation."""
        self._write(plain_evaluation(step=step, train_loss=train_loss, val_loss=val_loss, bits_per_byte=bits_per_byte))

    def sample(self, text: str) -> None:
        """What the model writes now, marked so that nobody takes it for a log line."""
        self._write("\n".join(f"  │ {line}" for line in visible(text).splitlines()))

    def message(self, text: str) -> None:
        """Something worth a line."""
        self._write(text)
