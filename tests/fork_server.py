"""Python processes with torch already imported: forks of a process that has only done imports.

Importing torch, and what it imports when training starts, takes four seconds of a core; a fork takes none.
groundup's own modules are imported again in every fork, so that a missing import fails as it would elsewhere.

    python tests/fork_server.py serve SOCKET                waits there for
    python tests/fork_server.py SOCKET -c CODE WORD…        which has a fork do what `python -c CODE WORD…` does,
    python tests/fork_server.py SOCKET -m MODULE WORD…      with its environment, folder, input, outputs, exit status.

Tests of signals, memory or process start use new processes instead.
"""

import gc
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

IMPORTED = (
    "groundup.api", "groundup.run.trainer", "groundup.cli.display", "groundup.preprocess.pipeline", "torch._dynamo",
    "torch._inductor.config", "tiktoken", "tokenizers", "zstandard",  # not pyarrow, which starts a thread
)  # fmt: skip


def serve(path: str) -> dict:
    """Fork for every client; returns, in the fork, the request."""
    from importlib import import_module

    for name in IMPORTED:
        import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] == "groundup"]:
        del sys.modules[name]
    gc.freeze()  # a garbage collection in a fork would touch, and so copy, all memory
    threads = len(list(Path("/proc/self/task").iterdir()))
    assert threads == 1, f"{threads} threads: a fork would copy one"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("open", flush=True)
        while select.select([listener, sys.stdin], [], [])[0] == [listener]:  # until the parent process is gone
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:  # forks that have ended
                    pass
            client, _ = listener.accept()
            if not os.fork():
                return serve_client(client)
            client.close()
    with suppress(ChildProcessError):
        while os.wait():  # so that their time is counted
            pass
    sys.exit()


def serve_client(client: socket.socket) -> dict:
    """Fork again and report that fork's pid and exit status to the client; returns, in the fork, the request."""
    _, handles, _, _ = socket.recv_fds(client, 1, 3)
    request = json.loads(client.makefile().readline())
    pid = os.fork()
    if not pid:
        client.close()
        for target, handle in enumerate(handles):
            os.dup2(handle, target)
            os.close(handle)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
        return request
    try:
        for handle in (0, 1, 2, *handles):
            os.close(handle)
        client.sendall(f"{pid}\n".encode())
        ended = os.pidfd_open(pid)
        if ended not in select.select([ended, client], [], [])[0]:  # the client is gone
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        client.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    finally:
        os._exit(0)


def run_request(request: dict) -> None:
    """Run the request as Python would run these arguments."""
    from runpy import run_module
    from types import ModuleType

    os.environ.clear()
    os.environ.update(request["environ"])
    os.chdir(request["folder"])
    how, what, *words = request["words"]
    sys.argv[:] = [how, *words]
    if how == "-m":
        sys.path[0] = str(Path.cwd())
        run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = ""
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), main.__dict__)


def ask(path: str, words: list[str]) -> int:
    """Send a request to the server; returns the exit status."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"."], [0, 1, 2])
        request = {"words": words, "environ": dict(os.environ), "folder": str(Path.cwd())}
        server.sendall(json.dumps(request).encode() + b"\n")
        answers = server.makefile()
        with Path(f"{path}.{os.getpid()}").open("w") as file:
            file.write(answers.readline())
        return int(answers.readline())


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        run_request(serve(sys.argv[2]))
    else:
        status = ask(sys.argv[1], sys.argv[2:])
        if status < 0:
            if -status != signal.SIGKILL:
                signal.signal(-status, signal.SIG_DFL)
            os.kill(os.getpid(), -status)
        sys.exit(status)
