"""Configs of the torture test, and its report."""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import torch
from attempts import PHASES, Tally, run_forked, torture

import groundup
import groundup.api
from groundup.config.presets import MODERN_PARTS

WORDS = "the a small model reads words and learns what comes next after some time it writes lines of its own".split()
STEPS = 60  # more than an epoch

TOY = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 32, "dropout": 0.1},
    # of 32 sequences: unequal micro-batches
    "optimizer": {"learning_rate": 3e-3},
    "schedule": {"warmup_steps": 4},
    "train": {
        "micro_batch_size": 9,
        "max_steps": STEPS,
        "batch_tokens": 1024,
        "threads": 1,
        "precision": "fp32",
        "device": "cpu",
    },
    "evaluate": {"every_steps": 7, "tokens": 500, "sample_every_steps": 14, "sample_tokens": 8},
    "checkpoint": {"every_steps": 5, "keep_last": 2},
}
MUON = {"name": "muon", "learning_rate": 0.01, "embedding_learning_rate": 0.1}

# name -> differences from TOY
CONFIGS: dict[str, dict] = {
    "adamw": {},
    "adamw, written at once": {"checkpoint": {"async_save": False}},
    "a checkpoint a step": {"checkpoint": {"every_steps": 1, "keep_last": 3, "keep_every": 20}},
    "muon, modern": {"model": MODERN_PARTS, "optimizer": MUON, "schedule": {"name": "wsd"}},
    "ema, one checkpoint kept": {"optimizer": {"ema_decay": 0.9}, "checkpoint": {"keep_last": 1, "save_best": False}},
    "ema, written at once": {"optimizer": {"ema_decay": 0.9}, "checkpoint": {"async_save": False, "every_steps": 2}},
}


def main() -> int:
    """Kill, compare and print the report; exit status 0 if every promise holds."""
    args = arguments()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp(prefix="groundup-torture-"))
    names = args.only or list(CONFIGS)
    data = prepare(folder)
    tallies, started = {}, time.monotonic()
    for name, share in zip(names, shares(args.kills, len(names)), strict=True):
        config_folder = folder / name.replace(" ", "-").replace(",", "")
        config_folder.mkdir()
        overrides = merged(CONFIGS[name])
        seed = f"{args.seed} {name}"
        tallies[name] = torture_config(config_folder, data, overrides, share, random.Random(seed))
        print(f"{name}: {tallies[name].kills.total()} kills, {tallies[name].runs} runs", file=sys.stderr, flush=True)
    print("\n".join(table(tallies)))
    failures = [failure for tally in tallies.values() for failure in tally.failures]
    print("\n".join(failures) or f"every run bitwise equal, no checkpoint lost, {time.monotonic() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps(as_json(args, tallies), indent=2) + "\n")
    if failures:
        print(f"kept for inspection: {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make torture", description="SIGKILLs at random moments.")
    parser.add_argument("--kills", type=int, default=120, metavar="N", help="in total, spread over the configs [120]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="random seed of the moments [1]")
    parser.add_argument("--only", action="append", choices=list(CONFIGS), metavar="CONFIG", help="may be repeated")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table as JSON")
    return parser.parse_args()


def prepare(folder: Path) -> Path:
    """Prepare some 27,000 byte tokens, in a fork, because tokenizers start threads."""
    rng = random.Random(0)
    text, data = folder / "text.txt", folder / "data"
    text.write_text("".join(" ".join(rng.choices(WORDS, k=6)).capitalize() + ".\n" for _ in range(900)))
    assert run_forked(lambda: groundup.prepare(text, data, tokenizer="byte"), folder / "out.txt") == 0
    return data


def torture_config(folder: Path, data: Path, overrides: dict, kills: int, random_: random.Random) -> Tally:
    """Torture one config."""

    def start(run: Path) -> None:
        groundup.train(data, run, overrides=overrides)

    def uninterrupted() -> None:
        start(folder / "uninterrupted")
        (folder / "modules.json").write_text(json.dumps(list(sys.modules)))

    for attempt in (1, 2):  # the second, with all imports of the first done, gives a run's duration
        shutil.rmtree(folder / "uninterrupted", ignore_errors=True)
        started = time.monotonic()
        code = run_forked(uninterrupted, folder / "uninterrupted.txt")
        assert code == 0, (folder / "uninterrupted.txt").read_text()
        duration = time.monotonic() - started
        if attempt == 1:
            import_all(json.loads((folder / "modules.json").read_text()))
    threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
    assert threads == 1, f"{threads} threads: a fork would copy one"
    return torture(start, groundup.resume, folder, folder / "uninterrupted", duration, kills, random_)


def import_all(names: list[str]) -> None:
    """Import the modules of a run, so that no attempt has to."""
    for name in names:
        if name not in sys.modules:
            with suppress(Exception):  # some are not files
                import_module(name)


def merged(differences: dict) -> dict:
    return {section: {**TOY.get(section, {}), **differences.get(section, {})} for section in TOY.keys() | differences}


def shares(n: int, parts: int) -> Iterator[int]:
    return (n // parts + (i < n % parts) for i in range(parts))


def table(tallies: dict[str, Tally]) -> list[str]:
    """Markdown table with one line per config."""
    lines = [
        f"| config | kills | {' | '.join(PHASES)} | runs | failures |", f"|---|{'---:|' * (len(PHASES) + 3)}",
    ]  # fmt: skip
    rows = {**tallies, "all": _sum(tallies)}
    for name, tally in rows.items():
        hits = " | ".join(str(tally.kills[phase]) for phase in PHASES)
        lines.append(f"| {name} | {tally.kills.total()} | {hits} | {tally.runs} | {len(tally.failures)} |")
    return lines


def _sum(tallies: dict[str, Tally]) -> Tally:
    total = Tally()
    for tally in tallies.values():
        total.kills += tally.kills
        total.runs += tally.runs
        total.failures += tally.failures
    return total


def as_json(args: argparse.Namespace, tallies: dict[str, Tally]) -> dict:
    configs = {
        name: {"kills": dict(tally.kills), "runs": tally.runs, "failures": tally.failures}
        for name, tally in tallies.items()
    }
    return {"seed": args.seed, "kills": _sum(tallies).kills.total(), "steps": STEPS, "configs": configs}
