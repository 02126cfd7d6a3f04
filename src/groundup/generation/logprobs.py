"""Log-probabilities of tokens, and the most likely alternatives to them.

Letters: T tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor


class TokenLogprobs(NamedTuple):
    """Log-probabilities (nats) by the model's own distribution, before temperature, penalties and other filters."""

    chosen: list[float | None]  # of each token; None: the first token of a prompt, which nothing predicts
    top: list[list[tuple[int, float]]]  # for each token, ids and values of the most likely ones, the first one first

    def join(self, other: "TokenLogprobs") -> "TokenLogprobs":
        """Those of these tokens and of `other` after them."""
        return TokenLogprobs(self.chosen + other.chosen, self.top + other.top)

    def split(self, counts: Sequence[int | None]) -> list["TokenLogprobs"]:
        """One for each token, with as many alternatives as `counts` says; None: 0."""
        parts = zip(self.chosen, self.top, counts, strict=True)
        return [TokenLogprobs([value], [top[: count or 0]]) for value, top, count in parts]


NO_LOGPROBS = TokenLogprobs([], [])


def score(logits: Tensor, tokens: Sequence[int], count: int) -> TokenLogprobs:
    """Of `tokens` under the logits that predict them, (T, V), with the `count` most likely alternatives of each."""
    scores = logits.log_softmax(-1)
    best = scores.topk(min(count, scores.size(1)), dim=-1)
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    top = [list(zip(ids, values, strict=True)) for ids, values in pairs]
    return TokenLogprobs(scores[range(len(tokens)), list(tokens)].tolist(), top)
