"""From a text to a talking model with no decision to make: look, prepare, train by the clock, compare, speak."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from groundup.checkpoint.load import load
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.data.shards import Manifest
from groundup.errors import DataError
from groundup.evaluation.baselines import Baseline, baselines, split_text
from groundup.evaluation.memorization import Memorization, overlap
from groundup.generation.engine import complete
from groundup.generation.sampling import Sampler
from groundup.preprocess.pipeline import prepare_tokens
from groundup.preprocess.split import ENOUGH_DOCUMENTS
from groundup.quickstart.recipe import Choice, Machine, choose_tokenizer, horizon, recipe
from groundup.quickstart.survey import Survey, survey
from groundup.run.evaluate_checkpoint import COMPARED_BYTES, evaluate
from groundup.run.start import plan_with_speed, start_run
from groundup.run.trainer import TrainResult
from groundup.sources.corpus import STANDARD_INPUT, open_sources
from groundup.ui.display import Display
from groundup.utils.device import choose_device, choose_precision, matmul_flops
from groundup.utils.system import usable_cores

VAL_BYTES = 2_000_000  # more validation text takes longer to score than it is worth, in a few minutes
LEAST_VAL_FRACTION = 0.01
LEAST_VAL_DOCUMENTS = 10  # on average: the chance that none is held out is then 1 in 20,000
LEAST_BYTES = 300
SEARCHED_BYTES = 100_000_000  # of training text that samples are looked for in: more than is prepared in a few minutes
ENOUGH_TOKENS = 30_000_000  # for a few minutes; more of a long text is not even prepared
TOKENS_A_MINUTE = 10_000_000  # the same for long runs
SAMPLES, SAMPLE_TOKENS = 3, 120


@dataclass(frozen=True)
class Report:
    """What came out of a quickstart."""

    sources: list[str]
    data: Path
    result: TrainResult
    checkpoint: str  # whose numbers these are
    loss: float  # nats a token, of the whole validation split
    bits_per_byte: float  # of the whole validation text
    how: str  # that number was computed
    baselines: list[Baseline]
    compared: int  # bytes of the training text, its last, that baselines and overlap look at
    samples: list[str]
    overlap: Memorization  # of the samples with the training text
    prompt: str  # a word of the text


def free_folder(sources: Sequence[str], parent: Path = Path("runs")) -> Path:
    """`runs/NAME`, or `runs/NAME-2` and so on where that is taken; NAME is made of the first source's letters."""
    there = Path(sources[0]).resolve().name if Path(sources[0]).exists() else sources[0]
    words = re.findall(r"[\w-]+", there.removeprefix("hf:").partition(".")[0])
    name = "-".join(words).strip("-") or "text"
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
    """Look at `sources` and the machine, choose, prepare, train for `minutes`, measure, sample. All into `out`."""
    run = RunFolder(out)
    run.refuse_existing()
    with TemporaryDirectory(prefix="groundup-") as temporary:
        readable = [kept(source, Path(temporary)) for source in sources]
        manifest = prepared(list(sources), readable, out / "data", minutes, tokenizer, say, reading)
    train = manifest.splits["train"]
    machine = this_machine()
    what = f"{machine.device}, {machine.threads} threads, {machine.precision}"
    say(str(Choice("machine", what, machine.reason)))
    config, choices = recipe(
        machine, minutes * 60, str(out / "data"), train.tokens, train.bytes, manifest.tokenizer.n_vocab
    )
    plan = plan_with_speed(config)
    config, length = horizon(config, plan.epochs, train.tokens)
    for choice in (*choices, length):
        say(str(choice))
    with watching(f"groundup quickstart: {', '.join(sources)}", config) as display:
        result = start_run(config, out, display, speed=plan.speed, advise=False)
    say("measuring what the model has learnt, beside gzip, xz and two models that only count")
    return report(list(sources), result, out / "data")


def prepared(
    given: list[str],
    sources: list[str],
    data: Path,
    minutes: float,
    tokenizer: str | None,
    say: Callable[[str], None],
    reading: Callable[[], AbstractContextManager[Callable[[int], None]]],
) -> Manifest:
    """Look at the text, choose its tokenizer, and turn it into tokens."""
    with open_sources(sources) as corpus:
        text = survey(corpus)
    if text.bytes < LEAST_BYTES:
        raise DataError(
            f"{', '.join(given)}: {text.bytes} bytes are too little to learn from; give at least a few kilobytes"
        )
    say(f"{'text':<10} {', '.join(given)}: {text.size}")
    if text.distinct == 1:
        say(f"{'':<10} one character, over and over: there is nothing to learn but that")
    chosen = Choice("tokenizer", tokenizer, "as asked") if tokenizer else choose_tokenizer(text)
    say(str(chosen))
    with reading() as progress:
        manifest = prepare_tokens(
            sources,
            data,
            tokenizer=chosen.value,
            val_fraction=val_fraction(text),
            max_tokens=None if text.whole else max(ENOUGH_TOKENS, round(minutes * TOKENS_A_MINUTE)),
            progress=progress,
        )
    train, val = manifest.splits["train"], manifest.splits["val"]
    say(f"{'':<10} {train.tokens:,} tokens of {train.bytes / train.tokens:.2f} bytes; {val.bytes:,} bytes held out")
    return manifest


def kept(source: str, folder: Path) -> str:
    """The source, or where it was put if it can be read only once."""
    if source != STANDARD_INPUT:
        return source
    file = folder / "standard-input.txt"
    if not file.exists():
        with file.open("wb") as text:
            shutil.copyfileobj(sys.stdin.buffer, text)
    return str(file)


def val_fraction(text: Survey) -> float:
    """A tenth, or less of a long text, but of many documents enough that some are surely held out."""
    documents = LEAST_VAL_DOCUMENTS / text.documents if text.documents >= ENOUGH_DOCUMENTS else 0.0
    return min(0.1, max(LEAST_VAL_FRACTION, VAL_BYTES / text.bytes, documents))


def this_machine() -> Machine:
    """What there is to learn with; times a few matrix products."""
    device, threads = choose_device("auto"), usable_cores()
    precision, reason = choose_precision("auto", device)
    return Machine(str(device), threads, precision, reason, matmul_flops(device, precision, threads))


def report(sources: list[str], result: TrainResult, data: Path) -> Report:
    """Bits a byte of the whole validation text, beside what simpler models need for it; samples, and whether recited.

    The best checkpoint speaks, which is not the last where the model began to learn the text by heart.
    """
    name = "best" if result.best.loss is not None else "latest"
    loaded = load(result.run, checkpoint=name)
    found = evaluate(result.run, data=data, checkpoint=name)
    how = (
        f"cross-entropy of the {found.tokens:,} validation tokens, each predicted from those before it in a window of "
        f"{loaded.config.model.block_size}: {found.loss:.4f} nats a token x tokens / bytes / ln 2."
    )
    samples = complete(
        loaded.model,
        loaded.tokenizer,
        "",
        Sampler(0.8, 200),
        device=loaded.device,
        num_samples=SAMPLES,
        max_tokens=SAMPLE_TOKENS,
    )
    train = split_text(data, "train", loaded.tokenizer, SEARCHED_BYTES)
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
