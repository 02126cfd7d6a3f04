"""Preparation of sources into a folder of tokens: read, split, train the tokenizer if necessary, encode, write."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from groundup.data.shard_writer import SHARD_TOKENS
from groundup.data.shards import MANIFEST, Manifest, Split, SplitName, SplitRule, TokenizerInfo, dtype_for
from groundup.errors import DataError, TokenizerError, UsageError
from groundup.preprocess.encoding import encode_job, iter_jobs, map_in_order
from groundup.preprocess.records import Journal, Request, Setting
from groundup.preprocess.split import choose_rule
from groundup.preprocess.split_writer import SplitWriter
from groundup.preprocess.tokenizer_choice import TokenizerChoice, auto_choice
from groundup.preprocess.train_tokenizer import train_tokenizer
from groundup.preprocess.workdir import TOKENIZER, WorkDir, check_output, finished_manifest, open_workdir, unwritable
from groundup.sources.cleaning import parse_cleaning_steps
from groundup.sources.corpus import Corpus, ReadAs, open_sources
from groundup.sources.encodings import Errors, parse_encoding
from groundup.tokenizers.auto import AUTO
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.ui.progress import reporting
from groundup.utils.files import flush, replace_text
from groundup.utils.plural import human_plural
from groundup.utils.progress import ProgressReporter
from groundup.utils.system import usable_cores

MAX_VAL_FRACTION = 0.5

# Fraction of a text's characters that a tokenizer knows: below the first it is an error, below the second a message.
# Rare characters are missing from many good tokenizers.
MIN_KNOWN, WARN_KNOWN = 0.5, 0.999
MIN_SAMPLED_CHARS = 20_000  # before the fraction is checked during encoding; from at least ten positions

MAX_HELD_OUT_RATIO = 2.0  # of the text in the validation split to the wanted fraction, before a message

JOURNAL_SECONDS = 3.0  # between two entries; less work is not worth keeping, so a small corpus leaves nothing behind


def prepare(
    sources: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str = AUTO,
    column: str = "text",
    errors: Errors = "strict",
    encoding: str | None = None,
    read_as: ReadAs | None = None,
    separator: str | None = None,
    val_fraction: float = 0.1,
    max_tokens: int | None = None,
    max_documents: int | None = None,
    clean: str | Iterable[str] = (),
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int], None] | bool | None = True,
    shard_tokens: int = SHARD_TOKENS,
) -> Manifest:
    """Turn texts into token shards in the folder `out`, which appears complete or not at all.

    `sources`: files of the formats in docs/data.md (each also .gz or .zst), archives, folders, patterns such as
    `texts/**/*.txt`, `-` for standard input, `shakespeare`, `python-docs`, corpora of the hub. Text is UTF-8 or of the
    `encoding` named; `separator` divides plain texts into documents; `read_as="text"` reads files as they are, markup
    included; `column` names the text field of rows and tables. `tokenizer`: `auto` (see `groundup.tokenizers.auto`),
    `byte`, `char`, `gpt1`, `gpt2`, `bpe:SIZE`, a `tokenizer.json`, or a folder with one. `clean`: any of `lowercase`,
    `digits`, `punctuation`. Reads the first `max_documents`, writes at most `max_tokens`, `val_fraction` of them to
    validation. `progress`: whether to show it, or a function that is called with the bytes done.

    The same text gives the same folder, byte for byte, on any number of `threads` (default: all cores), in constant
    memory. Repeated, a call that was killed continues, a finished one does nothing, with `auto` as well; `overwrite`
    replaces a folder that is damaged or has other sources or settings. Raises DataError, TokenizerError, UsageError.
    """
    sources, out = _as_list(sources), Path(out)
    _check(val_fraction, max_tokens, max_documents, threads)
    steps = parse_cleaning_steps(clean)
    choice = TokenizerChoice.named(tokenizer) if tokenizer != AUTO else None
    reading: dict[str, Any] = {"column": column, "errors": errors, "encoding": parse_encoding(encoding)}
    reading |= {"read_as": read_as, "separator": separator, "max_documents": max_documents}
    settings: dict[str, Setting] = {"val_fraction": float(val_fraction), "max_tokens": max_tokens}
    settings |= reading | {"clean": ",".join(steps) or None, "shard_tokens": shard_tokens}
    try:
        check_output(out, prepared=True)
        with (
            reporting(progress) as reporter,
            open_sources(sources, **reading, clean=steps, say=reporter.message) as corpus,
        ):
            rule = choose_rule(corpus, val_fraction)
            choice = choice or auto_choice(corpus, out, max_tokens, reporter, overwrite=overwrite)
            request = Request.of(corpus, choice.settings | settings | {"split": rule.rule})
            if manifest := finished_manifest(out, request, overwrite=overwrite):
                reporter.message(f"{out}: already prepared from the same inputs in the same way; nothing to do")
                return manifest
            trains = choice.settings["fingerprint"] is None
            with open_workdir(out, request, trains_tokenizer=trains, overwrite=overwrite, log=reporter.message) as work:
                run = _Preparation(corpus, rule, work, reporter, threads or usable_cores())
                return work.manifest or run.finish(choice, max_tokens, shard_tokens)
    except OSError as error:
        raise unwritable(out, error) from error


class _Preparation:
    """The work of one process, which may resume that of a previous one."""

    def __init__(
        self, corpus: Corpus, rule: SplitRule, work: WorkDir, progress: ProgressReporter, threads: int
    ) -> None:
        self._corpus, self._rule, self._work, self._progress, self._threads = corpus, rule, work, progress, threads
        self._journal_time = time.monotonic()  # of the last entry
        self._total = corpus.size if corpus.size and corpus.is_complete else None

    def finish(self, choice: TokenizerChoice, max_tokens: int | None, shard_tokens: int) -> Manifest:
        """Do the remaining work; the manifest is written last."""
        folder, journal = self._work.path, self._work.journal
        if journal:
            self._progress.message(f"resuming at {journal.done}")
        tokenizer = self._tokenizer(choice, max_tokens)
        if lossy := tokenizer.lossy:
            self._progress.message(f"tokenizer {tokenizer.name}: {lossy}")
        with SplitWriter(folder, tokenizer, self._rule.val_fraction, max_tokens, shard_tokens, journal) as output:
            self._update_journal(output)  # so that a tokenizer that took long to train is kept
            self._encode(output, tokenizer)
            self._check_known(tokenizer, output.known())
            splits = output.finish()
        try:
            self._corpus.check_unchanged()
        except DataError:
            (folder / Journal.FILE).unlink(missing_ok=True)  # nothing to resume from: the tokens are of two texts
            raise
        for line in self._corpus.findings():
            self._progress.message(line)
        if (known := output.known()) < WARN_KNOWN:
            shown = f"{100 * known:.1f} % of the text's characters"
            self._progress.message(f"tokenizer {tokenizer.name}: knows {shown}; the rest is lost")
        _check_not_empty(splits, self._rule, max_tokens, output.full)
        held_out = splits["val"].bytes / sum(split.bytes for split in splits.values())
        if held_out > MAX_HELD_OUT_RATIO * self._rule.val_fraction:
            self._progress.message(
                f"{100 * held_out:.0f} % of the text is held out, not {100 * self._rule.val_fraction:.0f} %: "
                "its documents are too few or too short to be split finely"
            )
        manifest = Manifest(
            dtype=dtype_for(tokenizer.n_vocab),
            tokenizer=TokenizerInfo(name=tokenizer.name, n_vocab=tokenizer.n_vocab, fingerprint=tokenizer.fingerprint),
            splits=splits,
            split=self._rule,
            sources=output.sources,
        )
        replace_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _tokenizer(self, choice: TokenizerChoice, max_tokens: int | None) -> Tokenizer:
        """The tokenizer, saved in the folder by a previous process or now."""
        if self._work.tokenizer:
            return self._work.tokenizer
        folder, tokenizer = self._work.path / TOKENIZER, choice.tokenizer
        if tokenizer is None:
            raise DataError("another process has just finished or removed this folder; repeat the command")
        if isinstance(tokenizer, TokenizerTrainer):
            self._progress.phase(f"training tokenizer {choice.settings['tokenizer']}", self._total)
            tokenizer = train_tokenizer(tokenizer, self._corpus, self._rule, self._progress, max_tokens)
        tokenizer.save(folder)
        for path in [*folder.rglob("*"), folder]:
            flush(path)
        return tokenizer

    def _encode(self, output: SplitWriter, tokenizer: Tokenizer) -> None:
        done = round(output.done * self._total) if self._total else output.n_bytes
        self._progress.phase("encoding", self._total, done)
        work = iter_jobs(self._corpus, self._rule, output.position, output.chunks, output.full)
        with closing(map_in_order(partial(encode_job, tokenizer=tokenizer), work, self._threads)) as results:
            for job, encoded in results:
                output.write(job, encoded, self._corpus.size)
                self._check_known(tokenizer, output.known(at_least=MIN_SAMPLED_CHARS))
                self._progress(job.input_bytes if self._total else output.n_bytes)
                self._update_journal(output)
                if output.is_full:
                    break

    def _check_known(self, tokenizer: Tokenizer, known: float) -> None:
        if known < MIN_KNOWN:
            raise TokenizerError(
                f"tokenizer {tokenizer.name}: knows only {100 * known:.0f} % of the text's characters, and the rest "
                "would be lost; choose one made for such text, or gpt2, byte or bpe:SIZE, which encode every text"
            )

    def _update_journal(self, output: SplitWriter) -> None:
        if time.monotonic() - self._journal_time >= JOURNAL_SECONDS:
            output.journal().save(self._work.path)
            self._journal_time = time.monotonic()


def _as_list(sources: object) -> list[str | Path]:
    found: list[str | Path] = []
    for each in sources if isinstance(sources, Iterable) and not isinstance(sources, str | bytes) else [sources]:
        if not isinstance(each, str | Path):
            raise UsageError(f"sources: {each!r} is no path and no name of a corpus; give strings or Paths")
        found.append(each)
    return found


def _check(val_fraction: float, max_tokens: int | None, max_documents: int | None, threads: int | None) -> None:
    if not 0 <= val_fraction <= MAX_VAL_FRACTION:
        raise UsageError(f"val_fraction: {val_fraction} is not between 0 and {MAX_VAL_FRACTION}; 0.1 is usual")
    for name, value in {"max_tokens": max_tokens, "max_documents": max_documents, "threads": threads}.items():
        if value is not None and value < 1:
            raise UsageError(f"{name}: {value} is less than 1; leave it out for no limit")


def _check_not_empty(
    splits: dict[SplitName, Split], rule: SplitRule, max_tokens: int | None, full: set[SplitName]
) -> None:
    for name, split in splits.items():
        if max_tokens and not split.tokens and name in full and (rule.val_fraction or name == "train"):
            raise DataError(
                f"max_tokens {max_tokens}: leaves none for the {name} split, with val_fraction {rule.val_fraction}; "
                "give a larger --max-tokens"
            )
    if not splits["train"].tokens:
        raise DataError("no text is left to train on; give more text, or a smaller --val-fraction")
    if not splits["val"].tokens and rule.val_fraction:
        raise DataError(
            f"none of {human_plural(splits['train'].documents, 'document')} fell into the validation split of "
            f"{rule.val_fraction}; give more text, a larger --val-fraction, or --val-fraction 0 for no validation"
        )
