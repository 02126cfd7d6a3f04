"""Subject `parallel`: two processes of one thread against one process of two. `python -m bench.parallel`"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Options, Result, Row, gemm_gflops

ROUNDS = 3
MIN_SPEEDUP, MAX_START_S, MAX_RESTART_S, MAX_MEMORY_RATIO, MAX_ESTIMATE_ERROR = 0.95, 10.0, 15.0, 0.55, 0.15
SHAPES = {  # name -> options of `groundup train`, steps
    "4 x 128": (("--model.n_layer", 4, "--model.n_head", 4, "--model.n_embd", 128), 20),
    "12 x 384": (("--model.n_layer", 12, "--model.n_head", 6, "--model.n_embd", 384), 4),
}
COMMON = (
    "gpt2-micro --model.block_size 256 --train.batch_tokens 4096 --train.device cpu --evaluate.every_steps 0 "
    "--evaluate.tokens 512 --evaluate.sample_tokens 0 --checkpoint.every_steps 0 --train.log_every 1000"
).split()
CONTENDERS = {"1 process, 2 threads": (1, "auto"), "2 processes, DDP": (2, "ddp"), "2 processes, FSDP2": (2, "fsdp")}
PREDICTED = "2 processes, DDP, as estimated"
WARM_UP_STEPS = 3  # left out
ALL_REDUCE_BYTES, ALL_REDUCES = 32 << 20, 20  # gradients of a small GPT, and more than caches hold


def run(options: Options) -> list[Result]:
    """Tokens per second, memory per process, and the seconds of a start and of a restart after a lost process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        bandwidth = _bandwidth(folder)
        speeds = [_speed(folder, shape, options.rounds_or(ROUNDS), bandwidth) for shape in SHAPES]
        return [*speeds, _memory(folder), _seconds(folder, options.rounds_or(ROUNDS))]


