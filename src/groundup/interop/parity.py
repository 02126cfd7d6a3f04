"""Compare what another program computes from an export with what the model computes."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import ExportError

ROWS, TOKENS = 2, 64  # of the batch on which logits are compared


@dataclass(frozen=True)
class Agreement:
    """The program that computed the same logits, and the maximum difference relative to the model's largest logit."""

    by: str
    difference: float


def batch(config: ModelConfig) -> Tensor:
    """Random ids, the same on every call, (B, T)."""
    size = (ROWS, min(TOKENS, config.block_size))
    return torch.randint(config.vocab, size, generator=torch.Generator().manual_seed(0))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Maximum absolute difference, relative to the largest of `ours`; infinite for other shapes or nan."""
    if ours.shape != theirs.shape:
        return float("inf")
    largest = (ours - theirs).abs().max().item() / max(ours.abs().max().item(), torch.finfo(torch.float32).tiny)
    return float("inf") if math.isnan(largest) else largest


def check_logits(by: str, ours: Tensor, theirs: Tensor, bound: float) -> Agreement:
    """Compare logits, (B, T, V) each; ExportError where they differ by more than `bound`, a `relative` difference."""
    difference = relative(ours.float(), theirs.float())
    if not difference <= bound:
        raise ExportError(
            f"{by} computes other logits from the export than the model: they differ by {difference:.1e} of the "
            f"largest, where {bound:.0e} is rounding; nothing was kept, export with other versions"
        )
    return Agreement(by, difference)


@contextmanager
def opened_by(program: str, upgrade: str) -> Iterator[None]:
    """Turn any error of another program in the block into an ExportError whose remedy is the command `upgrade`."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # of any class, and not the user's mistake
        line = next(iter(str(error).splitlines()), "")[:200]
        raise ExportError(
            f"{program} cannot open the export ({type(error).__name__}: {line}); nothing was kept, upgrade it with "
            f"{upgrade}"
        ) from error


def identical(where: str, written: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ExportError naming the first tensor of a reopened file whose bits differ from what was written."""
    for name in sorted(written.keys() | found.keys()):
        if name not in found or name not in written or not torch.equal(written[name], found[name]):
            raise ExportError(
                f"{where}: {name} is not what was written; nothing was kept, check the disk and try again"
            )
