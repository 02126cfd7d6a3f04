"""Fixtures that several test folders use."""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("shared machine", deadline=None)  # a test must not fail because other processes are running
settings.load_profile("shared machine")

# Several test processes share the cores, and spinning threads would take them from working ones.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Started in the background by a shell, or with nohup: what is ignored, children inherit.
for name, usual in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL, "SIGQUIT": signal.SIG_DFL}.items():
    number = getattr(signal, name, None)
    if number and signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

FORK_SERVER = Path(__file__).with_name("fork_server.py")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real texts and models; without it the tests that need it are skipped."""
    default = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("GROUNDUP_TEST_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no {folder}; set GROUNDUP_TEST_DATA to a folder with the real test data")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory) -> None:
    """Notes on tracked runs stay out of the user's home."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


TEXT = "the a small model reads words and learns what comes next after some time it writes lines of its own"


@pytest.fixture(scope="session")
def sentences() -> Callable[..., str]:
    """Function that makes about 30·n bytes of learnable text."""

    def make(n: int, seed: int = 0) -> str:
        rng = random.Random(seed)
        return "".join(" ".join(rng.choices(TEXT.split(), k=6)).capitalize() + ".\n" for _ in range(n))

    return make


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, sentences) -> Path:
    """Prepared data of byte tokens: some 27,000 to train on, 3,000 held out."""
    import groundup

    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(sentences(900), encoding="utf-8")
    groundup.prepare([folder / "text.txt"], folder / "data", tokenizer="byte")
    return folder / "data"


@dataclass(frozen=True)
class Forks:
    """Replacement for new Python processes, to save the time of imports."""

    words: list[str]  # instead of [sys.executable]
    socket: Path | None  # None if new processes are started instead

    def kill(self, process: subprocess.Popen) -> None:
        """SIGKILL the fork; the client process ends with it."""
        pid = str(process.pid)
        if self.socket:
            file, pid = self.socket.with_name(f"{self.socket.name}.{pid}"), ""
            while process.poll() is None and not (pid := file.read_text() if file.exists() else ""):
                time.sleep(0.005)
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Python processes with torch already imported (see fork_server.py)."""
    if sys.platform != "linux":
        yield Forks([sys.executable], None)
        return
    with tempfile.TemporaryDirectory(prefix="groundup-forks-") as folder:
        path = Path(folder) / "socket"
        with subprocess.Popen(
            [sys.executable, str(FORK_SERVER), "serve", str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # importing it starts the others
        ) as server:  # fmt: skip
            assert server.stdout.readline() == b"open\n"
            yield Forks([sys.executable, "-I", "-S", str(FORK_SERVER), str(path)], path)
            server.stdin.close()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from hubserver import Hub
    from huggingface_hub import constants

    hub = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"  # made from ENDPOINT when the library is loaded
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield hub
    hub.close()
