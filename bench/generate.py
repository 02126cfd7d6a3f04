"""Subject `generate`: tokens per second of GPT-2's smallest size, with and without a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import HINT, twin
from groundup.config.model import ModelConfig
from groundup.generation.completion import stream
from groundup.generation.sampling import Sampler
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT

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
        "groundup": partial(_ours, gpt, cached=True),
        "groundup, no cache": partial(_ours, gpt, cached=False),
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


def _ours(gpt: GPT, n: int, *, cached: bool) -> list[int]:
    rows = stream(gpt, PROMPT, Sampler(t=0), device=torch.device("cpu"), max_tokens=n, cached=cached)
    return [token for (token,) in rows if token is not None]


def _theirs(model: Any, n: int) -> list[int]:
    ids = model.generate(torch.tensor([PROMPT]), n, top_k=1)  # greedy
    return ids[0, len(PROMPT) :].tolist()


def _speed(generate: Generate) -> float:
    return NEW / seconds(lambda: generate(NEW))
