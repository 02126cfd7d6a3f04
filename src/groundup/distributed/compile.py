"""torch.compile, where it works: attempts in turn, each proved before training begins, and last of all none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from groundup.errors import ConfigError, GroundupError, TrainingError
from groundup.utils.exhausted import is_out_of_memory

MODES = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")
BACKENDS = ("inductor", "aot_eager", "cudagraphs", "eager")
NAMES = {"on": "inductor", **{name: name for name in (*MODES, *BACKENDS)}}

LONGEST_REASON = 160  # characters


def check(wanted: str) -> list[str]:
    """The attempts in `wanted`, by comma, up to `off`; ConfigError where one is unknown."""
    parts = [part.strip() for part in wanted.split(",")]
    for part in parts:
        if part != "off" and part not in NAMES:
            raise ConfigError(f"train.compile: {part!r} is not one of off, {', '.join(NAMES)}")
    return [NAMES[part] for part in parts[: [*parts, "off"].index("off")]]


def compiled(
    loss_sum: nn.Module,
    wanted: str,
    say: Callable[[str], None],
    trial: Callable[[nn.Module], None],
    parts: Sequence[nn.Module] = (),
) -> nn.Module:
    """`loss_sum` as the first attempt in `wanted` that survives `trial` compiles it, or as it is.

    Compiled for the shapes it meets (`dynamic=False`): evaluate with `loss_sum` itself, whose parameters and mode it
    shares. Names in a state dict are to be taken from `loss_sum` too. `trial` runs forward and backward at the size of
    training; gradients are none afterwards. Each failure is one line to `say`; running out of memory is raised, and so
    is what a signal raises. Everything that this process compiled before is compiled anew when next called.

    With `parts`, these are compiled in place, one by one, and not the whole: what happens between them, such as FSDP2's
    gathering, stays outside. Then the first attempt is the only one: TrainingError where it fails.
    """
    attempts, forwards = check(wanted), [part.forward for part in parts]
    for attempt, following in zip(attempts, [*attempts[1:], ""], strict=False):
        torch.compiler.reset()
        mode, backend = (attempt, "inductor") if attempt in MODES else (None, attempt)
        compile_one = partial(torch.compile, dynamic=False, mode=mode, backend=backend)
        found = loss_sum if parts else cast(nn.Module, compile_one(loss_sum))
        for part, forward in zip(parts, forwards, strict=True):
            part.forward = partial(_trained, part, compile_one(_function(forward)), forward)
        try:
            trial(found)
            return found
        except Exception as error:  # compilers fail in every way there is; a mistake of ours fails without them too
            if isinstance(error, GroundupError) or (isinstance(error, RuntimeError) and is_out_of_memory(error)):
                raise
            if parts:  # they may be half gathered: what FSDP2 has begun cannot be taken back
                raise TrainingError(
                    f"train.compile: {attempt} failed ({_reason(error)}); with FSDP2 nothing else is tried, so give "
                    "--train.compile off, or aot_eager"
                ) from error
            then = f"trying {following}" if following else "training without"
            say(f"compile: {attempt} failed ({_reason(error)}); {then}")
            torch.compiler.reset()
        finally:
            loss_sum.zero_grad(set_to_none=True)
    return loss_sum


def _function(forward: Callable[..., Any]) -> Callable[..., Any]:
    """One of its own for each part: dynamo counts the compilations of a function, and gives up after eight."""

    def call(*inputs: Any) -> Any:
        return forward(*inputs)

    call.__code__ = call.__code__.replace()
    return call


def _trained(part: nn.Module, quick: Callable[..., Any], plain: Callable[..., Any], *inputs: Any) -> Any:
    """Compiled for training alone: evaluation and samples come in many shapes."""
    return (quick if part.training and torch.is_grad_enabled() else plain)(*inputs)


def _reason(error: Exception) -> str:
    """The innermost cause that torch names, in one line."""
    inner = getattr(error, "inner_exception", None) or error
    said = next((line.strip() for line in str(inner).splitlines() if line.strip()), "")
    line = f"{type(inner).__name__}: {said}" if said else type(inner).__name__
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"
