"""Windows shared out among threads of a CPU, each of which goes through the whole model by itself.

Torch cuts every operation among its threads: at each they wait for one another, and what is small it leaves to one of
them. Cut once, by windows, the threads meet when gradients are added up. These are sums over the same windows, in an
order that does not depend on who is ready first: the same up to rounding as one pass gives, and repeatable bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from threading import Barrier, BrokenBarrierError
from typing import Any, cast

import torch
from torch import Tensor, nn

from groundup.errors import TrainingError
from groundup.utils.system import splits_evenly


def thread_parallel(loss_sum: nn.Module, n: int) -> nn.Module:
    """`loss_sum` as `n` threads compute it; of one, as it is. TrainingError where the system gives no threads."""
    return ThreadParallelLoss(loss_sum, n) if n > 1 else loss_sum


class ThreadParallelLoss(nn.Module):
    """A summed loss that `n` threads compute, with its gradients; or one for each window, where nothing is learnt.

    What it draws at random, threads would draw in any order: it must not. Of windows that cannot be shared `evenly` it
    is computed as it is.
    """

    def __init__(self, loss_sum: nn.Module, n: int) -> None:
        """Each thread has its part of those that torch computes with now."""
        super().__init__()
        self.loss_sum, self.n = loss_sum, n
        self._pool = _pool(n, max(1, torch.get_num_threads() // n))
        self._anchor = torch.zeros((), requires_grad=True)  # tells autograd that there is something to be learnt

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> scalar, or (B,) where the loss gives that."""
        if not splits_evenly(len(ids), self.n):
            return cast(Tensor, self.loss_sum(ids, targets))
        parts = list(zip(ids.tensor_split(self.n), targets.tensor_split(self.n), strict=True))
        if torch.is_grad_enabled():
            return cast(Tensor, _Pass.apply(self._anchor, self, parts))  # type: ignore[no-untyped-call]
        losses = self.losses(parts, learning=False)
        return torch.cat(losses) if losses[0].dim() else torch.stack(losses).sum()

    def losses(self, parts: Sequence[tuple[Tensor, Tensor]], *, learning: bool) -> list[Tensor]:
        """Of each thread's windows; where they are for `learning`, with all that their gradients need."""
        mixed = torch.is_autocast_enabled("cpu")  # which a thread must be told
        dtype = torch.get_autocast_dtype("cpu") if mixed else None

        def one(part: tuple[Tensor, Tensor]) -> Tensor:
            with torch.inference_mode(not learning), torch.autocast("cpu", dtype, enabled=mixed):
                return cast(Tensor, self.loss_sum(*part))

        return self._each(one, parts)

    def backward(self, losses: Sequence[Tensor], gradient: Tensor) -> None:
        """Add the gradients of all to those of the parameters, one thread's after the other's."""
        learning = [p for p in self.loss_sum.parameters() if p.requires_grad]

        def one(loss: Tensor) -> Sequence[Tensor | None]:
            if loss is losses[0]:  # nobody else touches them meanwhile
                torch.autograd.backward(loss, gradient)
                return ()
            return torch.autograd.grad(loss, learning, gradient, allow_unused=True)

        for gradients in self._each(one, losses)[1:]:
            sums = []
            for p, gradient_of_p in zip(learning, gradients, strict=True):
                if p.grad is None:
                    p.grad = gradient_of_p
                elif gradient_of_p is not None:
                    sums.append((p.grad, gradient_of_p))
            if sums:
                torch._foreach_add_([total for total, _ in sums], [more for _, more in sums])

    def _each(self, work: Callable[[Any], Any], of: Sequence[Any]) -> list[Any]:
        """What it gives of each; or what the first that failed raises, or a signal, when all are done."""
        under_way = [self._pool.submit(work, one) for one in of]
        try:
            return [one.result() for one in under_way]
        finally:
            wait(under_way)
            under_way.clear()  # an error remembers this frame, and would keep alive all that the others hold


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, whole: ThreadParallelLoss, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.whole, ctx.losses = whole, whole.losses(parts, learning=True)
        return torch.stack([loss.detach() for loss in ctx.losses]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        losses, ctx.losses = ctx.losses, None  # with them goes all that they kept
        ctx.whole.backward(losses, gradient)
        return None, None, None


def _pool(n: int, threads: int) -> ThreadPoolExecutor:
    """`n` threads that compute with so many of torch's each."""
    before, all_there = torch.get_num_threads(), Barrier(n + 1)

    def begin() -> None:
        torch.get_num_threads()  # only after this question is what a thread sets its own
        torch.set_num_threads(threads)
        with suppress(BrokenBarrierError):
            all_there.wait()

    pool = ThreadPoolExecutor(n, "share", begin)
    try:
        for _ in range(n):
            pool.submit(int)
        all_there.wait()
    except BaseException as error:
        all_there.abort()  # those that are there would wait for ever
        if isinstance(error, RuntimeError) and not isinstance(error, BrokenBarrierError):
            raise TrainingError(
                f"train.microbatch_threads: {error}, of {n}; give --train.microbatch_threads 1"
            ) from error
        raise
    finally:
        torch.set_num_threads(before)  # of this thread, and of those to come
    return pool
