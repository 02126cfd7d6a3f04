"""Subjects of `bench.gpu` that run `groundup train` on the given text."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.gpu_child import Job
from bench.gpu_device import forget, here
from bench.gpu_table import Row

MAX_COLD_SECONDS, MAX_WARM_SECONDS = 45.0, 15.0  # goals: seconds from the command to the end of step 1
TOKENS_GOAL, TIME_GOAL = 4.0, 4.0  # goals: x fewer tokens, x less time, to the same loss
BATCH, MICRO = 131_072, 32  # tokens per step; sequences per pass
GPT2_TIME_SHARE = 0.25  # of the remaining time, for training GPT-2's way
EVALUATIONS = 12  # per run
OVERHEAD_SECONDS = 45.0  # of a run before and after its loop
COMPILING_FACTOR = 5.0  # a step longer than this x the median of its context compiled

# GPT-2's way at fast-small's own layers, width, context and batch; a warm-up of 715 steps would outlast the run.
GPT2_WAY = "gpt2 --train.compile on --schedule.warmup_fraction 0.05".split()
FAST = "fast-small --train.compile on".split()
BARE = (
    "--evaluate.sample_every_steps 0 --evaluate.sample_tokens 0 --checkpoint.every_steps 0 --checkpoint.save_best false"
)
VARIANTS = {
    "without n-grams": "--model.ngram 1".split(),
    "full sequences from the start": "--train.seq_len_warmup_from none".split(),
    "AdamW instead of Muon": (
        "--optimizer.name adamw --optimizer.learning_rate 6e-4 --optimizer.beta1 0.9 --optimizer.eps 1e-8 "
        "--optimizer.weight_decay 0.1"
    ).split(),
}
TOY_SHAPE = "--model.n_layer 2 --model.n_head 2 --model.n_embd 64 --model.block_size 32".split()
TOY = "--train.device cpu --train.compile off --train.threads 1 --train.precision fp32".split()
WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own".split()


def prepare(job: Job) -> None:
    """Prepare the text with GPT-2's tokenizer."""
    text = job.text
    if text is None:
        draw, text = random.Random(0), job.work / "text.txt"
        lines = (" ".join(draw.choices(WORDS, k=8)).capitalize() + "." for _ in range(2000))
        text.write_text("\n".join(lines), encoding="utf-8")
    started = time.monotonic()
    folder = job.work / "data"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = "byte" if job.toy else "gpt2"
    cli("prepare", text, "--out", folder, "--tokenizer", tokenizer)
    took, splits = time.monotonic() - started, json.loads((folder / "manifest.json").read_text("utf-8"))["splits"]
    job.fact("splits", splits)
    job.add(Row("tokens to train on", splits["train"]["tokens"], ""), Row("seconds", took, "s"))


def cli(*words: object) -> None:
    """Run a groundup command in this process; RuntimeError if it fails."""
    from groundup.cli import run
    from groundup.cli.parsing import normalise

    status = run(normalise([str(word) for word in words]))
    if status:
        raise RuntimeError(f"groundup {words[0]}: exit status {status}")


def options_of(job: Job, name: str, *more: object) -> list[str]:
    """Options of every run."""
    words = ["--data", job.work / "data", "--out", job.work / name, *BARE.split(), "--guard.spike_sigma", "none", *more]
    return [str(word) for word in [*words, *((*TOY_SHAPE, *TOY) if job.toy else ())]]


def first_step(job: Job) -> None:
    """Seconds from the start of `groundup train gpt2` to the end of step 1, with empty and with warm caches."""
    caches = job.work / "first-step-caches"
    shutil.rmtree(caches, ignore_errors=True)
    for name, goal in (("cold", MAX_COLD_SECONDS), ("warm", MAX_WARM_SECONDS)):
        took = job.attempt(name, partial(until_step_1, job, name, caches))
        if took:
            met = took <= goal
            job.add(Row(f"{name} caches: seconds to the end of step 1", took, "s", goal=f"<= {goal:g} s", met=met))


