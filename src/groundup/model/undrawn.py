"""Modules without the weights that torch draws for them, for models that are about to get others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.overrides import TorchFunctionMode


class skip_init(TorchFunctionMode):  # noqa: N801 - used like a function, as torch names its own
    """While entered, new modules leave their weights as the memory happens to be.

    `with Undrawn(): model = GPT(config)`, and then set every weight. Drawing those of GPT-2 takes two seconds.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Whatever torch does, but for what draws or fills: those return the tensor as it is."""
        named = dict(kwargs or {})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return named["tensor"] if "tensor" in named else args[0]
        return func(*args, **named)
