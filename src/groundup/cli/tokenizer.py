"""`groundup tokenizer`: train one, or show how one cuts a text."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from groundup.cli.parsing import SubcommandParser, add_text_fields
from groundup.errors import UsageError
from groundup.tokenizers.base import Tokenizer, TokenizerTrainer
from groundup.tokenizers.registry import bpe_trainer, choose_tokenizer
from groundup.ui.format import visible

if TYPE_CHECKING:
    from groundup.sources.corpus import Corpus

MEASURED_BYTES = 10_000_000  # of a corpus, from its beginning: enough to know bytes per token to the second digit
STYLES = ("black on cyan", "black on yellow")  # alternating, so that every border shows
SEPARATOR = "│"  # where there are no colours
MARKS = {" ": "·", "\n": "⏎", "\t": "⇥"}  # what would not be seen; other such characters are escaped as in Python


@dataclass(frozen=True)
class Piece:
    """One token of a text: its id, what of the text it stands for, and the same as bytes in hexadecimal."""

    id: int
    text: str
    bytes: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two commands, and their options."""
    commands = parser.add_subparsers(dest="action", metavar="train|show", required=True, parser_class=SubcommandParser)
    train = commands.add_parser(
        "train",
        help="learn a byte-level BPE from texts",
        description="Learn a byte-level BPE, GPT-2's kind of tokenizer, from texts.",
        epilog=(
            "The folder is for `groundup prepare --tokenizer DIR`; its tokenizer.json serves other programs too.\n\n"
            "  groundup tokenizer train my-texts/ --size 16000 --out tokenizers/mine\n"
            "  groundup tokenizer train a.txt --size 4096 --min_frequency 2 --special '<|im_start|>' --out tok"
        ),
    )
    train.add_argument("sources", nargs="+", metavar="SOURCE", help="texts, as for `groundup prepare`")
    train.add_argument("--size", default="16000", metavar="N", help="how many ids there shall be, 257 or more [16000]")
    train.add_argument(
        "--min_frequency", type=int, default=1, metavar="N", help="merge only pairs that occur N times or more [1]"
    )
    train.add_argument(
        "--special", action="append", default=[], metavar="TOKEN",
        help="a further token that no text becomes, such as '<|pad|>'; may be given again",
    )  # fmt: skip
    train.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not hold anything yet")
    add_text_fields(train)
    train.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    show = commands.add_parser(
        "show",
        help="show the tokens of a text",
        description="Show the tokens of a text, with their ids. Without a text: what there is to say of the tokenizer.",
        epilog=(
            "A space shows as ·, a line end as ⏎, a tab as ⇥; bytes that are no whole character as \\xe6.\n\n"
            '  groundup tokenizer show "Hello, world"\n'
            "  groundup tokenizer show --file book.txt --tokenizer runs/book\n"
            '  echo "naïve" | groundup tokenizer show - --tokenizer byte'
        ),
    )
    show.add_argument("text", nargs="?", metavar="TEXT", help="the text; - for standard input")
    show.add_argument("--file", metavar="F", help="a file that holds the text, as for `groundup prepare`")
    show.add_argument(
        "--tokenizer", default="gpt2", metavar="NAME",
        help="byte, gpt1, gpt1:FOLDER, gpt2, a tokenizer.json, or a folder: tokenizer, data, checkpoint or run [gpt2]",
    )  # fmt: skip
    add_text_fields(show)
    show.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(args: argparse.Namespace) -> int:
    """Train or show."""
    return _train(args) if args.action == "train" else _show(args)


def _train(args: argparse.Namespace) -> int:
    from groundup.preprocess.split import ByHash
    from groundup.preprocess.train_tokenizer import train_tokenizer
    from groundup.preprocess.workdir import new_folder
    from groundup.sources.corpus import open_sources
    from groundup.ui.progress import byte_progress

    learner = bpe_trainer(args.size, min_frequency=args.min_frequency, special_tokens=args.special)
    with (
        new_folder(Path(args.out)) as folder,
        byte_progress(quiet=args.json) as watch,
        open_sources(args.sources, column=args.column, errors=args.errors, say=watch.message) as corpus,
    ):
        watch.phase("learning", corpus.size)
        tokenizer = train_tokenizer(learner, corpus, ByHash(val_fraction=0), watch)
        n_bytes, n_tokens = _measure(tokenizer, _texts(corpus))
        tokenizer.save(folder)
    if args.json:
        said = {"out": args.out, "n_vocab": tokenizer.n_vocab, "fingerprint": tokenizer.fingerprint}
        print(json.dumps(said | _sizes(n_bytes, n_tokens)))
        return 0
    few = "" if tokenizer.n_vocab == int(args.size) else f" and not {int(args.size):,}: the text holds no more merges"
    print(f"tokenizer bpe, {tokenizer.n_vocab:,} ids{few}; written to {args.out}")
    print(f"{_summary(n_bytes, n_tokens)}{' (the beginning of the text)' if n_bytes >= MEASURED_BYTES else ''}")
    where = shlex.join([*args.sources, "--out", f"data/{Path(args.out).name}", "--tokenizer", args.out])
    print(f"next: groundup prepare {where}")
    return 0


