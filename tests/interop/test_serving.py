"""Exported models in other programs' servers, which run on 127.0.0.1."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

import groundup
from groundup.interop.export import export

NEEDED = ("transformers", "fastapi", "uvicorn", "openai", "accelerate")


def ask(address, path, values=None):
    data = json.dumps(values).encode() if values else None
    request = Request(f"{address}{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=300) as answer:
        return json.load(answer)


@pytest.fixture
def serve():
    """Start `transformers serve` on a folder; returns its address."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        pytest.skip(f"needs pip install 'transformers[serving]' ({', '.join(missing)} missing)")
    processes = []

    def start(folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu", str(folder)]
        command, quiet = [sys.executable, "-m", "transformers.cli.transformers", *words], subprocess.DEVNULL
        environment = os.environ | {"HF_HUB_OFFLINE": "1"}
        processes.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
        while time.monotonic() < until and processes[-1].poll() is None:
            with suppress(URLError, ConnectionError):
                ask(address, "/health")
                return address
            time.sleep(0.2)
        raise AssertionError("it did not start")

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.long
@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_transformers_serve_generates_the_same_text(preset, checkpoint, tmp_path, serve):
    folder = checkpoint(preset)
    export(folder, tmp_path / "model")
    prompt, n = "Once", 7  # in total no more than the context
    expected = groundup.generate(folder, prompt, max_tokens=n, temperature=0)[0].removeprefix(prompt)
    values = {"model": str(tmp_path / "model"), "prompt": prompt, "max_tokens": n, "temperature": 0}
    [choice] = ask(serve(tmp_path / "model"), "/v1/completions", values)["choices"]
    assert choice["text"] == expected


@pytest.mark.slow
def test_llama_cpp_generates_the_same_text(checkpoint, tmp_path):
    pytest.importorskip("gguf", reason="needs the extra `gguf`")
    llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    folder = checkpoint()
    export(folder, tmp_path / "model.gguf", to="gguf")
    prompt, n = "Once", 7
    expected = groundup.generate(folder, prompt, max_tokens=n, temperature=0)[0].removeprefix(prompt)
    llama = llama_cpp.Llama(str(tmp_path / "model.gguf"), n_ctx=12, verbose=False)
    tokenizer = groundup.load(folder).tokenizer
    written = islice(llama.generate(tokenizer.encode(prompt).tolist(), temp=0.0, repeat_penalty=1.0), n)
    assert tokenizer.decode(written) == expected
    llama.close()
