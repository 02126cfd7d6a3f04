"""Quickstart workflow: survey the text, prepare it, train by the clock, evaluate, and generate samples."""

import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import load
from groundup.config.schema import Config
from groundup.errors import DataError
from groundup.evaluation.baselines import Baseline, baselines, split_text
from groundup.evaluation.memorization import Memorization, overlap
from groundup.generation.engine import complete
from groundup.generation.sampling import Sampler
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.split import MIN_DOCUMENTS_BY_HASH
from groundup.quickstart.recipe import (
    Choice,
    Machine,
    Survey,
    build_recipe,
    choose_run_length,
    choose_tokenizer,
    survey,
)
from groundup.run.evaluate_checkpoint import COMPARED_BYTES, evaluate
from groundup.run.start import plan_with_speed, start_run
from groundup.run.trainer import TrainResult
from groundup.sources.corpus import STANDARD_INPUT, open_sources, standard_input
from groundup.ui.display import Display
from groundup.utils.device import choose_device, choose_precision, matmul_flops
from groundup.utils.system import usable_cores

MAX_VAL_BYTES = 2_000_000  # scoring more takes longer than it is worth in a few minutes
MIN_VAL_FRACTION = 0.01
MIN_VAL_DOCUMENTS = 10  # on average: the chance that none is held out is then 1 in 20,000
MIN_TEXT_BYTES = 300
MAX_SEARCHED_BYTES = 100_000_000  # of training text in which samples are looked up
MIN_PREPARED_TOKENS = 30_000_000  # of a long text; more is not even prepared for a run of a few minutes
PREPARED_TOKENS_PER_MINUTE = 10_000_000  # the same for long runs
SAMPLES, SAMPLE_TOKENS = 3, 120


@dataclass(frozen=True)
class Report:
    """Results of a quickstart."""

    sources: list[str]
    data: Path
    result: TrainResult
    checkpoint: str  # the evaluated one: best or latest
    loss: float  # nats per token, on the complete validation split
    bits_per_byte: float  # of the complete validation text
    how: str  # bits_per_byte was computed
    baselines: list[Baseline]
    compared: int  # bytes at the end of the training text that baselines and overlap use
    samples: list[str]
    overlap: Memorization  # of the samples with the training text
    prompt: str  # a word of the text


