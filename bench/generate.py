"""Subjects `generate` and `generate-small`: tokens per second of greedy decoding, of groundup and other programs.

All have the same random weights: a peer reads them from groundup's exports. Peers besides nanoGPT are processes of
`generation_peers.py` under the interpreter of --peers-python, which stay alive during the rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench import generation_peers
from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import HINT, twin
from bench.worker import Failed
from groundup.config.model import ModelConfig
from groundup.config.presets import MODERN_PARTS
from groundup.errors import UsageError
from groundup.generation.completion import run_requests
from groundup.generation.engine import Engine, Request
from groundup.generation.model_decoder import ModelDecoder
from groundup.generation.sampling import Sampling
from groundup.interop import gguf, hf
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.model.quantized import Quantization, quantize
from groundup.tokenizers.base import Tokenizer
from groundup.tokenizers.byte_char import ByteTokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer

ROUNDS = 5
SEED = 1337
PROMPT_TOKENS = 16
SETTLE = 0.3  # seconds until the threads of the contender before have stopped spinning; Intel's OpenMP: 0.2
ROWS = 8  # texts at once, where it is not one
CPU = torch.device("cpu")
FP32 = "groundup, fp32"  # whose tokens all others in fp32 must generate, and that ratios refer to
PEERS_HINT = "without other programs' rows: give a Python that has them with --peers-python"


@dataclass(frozen=True)
class Task:
    """A model, and what it generates."""

    name: str
    config: ModelConfig
    tokenizer: Callable[[], Tokenizer]
    tokens: int
    repeats: int = 1  # texts per measurement, one after another

    def prompt(self, row: int = 0) -> list[int]:
        """Any ids, as the weights are random; different in each row."""
        start = self.config.vocab // 4 + row
        return list(range(start, start + PROMPT_TOKENS))


GPT2 = Task(
    "124M parameters",
    ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257),
    GPT2Tokenizer,
    tokens=96,
)
# The shape of the preset `modern-mini`, over bytes. Its own weights would begin with a head of zeros.
SMALL_SHAPE = ModelConfig(
    n_layer=6, n_head=6, n_embd=384, block_size=256, vocab_size=257, vocab_multiple=8, **MODERN_PARTS | {"init": "gpt2"}
)
SMALL = Task("modern-mini, bytes", SMALL_SHAPE, ByteTokenizer, tokens=96, repeats=3)

Answer = tuple[float, list[int]]
"""Seconds and tokens of the first row."""


@dataclass(frozen=True)
class Contender:
    """Generates the task's texts once for each repeat."""

    generate: Callable[[int], Answer]  # of a number of repeats
    computed_by: str
    exact: bool  # in fp32: must generate the same tokens
    rows: int = 1


def run(task: Task, options: Options) -> Result:
    """Tokens per second of all rows together; contenders in fp32 must generate the same tokens."""
    gpt = use_fused_cpu_kernels(GPT(task.config).init_weights(torch.Generator().manual_seed(SEED))).eval()
    notes: list[str] = []
    with ExitStack() as stack:
        contenders = ours(gpt, task)
        if options.nanogpt and gpt.config.position_embedding == "learned":
            model = twin(gpt, options.nanogpt).eval()
            contenders["nanoGPT, fp32"] = Contender(partial(_theirs, model, task), "PyTorch, no cache", exact=True)
        if options.peers_python:
            peers, notes = stack.enter_context(started_peers(gpt, task, options.peers_python, options.threads))
            contenders |= peers
        outputs = {name: each.generate(1)[1] for name, each in contenders.items()}  # warms up, too
        timed = {name: partial(_speed, task, each) for name, each in contenders.items()}
        rows = interleaved(timed, options.rounds_or(ROUNDS))
    title = f"generate: {task.name}, {PROMPT_TOKENS} + {task.tokens} tokens, greedy"
    result = Result(title, "tokens/s", rows, baseline=FP32, notes=notes)
    result.notes += [f"{name}: {each.computed_by}" for name, each in contenders.items()]
    judge(result, {name: tokens for name, tokens in outputs.items() if contenders[name].exact}, task.tokens)
    result.notes += [hint for given, hint in ((options.nanogpt, HINT), (options.peers_python, PEERS_HINT)) if not given]
    return result


def judge(result: Result, outputs: Mapping[str, list[int]], tokens: int) -> None:
    """A failure for each contender in fp32 that generates other tokens than ours, or too few."""
    expected = outputs[FP32]
    different = [name for name, found in outputs.items() if found != expected or len(found) != tokens]
    result.failures += [f"{name}: does not generate the {tokens} tokens of {FP32}" for name in different]
    if not different:
        result.notes.append(f"all in fp32 generate the same {tokens} tokens, {len(set(expected))} of them distinct")


