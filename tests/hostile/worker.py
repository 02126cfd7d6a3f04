"""Runs a case's command in a fork with bounded memory and time, in a folder of its own."""

import os
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from laws import SECRET, TIMED_OUT, Outcome, State, state_of

import groundup.cli

ADDRESS_SPACE_BYTES = 3 << 30  # in addition to the parent's; resident memory is measured
WALL_FACTOR = 4  # on a machine that others use too; a command that waits takes no CPU time

Fault = Callable[[], None]


def fork(work: Callable[[], object]) -> int:
    """Run `work` in a fork; its pid. The fork ends with the exit status that `work` raises, 1 with a traceback."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        work()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1 if error.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass
class Slot:
    """A folder in which one command at a time runs."""

    folder: Path
    cpu_seconds: int
    pid: int = 0
    started: float = 0.0
    before: State | None = None

    def prepare(self, material: Path, needs: tuple[str, ...], change: Callable[[], None]) -> None:
        """A fresh copy of the inputs, with a change; RuntimeError where it cannot be made."""
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("in", "outside/folder/step-00000099", "work", "tmp", "home"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "outside/precious.txt").write_text(f"{SECRET}\n")
        (self.folder / "outside/folder/step-00000099/thesis.txt").write_text("precious\n")
        for name in needs:
            source = material / "in" / name
            copy = shutil.copytree if source.is_dir() else shutil.copy2
            copy(source, self.folder / "in" / name, **({"symlinks": True} if source.is_dir() else {}))

        def apply() -> None:  # in a fork, as some take much memory
            os.chdir(self.folder)
            change()

        if wait(fork(apply)) != 0:
            raise RuntimeError("the input could not be changed")
        self.before = state_of(self.folder)

    def start(self, words: list[str], fault: Fault | None = None) -> None:
        self.started = time.monotonic()
        self.pid = fork(lambda: self._work(words, fault))

    def _work(self, words: list[str], fault: Fault | None) -> None:
        os.setsid()
        os.chdir(self.folder)
        output = self.folder.with_suffix(".out"), self.folder.with_suffix(".err")
        for target, path in ((0, os.devnull), (1, output[0]), (2, output[1])):
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, target)
            os.close(handle)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        os.environ |= {
            "HOME": str(self.folder / "home"), "XDG_CACHE_HOME": str(self.folder / "home"), "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.folder / "tmp"),
        }  # fmt: skip
        space = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (space + ADDRESS_SPACE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + self.cpu_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        if fault:
            fault()
        groundup.cli.main(words)

    def poll(self) -> Outcome | None:
        """The outcome, once the command has ended or has taken too long."""
        ended, status, used = os.wait4(self.pid, os.WNOHANG)
        late = not ended and time.monotonic() - self.started > WALL_FACTOR * self.cpu_seconds
        if not ended and not late:
            return None
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # and what it started
        if late:
            _, status, used = os.wait4(self.pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if late or code in (-signal.SIGXCPU, -signal.SIGKILL):
            code = TIMED_OUT
        out, err = (
            self.folder.with_suffix(suffix).read_bytes().decode(errors="surrogateescape") for suffix in (".out", ".err")
        )
        assert self.before is not None
        return Outcome(code, out, err, used.ru_maxrss * 1024, self.before, state_of(self.folder))
