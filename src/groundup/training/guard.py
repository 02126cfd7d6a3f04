"""Nothing non-finite reaches the weights."""

from __future__ import annotations

import math

from groundup.errors import TrainingError


class Guard:
    """Turns away steps whose loss or gradient is not finite, and gives up after `limit` of them in a row."""

    def __init__(self, limit: int = 10) -> None:
        self.limit = limit
        self.refused = 0  # in a row

    def admits(self, step: int, loss: float, grad_norm: float) -> bool:
        """Whether a step may change the weights; TrainingError when the run is past saving."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            self.refused = 0
            return True
        self.refused += 1
        if self.refused >= self.limit:
            raise TrainingError(
                f"step {step}: loss {loss} and gradient norm {grad_norm} were not finite, {self.limit} steps in a row; "
                "start a new run with a lower --optimizer.learning_rate"
            )
        return False