def until_step_1(job: Job, name: str, caches: Path) -> float:
    """Seconds to step 1; the process is then killed. RuntimeError if it ended before."""
    batch = ("--train.batch_tokens", 64) if job.toy else ()
    words = options_of(job, f"first-{name}", "--train.compile", "on", "--train.max_steps", 1, *batch)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {f"{kind}_CACHE_DIR": str(caches / kind) for kind in ("TORCHINDUCTOR", "TRITON")}
    command, log = [sys.executable, "-m", "groundup", "train", "gpt2", *words], job.work / f"first-{name}" / "log.jsonl"
    shutil.rmtree(log.parent, ignore_errors=True)
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment)  # in this process's group, so it is killed with it
    try:
        while not any(record["event"] == "step" for record in records(log)):
            if process.poll() is not None:
                raise RuntimeError(f"groundup train ended with exit status {process.returncode} before step 1")
            time.sleep(0.02)
        return time.monotonic() - started
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def records(log: Path) -> list[dict[str, Any]]:
    """Records of a log that may be incomplete or missing."""
    lines = log.read_text("utf-8").split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class LossCurve:
    """Validation losses, speed and compile time from a run's log."""

    losses: list[tuple[int, int, float, float]]  # step, tokens, seconds of training without compiling, nats per token
    tokens_per_s: float
    compiling: float  # seconds within the loop

    @classmethod
    def of(cls, log: Sequence[dict[str, Any]]) -> LossCurve:
        """Curve from log records; a step that compiled counts with the median time of its context length."""
        steps = [record for record in log if record["event"] in ("step", "skip")]
        kinds: dict[int, list[float]] = defaultdict(list)
        for record in steps:
            kinds[record["context"]].append(record["dt"])
        usual = {context: statistics.median(times) for context, times in kinds.items()}
        at, seconds, lost = {0: (0, 0.0)}, 0.0, 0.0
        for record in steps:
            took, typical = record["dt"], usual[record["context"]]
            lost += took - typical if took > COMPILING_FACTOR * typical else 0.0
            seconds += typical if took > COMPILING_FACTOR * typical else took
            at[record["step"]] = (record["tokens"], seconds)
        evals = {r["step"]: r["val_loss"] for r in log if r["event"] == "eval" and r.get("val_loss") is not None}
        losses = [(step, *at[step], loss) for step, loss in sorted(evals.items()) if step in at]
        tokens = steps[-1]["tokens"] if steps else 0
        return cls(losses, tokens / seconds if seconds else 0.0, lost)

    def until(self, loss: float) -> tuple[float, float] | None:
        """Tokens and seconds to a loss, interpolated between two evaluations; None if it was not reached."""
        before: tuple[float, float, float] | None = None
        for _, tokens, seconds, found in self.losses:
            if found <= loss:
                if before is None or before[2] <= found:
                    return float(tokens), seconds
                fraction = (before[2] - loss) / (before[2] - found)
                return before[0] + fraction * (tokens - before[0]), before[1] + fraction * (seconds - before[1])
            before = tokens, seconds, found
        return None


def train_run(job: Job, name: str, *words: object) -> LossCurve:
    """Train a run; its log is read even if it fails."""
    shutil.rmtree(job.work / name, ignore_errors=True)
    forget(here(toy=job.toy))
    batch, micro, scored = (128, 2, 256) if job.toy else (BATCH, MICRO, 262_144)
    sizes = ["--train.batch_tokens", batch, "--train.micro_batch_size", micro, "--evaluate.tokens", scored]
    started = time.monotonic()
    try:
        cli("train", *words, *options_of(job, name, *sizes))
    finally:
        log = records(job.work / name / "log.jsonl")
        curve = LossCurve.of(log)
        found = {"losses": curve.losses, "tokens_per_s": curve.tokens_per_s, "compiling": curve.compiling,
                 "command_s": time.monotonic() - started}  # fmt: skip
        job.fact(name, found)
    return curve


