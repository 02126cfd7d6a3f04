"""Python API: the commands of the command line as functions.

    import groundup

    groundup.prepare(["book.txt"], "data/book", tokenizer="char")
    result = groundup.train("data/book", "runs/book", overrides={"train": {"max_steps": 500}})
    print(groundup.evaluate("runs/book").bits_per_byte)
    for text in groundup.generate("runs/book", "Once", num_samples=3):
        print(text)

Every function raises a subclass of `groundup.GroundupError` for what a user can fix.
"""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import LoadedModel, load
from groundup.config.merge import ConfigSource, RenamedKeyWarning
from groundup.config.renamed import RENAMED_ARGUMENTS
from groundup.config.schema import Config
from groundup.distributed.launch import expected_world_size
from groundup.errors import UsageError
from groundup.generation.engine import complete, generate_stream
from groundup.generation.sampling import Sampler
from groundup.preprocess.pipeline import prepare
from groundup.run.compose import compose_config
from groundup.run.dataset import prompt_for
from groundup.run.ensure_data import ensure_prepared
from groundup.run.evaluate_checkpoint import evaluate, evaluate_tasks
from groundup.run.start import reconfigure, resume_run, start_run
from groundup.run.trainer import TrainResult
from groundup.ui.display import Display, PlainDisplay
from groundup.ui.format import single_line
from groundup.utils.progress import ProgressReporter

__all__ = [
    "LoadedModel",
    "configure",
    "evaluate",
    "evaluate_tasks",
    "generate",
    "generate_stream",
    "load",
    "prepare",
    "resume",
    "train",
]

P = ParamSpec("P")
R = TypeVar("R")
PathLike = str | Path


def _accept_previous_names(function: Callable[P, R]) -> Callable[P, R]:
    """Let keyword arguments be given under their previous names too, with a RenamedKeyWarning."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        for old, new in RENAMED_ARGUMENTS.items():
            if old in kwargs:
                warnings.warn(f"{function.__name__}: {old}= is called {new}= now", RenamedKeyWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
        return function(*args, **kwargs)

    return call


@_accept_previous_names
def configure(
    data: PathLike,
    *,
    preset: str | None = None,
    files: Sequence[PathLike] = (),
    laptop: bool = False,
    overrides: Mapping[str, Any] | None = None,
    init_from: PathLike | None = None,
) -> Config:
    """Config from a preset, the model of the checkpoint `init_from`, YAML files and overrides, in this order.

    Without a `preset`, the one that a file names, or `gpt2-micro`. `laptop` applies the files' section of that name.
    Raises CheckpointError, ConfigError.
    """
    paths = {"data": str(data)} | ({"init_from": str(init_from)} if init_from is not None else {})
    given = ConfigSource("overrides", {**(overrides or {}), **paths}, typed=True)
    return compose_config(preset, files, given, laptop=laptop)[1]


@_accept_previous_names
def train(
    data: PathLike,
    out: PathLike,
    *,
    preset: str | None = None,
    files: Sequence[PathLike] = (),
    laptop: bool = False,
    overrides: Mapping[str, Any] | None = None,
    init_from: PathLike | None = None,
    checkpoints: PathLike | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Train a new GPT on prepared `data` into the run folder `out`.

    If `data` does not exist and the config's section `prepare` names sources, the data is prepared first.
    `overrides` holds sections, such as `{"model": {"n_layer": 2}, "train": {"max_time": "10m"}}`. `init_from` is a
    checkpoint or run whose weights and dimensions to start with; `checkpoints` a new folder for the run's checkpoints,
    such as one on a larger disk. Without a `display`, lines go to the logger
    `groundup`. SIGINT and SIGTERM end in a checkpoint. Raises CheckpointError, ConfigError, DataError, UsageError.
    """
    display = _checked(display)
    config = configure(data, preset=preset, files=files, laptop=laptop, overrides=overrides, init_from=init_from)
    elsewhere = None if checkpoints is None else Path(checkpoints)
    ensure_prepared(config, Path(out), _LogReporter(), checkpoints=elsewhere, processes=expected_world_size())
    return start_run(config, Path(out), display or _logged(config), checkpoints=elsewhere)


@_accept_previous_names
def resume(
    run: PathLike,
    *,
    data: PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    checkpoints: PathLike | None = None,
    display: Display | None = None,
) -> TrainResult:
    """Resume a run from its newest good checkpoint: bit for bit as if it had never stopped.

    Bitwise on the same machine and CPU threads, for run lengths in steps, tokens or epochs. `data` names the prepared
    folder when it has moved, `checkpoints` that of the run's checkpoints when they have; `overrides` may change the run
    length, evaluation, checkpoints, guard, trackers, device, threads and micro-batch, and stay with the run. A
    finished run is left as it is. Raises CheckpointError, ConfigError, UsageError.
    """
    folder = RunFolder(Path(run))
    display, elsewhere = _checked(display), None if checkpoints is None else Path(checkpoints)
    given = {**(overrides or {}), **({"data": str(data)} if data else {})}
    config, keys = reconfigure(folder, given, checkpoints=elsewhere)
    return resume_run(folder, config, keys, display or _logged(config))


def generate(
    path: PathLike | LoadedModel,
    prompt: str = "",
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 0,
    checkpoint: str = "latest",
    device: str = "auto",
) -> list[str]:
    """`num_samples` continuations of `prompt`, the prompt included, each ending at `max_tokens` or the end of text.

    Without a `prompt`, a document begins; or, of a model that was trained on few, samples continue a line of its
    held-out text, or begin a paragraph where its data is gone. `temperature` 0 is greedy. The same seed gives the same
    samples. Raises CheckpointError, TokenizerError, UsageError.
    """
    loaded, sampler = load(path, checkpoint=checkpoint, device=device), Sampler(temperature, top_k, top_p, seed)
    return complete(loaded, prompt or prompt_for(loaded, seed), sampler, num_samples=num_samples, max_tokens=max_tokens)


class _LogReporter(ProgressReporter):
    """Reports a preparation to the logger `groundup`."""

    def message(self, line: str) -> None:
        logging.getLogger("groundup").info(single_line(line))


def _checked(display: Display | None) -> Display | None:
    """`display`, if it has the methods of a Display; UsageError otherwise, such as for one made for `view=`."""
    if not isinstance(display, Display | None):
        raise UsageError(f"display: {type(display).__name__} is no groundup.ui.display.Display; subclass that")
    return display


def _logged(config: Config) -> PlainDisplay:
    return PlainDisplay(logging.getLogger("groundup").info, config.train.log_every)
