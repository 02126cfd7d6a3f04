"""Models with random weights, and servers of them that run in a thread, on loopback."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import httpx
import openai
import torch

from groundup.checkpoint.state import LoadedModel
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.generation.completion import prompt_ids
from groundup.generation.engine import Engine, Piece, Request
from groundup.generation.sampling import Sampling
from groundup.model import build_model
from groundup.server.app import Server, create_app
from groundup.server.listen import Listener, bind, url_of
from groundup.tokenizers.base import Tokenizer

CONTEXT = 32
CPU = torch.device("cpu")


def random_model(tokenizer: Tokenizer, seed: int = 1, **shape) -> LoadedModel:
    """Model with large random weights, so that its text varies."""
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": CONTEXT, "tie_embeddings": False} | shape
    config = Config(model=ModelConfig(vocab_size=tokenizer.n_vocab, **shape))
    model = build_model(config.model).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0.0, 0.3, generator=generator)
    return LoadedModel(Path("nowhere"), config, model, tokenizer, CPU, {})


@dataclass
class Live:
    """A server that runs in a thread."""

    url: str
    listener: Listener
    thread: threading.Thread
    loaded: dict[str, LoadedModel]

    @property
    def server(self) -> Server:
        return self.listener.config.app.state.server

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=60.0)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=600.0, limits=httpx.Limits(max_connections=None))

    def post(self, body, path: str = "/v1/completions", **options) -> httpx.Response:
        """An answer to `body`: a value to be written as JSON, or bytes as they are."""
        if isinstance(body, bytes):
            options = {"content": body, "headers": {"Content-Type": "application/json"}} | options
        else:
            options = {"json": body} | options
        return self.http.post(path, **options)

    def get(self, path: str, **options) -> httpx.Response:
        return self.http.get(path, **options)

    def stop(self) -> None:
        for name in ("client", "http"):
            if name in vars(self):
                getattr(self, name).close()
        self.listener.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive()


@contextmanager
def serving(models: dict[str, LoadedModel], **options) -> Iterator[Live]:
    """A server of these models on a free port; options of `create_app`."""
    ready = threading.Event()
    with bind("127.0.0.1", 0) as bound:
        listener = Listener(create_app(models, **options), ready.set)
        thread = threading.Thread(target=listener.run, kwargs={"sockets": [bound]})
        live = Live(url_of(bound), listener, thread, models)
        thread.start()
        try:
            assert ready.wait(30)
            yield live
        finally:
            live.stop()


def lone(loaded: LoadedModel, request: Request) -> list[Piece]:
    """The pieces of a request that an engine computes with nothing else in it."""
    engine, pieces = Engine(loaded.model, loaded.tokenizer, loaded.device), []
    engine.add(request)
    while not engine.idle:
        pieces += engine.step()
    return pieces


def lone_text(loaded: LoadedModel, prompt: str | list[int], max_tokens: int, *, sample: int = 0, **sampling) -> str:
    """The text of a request with nothing else in the engine; greedy unless `sampling` says otherwise."""
    ids = prompt_ids(loaded.tokenizer, prompt) if isinstance(prompt, str) else prompt
    request = Request(tuple(ids), max_tokens, Sampling(**({"temperature": 0.0} | sampling)), samples=sample + 1)
    return "".join(piece.text for piece in lone(loaded, request) if piece.sample == sample)