def time_to_loss(job: Job) -> None:
    """Loss of GPT-2's way after some time, and what fast-small needs for that loss: with a quarter of the tokens as its
    horizon, then, if time is left, with as many.

    Seconds are those of steps, without evaluations and compiling.
    """
    budget = 1.0 if job.toy else max(10.0, GPT2_TIME_SHARE * job.left)
    every = 10 if job.toy else max(5, int(budget * 400_000 / BATCH / EVALUATIONS))
    slow = train_run(job, "gpt2", *GPT2_WAY, "--train.max_time", f"{budget:.1f}s", "--evaluate.every_steps", every)
    step, tokens, seconds, target = slow.losses[-1]
    splits = json.loads((job.work / "data" / "manifest.json").read_text("utf-8"))["splits"]
    job.note(f"GPT-2's way saw the text {tokens / splits['train']['tokens']:.2f} times")
    job.add(Row("GPT-2's way: validation loss at the end", target, "nats"),
            Row("GPT-2's way: tokens", tokens, ""), Row("GPT-2's way: seconds", seconds, "s"))  # fmt: skip
    for divisor in (4, 1):
        steps = max(2, step // divisor)
        if divisor == 1 and job.left < 2 * seconds + 20 and not job.toy:
            job.note("fast-small with as many tokens: left out, no time left")
            break
        name = f"fast-{divisor}"
        more = ("--train.max_steps", steps, "--evaluate.every_steps", max(1, steps // EVALUATIONS))
        more += ("--train.time_limit", f"{max(5.0, job.left - OVERHEAD_SECONDS):.0f}s")  # its losses until then count
        fast = job.attempt(name, partial(train_run, job, name, *fast_options(job), *more))
        if not fast or not fast.losses:
            continue
        label = f"fast, {'a quarter of' if divisor == 4 else 'as many'} tokens"
        compare(job, label, fast, tokens, seconds, target, judged=divisor == 4)


def compare(job: Job, label: str, fast: LossCurve, tokens: int, seconds: float, target: float, *, judged: bool) -> None:
    """Rows of a run of ours, compared with GPT-2's way to its last loss."""
    job.add(Row(f"{label}: loss at the end", fast.losses[-1][3], "nats", peer=target, peer_name="GPT-2's way"))
    job.note(f"{label}: {fast.tokens_per_s:,.0f} tokens/s; {fast.compiling:.0f} s of compiling within the loop")
    reached = fast.until(target)
    for what, unit, goal, mine, theirs in (
        ("tokens", "", TOKENS_GOAL, reached and reached[0], tokens),
        ("seconds", "s", TIME_GOAL, reached and reached[1], seconds),
    ):
        name = f"{label}: {what} to that loss"
        if not mine:
            met = False if judged else None
            job.add(Row(f"{name}: not within", fast.losses[-1][1 if what == "tokens" else 2], unit, theirs,
                        "GPT-2's way", goal=f"x >= {goal:g}" if judged else "", met=met))  # fmt: skip
            continue
        ratio = theirs / mine
        met = ratio >= goal if judged else None
        job.add(Row(name, mine, unit, theirs, "GPT-2's way", ratio, goal=f"x >= {goal:g}" if judged else "", met=met))


def fast_options(job: Job) -> list[str]:
    """Options of fast-small; in a dry run with small tables and short first sequences."""
    return [
        *FAST,
        *("--model.ngram_rows 64 --model.ngram_width 8 --train.seq_len_warmup_from 8".split() if job.toy else ()),
    ]


def ablation(job: Job) -> None:
    """fast-small without one of its parts, over as many steps as the complete run of `time-to-loss`."""
    fact = job.work / "time-to-loss.json"
    facts = json.loads(fact.read_text("utf-8"))["facts"] if fact.exists() else {}
    base = facts.get("fast-4", {}).get("losses")
    steps = base[-1][0] if base else 4 if job.toy else 60
    runs: dict[str, list[str]] = {} if base else {"all parts": []}
    runs |= VARIANTS
    if base:
        job.add(Row(f"all parts, {steps} steps: loss at the end", base[-1][3], "nats"))
    longest = 0.0
    for name, words in runs.items():
        if job.left < 1.1 * longest + 5:
            job.note(f"{name}: left out, no time left")
            continue
        started = time.monotonic()
        folder = "ablation-" + name.replace(" ", "-")
        more = ["--train.max_steps", steps, "--evaluate.every_steps", 0]
        found = job.attempt(name, partial(train_run, job, folder, *fast_options(job), *more, *words))
        longest = max(longest, time.monotonic() - started)
        if found and found.losses:
            loss = found.losses[-1][3]
            base = base or found.losses
            job.add(Row(f"{name}, {steps} steps: loss at the end", loss, "nats", base[-1][3], "all parts"))
            job.note(f"{name}: {loss - base[-1][3]:+.4f} nats, {found.tokens_per_s:,.0f} tokens/s")
