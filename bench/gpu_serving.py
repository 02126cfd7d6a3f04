"""Subjects of `bench.gpu` that use a finished model: multiple-choice questions and generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch

from bench.contenders import GPT2
from bench.gpu_child import Job
from bench.gpu_device import copy_tbytes, forget, here, milliseconds, seconds
from bench.gpu_table import Row
from groundup.evaluation.likelihood import log_likelihoods
from groundup.evaluation.multiple_choice import Ids
from groundup.generation.completion import run_requests
from groundup.generation.decoder import Decoder
from groundup.generation.engine import Engine, Request
from groundup.generation.graph_decoder import GraphDecoder
from groundup.generation.model_decoder import ModelDecoder
from groundup.generation.sampling import Sampling
from groundup.model.gpt import GPT
from groundup.model.size import parameters
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.utils.device import Name, autocast

QUESTIONS, CHOICES = 4096, 4
HELLASWAG = 10_042  # questions of its validation split
MAX_SECONDS, MIN_AGREEMENT, MIN_SPEEDUP = 3.0, 0.998, 20  # goals: all of these; bf16 choices; x the plain loop
SEED = 1337

Pairs = list[tuple[Ids, Ids]]
Greedy = Callable[[int, int], object]
"""(rows, tokens) -> so many tokens in each row, greedily"""


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
    """Tokens per second of `groundup generate`, with CUDA graphs and without, and of transformers' `generate`."""
    device, gpt = here(toy=job.toy), model_of(job)
    new = 8 if job.toy else 128
    torch.set_float32_matmul_precision("highest" if job.toy else "high")
    bandwidth = 1e12 * copy_tbytes(device, 4 if job.toy else 1024)  # bytes per second
    for dtype in ("fp32", "bf16"):
        gpt = gpt.bfloat16() if dtype == "bf16" else gpt
        for rows in (1, 2) if job.toy else (1, 256):
            name = f"{dtype} weights, {rows} row{'s' if rows > 1 else ''}"
            speeds = {}
            for contender, prepare in decoders_of(gpt, rows, device).items():
                forget(device)
                # Outside of the timing, as it allocates the cache and, at first use, records graphs.
                work = job.attempt(f"{name}, {contender}", prepare) if job.left > 3 else None
                if work and job.attempt(f"{name}, {contender}", partial(work, rows, new)) is not None:
                    speeds[contender] = rows * new / seconds(device, partial(work, rows, new))
                del work
            # A step reads all weights, and each row's keys and values: half of the new tokens, on average.
            cached = rows * (16 + new / 2) * 2 * gpt.config.n_layer * gpt.config.n_embd
            ceiling = rows * bandwidth / ((parameters(gpt.config) + cached) * gpt.lm_head.weight.itemsize)
            job.add(*speed_rows(f"{name}, 16 + {new} tokens", speeds, ceiling))
            if job.left > 3 and (ms := job.attempt(f"{name}, a step", partial(step_milliseconds, gpt, rows, device))):
                job.add(Row(f"{name}, the model's part of a step", ms, "ms", share=1e3 * rows / ms / ceiling))


def decoders_of(gpt: GPT, rows: int, device: torch.device) -> dict[str, Callable[[], Greedy]]:
    """Makers of greedy decoding with CUDA graphs and without, and by transformers."""
    return {
        "graphs": lambda: partial(generate, gpt, graphs(gpt, device, rows)),
        "no graphs": lambda: partial(generate, gpt, ModelDecoder(gpt, device, rows)),
        "transformers": lambda: transformers_twin(gpt, device),
    }


def speed_rows(name: str, speeds: Mapping[str, float], ceiling: float) -> list[Row]:
    """Each contender's tokens per second; graphs beside transformers and the rest, as shares of the ceiling."""
    found = []
    for contender, speed in speeds.items():
        peer = speeds.get("transformers") if contender != "transformers" else None
        ratio, peer_name = (speed / peer, "transformers") if peer else (None, "")
        share = speed / ceiling
        found.append(Row(f"{name}, {contender}", speed, "tokens/s", peer, peer_name, ratio, share))
    return found


def graphs(gpt: GPT, device: torch.device, rows: int) -> Decoder:
    """The decoder of GPUs; on a CPU its steps are computed instead of replayed."""
    return GraphDecoder(gpt, device, rows, record=None if device.type == "cuda" else lambda work: work)


def generate(gpt: GPT, decoder: Decoder, rows: int, new: int) -> int:
    """Greedy decoding, the same in all rows; returns the number of tokens."""
    request = Request(tuple(range(1, 17)), new, Sampling(temperature=0), samples=rows)
    engine = Engine(gpt, GPT2Tokenizer(), next(gpt.parameters()).device, slots=rows, decoder=decoder)
    (samples,) = run_requests(engine, [request])
    return sum(len(piece.tokens) for pieces in samples for piece in pieces)


@torch.inference_mode()
def step_milliseconds(gpt: GPT, rows: int, device: torch.device) -> float:
    """Time of a step without the choice of tokens and everything else that Python does for them."""
    decoder = graphs(gpt, device, rows)
    for slot in range(rows):
        decoder.extend(slot, list(range(1, 17)), 1)
    return milliseconds(device, lambda: decoder.step([[1]] * rows))


def transformers_twin(gpt: GPT, device: torch.device) -> Greedy:
    """Greedy decoding by transformers' GPT-2 of the same shape, with random weights of its own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = gpt.config
    config = GPT2Config(
        vocab_size=shape.vocab, n_positions=shape.block_size, n_embd=shape.n_embd, n_layer=shape.n_layer,
        n_head=shape.n_head, eos_token_id=None, bos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(device, gpt.lm_head.weight.dtype).eval()

    def run(rows: int, new: int) -> object:
        ids = torch.arange(1, 17, device=device).repeat(rows, 1)
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, pad_token_id=0
        )

    return run
