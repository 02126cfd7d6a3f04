"""Without an option that names a service, no command opens a connection or asks for an address."""

import socket
import sys

import pytest

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
watching = False


@pytest.fixture
def no_network():
    """While it is used, an attempt to reach another machine ends the command with a traceback."""
    global watching
    if not any(name == "audited" for name in vars(sys)):
        sys.addaudithook(refuse)  # a hook stays for good
        sys.audited = True
    watching = True
    yield
    watching = False


def refuse(event: str, args: tuple) -> None:
    if watching and event in NETWORK:
        raise AssertionError(f"{event} {args[1:]}")


@pytest.mark.usefixtures("no_network")
def test_the_guard_sees_a_connection():
    with pytest.raises(AssertionError, match="getaddrinfo"):
        socket.create_connection(("localhost", 9))


@pytest.mark.usefixtures("no_network")
def test_no_command_reaches_the_network(groundup, fast, sentences, tmp_path):
    (tmp_path / "book.txt").write_text(sentences(300), encoding="utf-8")
    for line in (
        "prepare book.txt --out data --tokenizer bpe:300",
        f"plan gpt2-nano --data data {' '.join(fast)}",
        f"train gpt2-nano --data data --out run {' '.join(fast)}",
        "resume run",
        "evaluate run",
        "generate run --prompt The --max-tokens 5",
        "compare run --out curve.svg",
        "why run 3",
        "fsck run",
        "export run --to hf --out exported",
        "import exported --out imported",
        "tokenizer show hello",
        "tokenizer train book.txt --size 300 --out tokenizer",
        "corpora",
    ):
        done = groundup(*line.split())
        assert done.status == 0, (line, done.err)
