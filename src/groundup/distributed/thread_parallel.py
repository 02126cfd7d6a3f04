"""Threads of a CPU that each run part of a micro-batch through the complete model.

Torch parallelises inside each operation: its threads wait for one another at every one, and small operations use one
thread. Split once, by sequences, the threads synchronise only when gradients are summed. The sums are over the same
sequences in a fixed order: equal up to rounding to those of one pass, and repeatable bit for bit.
"""

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
    """`loss_sum` computed by `n` threads; unchanged for one. TrainingError where the system provides no threads."""
    return ThreadParallelLoss(loss_sum, n) if n > 1 else loss_sum


class ThreadParallelLoss(nn.Module):
    """A summed loss computed by `n` threads, with its gradients; in evaluation also a loss per sequence.

    The loss must not draw random numbers: threads would draw them in any order. A batch that does not split evenly is
    computed by one thread.
    """

    def __init__(self, loss_sum: nn.Module, n: int) -> None:
        """Each thread gets an equal part of torch's current threads."""
        super().__init__()
        self.loss_sum, self.n = loss_sum, n
        self._pool = _pool(n, max(1, torch.get_num_threads() // n))
        self._anchor = torch.zeros((), requires_grad=True)  # tells autograd that a gradient is needed

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """(B, T) and (B, T) -> scalar, or (B,) where the loss gives that."""
        if not splits_evenly(len(ids), self.n):
            return cast(Tensor, self.loss_sum(ids, targets))
        parts = list(zip(ids.tensor_split(self.n), targets.tensor_split(self.n), strict=True))
        if torch.is_grad_enabled():
            return cast(Tensor, _Pass.apply(self._anchor, self, parts))  # type: ignore[no-untyped-call]
        losses = self.losses(parts, training=False)
        return torch.cat(losses) if losses[0].dim() else torch.stack(losses).sum()

    def losses(self, parts: Sequence[tuple[Tensor, Tensor]], *, training: bool) -> list[Tensor]:
        """Losses of each thread's sequences; in `training` with the graph for their gradients."""
        mixed = torch.is_autocast_enabled("cpu")  # a setting of the thread, to be passed on
        dtype = torch.get_autocast_dtype("cpu") if mixed else None

        def one(part: tuple[Tensor, Tensor]) -> Tensor:
            with torch.inference_mode(not training), torch.autocast("cpu", dtype, enabled=mixed):
                return cast(Tensor, self.loss_sum(*part))

        return self._each(one, parts)

    def backward(self, losses: Sequence[Tensor], gradient: Tensor) -> None:
        """Add all threads' gradients to those of the parameters, in the order of the threads."""
        trained = [p for p in self.loss_sum.parameters() if p.requires_grad]

        def one(loss: Tensor) -> Sequence[Tensor | None]:
            if loss is losses[0]:  # the only thread that touches `.grad`
                torch.autograd.backward(loss, gradient)
                return ()
            return torch.autograd.grad(loss, trained, gradient, allow_unused=True)

        for gradients in self._each(one, losses)[1:]:
            sums = []
            for p, gradient_of_p in zip(trained, gradients, strict=True):
                if p.grad is None:
                    p.grad = gradient_of_p
                elif gradient_of_p is not None:
                    sums.append((p.grad, gradient_of_p))
            if sums:
                torch._foreach_add_([total for total, _ in sums], [more for _, more in sums])

    def _each(self, work: Callable[[Any], Any], parts: Sequence[Any]) -> list[Any]:
        """Results of `work` on each part; raises the first failure, or a signal, after all threads are done."""
        futures = [self._pool.submit(work, part) for part in parts]
        try:
            return [future.result() for future in futures]
        finally:
            wait(futures)
            futures.clear()  # an error keeps this frame, and with it the tensors that other results hold


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, anchor: Tensor, loss: ThreadParallelLoss, parts: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        ctx.loss, ctx.losses = loss, loss.losses(parts, training=True)
        return torch.stack([part.detach() for part in ctx.losses]).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        losses, ctx.losses = ctx.losses, None  # frees their graphs
        ctx.loss.backward(losses, gradient)
        return None, None, None


def _pool(n: int, threads: int) -> ThreadPoolExecutor:
    """`n` threads that each use so many of torch's threads."""
    before, started = torch.get_num_threads(), Barrier(n + 1)

    def start() -> None:
        torch.get_num_threads()  # only after this call does a thread have a setting of its own
        torch.set_num_threads(threads)
        with suppress(BrokenBarrierError):
            started.wait()

    pool = ThreadPoolExecutor(n, "microbatch", start)
    try:
        for _ in range(n):
            pool.submit(int)
        started.wait()
    except BaseException as error:
        started.abort()  # threads that started would wait for ever
        if isinstance(error, RuntimeError) and not isinstance(error, BrokenBarrierError):
            raise TrainingError(
                f"train.microbatch_threads: {error}, of {n}; give --train.microbatch_threads 1"
            ) from error
        raise
    finally:
        torch.set_num_threads(before)  # of this thread, and of those to come
    return pool