def ours(gpt: GPT, task: Task) -> dict[str, Contender]:
    """Contenders of groundup, by name."""
    kinds: dict[str, Quantization] = {"fp32": "none", "bf16": "bf16", "int8": "int8"}
    models = {name: gpt if kind == "none" else quantize(deepcopy(gpt), kind) for name, kind in kinds.items()}
    tokenizer = task.tokenizer()
    found = {}
    for name, rows in (("fp32", 1), ("bf16", 1), ("int8", 1), ("fp32", ROWS), ("int8", ROWS)):
        engine = Engine(models[name], tokenizer, CPU, slots=rows)
        several = f", {rows} rows" if rows > 1 else ""
        found[f"groundup, {name}{several}"] = _ours(engine, task, rows, exact=name == "fp32")
    engine = Engine(gpt, tokenizer, CPU, slots=1, decoder=ModelDecoder(gpt, CPU, 1))
    return found | {f"{FP32}, by PyTorch": _ours(engine, task, 1, exact=True)}


def _ours(engine: Engine, task: Task, rows: int, *, exact: bool) -> Contender:
    sampling = Sampling(temperature=0)
    requests = [Request(tuple(task.prompt(row)), task.tokens, sampling) for row in range(rows)]

    def generate(repeats: int) -> Answer:
        tokens: list[int] = []

        def texts() -> None:
            for _ in range(repeats):
                (pieces,), *_ = run_requests(engine, requests)
                tokens[:] = [token for piece in pieces for token in piece.tokens]

        return seconds(texts), tokens

    return Contender(generate, engine.describe(), exact, rows)


def _theirs(model: Any, task: Task, repeats: int) -> Answer:
    prompt = torch.tensor([task.prompt()])
    tokens: list[int] = []

    def texts() -> None:
        for _ in range(repeats):
            tokens[:] = model.generate(prompt, task.tokens, top_k=1)[0, PROMPT_TOKENS:].tolist()  # greedy

    return seconds(texts), tokens


def _speed(task: Task, contender: Contender) -> float:
    time.sleep(SETTLE)
    return contender.rows * task.tokens * task.repeats / contender.generate(task.repeats)[0]


@contextmanager
def started_peers(gpt: GPT, task: Task, python: Path, threads: int) -> Iterator[tuple[dict[str, Contender], list[str]]]:
    """Processes of the peers that can compute the model, by name, and notes on the others."""
    found, notes = {}, []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        notes += export(gpt, task.tokenizer(), folder)
        for name in generation_peers.PEERS:
            print(f"{name}: reading the model ...", file=sys.stderr, flush=True)
            peer = stack.enter_context(PeerProcess(python, name, folder, threads))
            try:
                computed_by = peer.answer()["loaded"]
                peer.generate(task, 1)
            except Failed as failed:
                notes.append(f"{name}: left out ({failed})")
            else:
                found[name] = Contender(partial(peer.generate, task), computed_by, exact=name.endswith("fp32"))
        yield found, notes


def export(gpt: GPT, tokenizer: Tokenizer, folder: Path) -> list[str]:
    """Write the model as `groundup export` does: `hf`, `f32.gguf` and `q8_0.gguf`; notes on what cannot be written."""
    tensors = {name: parameter.detach() for name, parameter in gpt.named_parameters()}
    (folder / "hf").mkdir()
    hf.write(folder / "hf", gpt.config, tensors, tokenizer, card="")
    try:
        for dtype in ("f32", "q8_0"):
            gguf.write(folder / f"{dtype}.gguf", gpt.config, tensors, tokenizer, name="bench", dtype=dtype)
    except UsageError as error:
        return [str(error)]
    return []


class PeerProcess:
    """A process of `generation_peers.py`; a context manager that ends it."""

    def __init__(self, python: Path, name: str, folder: Path, threads: int) -> None:
        command = [str(python), "-I", generation_peers.__file__, name, str(folder), str(threads)]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> PeerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input is the end of the process

    def generate(self, task: Task, repeats: int) -> Answer:
        """See `Contender`; the process measures the time. Failed if it cannot, or ended."""
        assert self._process.stdin is not None, "a pipe"
        request = {"prompt": task.prompt(), "tokens": task.tokens, "repeats": repeats}
        try:
            print(json.dumps(request), file=self._process.stdin, flush=True)
        except OSError as error:
            raise Failed("its process ended") from error
        answer = self.answer()
        return answer["seconds"], answer["tokens"]

    def answer(self) -> dict[str, Any]:
        """The next answer; Failed as `generate`."""
        assert self._process.stdout is not None, "a pipe"
        line = self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process ended"}
        if "failed" in answer:
            raise Failed(answer["failed"])
        return answer
