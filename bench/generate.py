"""Subject `generate`: tokens per second of GPT-2's smallest size, with and without a KV cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from bench.measure import Options, Result, interleaved, seconds
from bench.nanogpt import HINT, twin
from groundup.config.model import ModelConfig
from groundup.generation.engine import stream
from groundup.generation.sampling import Sampler
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT

SHAPE = ModelConfig(n_layer=12, n_head=12, n_embd=768, block_size=1024, vocab_size=50_257, activation="gelu")
PROMPT = list(range(1000, 1016))  # any 16 ids: the weights are random
NEW = 64  # tokens
ROUNDS = 5
SEED = 1337

Speaker = Callable[[int], list[int]]
"""number of tokens -> the likeliest continuation of PROMPT"""


def run(options: Options) -> Result:
    """Tokens a second of one continuation, the likeliest token each time; all contenders must say the same."""
    gpt = use_fused_cpu_kernels(GPT(SHAPE).init_weights(torch.Generator().manual_seed(SEED))).eval()
    speakers: dict[str, Speaker] = {
        "groundup": partial(_ours, gpt, cached=True),
        "groundup, no cache": partial(_ours, gpt, cached=False),
    }
    if options.nanogpt:
        speakers["nanoGPT"] = partial(_theirs, twin(gpt, options.nanogpt).eval())
    said = {name: speak(NEW) for name, speak in speakers.items()}  # warms up, too
    rows = interleaved({name: partial(_speed, speak) for name, speak in speakers.items()}, options.rounds_or(ROUNDS))
    result = Result(
        f"generate: 124M parameters, {len(PROMPT)} + {NEW} tokens, fp32, one row", "tokens/s", rows, baseline="nanoGPT"
    )
    if all(tokens == said["groundup"] for tokens in said.values()):
        result.notes.append(f"all say the same {NEW} tokens, {len(set(said['groundup']))} of them distinct")
    else:
        result.failures.append("the contenders do not say the same tokens")
    if not options.nanogpt:
        result.notes.append(HINT)
    return result


def _ours(gpt: GPT, n: int, *, cached: bool) -> list[int]:
    rows = stream(gpt, PROMPT, Sampler(t=0), device=torch.device("cpu"), max_tokens=n, cached=cached)
    return [token for (token,) in rows if token is not None]


def _theirs(model: Any, n: int) -> list[int]:
    ids = model.generate(torch.tensor([PROMPT]), n, top_k=1)  # the top one alone leaves nothing to chance
    return ids[0, len(PROMPT) :].tolist()


def _speed(speak: Speaker) -> float:
    return NEW / seconds(lambda: speak(NEW))
