"""Faults that are planted in the program, to see that the cases find them."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import groundup.cli
from groundup.errors import DataError


def instead(work: Callable[[list[str]], int]) -> Callable[[], None]:
    """Let every command do something else."""
    return lambda: setattr(groundup.cli, "run", work)


def fail(error: BaseException) -> int:
    raise error


def say(text: str) -> int:
    os.write(2, text.encode())
    return 2


def leave(path: str) -> Callable[[list[str]], int]:
    def work(argv: list[str]) -> int:
        Path(path).write_text("x")
        raise DataError("in/data: cannot be used")

    return work


def follow(argv: list[str]) -> int:
    with Path("in/run/log.jsonl").open("a") as file:
        file.write("x")
    return 0


def save_nan(argv: list[str]) -> int:
    old, new = (Path(f"in/run/checkpoints/step-0000000{step}/model.safetensors") for step in (2, 3))
    new.parent.mkdir()
    names = load_file(old.with_name("average.safetensors"))
    save_file({name: torch.full_like(tensor, torch.nan) for name, tensor in names.items()}, new)
    return 0


def compute_for_ever(argv: list[str]) -> int:
    while True:
        pass


FAULTS: dict[str, Callable[[], None]] = {
    "traceback": instead(lambda argv: fail(RecursionError("maximum recursion depth exceeded"))),
    "two lines": instead(lambda argv: say("groundup: one\ntwo\n")),
    "control characters": instead(lambda argv: say("groundup: in/\x1b[31mdata: cannot be used\n")),
    "accepts everything": instead(lambda argv: 0),
    "writes outside": instead(leave("outside/precious.txt")),
    "follows a link": instead(follow),
    "changes its input": instead(leave("in/data/manifest.json")),
    "leaves something": instead(leave("work/.out.partial2")),
    "leaves a partial output": instead(leave("work/.out.partial")),
    "saves NaN": instead(save_nan),
    "takes memory": instead(lambda argv: len(bytearray(b"x") * (2200 << 20)) and 2),
    "dies": instead(lambda argv: os.abort() or 0),
    "waits": instead(lambda argv: time.sleep(10_000) or 0),
    "computes for ever": instead(compute_for_ever),
}