def _show(args: argparse.Namespace) -> int:
    tokenizer = _open(args.tokenizer)
    text = _text(args)
    pieces = list(_pieces(tokenizer, text or ""))
    about = {
        "tokenizer": tokenizer.name,
        "n_vocab": tokenizer.n_vocab,
        "end_of_text": tokenizer.end_of_text,
        "lossy": tokenizer.lossy,
        "fingerprint": tokenizer.fingerprint,
    }
    if args.json:
        tokens = [asdict(piece) for piece in pieces]
        print(json.dumps(about | {"pieces": tokens} | _sizes(len((text or "").encode()), len(pieces))))
        return 0
    end = _marked(tokenizer.decode([tokenizer.end_of_text]))
    print(f"{tokenizer.name}: {tokenizer.n_vocab:,} ids, of which {tokenizer.end_of_text} ({end}) ends a document")
    if tokenizer.lossy:
        print(f"lossy: {tokenizer.lossy}")
    if text is not None:
        _print_pieces(Console(highlight=False), pieces)
        print(_summary(len(text.encode()), len(pieces)))
    return 0


def _open(spec: str) -> Tokenizer:
    """The tokenizer meant by `--tokenizer`."""
    if _is_run(spec):
        from groundup.checkpoint.run_folder import find_checkpoint

        spec = str(find_checkpoint(Path(spec)) / "tokenizer")
    choice = choose_tokenizer(spec)
    if isinstance(choice, TokenizerTrainer):
        raise UsageError(
            f"--tokenizer {spec}: is learnt from a corpus, so there is nothing to show yet; "
            "give the folder of one that has been, made by `groundup tokenizer train` or `groundup prepare`"
        )
    return choice


def _is_run(spec: str) -> bool:
    try:
        return (Path(spec) / "config.yaml").is_file()
    except (OSError, ValueError):  # no path at all, which `choose_tokenizer` has a sentence for
        return False


def _text(args: argparse.Namespace) -> str | None:
    """The text to show, from wherever it is; None where none is asked for."""
    from groundup.sources.corpus import STANDARD_INPUT, open_sources

    if args.text is not None and args.file is not None:
        raise UsageError(f"--file {args.file}: there is a text already; give one of the two")
    source = STANDARD_INPUT if args.text == STANDARD_INPUT else args.file
    if source is None:
        return args.text
    with open_sources([source], column=args.column, errors=args.errors) as corpus:
        return "".join(_texts(corpus))


def _texts(corpus: Corpus) -> Iterator[str]:
    for document in corpus:
        yield from document.chunks()


def _measure(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[int, int]:
    """Bytes and tokens of the beginning of a corpus."""
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
    ratio = f", {n_bytes / n_tokens:.2f} bytes a token" if n_tokens else ""
    return f"{n_bytes:,} bytes, {n_tokens:,} tokens{ratio}"


def _pieces(tokenizer: Tokenizer, text: str) -> Iterator[Piece]:
    for id_ in tokenizer.encode(text).tolist():
        stands_for = tokenizer.decode_bytes([id_])
        yield Piece(id_, stands_for.decode("utf-8", errors="backslashreplace"), stands_for.hex())


def _marked(text: str) -> str:
    """`text` with everything in it to be seen."""
    return "".join(MARKS.get(char) or visible(char) for char in text)


def _print_pieces(console: Console, pieces: Iterable[Piece]) -> None:
    """Pieces above their ids, in lines that fit the console and end where the text's lines do."""
    colours = console.is_terminal and not console.no_color
    between = " " if colours else SEPARATOR
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
