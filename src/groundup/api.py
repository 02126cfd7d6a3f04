"""Python API: the commands of the command line as functions.

    import groundup

    groundup.prepare(["book.txt"], "data/book", tokenizer="char")
    result = groundup.train("data/book", "runs/book", max_steps=500)
    print(groundup.evaluate("runs/book").bits_per_byte)
    for text in groundup.generate("runs/book", "Once", num_samples=3):
        print(text)

Long work shows its progress, in a notebook and on a terminal as a panel or a bar, else as lines on standard error;
`progress=False` switches it off. Where the logger `groundup` is enabled at INFO, the lines go to that logger alone.
Every function raises a subclass of `groundup.GroundupError` for what a user can fix.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypedDict, TypeVar, overload

from typing_extensions import Unpack

from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import LoadedModel, load
from groundup.config.aliases import resolve_aliases
from groundup.config.merge import ConfigSource, RenamedKeyWarning, did_you_mean
from groundup.config.renamed import RENAMED_ARGUMENTS
from groundup.config.schema import Config
from groundup.distributed.launch import expected_world_size
from groundup.errors import TokenizerError, UsageError
from groundup.first_model import workflow
from groundup.first_model.existing import ExistingRun, free_folder, run_folder
from groundup.first_model.report import Report
from groundup.generation import completion
from groundup.generation.completion import TextModel, complete
from groundup.generation.sampler import Sampler
from groundup.generation.sampling import Sampling, SamplingOptions
from groundup.model.quantized import Quantization
from groundup.planning.report import PrintedPlan
from groundup.preprocess.pipeline import prepare
from groundup.run.compose import compose_config
from groundup.run.dataset import prompt_for
from groundup.run.ensure_data import ensure_prepared
from groundup.run.evaluate_checkpoint import evaluate, evaluate_tasks
from groundup.run.preset_plans import PresetPlans, plan_presets
from groundup.run.start import plan_with_speed, reconfigure, resume_run, start_run
from groundup.run.trainer import TrainResult
from groundup.sources.shakespeare import SHAKESPEARE
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.tokenizers.registry import choose_tokenizer
from groundup.ui.display import Display
from groundup.ui.notebook import in_notebook
from groundup.ui.progress import log_line, reporting, shows
from groundup.ui.watch import watching_call

__all__ = [
    "LoadedModel", "Options", "configure", "evaluate", "evaluate_tasks", "generate", "generate_stream", "load",
    "load_tokenizer", "plan", "prepare", "quickstart", "resume", "train",
]  # fmt: skip

DEFAULT_TEMPERATURE = 0.8
P = ParamSpec("P")
R = TypeVar("R")
PathLike = str | Path


class Options(TypedDict, total=False):
    """The config keys that are needed most, as keyword arguments. Other known names are accepted too, such as `lr`."""

    max_steps: int
    epochs: float
    max_time: float | str  # seconds, or text such as "30m"
    learning_rate: float
    batch_size: int  # sequences per step
    block_size: int  # context, in tokens
    n_layer: int
    n_embd: int
    device: str
    seed: int


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
    **options: Unpack[Options],
) -> Config:
    """Config from a preset, the model of the checkpoint `init_from`, YAML files, overrides, options, in this order.

    Without a `preset`, the one that a file names, or `gpt2-micro`. `laptop` applies the files' section of that name.
    Raises CheckpointError, ConfigError.
    """
    paths = {"data": str(data)} | ({"init_from": str(init_from)} if init_from is not None else {})
    given = ConfigSource("overrides", {**(overrides or {}), **paths}, typed=True)
    return compose_config(preset, files, given, ConfigSource("arguments", dict(options)), laptop=laptop)[1]


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
    progress: bool = True,
    display: Display | None = None,
    **options: Unpack[Options],
) -> TrainResult:
    """Train a new GPT on prepared `data` into the run folder `out`.

    If `data` does not exist and the config's section `prepare` names sources, the data is prepared first. `options` are
    the keys needed most, such as `max_steps`, `epochs`, `max_time`, `learning_rate`, `batch_size`, `block_size`,
    `n_layer`, `n_embd`, `device` and `seed`; `overrides` holds any, in sections or dotted: `{"model": {"dropout": 0.1},
    "evaluate.every_steps": 50}`. `init_from` is a checkpoint or run whose weights and dimensions to start with;
    `checkpoints` a new folder for the run's checkpoints, such as one on a larger disk. A `display` replaces what
    `progress` shows. SIGINT and SIGTERM end in a checkpoint. Raises CheckpointError, ConfigError, DataError,
    UsageError.
    """
    display = _checked(display)
    config = configure(
        data, preset=preset, files=files, laptop=laptop, overrides=overrides, init_from=init_from, **options
    )
    elsewhere = None if checkpoints is None else Path(checkpoints)
    with reporting(progress) as reporter:
        ensure_prepared(config, Path(out), reporter, checkpoints=elsewhere, processes=expected_world_size())
    title = f"{preset} on {data}" if preset else str(data)
    with watching_call(title, config.train, progress=progress and display is None) as watching:
        return start_run(config, Path(out), display or watching, checkpoints=elsewhere)


@_accept_previous_names
def resume(
    run: PathLike,
    *,
    data: PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
    checkpoints: PathLike | None = None,
    progress: bool = True,
    display: Display | None = None,
    **options: Unpack[Options],
) -> TrainResult:
    """Resume a run from its newest good checkpoint: bit for bit as if it had never stopped.

    Bitwise on the same machine and CPU threads, for run lengths in steps, tokens or epochs. `data` names the prepared
    folder when it has moved, `checkpoints` that of the run's checkpoints when they have. `overrides` and `options`, as
    of `train`, may change the run length, evaluation, checkpoints, guard, trackers, device, threads and micro-batch,
    and stay with the run. A finished run is left as it is. Raises CheckpointError, ConfigError, UsageError.
    """
    folder, display = RunFolder(Path(run)), _checked(display)
    changes = {**(overrides or {}), **dict(resolve_aliases(options.items(), "arguments")[0])}
    changes |= {"data": str(data)} if data else {}
    config, keys = reconfigure(folder, changes, checkpoints=None if checkpoints is None else Path(checkpoints))
    with watching_call(str(run), config.train, progress=progress and display is None) as watching:
        return resume_run(folder, config, keys, display or watching)


def generate(
    path: PathLike | LoadedModel,
    prompt: str = "",
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
    checkpoint: str = "latest",
    device: str = "auto",
    quantize: Quantization = "none",
    **options: Unpack[SamplingOptions],
) -> list[str]:
    """`num_samples` continuations of `prompt`, the prompt included.

    Each ends at `max_tokens`, at the end of text or before one of the texts `stop`. Without a `prompt`, a document
    begins; or, of a model that was trained on few, samples continue a line of its held-out text, or begin a paragraph
    where its data is gone. `quantize`: pack the weights first, as `load` does.

    `options`: `temperature` (0.8; 0 is greedy), `seed` (0; the same seed gives the same samples), `top_k`, `top_p`,
    `min_p`, `repetition_penalty`, `presence_penalty`, `frequency_penalty`, and `logit_bias`, which maps token ids to
    numbers that are added to their logits, from -100 (never this token) to 100 (only this one).
    Raises CheckpointError, TokenizerError, UsageError.
    """
    sampling = _sampling(options)
    loaded = load(path, checkpoint=checkpoint, device=device, quantize=quantize)
    beginning = prompt or prompt_for(loaded, sampling.seed)
    return complete(loaded, beginning, sampling, num_samples=num_samples, max_tokens=max_tokens, stop=_texts(stop))


def generate_stream(
    path: PathLike | TextModel,
    prompt: str = "",
    sampler: Sampler | None = None,
    *,
    num_samples: int = 1,
    max_tokens: int = 100,
    stop: Sequence[str] = (),
    checkpoint: str = "latest",
    device: str = "auto",
    quantize: Quantization = "none",
    **options: Unpack[SamplingOptions],
) -> Iterator[list[str]]:
    """`num_samples` continuations of `prompt`, as a stream of complete characters; the prompt is not included.

    Yields, per step, the new text of each sample, which may be empty. An empty prompt starts a document, or a
    paragraph if the model was trained on few documents. `stop`, `quantize` and `options` are as of `generate`; a
    `sampler` replaces the `options`. Raises CheckpointError, TokenizerError, UsageError.
    """
    sampling = sampler.sampling if sampler else _sampling(options)
    if isinstance(path, str | Path | LoadedModel):
        path = load(path, checkpoint=checkpoint, device=device, quantize=quantize)
    return completion.generate_stream(
        path, prompt, sampling, num_samples=num_samples, max_tokens=max_tokens, stop=_texts(stop)
    )


def _sampling(options: SamplingOptions) -> Sampling:
    if unknown := options.keys() - SamplingOptions.__annotations__.keys():
        name = sorted(unknown)[0]
        raise UsageError(f"{name}: is no option of sampling; {did_you_mean(name, SamplingOptions.__annotations__)}")
    defaults: SamplingOptions = {"temperature": DEFAULT_TEMPERATURE}
    return Sampling(**(defaults | options))


def _texts(stop: str | Sequence[str]) -> Sequence[str]:
    return [stop] if isinstance(stop, str) else stop


def load_tokenizer(source: PathLike) -> Tokenizer:
    """The tokenizer of a run, a checkpoint or prepared data, a `tokenizer.json`, or `byte`, `gpt1` or `gpt2`.

    Its `encode` turns a text into ids, `decode` ids into a text; `n_vocab` is the number of ids.
    Raises TokenizerError.
    """
    found = choose_tokenizer(str(source))
    if isinstance(found, TokenizerTrainer):
        raise TokenizerError(f"{source}: is trained on a text first; give a folder that was prepared with it")
    return found


def quickstart(
    sources: PathLike | Sequence[PathLike] = SHAKESPEARE,
    out: PathLike | None = None,
    *,
    minutes: float = 3.0,
    tokenizer: str | None = None,
    resume: bool = False,
    fresh: bool = False,
    progress: bool = True,
) -> Report:
    """Prepare `sources`, train a GPT on them for some `minutes`, and compare it with gzip, xz and counting models.

    Tokenizer, model, context, batch and length are chosen for the text and the machine. The run is written to `out`, by
    default `runs/NAME`, after the text. Where that holds a run already, `resume` trains it for longer, and `fresh`
    starts another one in a new folder. Raises CheckpointError, DataError, UsageError.
    """
    names = [str(source) for source in ([sources] if isinstance(sources, str | Path) else sources)]
    if not 0 < minutes < float("inf"):
        raise UsageError(f"minutes {minutes}: must be more than 0")
    folder = Path(out) if out is not None else run_folder(names)
    existing = None if fresh else ExistingRun.find(folder)
    say = partial(print, file=None if in_notebook() else sys.stderr) if shows(progress) else log_line
    watching = partial(watching_call, progress=progress)
    if existing and not resume:
        seconds = existing.seconds(minutes * 60)
        raise UsageError(
            f"{folder}: holds a run of {existing.planned / 60:g} minutes already; give resume=True to train it for "
            f"{seconds / 60:g} minutes in all, or fresh=True to start another in {free_folder(folder)}"
        )
    if existing:
        seconds = existing.seconds(minutes * 60)
        return workflow.train_longer(names, existing, seconds, tokenizer=tokenizer, say=say, watching=watching)
    if resume:
        raise UsageError(f"resume: there is no run in {folder}; leave it out")
    return workflow.quickstart(
        names,
        free_folder(folder) if fresh else folder,
        minutes=minutes,
        tokenizer=tokenizer,
        say=say,
        reading=partial(reporting, progress),
        watching=watching,
    )


@overload
def plan(data: PathLike, preset: None = None, **options: Unpack[Options]) -> PresetPlans: ...
@overload
def plan(
    data: PathLike,
    preset: str,
    *,
    files: Sequence[PathLike] = (),
    overrides: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> PrintedPlan: ...
def plan(
    data: PathLike,
    preset: str | None = None,
    *,
    files: Sequence[PathLike] = (),
    overrides: Mapping[str, Any] | None = None,
    **options: Unpack[Options],
) -> PrintedPlan | PresetPlans:
    """Estimate parameters, memory, steps, epochs, time and disk of a run on prepared `data`.

    Of one `preset`, whose speed is measured here for about two seconds; without one, of all presets, and which of them
    suits the text and this machine. `files`, `overrides` and `options` are as of `train`.
    Raises ConfigError, DataError.
    """
    if preset is not None or files:
        found = plan_with_speed(configure(data, preset=preset, files=files, overrides=overrides, **options))
        return PrintedPlan(found.config, found.machine, found.data, found.speed)
    given = {**(overrides or {}), **dict(resolve_aliases(options.items(), "arguments")[0])}
    return plan_presets(Path(data), given)


def _checked(display: Display | None) -> Display | None:
    """`display`, if it has the methods of a Display; UsageError otherwise, such as for one made for `view=`."""
    if not isinstance(display, Display | None):
        raise UsageError(f"display: {type(display).__name__} is no groundup.ui.display.Display; subclass that")
    return display
