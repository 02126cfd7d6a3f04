"""Whether what another program computes is what the model computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import ExportError

ROWS, TIME = 2, 64  # of the batch on which logits are compared


@dataclass(frozen=True)
class Agreement:
    """Who computed the same logits, and how nearly: as a part of the largest of ours."""

    by: str
    difference: float

    def __str__(self) -> str:
        return f"{self.by} computes the same logits: the largest difference is {self.difference:.1e} of the largest"


def batch(config: ModelConfig) -> Tensor:
    """Always the same random ids, (B, T)."""
    size = (ROWS, min(TIME, config.block_size))
    return torch.randint(config.vocab, size, generator=torch.Generator().manual_seed(0))


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference as a part of the largest of ours; infinite where the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    largest = (ours - theirs).abs().max().item() / max(ours.abs().max().item(), torch.finfo(torch.float32).tiny)
    return largest if largest == largest else float("inf")  # not a number: nothing was computed


def check_logits(by: str, ours: Tensor, theirs: Tensor, bound: float) -> Agreement:
    """The agreement of two programs about logits, (B, T, V) each; ExportError where they differ beyond `bound`."""
    difference = relative(ours.float(), theirs.float())
    if not difference <= bound:
        raise ExportError(
            f"{by} computes other logits from the export than the model: they differ by {difference:.1e} of the "
            f"largest, where {bound:.0e} is rounding; nothing was kept, export with other versions"
        )
    return Agreement(by, difference)


@contextmanager
def opened_by(program: str, upgrade: str) -> Iterator[None]:
    """ExportError, with the command `upgrade` for a remedy, for whatever another program raises in the block."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:  # its own, of any class, and none of it the user's
        line = next(iter(str(error).splitlines()), "")[:200]
        raise ExportError(
            f"{program} cannot open the export ({type(error).__name__}: {line}); nothing was kept, upgrade it with "
            f"{upgrade}"
        ) from error


def identical(where: str, written: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """ExportError naming the first tensor of a reopened file that is not, bit for bit, what was written."""
    for name in sorted(written.keys() | found.keys()):
        if name not in found or name not in written or not torch.equal(written[name], found[name]):
            raise ExportError(
                f"{where}: {name} is not what was written; nothing was kept, check the disk and try again"
            )
