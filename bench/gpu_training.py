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

COLD, WARM = 45.0, 15.0  # goals: seconds from the command to the end of step 1
FEWER, QUICKER = 4.0, 4.0  # goals: times fewer tokens, times less time, to the same loss
BATCH, MICRO = 131_072, 32  # tokens a step; windows a pass
AFTER = 0.25  # of the time that is left, GPT-2's way trains
EVALUATIONS = 12  # a run
STARTING = 45.0  # seconds that a run may take before its loop and after it
COMPILING = 5.0  # times the median of its kind that a step takes where it also compiles

# GPT-2's way at fast-small's own layers, width, context and batch; a warm-up of 715 steps would outlast the run.
GPT2_WAY = "gpt2 --train.compile on --schedule.warmup_fraction 0.05".split()
FAST = "fast-small --train.compile on".split()
BARE = (
    "--evaluate.sample_every_steps 0 --evaluate.sample_tokens 0 --checkpoint.every_steps 0 --checkpoint.save_best false"
)
VARIANTS = {
    "without n-grams": "--model.ngram 1".split(),
    "whole windows from the start": "--train.seq_len_warmup_from none".split(),
    "AdamW instead of Muon": (
        "--optimizer.name adamw --optimizer.learning_rate 6e-4 --optimizer.beta1 0.9 --optimizer.eps 1e-8 "
        "--optimizer.weight_decay 0.1"
    ).split(),
}
TOY_SHAPE = "--model.n_layer 2 --model.n_head 2 --model.n_embd 64 --model.block_size 32".split()
TOY = "--train.device cpu --train.compile off --train.threads 1 --train.precision fp32".split()
WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own".split()


def prepare(job: Job) -> None:
    """Once, with GPT-2's tokens, as `groundup prepare` does."""
    text = job.text
    if text is None:
        draw, text = random.Random(0), job.work / "text.txt"
        lines = (" ".join(draw.choices(WORDS, k=8)).capitalize() + "." for _ in range(2000))
        text.write_text("\n".join(lines), encoding="utf-8")
    began = time.monotonic()
    folder = job.work / "data"
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = "byte" if job.toy else "gpt2"
    cli("prepare", text, "--out", folder, "--tokenizer", tokenizer)
    took, splits = time.monotonic() - began, json.loads((folder / "manifest.json").read_text("utf-8"))["splits"]
    job.fact("splits", splits)
    job.add(Row("tokens to train on", splits["train"]["tokens"], ""), Row("seconds", took, "s"))


def cli(*words: object) -> None:
    """A command of groundup in this process; RuntimeError where it did not succeed."""
    from groundup.cli import run
    from groundup.cli.parsing import normalise

    status = run(normalise([str(word) for word in words]))
    if status:
        raise RuntimeError(f"groundup {words[0]}: exit status {status}")


def words_of(job: Job, name: str, *more: object) -> list[str]:
    """What every run is told."""
    words = ["--data", job.work / "data", "--out", job.work / name, *BARE.split(), "--guard.spike_sigma", "none", *more]
    return [str(word) for word in [*words, *((*TOY_SHAPE, *TOY) if job.toy else ())]]


def first_step(job: Job) -> None:
    """From the start of `groundup train gpt2` to the end of its first step, nothing compiled before, then again."""
    caches = job.work / "first-step-caches"
    shutil.rmtree(caches, ignore_errors=True)
    for name, goal in (("cold", COLD), ("warm", WARM)):
        took = job.tried(name, partial(until_step_1, job, name, caches))
        if took:
            met = took <= goal
            job.add(Row(f"{name} caches: seconds to the end of step 1", took, "s", goal=f"<= {goal:g} s", met=met))


def until_step_1(job: Job, name: str, caches: Path) -> float:
    """Seconds; the process is then killed. RuntimeError where it ended by itself before."""
    batch = ("--train.batch_tokens", 64) if job.toy else ()
    words = words_of(job, f"first-{name}", "--train.compile", "on", "--train.max_steps", 1, *batch)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    environment |= {f"{kind}_CACHE_DIR": str(caches / kind) for kind in ("TORCHINDUCTOR", "TRITON")}
    command, log = [sys.executable, "-m", "groundup", "train", "gpt2", *words], job.work / f"first-{name}" / "log.jsonl"
    shutil.rmtree(log.parent, ignore_errors=True)
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment)  # in this process's group: it ends where that one does
    try:
        while not any(record["event"] == "step" for record in records(log)):
            if process.poll() is not None:
                raise RuntimeError(f"groundup train ended with exit status {process.returncode} before step 1")
            time.sleep(0.02)
        return time.monotonic() - began
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()


def records(log: Path) -> list[dict[str, Any]]:
    """Whole lines of a log that may be under way, or not there yet."""
    lines = log.read_text("utf-8").split("\n")[:-1] if log.exists() else []
    return [json.loads(line) for line in lines]


