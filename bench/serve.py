"""A server and its clients beside the engine alone, for GPT-2's smallest size with random weights.

python -m bench.serve [--seconds 60] [--clients 32] [--model RUN] [--json FILE]

`first token`: a request of one token, and `Engine` in this process, in turn. `clients`: so many at once, each of which
asks again as soon as it has its answer. `long prompts`: eight of 10^6 characters arrive while one client reads a stream
and another asks for /health, /metrics and /v1/models.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from groundup.cli import GOMP_SPIN_COUNT

os.environ.setdefault("GOMP_SPINCOUNT", GOMP_SPIN_COUNT)  # as `groundup` does, before torch is loaded

import httpx
import numpy as np
import torch
from rich.console import Console

from bench.measure import Result, Row, check_json, interleaved, seconds
from bench.measure import machine as machine_facts
from groundup.checkpoint import state
from groundup.config import presets
from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.distributed.gather import StateTensors
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.model import build_model
from groundup.tokenizers.gpt2 import GPT2Tokenizer

SHAPE = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, "vocab_size": 50_257}
PROMPT_TOKENS, NEW_TOKENS = 64, 64  # of each request of a client
FIRST_TOKEN_PROMPTS, FIRST_TOKEN_ROUNDS = (16, 256), 9
LONG_PROMPTS, LONG_CHARACTERS, ASK_SECONDS = 8, 10**6, 0.1
MAX_FIRST_TOKEN, MAX_ANSWER_SECONDS, MIN_SHARE = (
    1.3,
    0.5,
    0.9,
)  # goals: x the engine's; of the short routes; of tokens/s
SEED = 1337


def main() -> int:
    """Exit status: 0 if all goals are met, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description="A server beside the engine alone.")
    parser.add_argument("--model", type=Path, metavar="RUN", help="a run to serve instead of random weights")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the clients ask (default 60)")
    parser.add_argument("--clients", type=int, default=32, help="clients at once (default 32)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write machine and results there")
    args = parser.parse_args()
    check_json(args.json)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        path = args.model or random_checkpoint(Path(folder) / "random")
        loaded = state.load(path, device="cpu")
        with served(path) as server:
            console, bench = Console(), Bench(loaded, server)
            console.print(f"server: {server.line}", highlight=False)
            results = {
                "first-token": bench.first_token(),
                "clients": bench.clients(args.clients, args.seconds),
                "long-prompts": bench.long_prompts(),
            }
    for result in results.values():
        console.print(f"\n{result.title}", style="bold")
        for row in result.rows:
            console.print(f"  {row.name}: {row.median:.4g} {result.unit}", highlight=False)
        for note in result.notes:
            console.print(f"  {note}", highlight=False)
        for failure in result.failures:
            console.print(f"  MISSED: {failure}", style="red")
    if args.json:
        found = {name: result.as_dict() for name, result in results.items()}
        args.json.write_text(json.dumps({"machine": machine_facts(), "results": found}, indent=2) + "\n", "utf-8")
    return int(any(result.failures for result in results.values()))


def random_checkpoint(folder: Path) -> Path:
    """A checkpoint of GPT-2's smallest size with random weights and GPT-2's tokenizer."""
    config = merge_and_validate([presets.preset("gpt2"), ConfigSource("bench", {"model": SHAPE})])
    gpt = build_model(config.model).init_weights(torch.Generator().manual_seed(SEED))
    weights = {name: parameter.detach() for name, parameter in gpt.named_parameters()}
    progress = {"step": 0, "tokens": 0}
    state.save(folder, state.Snapshot(config, GPT2Tokenizer(), progress, StateTensors(weights, {}, {})))
    return folder


@dataclass
class ServerProcess:
    """A running `groundup serve`."""

    process: subprocess.Popen[str]
    url: str
    line: str  # that it printed

    def memory(self, *, peak: bool) -> int:
        """Bytes in memory, now or at most since `forget_peak`."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        name = "VmHWM" if peak else "VmRSS"
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) << 10

    def forget_peak(self) -> None:
        """Let the peak begin at the present use."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@contextmanager
