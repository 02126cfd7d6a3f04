"""torch.compile where it works: backends tried in turn, each proven by a pass before training starts, eager last."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from groundup.errors import ConfigError, GroundupError, TrainingError
from groundup.utils import ending_signal
from groundup.utils.device import is_out_of_memory

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
BACKENDS = ("inductor", "aot_eager", "cudagraphs", "eager")
NAMES = {"on": "inductor", **{name: name for name in (*MODES, *BACKENDS)}}

MAX_REASON_CHARS = 160


def parse_compile(value: str) -> list[str]:
    """Modes and backends in `train.compile`, separated by commas, up to `off`; ConfigError where one is unknown."""
    parts = [part.strip() for part in value.split(",")]
    for part in parts:
        if part != "off" and part not in NAMES:
            raise ConfigError(f"train.compile: {part!r} is not one of off, {', '.join(NAMES)}")
    return [NAMES[part] for part in parts[: [*parts, "off"].index("off")]]


def compile_loss(
    loss_sum: nn.Module,
    wanted: str,
    message: Callable[[str], None],
    prove: Callable[[nn.Module], None],
    blocks: Sequence[nn.Module] = (),
) -> nn.Module:
    """`loss_sum` compiled by the first of `wanted` that survives `prove`, or as it is.

    Compiled for the shapes it meets (`dynamic=False`): evaluate with `loss_sum` itself, whose parameters and mode it
    shares; names in a state dict are those of `loss_sum` too. `prove` runs forward and backward at the size of
    training; no gradients are left. Each failure is one line to `message`; running out of memory is raised, and
    so is what a signal raises, or C code in its place. Everything this process compiled before is compiled again when
    next called.

    With `blocks`, these are compiled in place, one by one, and not the model as a whole: what happens between them,
    such as FSDP2's gathering, stays outside. Then only the first backend is tried: TrainingError where it fails.
    """
    attempts, forwards = parse_compile(wanted), [block.forward for block in blocks]
    for attempt, following in zip(attempts, [*attempts[1:], ""], strict=False):
        torch.compiler.reset()
        mode, backend = (attempt, "inductor") if attempt in MODES else (None, attempt)
        compile_one = partial(torch.compile, dynamic=False, mode=mode, backend=backend)
        candidate = loss_sum if blocks else cast(nn.Module, compile_one(loss_sum))
        for block, forward in zip(blocks, forwards, strict=True):
            block.forward = partial(_compiled_in_training, block, compile_one(_own_function(forward)), forward)
        try:
            prove(candidate)
            return candidate
        except Exception as error:  # compilers fail in every way there is; a mistake of ours fails without them too
            out_of_memory = isinstance(error, RuntimeError) and is_out_of_memory(error)
            if isinstance(error, GroundupError) or out_of_memory or ending_signal.recorded():
                raise
            if blocks:  # they may be half gathered: what FSDP2 has started cannot be undone
                raise TrainingError(
                    f"train.compile: {attempt} failed ({_reason(error)}); with FSDP2 nothing else is tried, so give "
                    "--train.compile off, or aot_eager"
                ) from error
            then = f"trying {following}" if following else "training without"
            message(f"compile: {attempt} failed ({_reason(error)}); {then}")
            torch.compiler.reset()
        finally:
            loss_sum.zero_grad(set_to_none=True)
    return loss_sum


def _own_function(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A function of its own for each block: dynamo counts the compilations of a function, and gives up after eight."""

    def call(*inputs: Any) -> Any:
        return forward(*inputs)

    call.__code__ = call.__code__.replace()
    return call


def _compiled_in_training(
    block: nn.Module, compiled: Callable[..., Any], eager: Callable[..., Any], *inputs: Any
) -> Any:
    """Compiled in training only: evaluation and samples come in many shapes."""
    return (compiled if block.training and torch.is_grad_enabled() else eager)(*inputs)


def _reason(error: Exception) -> str:
    """The innermost cause that torch names, in one line."""
    inner = getattr(error, "inner_exception", None) or error
    first = next((line.strip() for line in str(inner).splitlines() if line.strip()), "")
    line = f"{type(inner).__name__}: {first}" if first else type(inner).__name__
    return line if len(line) <= MAX_REASON_CHARS else f"{line[: MAX_REASON_CHARS - 1]}…"
