"""Quickstart workflow: prepare the text, choose a model for it, train by the clock, and report.

The parts that need torch are imported when the text is prepared: that takes seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.data.shards import Manifest
from groundup.first_model.existing import ExistingRun
from groundup.first_model.preparation import prepare_text, rereadable
from groundup.first_model.recipe import Choice, Device, build_recipe, choose_run_length
from groundup.ui.display import Display
from groundup.utils.plural import human_plural
from groundup.utils.progress import ProgressReporter
from groundup.utils.system import usable_cores

if TYPE_CHECKING:
    from groundup.first_model.report import Report
    from groundup.planning.plan import Speed

Watching = Callable[[str, TrainConfig], AbstractContextManager[Display]]
EVALUATING = "comparing with gzip, xz and two counting models"


def quickstart(
    sources: Sequence[str],
    out: Path,
    *,
    minutes: float,
    tokenizer: str | None,
    text_options: Mapping[str, Any] = MappingProxyType({}),
    verbose: bool = False,
    say: Callable[[str], None],
    reading: Callable[[], AbstractContextManager[ProgressReporter]],
    watching: Watching,
) -> Report:
    """Prepare `sources`, train on them for `minutes`, and evaluate, all in the run folder `out`.

    `text_options` say how the text is read, as for `open_sources`. `say` gets a line for each choice; with `verbose`,
    further choices, all reasons and the plan. `reading` shows progress in bytes, `watching` the training. Raises
    DataError, UsageError.
    """

    def show(choice: Choice) -> None:
        if verbose or choice.is_main:
            say(choice.line)
        if verbose and choice.reason:
            say(f"{'':<10} {choice.reason}")

    RunFolder(out).refuse_existing()
    manifest = prepare_text(
        sources,
        out / "data",
        minutes=minutes,
        tokenizer=tokenizer,
        text_options=text_options,
        show=show,
        reading=reading,
    )
    config, speed = _choose_model(manifest, out / "data", minutes * 60, show)

    from groundup.first_model.report import evaluate_run
    from groundup.run.start import start_run

    with watching(f"groundup quickstart: {', '.join(sources)}", config.train) as display:
        result = start_run(config, out, display, speed=speed, announce=verbose)
    say(EVALUATING)
    return evaluate_run(list(sources), result, out / "data")


def _choose_model(
    manifest: Manifest, data: Path, seconds: float, show: Callable[[Choice], None]
) -> tuple[Config, Speed | None]:
    """The config of a quickstart for prepared data and this machine, and the speed that was measured."""
    from groundup.run.start import plan_with_speed
    from groundup.utils.device import choose_device, choose_precision, matmul_flops

    train, val = manifest.splits["train"], manifest.splits["val"]
    split = f"{train.tokens:,} tokens of {train.bytes / train.tokens:.2f} bytes; {val.bytes:,} bytes held out"
    show(Choice("split", split, "", is_main=False))
    device, threads = choose_device("auto"), usable_cores()
    precision, reason = choose_precision("auto", device)
    show(Choice("machine", f"{device}, {human_plural(threads, 'thread')}, {precision}", reason))
    measured = Device(str(device), matmul_flops(device, precision, threads))
    vocab = manifest.tokenizer.n_vocab
    config, choices = build_recipe(measured, seconds, str(data), train.tokens, train.bytes, vocab)
    plan = plan_with_speed(config)
    config, run_length = choose_run_length(config, plan.epochs, train.tokens)
    for choice in (*choices, run_length):
        show(choice)
    return config, plan.speed


def train_longer(
    sources: Sequence[str],
    existing: ExistingRun,
    seconds: float,
    *,
    tokenizer: str | None,
    text_options: Mapping[str, Any] = MappingProxyType({}),
    say: Callable[[str], None],
    watching: Watching,
) -> Report:
    """Train a quickstart's run for longer, `seconds` in all, and evaluate it.

    UsageError if it is of another text, or was prepared with another `tokenizer` or other `text_options` than given.
    """
    with rereadable(sources) as files:
        existing.check_request(files, tokenizer, text_options)

    from groundup.first_model.report import evaluate_run
    from groundup.run.start import reconfigure, resume_run

    run = existing.folder
    config, keys = reconfigure(run, existing.longer(seconds))
    with watching(f"groundup quickstart: {', '.join(sources)}", config.train) as display:
        result = resume_run(run, config, keys, display)
    say(EVALUATING)
    return evaluate_run(list(sources), result, run.path / "data")
