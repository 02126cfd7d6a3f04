"""What a run tells whoever watches it."""

from __future__ import annotations

from typing import Protocol


class Display(Protocol):
    """Where a person watches a run: `panel.Panel` on a terminal, `lines.Lines` elsewhere."""

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
        """A step is done; times are in seconds, `progress` runs from 0 to 1."""
        ...

    def evaluation(self, *, step: int, train_loss: float | None, val_loss: float, bits_per_byte: float | None) -> None:
        """Losses were measured."""
        ...

    def sample(self, text: str) -> None:
        """The model spoke."""
        ...

    def message(self, text: str) -> None:
        """Something worth a line."""
        ...


class NullDisplay:
    """A view that nobody watches."""

    def step(self, **values: object) -> None:
        """Nothing."""

    def evaluation(self, **values: object) -> None:
        """Nothing."""

    def sample(self, text: str) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""