def free_folder(sources: Sequence[str], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`, or `runs/NAME-2` and so on if it exists; NAME is made of the first source's letters."""
    source = Path(sources[0]).resolve().name if Path(sources[0]).exists() else sources[0]
    name = "-".join(re.findall(r"[\w-]+", source.removeprefix("hf:").partition(".")[0])).strip("-") or "text"
    candidates = (parent / (f"{name}-{i}" if i > 1 else name) for i in count(1))
    return next(path for path in candidates if not path.exists())


def quickstart(
    sources: Sequence[str],
    out: Path,
    *,
    minutes: float,
    tokenizer: str | None,
    say: Callable[[str], None],
    reading: Callable[[], AbstractContextManager[Callable[[int], None]]],
    watching: Callable[[str, Config], AbstractContextManager[Display]],
) -> Report:
    """Prepare `sources`, train on them for `minutes`, and evaluate, all in the run folder `out`.

    Every choice is explained by `say`; `reading` shows progress in bytes, `watching` the training.
    """
    RunFolder(out).refuse_existing()
    names = ", ".join(sources)
    with TemporaryDirectory(prefix="groundup-") as temporary:
        files = [_rereadable(source, Path(temporary)) for source in sources]
        with open_sources(files) as corpus:
            text = survey(corpus)
        choice = _choose_tokenizer(names, text, tokenizer, say)
        limit = max(MIN_PREPARED_TOKENS, round(minutes * PREPARED_TOKENS_PER_MINUTE))
        with reading() as progress:
            manifest = prepare(
                files,
                out / "data",
                tokenizer=choice.value,
                val_fraction=val_fraction(text),
                max_tokens=None if text.complete else limit,
                progress=progress,
            )
    train, val = manifest.splits["train"], manifest.splits["val"]
    say(f"{'':<10} {train.tokens:,} tokens of {train.bytes / train.tokens:.2f} bytes; {val.bytes:,} bytes held out")
    device, threads = choose_device("auto"), usable_cores()
    precision, reason = choose_precision("auto", device)
    machine = Machine(str(device), matmul_flops(device, precision, threads))
    say(str(Choice("machine", f"{device}, {threads} threads, {precision}", reason)))
    config, choices = build_recipe(
        machine, minutes * 60, str(out / "data"), train.tokens, train.bytes, manifest.tokenizer.n_vocab
    )
    plan = plan_with_speed(config)
    config, run_length = choose_run_length(config, plan.epochs, train.tokens)
    for choice in (*choices, run_length):
        say(str(choice))
    with watching(f"groundup quickstart: {names}", config) as display:
        result = start_run(config, out, display, speed=plan.speed, advise=False)
    say("evaluating the model, gzip, xz and two counting models")
    return evaluate_run(list(sources), result, out / "data")


def _choose_tokenizer(names: str, text: Survey, tokenizer: str | None, say: Callable[[str], None]) -> Choice:
    """Explain the text and the tokenizer for it, which may be given. DataError if there is too little text."""
    if text.bytes < MIN_TEXT_BYTES:
        raise DataError(f"{names}: {text.bytes} bytes are too little to learn from; give at least a few kilobytes")
    say(f"{'text':<10} {names}: {text.size}")
    if text.distinct == 1:
        say(f"{'':<10} one character, repeated: there is nothing else to learn")
    choice = Choice("tokenizer", tokenizer, "as asked") if tokenizer else choose_tokenizer(text)
    say(str(choice))
    return choice


def _rereadable(source: str, folder: Path) -> str:
    """The source, or a copy of it in `folder` if it is standard input, which can be read only once."""
    if source != STANDARD_INPUT:
        return source
    file = folder / "standard-input.txt"
    if not file.exists():
        with file.open("wb") as text:
            shutil.copyfileobj(standard_input(), text)
    return str(file)


def val_fraction(text: Survey) -> float:
    """Fraction to hold out: a tenth, less of a long text, but enough of many documents to hold some out for certain."""
    documents = MIN_VAL_DOCUMENTS / text.documents if text.documents >= MIN_DOCUMENTS_BY_HASH else 0.0
    return min(0.1, max(MIN_VAL_FRACTION, MAX_VAL_BYTES / text.bytes, documents))


def evaluate_run(sources: list[str], result: TrainResult, data: Path) -> Report:
    """Evaluate a run: bits per byte, those of baselines, samples, and their overlap with the training text.

    The best checkpoint is used; it is not the last one if the model began to memorize the text.
    """
    name = "best" if result.best.loss is not None else "latest"
    loaded = load(result.run, checkpoint=name)
    found = evaluate(loaded, data=data)
    how = (
        f"cross-entropy of the {found.tokens:,} validation tokens, each predicted from the previous ones in a window "
        f"of {loaded.config.model.block_size}: {found.loss:.4f} nats per token x tokens / bytes / ln 2."
    )
    samples = complete(loaded, "", Sampler(0.8, 200), num_samples=SAMPLES, max_tokens=SAMPLE_TOKENS)
    train = split_text(data, "train", loaded.tokenizer, MAX_SEARCHED_BYTES)
    val = split_text(data, "val", loaded.tokenizer, COMPARED_BYTES)
    return Report(
        sources=sources,
        data=data,
        result=result,
        checkpoint=name,
        loss=found.loss,
        bits_per_byte=found.bits_per_byte,
        how=how,
        baselines=baselines(train[-COMPARED_BYTES:], val),
        compared=min(len(train), COMPARED_BYTES),
        samples=samples,
        overlap=overlap([sample.encode() for sample in samples], train, val),
        prompt=next(iter(train[:200].decode(errors="ignore").split()), ""),
    )
