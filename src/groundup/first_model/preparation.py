"""A quickstart's text: looked at, its tokenizer chosen, and prepared. No torch here."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from groundup.data.shards import Manifest
from groundup.errors import DataError
from groundup.first_model.recipe import Choice
from groundup.preprocess.pipeline import prepare
from groundup.preprocess.split import MIN_DOCUMENTS_BY_HASH
from groundup.sources.corpus import STANDARD_INPUT, Corpus, open_sources, standard_input
from groundup.sources.survey import Survey, survey
from groundup.sources.text import Document
from groundup.tokenizers.auto import AUTO, auto_tokenizer
from groundup.utils.progress import ProgressReporter

MAX_VAL_BYTES = 2_000_000  # scoring more takes longer than it is worth in a few minutes
MIN_VAL_FRACTION = 0.01
MIN_VAL_DOCUMENTS = 10  # on average: the chance that none is held out is then 1 in 20,000
MIN_TEXT_BYTES = 300
MIN_PREPARED_TOKENS = 30_000_000  # of a long text; more is not even prepared for a run of a few minutes
PREPARED_TOKENS_PER_MINUTE = 10_000_000  # the same for long runs


def prepare_text(
    sources: Sequence[str],
    out: Path,
    *,
    minutes: float,
    tokenizer: str | None,
    text_options: Mapping[str, Any],
    show: Callable[[Choice], None],
    reading: Callable[[], AbstractContextManager[ProgressReporter]],
) -> Manifest:
    """Prepare `sources` in the folder `out`, as much of them as a run of some `minutes` can use.

    Replaces what a quickstart prepared there that ended before its training began. Raises DataError.
    """
    names = ", ".join(sources)
    with rereadable(sources) as files:
        with reading() as progress, open_sources(files, **text_options) as corpus:
            progress.phase("reading", corpus.size)
            text = survey(_watched(corpus, progress))
        if text.bytes < MIN_TEXT_BYTES:
            raise DataError(f"{names}: {text.bytes} bytes are too little to learn from; give at least a few kilobytes")
        repeated = "one character, repeated: there is nothing else to learn" if text.distinct == 1 else ""
        show(Choice("text", f"{names}: {text.size}", repeated))
        if tokenizer and tokenizer != AUTO:
            choice = Choice("tokenizer", tokenizer, "as asked")
        else:
            choice = Choice("tokenizer", *auto_tokenizer(text.bytes, text.bytes_per_character, text.distinct))
        show(choice)
        limit = max(MIN_PREPARED_TOKENS, round(minutes * PREPARED_TOKENS_PER_MINUTE))
        with reading() as progress:
            return prepare(
                files,
                out,
                tokenizer=choice.value,
                **text_options,
                val_fraction=val_fraction(text),
                max_tokens=None if text.complete else limit,
                overwrite=True,
                progress=progress,
            )


def _watched(corpus: Corpus, progress: ProgressReporter) -> Iterable[Document]:
    for document in corpus:
        yield document
        progress(corpus.bytes_read)


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