@dataclass(frozen=True)
class Learnt:
    """What a run's log tells: validation losses along the way."""

    losses: list[tuple[int, int, float, float]]  # step, tokens, seconds of training without compiling, nats a token
    tokens_per_s: float
    compiling: float  # seconds within the loop

    @classmethod
    def of(cls, log: Sequence[dict[str, Any]]) -> Learnt:
        """Steps count with the time that they took; one that compiled, with that of its like (of as long a context)."""
        steps = [record for record in log if record["event"] in ("step", "skip")]
        kinds: dict[int, list[float]] = defaultdict(list)
        for record in steps:
            kinds[record["context"]].append(record["dt"])
        usual = {context: statistics.median(times) for context, times in kinds.items()}
        at, seconds, lost = {0: (0, 0.0)}, 0.0, 0.0
        for record in steps:
            took, like = record["dt"], usual[record["context"]]
            lost += took - like if took > COMPILING * like else 0.0
            seconds += like if took > COMPILING * like else took
            at[record["step"]] = (record["tokens"], seconds)
        evals = {r["step"]: r["val_loss"] for r in log if r["event"] == "eval" and r.get("val_loss") is not None}
        losses = [(step, *at[step], loss) for step, loss in sorted(evals.items()) if step in at]
        tokens = steps[-1]["tokens"] if steps else 0
        return cls(losses, tokens / seconds if seconds else 0.0, lost)

    def until(self, loss: float) -> tuple[float, float] | None:
        """Tokens and seconds to a loss, on the line between two evaluations; None where it was not reached."""
        before: tuple[float, float, float] | None = None
        for _, tokens, seconds, found in self.losses:
            if found <= loss:
                if before is None or before[2] <= found:
                    return float(tokens), seconds
                part = (before[2] - loss) / (before[2] - found)
                return before[0] + part * (tokens - before[0]), before[1] + part * (seconds - before[1])
            before = tokens, seconds, found
        return None


def trained(job: Job, name: str, *words: object) -> Learnt:
    """A run from the first step to the last; what its log tells, though it failed on the way."""
    shutil.rmtree(job.work / name, ignore_errors=True)
    forget(here(toy=job.toy))
    batch, micro, scored = (128, 2, 256) if job.toy else (BATCH, MICRO, 262_144)
    sizes = ["--train.batch_tokens", batch, "--train.micro_batch_size", micro, "--evaluate.tokens", scored]
    began = time.monotonic()
    try:
        cli("train", *words, *words_of(job, name, *sizes))
    finally:
        log = records(job.work / name / "log.jsonl")
        learnt = Learnt.of(log)
        found = {"losses": learnt.losses, "tokens_per_s": learnt.tokens_per_s, "compiling": learnt.compiling,
                 "command_s": time.monotonic() - began}  # fmt: skip
        job.fact(name, found)
    return learnt


def time_to_loss(job: Job) -> None:
    """What GPT-2's way reaches in a while, and what fast-small needs for that loss: with a quarter of the tokens as
    its horizon, then, where time is left, with as many.

    Seconds are those of steps, without evaluations and compiling.
    """
    budget = 1.0 if job.toy else max(10.0, AFTER * job.left)
    every = 10 if job.toy else max(5, int(budget * 400_000 / BATCH / EVALUATIONS))
    slow = trained(job, "gpt2", *GPT2_WAY, "--train.max_time", f"{budget:.1f}s", "--evaluate.every_steps", every)
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
        more += ("--train.time_limit", f"{max(5.0, job.left - STARTING):.0f}s")  # what it learnt until then counts
        fast = job.tried(name, partial(trained, job, name, *quick(job), *more))
        if not fast or not fast.losses:
            continue
        label = f"fast, {'a quarter of' if divisor == 4 else 'as many'} tokens"
        compare(job, label, fast, tokens, seconds, target, judged=divisor == 4)


def compare(job: Job, label: str, fast: Learnt, tokens: float, seconds: float, target: float, *, judged: bool) -> None:
    """Rows of a run of ours, with the time that GPT-2's way took to its last loss."""
    job.add(Row(f"{label}: loss at the end", fast.losses[-1][3], "nats", peer=target, peer_name="GPT-2's way"))
    job.note(f"{label}: {fast.tokens_per_s:,.0f} tokens/s; {fast.compiling:.0f} s of compiling within the loop")
    reached = fast.until(target)
    for what, unit, goal, mine, theirs in (
        ("tokens", "", FEWER, reached and reached[0], tokens),
        ("seconds", "s", QUICKER, reached and reached[1], seconds),
    ):
        name = f"{label}: {what} to that loss"
        if not mine:
            met = False if judged else None
            job.add(Row(f"{name}: not in", fast.losses[-1][1 if what == "tokens" else 2], unit, theirs,
                        "GPT-2's way", goal=f"x >= {goal:g}" if judged else "", met=met))  # fmt: skip
            continue
        ratio = theirs / mine
        met = ratio >= goal if judged else None
        job.add(Row(name, mine, unit, theirs, "GPT-2's way", ratio, goal=f"x >= {goal:g}" if judged else "", met=met))


def quick(job: Job) -> list[str]:
    """fast-small; in a rehearsal with small tables and short first windows."""
    return [
        *FAST,
        *("--model.ngram_rows 64 --model.ngram_width 8 --train.seq_len_warmup_from 8".split() if job.toy else ()),
    ]


def ablation(job: Job) -> None:
    """fast-small without one of its parts, over as many steps as the run that `time-to-loss` made with all of them."""
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
        began = time.monotonic()
        folder = "ablation-" + name.replace(" ", "-")
        more = ["--train.max_steps", steps, "--evaluate.every_steps", 0]
        found = job.tried(name, partial(trained, job, folder, *quick(job), *more, *words))
        longest = max(longest, time.monotonic() - began)
        if found and found.losses:
            loss = found.losses[-1][3]
            base = base or found.losses
            job.add(Row(f"{name}, {steps} steps: loss at the end", loss, "nats", base[-1][3], "all parts"))
            job.note(f"{name}: {loss - base[-1][3]:+.4f} nats, {found.tokens_per_s:,.0f} tokens/s")
