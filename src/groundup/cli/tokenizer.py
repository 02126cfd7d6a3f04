"""`groundup tokenizer`: train a tokenizer, or show the tokens of a text."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.text import Text

from groundup.cli.parsing import Parser, SubcommandParser, add_text_fields, text_fields, utf8, whole_number
from groundup.errors import UsageError
from groundup.sources.catalog import CORPORA
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.tokenizers.registry import bpe_trainer, choose_tokenizer
from groundup.ui.console import Console
from groundup.ui.format import escaped, json_line, single_line
from groundup.utils.plural import human_plural

if TYPE_CHECKING:
    from groundup.sources.corpus import Corpus

SHOWN_CHARS = 20_000  # of a file or standard input
MEASURED_BYTES = 10_000_000  # at the beginning of a corpus: enough for two digits of bytes per token
STYLES = ("black on cyan", "black on yellow")  # alternating, so that borders between tokens show
MARKS = {" ": "·", "\n": "⏎", "\t": "⇥"}  # invisible characters; others are escaped as in Python


@dataclass(frozen=True)
class ShownToken:
    """One token of a text: id, text, and bytes in hexadecimal."""

    id: int
    text: str
    bytes: str


def add_arguments(parser: Parser) -> None:
    commands = parser.add_subparsers(dest="action", metavar="train|show", required=True, parser_class=SubcommandParser)
    train = commands.add_parser(
        "train",
        help="train a byte-level BPE on texts",
        description="Train a byte-level BPE, GPT-2's kind of tokenizer, on texts.",
        epilog=(
            "Use the folder with `groundup prepare --tokenizer DIR`; other programs can read its tokenizer.json.\n\n"
            "  groundup tokenizer train my-texts/ --size 16000 --out tokenizers/mine\n"
            "  groundup tokenizer train a.txt --size 4096 --min-frequency 2 --special '<|im_start|>' --out tok"
        ),
    )
    train.first = ("sources", "--size", "--min-frequency", "--special", "--out", "--column", "--json")
    train.option("sources SOURCE", "texts, as for `groundup prepare`", nargs="+", proposed=CORPORA)
    train.option("--size N", "vocabulary size, 257 or more [16000]", default="16000")
    train.option("--min-frequency N", "merge only pairs that occur N times or more [1]", type=whole_number, default=1)
    train.option(
        "--special TOKEN",
        "a special token, which no text is encoded to, such as '<|pad|>'; may be repeated",
        type=utf8,
        action="append",
        default=[],
    )
    train.option("--out DIR", "folder to write; must not hold anything yet", required=True)
    add_text_fields(train)
    train.option("--json", "print one JSON object")
    show = commands.add_parser(
        "show",
        help="show the tokens of a text",
        description="Show the tokens of a text, with their ids. Without a text: describe the tokenizer.",
        epilog=(
            "A space shows as ·, a line end as ⏎, a tab as ⇥; bytes of incomplete characters as \\xe6. Of a file or\n"
            f"of standard input, the first {SHOWN_CHARS:,} characters are shown.\n\n"
            '  groundup tokenizer show "Hello, world"\n'
            "  groundup tokenizer show --file book.txt --tokenizer runs/book\n"
            '  echo "naïve" | groundup tokenizer show - --tokenizer byte'
        ),
    )
    show.option("text TEXT", "the text; - for standard input", type=utf8, nargs="?")
    show.option("--file FILE", "file to read the text from, as for `groundup prepare`")
    show.option(
        "--tokenizer NAME",
        "byte, gpt1, gpt1:FOLDER, gpt2, a tokenizer.json, or a folder: tokenizer, data, checkpoint or run [gpt2]",
        default="gpt2",
        proposed=("byte", "gpt1", "gpt2"),
    )
    add_text_fields(show)
    show.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    return _train(args) if args.action == "train" else _show(args)


def _train(args: argparse.Namespace) -> int:
    from groundup.data.shards import SplitRule
    from groundup.preprocess.train_tokenizer import train_tokenizer
    from groundup.preprocess.workdir import new_folder
    from groundup.sources.corpus import open_sources
    from groundup.ui.progress import byte_progress

    everything = SplitRule(rule="documents by hash", val_fraction=0)
    learner = bpe_trainer(args.size, min_frequency=args.min_frequency, special_tokens=args.special)
    with (
        new_folder(Path(args.out)) as folder,
        byte_progress(quiet=args.json) as watch,
        open_sources(args.sources, **text_fields(args), say=watch.message) as corpus,
    ):
        watch.phase("learning", corpus.size)
        tokenizer = train_tokenizer(learner, corpus, everything, watch)
        n_bytes, n_tokens = _measure(tokenizer, _texts(corpus))
        corpus.check_unchanged()
        for line in corpus.findings():
            watch.message(line)
        tokenizer.save(folder)
    if args.json:
        values = {"out": args.out, "n_vocab": tokenizer.n_vocab, "fingerprint": tokenizer.fingerprint}
        print(json_line(values | _sizes(n_bytes, n_tokens)))
        return 0
    few = "" if tokenizer.n_vocab == int(args.size) else f" and not {int(args.size):,}: the text holds no more merges"
    print(f"tokenizer bpe, {tokenizer.n_vocab:,} ids{few}; written to {args.out}")
    print(f"{_summary(n_bytes, n_tokens)}{' (the beginning of the text)' if n_bytes >= MEASURED_BYTES else ''}")
    where = shlex.join([*args.sources, "--out", f"data/{Path(args.out).name}", "--tokenizer", args.out])
    print(f"next: groundup prepare {where}")
    return 0


def _show(args: argparse.Namespace) -> int:
    tokenizer = _open(args.tokenizer)
    text, is_all = _text(args)
    pieces = list(_pieces(tokenizer, text or ""))
    if args.json:
        keys = ("n_vocab", "end_of_text", "lossy", "fingerprint")
        about = {"tokenizer": tokenizer.name} | {key: getattr(tokenizer, key) for key in keys}
        tokens = [asdict(piece) for piece in pieces]
        print(json_line(about | {"pieces": tokens, "is_all": is_all} | _sizes(len((text or "").encode()), len(pieces))))
        return 0
    end = _marked(tokenizer.decode([tokenizer.end_of_text]))
    print(f"{tokenizer.name}: {tokenizer.n_vocab:,} ids, of which {tokenizer.end_of_text} ({end}) ends a document")
    if tokenizer.lossy:
        print(f"lossy: {tokenizer.lossy}")
    if text is not None:
        _print_pieces(Console(), pieces)
        print(_summary(len(text.encode()), len(pieces)) + ("" if is_all else f": the first {len(text):,} characters"))
    return 0


def _open(spec: str) -> Tokenizer:
    """The tokenizer that `--tokenizer` names."""
    if _is_run(spec):
        from groundup.checkpoint.run_folder import find_checkpoint

        spec = str(find_checkpoint(Path(spec)) / "tokenizer")
    choice = choose_tokenizer(spec)
    if isinstance(choice, TokenizerTrainer):
        raise UsageError(
            f"--tokenizer {spec}: is trained on a corpus, so there is nothing to show yet; "
            "give the folder of a trained one, written by `groundup tokenizer train` or `groundup prepare`"
        )
    return choice


def _is_run(spec: str) -> bool:
    try:
        return (Path(spec) / "config.yaml").is_file()
    except (OSError, ValueError):  # not a path; `choose_tokenizer` reports it
        return False


def _text(args: argparse.Namespace) -> tuple[str | None, bool]:
    """The text to show, from the command line, a file or standard input, or its beginning, and whether it is complete.

    None if no text is given.
    """
    from groundup.sources.corpus import STANDARD_INPUT, open_sources
    from groundup.sources.text import chunk_text

    if args.text is not None and args.file is not None:
        raise UsageError(f"--file {args.file}: a text is given as well; give one of the two")
    source = STANDARD_INPUT if args.text == STANDARD_INPUT else args.file
    if source is None:
        return args.text, True
    shown = ""
    with open_sources([source], **text_fields(args), say=_note) as corpus:
        for text in _texts(corpus):
            shown += text
            if len(shown) > SHOWN_CHARS:
                return next(chunk_text(shown, SHOWN_CHARS)), False
    return shown, True


def _note(line: str) -> None:
    print(single_line(line), file=sys.stderr)


def _texts(corpus: Corpus) -> Iterator[str]:
    for document in corpus:
        yield from document.chunks()


def _measure(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[int, int]:
    """Numbers of bytes and tokens at the beginning of a corpus."""
    from groundup.preprocess.encoding import encode_parts

    n_bytes = n_tokens = 0
    for text in texts:
        n_bytes += len(text.encode())
        n_tokens += len(encode_parts(text, tokenizer))
        if n_bytes >= MEASURED_BYTES:
            break
    return n_bytes, n_tokens


def _sizes(n_bytes: int, n_tokens: int) -> dict[str, int | float | None]:
    return {"bytes": n_bytes, "tokens": n_tokens, "bytes_per_token": n_bytes / n_tokens if n_tokens else None}


def _summary(n_bytes: int, n_tokens: int) -> str:
    ratio = f", {n_bytes / n_tokens:.2f} bytes per token" if n_tokens else ""
    return f"{human_plural(n_bytes, 'byte')}, {human_plural(n_tokens, 'token')}{ratio}"


def _pieces(tokenizer: Tokenizer, text: str) -> Iterator[ShownToken]:
    for id_ in tokenizer.encode(text).tolist():
        stands_for = tokenizer.decode_bytes([id_])
        yield ShownToken(id_, stands_for.decode("utf-8", errors="backslashreplace"), stands_for.hex())


def _marked(text: str) -> str:
    """`text` with all characters visible."""
    return "".join(MARKS.get(char) or escaped(char) for char in text)


def _print_pieces(console: Console, pieces: Iterable[ShownToken]) -> None:
    """Print tokens above their ids, in lines that fit the console and break where the text does."""
    colours = console.is_terminal and not console.no_color
    between = " " if colours else "│"
    above, below = Text(), Text()

    def flush() -> None:
        if above:
            console.print(above, soft_wrap=True)
            console.print(below, soft_wrap=True)
        above.truncate(0)
        below.truncate(0)

    for i, piece in enumerate(pieces):
        shown = _marked(piece.text)
        width = max(cell_len(shown), len(str(piece.id)))
        if above and above.cell_len + len(between) + width >= console.width:
            flush()
        above.append(between if above else "").append(shown.ljust(len(shown) + width - cell_len(shown)), STYLES[i % 2])
        below.append(between if below else "").append(str(piece.id).ljust(width), "dim")
        if "\n" in piece.text:
            flush()
    flush()