def prepare(folder: Path) -> None:
    """Prepare a text of 500 words as bytes in `folder`/data."""
    words = [f"word{n}" for n in range(500)]
    (folder / "text.txt").write_text(" ".join(random.Random(0).choices(words, k=200_000)), encoding="utf-8")
    command = [sys.executable, "-m", "groundup", "prepare", "text.txt", "--out", "data", "--tokenizer", "byte"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def command(processes: int, *options: object) -> list[str]:
    """Command line of `groundup train` on `data` with these options; several processes use torchrun."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", processes, "--max-restarts", 1, "-m"]
    start = launcher if processes > 1 else ["groundup"]
    words = [*start, *(["groundup"] if processes > 1 else []), "train", *COMMON, "--data", "data", *options]
    return [sys.executable, "-m", *map(str, words)]


def _speed(folder: Path, shape: str, rounds: int, bandwidth: float) -> Result:
    options, steps = SHAPES[shape]
    rows = {name: Row(name, []) for name in [*CONTENDERS, PREDICTED]}
    for turn in range(rounds):
        for name, (processes, kind) in CONTENDERS.items():
            out = f"{shape}-{processes}-{kind}-{turn}".replace(" ", "")
            more = (*options, "--train.max_steps", steps, "--train.parallel", kind, "--out", out)
            subprocess.run(command(processes, *more), cwd=folder, check=True, capture_output=True)
            rows[name].values.append(tokens_per_s(folder / out, steps))
        rows[PREDICTED].values.append(_predicted(folder, shape, turn, bandwidth))
    title = f"parallel: {shape}, 4,096 tokens per step"
    result = Result(title, "tokens/s", list(rows.values()), baseline=next(iter(rows)))
    accuracy = rows[PREDICTED].ratio(rows["2 processes, DDP"])
    result.notes.append(f"estimated from one process and {bandwidth / 1e9:.2f} GB/s: {accuracy:.2f} of the measured")
    if abs(accuracy - 1) > MAX_ESTIMATE_ERROR:
        result.failures.append(f"the estimate is off by {abs(accuracy - 1):.0%}, more than {MAX_ESTIMATE_ERROR:.0%}")
    one, two = (rows[name] for name in list(CONTENDERS)[:2])
    ratio = statistics.median(b / a for a, b in zip(one.values, two.values, strict=True))
    if ratio < MIN_SPEEDUP:
        result.failures.append(f"two processes reach {ratio:.2f} of one process's speed, less than {MIN_SPEEDUP}")
    return result


def tokens_per_s(run_: Path, steps: int) -> float:
    """Median over a run's steps without the first ones."""
    records = [r for r in _log(run_) if r["event"] == "step"][min(WARM_UP_STEPS, steps // 2) :]
    return statistics.median(float(str(r["tokens_per_s"])) for r in records)


def _predicted(folder: Path, shape: str, turn: int, bandwidth: float) -> float:
    """Tokens per second of two processes, estimated from one process that runs next to another one."""
    options, steps = SHAPES[shape]
    outs = [f"{shape}-apart-{turn}-{n}".replace(" ", "") for n in range(2)]
    more = (*options, "--train.max_steps", steps, "--train.threads", 1, "--out")
    processes = [subprocess.Popen(command(1, *more, out), cwd=folder, stdout=subprocess.DEVNULL) for out in outs]
    if any(process.wait() for process in processes):
        raise SystemExit("a run failed")
    one = statistics.mean(tokens_per_s(folder / out, steps) for out in outs)
    weights = folder / outs[0] / f"checkpoints/step-{steps:08d}/model.safetensors"
    # Two processes compute at once, then all-reduce: in a ring of two, each sends the gradients once.
    return 4096 / (4096 / 2 / one + weights.stat().st_size / bandwidth)


def _bandwidth(folder: Path) -> float:
    """Bytes per second each way of a ring all-reduce between two processes."""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "bench.parallel", "bandwidth"]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=environ)
    return float(done.stdout.split()[0])


def bandwidth_worker() -> None:
    """Worker process of `_bandwidth`."""
    import torch

    from groundup.distributed.launch import exit_process, init_distributed

    torch.set_num_threads(1)
    process_group = init_distributed()
    numbers = torch.zeros(ALL_REDUCE_BYTES // 4)
    process_group.all_reduce(numbers)
    process_group.any(False)  # all start together
    started = time.perf_counter()
    for _ in range(ALL_REDUCES):
        process_group.all_reduce(numbers)
    seconds = (time.perf_counter() - started) / ALL_REDUCES
    n = process_group.size
    if process_group.rank == 0:
        print(2 * (n - 1) / n * ALL_REDUCE_BYTES / seconds, flush=True)  # bus bandwidth, as in NCCL-tests
    exit_process(0)


def _memory(folder: Path) -> Result:
    """Bytes of parameters and optimizer state in a process after a step, and its resident memory."""
    rows = []
    for kind in ("ddp", "fsdp"):
        config = (*SHAPES["12 x 384"][0], "--train.max_steps", 2, "--train.parallel", kind, "--out", f"memory-{kind}")
        words = command(2, *config)
        words[words.index("groundup")] = "bench.parallel"  # this module, as a worker
        environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        done = subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True, env=environ)
        reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        rows.append(Row(f"{kind}, parameters and optimizer state", [t["state"] / 1e6 for t in reports]))
        rows.append(Row(f"{kind}, resident", [t["resident"] / 1e6 for t in reports]))
    baseline = "ddp, parameters and optimizer state"
    result = Result("parallel: memory per process, 12 x 384", "MB", rows, baseline=baseline)
    share = rows[2].median / rows[0].median
    if share > MAX_MEMORY_RATIO:
        result.failures.append(f"FSDP2: {share:.2f} of the memory of DDP, more than {MAX_MEMORY_RATIO}")
    return result


def _seconds(folder: Path, rounds: int) -> Result:
    """Seconds from the command to step 1 of two processes, and from a SIGKILL of one of them to the next new step."""
    start, lost = Row("start to step 1", []), Row("killed to the step after the last", [])
    for turn in range(rounds):
        run_, started = folder / f"seconds-{turn}", time.monotonic()
        shape = (*SHAPES["4 x 128"][0], "--train.max_steps", 10_000, "--out", run_.name, "--checkpoint.every_steps", 1)
        with subprocess.Popen(
            command(2, *shape), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as job:
            start.values.append(_until(run_, 1) - started)
            _until(run_, 5)
            listed = subprocess.run(["pgrep", "-P", str(job.pid)], capture_output=True, text=True, check=True)
            os.kill(int(listed.stdout.split()[-1]), signal.SIGKILL)
            killed, last = time.monotonic(), _last(run_)
            lost.values.append(_until(run_, last + 1) - killed)
            job.terminate()
            job.wait()
    result = Result("parallel: seconds", "s", [start, lost], baseline=start.name)
    for row, goal in ((start, MAX_START_S), (lost, MAX_RESTART_S)):
        if row.median > goal:
            result.failures.append(f"{row.name}: {row.median:.1f} s, more than {goal:g}")
    return result


def _log(run_: Path) -> list[dict[str, object]]:
    try:
        return [json.loads(line) for line in (run_ / "log.jsonl").read_text(encoding="utf-8").splitlines() if line]
    except (OSError, ValueError):
        return []


def _last(run_: Path) -> int:
    return max((int(str(r["step"])) for r in _log(run_) if r["event"] == "step"), default=0)


def _until(run_: Path, step: int) -> float:
    """Wait until a step is logged; returns the time."""
    while _last(run_) < step:
        time.sleep(0.02)
    return time.monotonic()


def worker() -> None:
    """Train as the command line does, then print the memory in use as JSON."""
    import torch

    from groundup.cli import main as groundup
    from groundup.run.trainer import Trainer

    original_run = Trainer.run

    def run_and_report(self: Trainer) -> object:
        result = original_run(self)
        held = [*self.model.parameters()]
        held += [value for state in self.state.optimizer.state.values() for value in state.values()]
        parts = [getattr(tensor, "_local_tensor", tensor) for tensor in held if isinstance(tensor, torch.Tensor)]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        report = {"state": sum(part.nbytes for part in parts), "resident": pages * os.sysconf("SC_PAGE_SIZE")}
        print(json.dumps(report), flush=True)
        return result

    Trainer.run = run_and_report  # type: ignore[method-assign, assignment]
    groundup(sys.argv[1:])


def main() -> int:
    """Run this subject alone; exit status 0 if the goals are met."""
    from rich.console import Console

    from bench.__main__ import show

    parser = argparse.ArgumentParser(prog="python -m bench.parallel", description=__doc__)
    parser.add_argument("--rounds", type=int)
    before = gemm_gflops()
    results = run(Options(None, None, 2, parser.parse_args().rounds))
    for result in results:
        result.ceiling = [before, gemm_gflops()]
        show(result, Console())
    return int(any(result.failures for result in results))


if __name__ == "__main__":
    if sys.argv[1:] == ["bandwidth"]:
        bandwidth_worker()
    elif "RANK" in os.environ:
        worker()
    else:
        raise SystemExit(main())
