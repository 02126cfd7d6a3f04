"""Other programs, run for a limited time. No torch here."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress


def run_bounded(
    command: Sequence[str], seconds: float, environ: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program; it and the programs that it starts are killed after so many seconds, and when this is interrupted.

    The result has its exit status and standard error. TimeoutExpired; OSError if it cannot be started.
    """
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, output = process.communicate(timeout=seconds)
        except BaseException:  # it may have ended, and what it started goes on
            if hasattr(os, "killpg"):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, stderr=output)
