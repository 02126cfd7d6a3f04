"""What a preparation tells whoever watches."""

from collections.abc import Callable


class ProgressReporter:
    """Told of every step; passes the bytes done to `tell`, if there is one, and does nothing else."""

    def __init__(self, tell: Callable[[int], None] | None = None) -> None:
        self._tell = tell or (lambda done: None)

    def __call__(self, done: int) -> None:
        """`done` bytes of this phase's total are done; where that is unknown, so many bytes of text."""
        self._tell(done)

    def phase(self, name: str, total: int | None, done: int = 0) -> None:
        """What comes now is `name`, and takes `total` bytes of input as they lie on disk, of which `done` are done."""

    def say(self, line: str) -> None:
        """Something that the user should know."""
