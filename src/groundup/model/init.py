"""Initial weights: standard deviations of matrices by name and shape, and construction without them."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode
from typing_extensions import override

from groundup.config.model import ModelConfig


def _gpt2(name: str, config: ModelConfig) -> float:
    # Each block adds to the stream twice, so its variance would grow with depth (GPT-2 paper, section 2.3).
    return 0.02 / math.sqrt(2 * config.n_layer) if name.endswith("c_proj.weight") else 0.02


def _gpt2_released(name: str, config: ModelConfig) -> float:
    # OpenAI's published code scales nothing and draws positions from N(0, 0.01) (openai/gpt-2, src/model.py).
    return 0.01 if name == "wpe.weight" else 0.02


def _gpt1(name: str, config: ModelConfig) -> float:
    return 0.02  # "a simple weight initialization of N(0, 0.02) was sufficient" (GPT-1 paper, section 4.1)


def _modern(name: str, config: ModelConfig) -> float:
    # Blocks begin as the identity and the head with zeros: the first gradients then come from the embedding alone
    # and every layer starts at the right scale (KellerJordan/modded-nanogpt; karpathy/nanochat, gpt.py).
    if name.endswith("c_proj.weight") or name == "lm_head.weight":
        return 0.0
    if name == "ngrams.up.weight":  # reads frequencies, which sum to one, and adds to an embedding of unit variance
        return 2 * ((config.ngram - 1) * config.ngram_codes) ** -0.5
    if config.tie_embeddings and name in ("wte.weight", "wpe.weight"):
        # A tied head cannot start at zero. The stream is still the token's own embedding, normed to length sqrt(C), so
        # a token's logit for itself is about C times this: 1, where 0.02 would bet e^15 to 1 on it in a width of 768.
        return 1 / config.n_embd
    return 1.0 if name == "wte.weight" else config.n_embd**-0.5


INITS: dict[str, Callable[[str, ModelConfig], float]] = {
    "gpt2": _gpt2,
    "gpt2-released": _gpt2_released,
    "gpt1": _gpt1,
    "modern": _modern,
}
"""Initial standard deviation of a matrix, from its name and the model's shape."""


class skip_init(TorchFunctionMode):  # noqa: N801  # used as a function
    """While entered, new modules keep uninitialised memory as their weights: set every weight afterwards.

    Building GPT-2 then takes 0.03 s instead of the two that drawing its weights takes.
    """

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)
