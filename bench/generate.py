"""Subject `generate`: tokens per second of GPT-2's smallest size, with and without a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import HINT, twin
from groundup.config.model import ModelConfig
from groundup.generation.completion import run_requests
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.tokenizers.gpt2 import GPT2Tokenizer

SHAPE = ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257, activation="gelu")
PROMPT = list(range(1000, 1016))  # any 16 ids: the weights are random
NEW = 64  # tokens
ROUNDS = 5
SEED = 1337

Generate = Callable[[int], list[int]]
"""number of tokens -> greedy continuation of PROMPT"""


def run(options: Options) -> Result:
    """Tokens per second of greedy decoding; all contenders must generate the same tokens."""
    gpt = use_fused_cpu_kernels(GPT(SHAPE).init_weights(torch.Generator().manual_seed(SEED))).eval()
    contenders: dict[str, Generate] = {
        "groundup": partial(_ours, gpt),
        "groundup, no cache": partial(_recomputed, gpt),
    }
    if options.nanogpt:
        contenders["nanoGPT"] = partial(_theirs, twin(gpt, options.nanogpt).eval())
    outputs = {name: generate(NEW) for name, generate in contenders.items()}  # warms up, too
    rows = interleaved({name: partial(_speed, each) for name, each in contenders.items()}, options.rounds_or(ROUNDS))
    result = Result(
        f"generate: 124M parameters, {len(PROMPT)} + {NEW} tokens, fp32, one row", "tokens/s", rows, baseline="nanoGPT"
    )
    if all(tokens == outputs["groundup"] for tokens in outputs.values()):
        result.notes.append(f"all generate the same {NEW} tokens, {len(set(outputs['groundup']))} of them distinct")
    else:
        result.failures.append("the contenders do not generate the same tokens")
    if not options.nanogpt:
        result.notes.append(HINT)
    return result


def _ours(gpt: GPT, n: int) -> list[int]:
    engine = Engine(gpt, GPT2Tokenizer(), torch.device("cpu"), slots=1)
    ((pieces,),) = run_requests(engine, [Request(tuple(PROMPT), n, Sampling(temperature=0))])
    return [token for piece in pieces for token in piece.tokens]


@torch.inference_mode()
def _recomputed(gpt: GPT, n: int) -> list[int]:
    ids = list(PROMPT)
    for _ in range(n):
        ids.append(int(gpt(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(PROMPT) :]


def _theirs(model: Any, n: int) -> list[int]:
    ids = model.generate(torch.tensor([PROMPT]), n, top_k=1)  # greedy
    return ids[0, len(PROMPT) :].tolist()


def _speed(generate: Generate) -> float:
    return NEW / seconds(lambda: generate(NEW))
