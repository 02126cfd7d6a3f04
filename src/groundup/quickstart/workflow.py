"""Quickstart workflow: survey the text, prepare it, train by the clock, and report."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from groundup.checkpoint.run_folder import RunFolder
from groundup.config.sections import TrainConfig
from groundup.errors import DataError
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.split import MIN_DOCUMENTS_BY_HASH
from groundup.quickstart.existing import ExistingRun
from groundup.quickstart.recipe import Choice, Machine, build_recipe, choose_run_length
from groundup.quickstart.report import Report, evaluate_run
from groundup.run.start import plan_with_speed, reconfigure, resume_run, start_run
from groundup.sources.corpus import STANDARD_INPUT, open_sources, standard_input
from groundup.sources.survey import Survey, survey
from groundup.tokenizers.auto import AUTO, auto_tokenizer
from groundup.ui.display import Display
from groundup.utils.device import choose_device, choose_precision, matmul_flops
from groundup.utils.plural import human_plural
from groundup.utils.system import usable_cores

MAX_VAL_BYTES = 2_000_000  # scoring more takes longer than it is worth in a few minutes
MIN_VAL_FRACTION = 0.01
MIN_VAL_DOCUMENTS = 10  # on average: the chance that none is held out is then 1 in 20,000
MIN_TEXT_BYTES = 300
MIN_PREPARED_TOKENS = 30_000_000  # of a long text; more is not even prepared for a run of a few minutes
PREPARED_TOKENS_PER_MINUTE = 10_000_000  # the same for long runs


def quickstart(
    sources: Sequence[str],
    out: Path,
    *,
    minutes: float,
    tokenizer: str | None,
    say: Callable[[str], None],
    reading: Callable[[], AbstractContextManager[Callable[[int], None]]],
    watching: Callable[[str, TrainConfig], AbstractContextManager[Display]],
) -> Report:
    """Prepare `sources`, train on them for `minutes`, and evaluate, all in the run folder `out`.

    Every choice is explained by `say`; `reading` shows progress in bytes, `watching` the training.
    """
    RunFolder(out).refuse_existing()
    names = ", ".join(sources)
    with rereadable(sources) as files:
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
                overwrite=True,  # of a quickstart that ended before its training began
                progress=progress,
            )
    train, val = manifest.splits["train"], manifest.splits["val"]
    say(f"{'':<10} {train.tokens:,} tokens of {train.bytes / train.tokens:.2f} bytes; {val.bytes:,} bytes held out")
    device, threads = choose_device("auto"), usable_cores()
    precision, reason = choose_precision("auto", device)
    machine = Machine(str(device), matmul_flops(device, precision, threads))
    say(str(Choice("machine", f"{device}, {human_plural(threads, 'thread')}, {precision}", reason)))
    config, choices = build_recipe(
        machine, minutes * 60, str(out / "data"), train.tokens, train.bytes, manifest.tokenizer.n_vocab
    )
    plan = plan_with_speed(config)
    config, run_length = choose_run_length(config, plan.epochs, train.tokens)
    for choice in (*choices, run_length):
        say(str(choice))
    with watching(f"groundup quickstart: {names}", config.train) as display:
        result = start_run(config, out, display, speed=plan.speed, advise=False)
    say("evaluating the model, gzip, xz and two counting models")
    return evaluate_run(list(sources), result, out / "data")


def train_longer(
    sources: Sequence[str],
    existing: ExistingRun,
    seconds: float,
    *,
    say: Callable[[str], None],
    watching: Callable[[str, TrainConfig], AbstractContextManager[Display]],
) -> Report:
    """Train a quickstart's run on, for `seconds` in all, and evaluate it. UsageError if it is of another text."""
    with rereadable(sources) as files:
        existing.check_text(files)
    run = existing.folder
    config, keys = reconfigure(run, existing.longer(seconds))
    with watching(f"groundup quickstart: {', '.join(sources)}", config.train) as display:
        result = resume_run(run, config, keys, display)
    say("evaluating the model, gzip, xz and two counting models")
    return evaluate_run(list(sources), result, run.path / "data")


def _choose_tokenizer(names: str, text: Survey, tokenizer: str | None, say: Callable[[str], None]) -> Choice:
    """Explain the text and the tokenizer for it, which may be given. DataError if there is too little text."""
    if text.bytes < MIN_TEXT_BYTES:
        raise DataError(f"{names}: {text.bytes} bytes are too little to learn from; give at least a few kilobytes")
    say(f"{'text':<10} {names}: {text.size}")
    if text.distinct == 1:
        say(f"{'':<10} one character, repeated: there is nothing else to learn")
    if tokenizer and tokenizer != AUTO:
        choice = Choice("tokenizer", tokenizer, "as asked")
    else:
        choice = Choice("tokenizer", *auto_tokenizer(text.bytes, text.bytes_per_character, text.distinct))
    say(str(choice))
    return choice


@contextmanager
def rereadable(sources: Sequence[str]) -> Iterator[list[str]]:
    """The sources, with a temporary copy in the place of standard input, which can be read only once."""
    with TemporaryDirectory(prefix="groundup-") as folder:
        file = Path(folder) / "standard-input.txt"
        if STANDARD_INPUT in sources:
            with file.open("w+b") as text:
                shutil.copyfileobj(standard_input(), text)
                text.seek(0)
                checksum = hashlib.file_digest(text, "sha256").digest()
            os.utime(file, ns=(0, int.from_bytes(checksum[:6])))  # the same text is the same file, for a later command
        yield [str(file) if source == STANDARD_INPUT else source for source in sources]


def val_fraction(text: Survey) -> float:
    """Fraction to hold out: a tenth, less of a long text, but enough of many documents to hold some out for certain."""
    documents = MIN_VAL_DOCUMENTS / text.documents if text.documents >= MIN_DOCUMENTS_BY_HASH else 0.0
    return min(0.1, max(MIN_VAL_FRACTION, MAX_VAL_BYTES / text.bytes, documents))
