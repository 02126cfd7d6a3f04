"""Subjects of `bench.gpu` that use a finished model: multiple-choice questions and generation."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from bench.contenders import GPT2
from bench.gpu_child import Job
from bench.gpu_device import forget, here, seconds
from bench.gpu_table import Row
from groundup.evaluation.likelihood import log_likelihoods
from groundup.evaluation.multiple_choice import Ids
from groundup.generation.completion import run_requests
from groundup.generation.engine import Engine, Request
from groundup.generation.sampling import Sampling
from groundup.model.gpt import GPT
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.utils.device import Name, autocast

QUESTIONS, CHOICES = 4096, 4
HELLASWAG = 10_042  # questions of its validation split
MAX_SECONDS, MIN_AGREEMENT, MIN_SPEEDUP = 3.0, 0.998, 20  # goals: all of these; bf16 choices; x the plain loop
SEED = 1337

Pairs = list[tuple[Ids, Ids]]


def model_of(job: Job) -> GPT:
    """GPT-2's smallest size with random weights."""
    small = {"n_layer": 2, "n_head": 2, "n_embd": 64, "block_size": 96, "vocab_size": 128} if job.toy else {}
    gpt = GPT(GPT2.config.model_copy(update=small)).init_weights(torch.Generator().manual_seed(SEED))
    return gpt.to(here(toy=job.toy)).eval()


def synthetic_questions(n: int, vocab: int) -> Pairs:
    """Questions as long as HellaSwag's in GPT-2's tokens, of random ids: four endings for each context."""
    rng, pairs = np.random.default_rng(SEED), Pairs()
    for _ in range(n):
        context = rng.integers(vocab, size=int(rng.integers(12, 60)))
        length = int(rng.integers(4, 20))
        pairs += [(context, rng.integers(vocab, size=length + int(rng.integers(0, 4)))) for _ in range(CHOICES)]
    return pairs


def questions(job: Job) -> None:
    """Questions per second, compared with a plain loop; agreement of bf16 with fp32."""
    device, gpt = here(toy=job.toy), model_of(job)
    n = 8 if job.toy else QUESTIONS
    pairs = synthetic_questions(n, gpt.config.vocab)
    torch.set_float32_matmul_precision("highest")
    nats: dict[str, np.ndarray] = {}

    def answer(precision: Name) -> None:
        found = log_likelihoods(gpt, pairs, device=device, autocast=autocast(precision, device))
        nats[precision] = found.nats

    speeds = {}
    for precision in ("bf16", "fp32"):
        work = partial(answer, precision)
        job.attempt(f"warming up in {precision}", work)
        speeds[precision] = n / seconds(device, work)
    few = pairs[: CHOICES * min(n, 64)]
    loop = partial(plain, gpt, few, autocast("bf16", device))
    loop()
    rate = len(few) / CHOICES / seconds(device, loop)
    ratio = speeds["bf16"] / rate
    job.add(
        Row("questions per second, bf16", speeds["bf16"], "/s", peer=rate, peer_name="one at a time", ratio=ratio),
        Row("times the plain loop", ratio, "", goal=f">= {MIN_SPEEDUP}", met=ratio >= MIN_SPEEDUP),
        Row("questions per second, fp32", speeds["fp32"], "/s"),
    )
    took = HELLASWAG / speeds["bf16"]
    job.add(Row(f"{HELLASWAG:,} questions", took, "s", goal=f"<= {MAX_SECONDS:g} s", met=took <= MAX_SECONDS))
    choices = [nats[precision].reshape(-1, CHOICES).argmax(1) for precision in ("bf16", "fp32")]
    same = float((choices[0] == choices[1]).mean())
    job.add(Row("bf16 choices equal to fp32", same, "", goal=f">= {MIN_AGREEMENT:g}", met=same >= MIN_AGREEMENT))
    job.note("weights and questions are random, so many choices are near ties")


@torch.inference_mode()
def plain(gpt: GPT, pairs: Pairs, context: object) -> list[int]:
    """Choices of the plain loop: one question at a time, endings padded to one length, logits of all positions."""
    device, chosen = next(gpt.parameters()).device, []
    for at in range(0, len(pairs), CHOICES):
        four = pairs[at : at + CHOICES]
        T = max(len(c) + len(e) for c, e in four)
        ids, mask = torch.zeros(CHOICES, T, dtype=torch.long), torch.zeros(CHOICES, T)
        for i, (before, ending) in enumerate(four):
            ids[i, : len(before) + len(ending)] = torch.from_numpy(np.concatenate([before, ending]))
            mask[i, len(before) : len(before) + len(ending)] = 1
        ids, mask = ids.to(device), mask.to(device)
        with context():  # type: ignore[operator]
            logits = gpt(ids)[:, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        chosen.append(int((losses.view(CHOICES, -1) * mask[:, 1:]).sum(1).argmin()))
    return chosen


def decode(job: Job) -> None:
    """Tokens per second with a KV cache, as in `groundup generate`, and with weights in bf16."""
    device, gpt = here(toy=job.toy), model_of(job)
    new = 8 if job.toy else 128
    torch.set_float32_matmul_precision("highest" if job.toy else "high")
    for dtype in ("fp32", "bf16"):
        gpt = gpt.bfloat16() if dtype == "bf16" else gpt
        for rows in (1, 2) if job.toy else (1, 64):
            forget(device)
            name = f"{dtype} weights, {rows} row{'s' if rows > 1 else ''}"
            work = partial(generate, gpt, rows, new, device)
            if job.left > 2 and job.attempt(name, partial(generate, gpt, rows, 4, device)):
                took = seconds(device, work)
                job.add(Row(f"{name}, 16 + {new} tokens", rows * new / took, "tokens/s"))


def generate(gpt: GPT, rows: int, new: int, device: torch.device) -> int:
    """Greedy decoding, the same in all rows; returns the number of tokens."""
    request = Request(tuple(range(1, 17)), new, Sampling(temperature=0), samples=rows)
    (samples,) = run_requests(Engine(gpt, GPT2Tokenizer(), device, slots=rows), [request])
    return sum(len(piece.tokens) for pieces in samples for piece in pieces)
