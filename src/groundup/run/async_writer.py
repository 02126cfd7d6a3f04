"""Writing while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """Runs one task at a time: at once, or on a thread of its own.

    What goes wrong in the background is raised at the next call. The process does not end before the task does.
    """

    def __init__(self, *, asynchronous: bool) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if asynchronous else None
        self._task: Future[None] | None = None

    def submit(self, task: Callable[[], None]) -> None:
        """Wait for the task before, and begin this one. OSError and whatever else the one before came to."""
        self.wait()
        if self._pool is None:
            task()
        else:
            self._task = self._pool.submit(task)

    def wait(self) -> None:
        """Until nothing is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.result()

    def close(self) -> None:
        """Wait, and let the thread go."""
        try:
            self.wait()
        finally:
            if self._pool is not None:
                self._pool.shutdown()