def served(path: Path) -> Iterator[ServerProcess]:
    """`groundup serve` on a free port of this machine, called `model`."""
    command = [sys.executable, "-m", "groundup", "serve", f"model={path}", "--port", "0", "--device", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline().strip()
            yield ServerProcess(process, line.split()[0], line)
        finally:
            process.terminate()


@dataclass
class Timeline:
    """When the texts of a stream came, in seconds since the request; and its number of tokens."""

    times: list[float] = field(default_factory=list)
    tokens: int = 0


class Bench:
    """The three measurements."""

    def __init__(self, loaded: state.LoadedModel, server: ServerProcess) -> None:
        self.loaded, self.server, self._rng = loaded, server, np.random.default_rng(SEED)

    def prompt(self, tokens: int) -> list[int]:
        """Random ids, no more than the context; no two prompts are equal."""
        tokens = min(tokens, self.loaded.config.model.block_size)
        return [int(token) for token in self._rng.integers(self.loaded.tokenizer.n_vocab, size=tokens)]

    def engine_seconds(self, prompts: int, prompt_tokens: int, new_tokens: int) -> float:
        """Time in which the engine alone fulfils so many requests."""
        engine = Engine(self.loaded.model, self.loaded.tokenizer, self.loaded.device)
        for _ in range(prompts):
            engine.add(Request(tuple(self.prompt(prompt_tokens)), new_tokens, Sampling(temperature=0)))

        def work() -> None:
            while not engine.idle:
                engine.step()

        return seconds(work)

    def first_token(self) -> Result:
        """Seconds from a request to its first text."""
        result = Result("first token", "s", [], baseline="engine")
        with httpx.Client(base_url=self.server.url, timeout=600) as client:

            def ask(tokens: int) -> float:
                body = self._body(self.prompt(tokens), 1)
                return seconds(lambda: client.post("/v1/completions", json=body).raise_for_status())

            for tokens in FIRST_TOKEN_PROMPTS:
                contenders: dict[str, Callable[[], float]] = {
                    f"server, {tokens} tokens": lambda tokens=tokens: ask(tokens),
                    f"engine, {tokens} tokens": lambda tokens=tokens: self.engine_seconds(1, tokens, 1),
                }
                for measure in contenders.values():
                    measure()
                rows = interleaved(contenders, FIRST_TOKEN_ROUNDS)
                result.rows += rows
                ratio = rows[0].ratio(rows[1])
                judge(result, ratio <= MAX_FIRST_TOKEN, f"after {tokens} tokens: {ratio:.2f} x the engine alone")
        return result

    def clients(self, number: int, duration: float) -> Result:
        """Tokens per second of all clients; times between texts."""
        alone = [self._engine_rate() for _ in range(2)]
        timelines, lost, took = asyncio.run(self._ask_until(number, duration))
        alone.append(self._engine_rate())
        rate = sum(timeline.tokens for timeline in timelines) / took
        rows = [Row("server", [rate]), Row("engine alone", [median(alone)])]
        result = Result(f"{number} clients for {took:.0f} s", "tokens/s", rows, baseline="engine alone")
        first = [timeline.times[0] for timeline in timelines]
        gaps = [gap for timeline in timelines for gap in np.diff(timeline.times)]
        for name, values in (("first token", first), ("between texts", gaps)):
            p50, p99 = np.percentile(values, (50, 99))
            result.notes.append(f"{name}: p50 {p50:.3f} s, p99 {p99:.3f} s")
        result.notes.append(f"{rate / median(alone):.2f} x the engine alone with 8 texts at once")
        judge(result, not lost, f"{len(timelines)} answers complete, {lost} lost")
        return result

    def _engine_rate(self) -> float:
        return 16 * NEW_TOKENS / self.engine_seconds(16, PROMPT_TOKENS, NEW_TOKENS)

    async def _ask_until(self, clients: int, duration: float) -> tuple[list[Timeline], int, float]:
        """All timelines, the number of requests without a complete answer, and the seconds that passed."""
        began, done, lost = time.perf_counter(), [], 0

        async def ask() -> None:
            nonlocal lost
            while time.perf_counter() < began + duration:
                try:
                    done.append(await self._stream(client, self.prompt(PROMPT_TOKENS), NEW_TOKENS))
                except (httpx.HTTPError, ValueError):
                    lost += 1

        async with self._async_client() as client:
            await asyncio.gather(*(ask() for _ in range(clients)))
        return done, lost, time.perf_counter() - began

    def long_prompts(self) -> Result:
        """Answers of short routes, memory, and another client's stream while long prompts arrive."""
        return asyncio.run(self._long_prompts())

    async def _long_prompts(self) -> Result:
        async with self._async_client() as client:
            quiet = await self._stream(client, self.prompt(PROMPT_TOKENS), 2 * NEW_TOKENS)
            idle = self.server.memory(peak=False)
            self.server.forget_peak()
            stream = asyncio.create_task(self._stream(client, self.prompt(PROMPT_TOKENS), 2 * NEW_TOKENS))
            await asyncio.sleep(quiet.times[0])
            bodies = [self._body("word " * (LONG_CHARACTERS // 5), 1) for _ in range(LONG_PROMPTS)]
            posts = [asyncio.create_task(client.post("/v1/completions", json=body)) for body in bodies]
            slowest = 0.0
            while not stream.done():
                for path in ("/health", "/metrics", "/v1/models"):
                    began = time.perf_counter()
                    (await client.get(path)).raise_for_status()
                    slowest = max(slowest, time.perf_counter() - began)
                await asyncio.sleep(ASK_SECONDS)
            statuses = {(await post).status_code for post in posts}
            peak = self.server.memory(peak=True)
        share = quiet.times[-1] / (await stream).times[-1]
        result = Result(f"{LONG_PROMPTS} prompts of {LONG_CHARACTERS:,} characters", "s", [], baseline="")
        result.rows.append(Row("slowest answer of /health, /metrics and /v1/models", [slowest]))
        judge(result, slowest < MAX_ANSWER_SECONDS, f"slowest answer of the short routes: {slowest:.3f} s")
        judge(result, peak < 2 * idle + 100e6, f"memory: {peak / 1e6:.0f} MB at most, {idle / 1e6:.0f} MB idle")
        judge(result, share >= MIN_SHARE, f"another client's tokens/s: {share:.2f} x those without")
        judge(result, statuses == {400}, f"the prompts are refused: {statuses}")
        return result

    def _async_client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.server.url, timeout=600, limits=httpx.Limits(max_connections=None))

    async def _stream(self, client: httpx.AsyncClient, prompt: list[int], tokens: int) -> Timeline:
        """Read a stream; ValueError where it is not complete."""
        began, found, last = time.perf_counter(), Timeline(), ""
        async with client.stream("POST", "/v1/completions", json=self._body(prompt, tokens, stream=True)) as answer:
            answer.raise_for_status()
            async for line in answer.aiter_lines():
                if line.startswith("data: {"):
                    found.times.append(time.perf_counter() - began)
                last = line or last
        if last != "data: [DONE]":
            raise ValueError(f"the stream ended with {last[:200]!r}")
        found.tokens = tokens  # the end of text is excluded, so that all are made
        return found

    def _body(self, prompt: list[int] | str, tokens: int, *, stream: bool = False) -> dict[str, Any]:
        bias = {str(self.loaded.tokenizer.end_of_text): -100}
        return {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": stream, "logit_bias": bias}


def judge(result: Result, met: bool, what: str) -> None:
    """Note a goal, and whether it was met."""
    (result.notes if met else result.failures).append(what)


if __name__ == "__main__":
    sys.exit(main())
