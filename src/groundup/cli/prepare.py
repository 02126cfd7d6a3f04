"""`groundup prepare`."""

import argparse

from groundup.cli.parsing import TOKENIZERS, Parser, add_text_fields, call_arguments, whole_number
from groundup.sources.catalog import CORPORA
from groundup.tokenizers.auto import AUTO
from groundup.ui.format import json_line


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Sources: plain text, source code, pages (HTML, EPUB), office documents (DOCX, ODT, RTF, PDF) and subtitles,\n"
        "one document per file; .jsonl, .parquet, .csv and .json, one per row (--column, or FILE#COLUMN); mail and\n"
        "exported chats; .zip and .tar of these; each file also .gz or .zst; folders; patterns such as\n"
        "'texts/**/*.txt'; - for standard input; shakespeare, python-docs, and what `groundup corpora` lists.\n\n"
        "Of 100 documents or more, complete documents are held out, chosen by their hash; of fewer, the end of each\n"
        "document is held out. After an interruption, the same command continues.\n\n"
        "  groundup prepare book.txt --out data/book --tokenizer char\n"
        "  groundup prepare my-code/ --out data/code --tokenizer bpe:8000\n"
        "  groundup prepare dump.parquet#body --out data/some --max-tokens 10000000\n"
        "  cat *.txt | groundup prepare - --out data/all"
    )
    parser.first = (
        "sources", "--out", "--tokenizer", "--column", "--val-fraction", "--max-documents", "--max-tokens",
        "--overwrite", "--json",
    )  # fmt: skip
    parser.option("sources SOURCE", "files, folders, patterns, - or names (--help-all)", nargs="+", proposed=CORPORA)
    parser.option("--out DIR", "folder to write", required=True)
    parser.option(
        "--tokenizer NAME",
        "auto (by the text), byte, char, gpt1, gpt2, bpe:SIZE[:pad] to train one, a tokenizer.json, or a folder that "
        "holds one [auto]",
        default=AUTO,
        proposed=TOKENIZERS,
    )
    add_text_fields(parser)
    parser.option(
        "--clean STEPS",
        "any of lowercase,digits,punctuation: lower the case, drop digits, drop punctuation [none]",
        default="",
    )
    parser.option("--val-fraction X", "fraction of the text to hold out [0.1]", type=float, default=0.1)
    parser.option("--max-documents N", "read only the first N documents [all]", type=whole_number)
    parser.option("--max-tokens N", "write at most N tokens, both splits together [all]", type=whole_number)
    parser.option("--threads N", "encoding threads; no effect on the result [cores]", type=whole_number)
    parser.option(
        "--overwrite", "replace a folder that was prepared from other sources or with other options, or is damaged"
    )
    parser.option("--quiet", "print nothing but errors")
    parser.option("--json", "print one JSON object, the manifest")


def run(args: argparse.Namespace) -> int:
    from groundup.cli.next_step import after_preparing
    from groundup.planning.choice import propose, this_computer
    from groundup.preprocess.pipeline import prepare  # not the API: that would load torch, which takes a second
    from groundup.ui.console import print_line
    from groundup.ui.progress import byte_progress

    with byte_progress(quiet=args.json or args.quiet) as watch:
        manifest = prepare(**call_arguments(args), progress=watch)
    if args.json:
        print(json_line(manifest.model_dump(mode="json")))
        return 0
    if args.quiet:
        return 0
    for name, split in manifest.splits.items():
        ratio = f" of {split.bytes / split.tokens:.2f} bytes" if split.tokens else ""
        documents = f"{split.documents:>8,} {'document ' if split.documents == 1 else 'documents'}"
        print(f"{name:<6}{documents} {split.bytes:>13,} bytes {split.tokens:>13,} tokens{ratio}")
    print(f"tokenizer {manifest.tokenizer.name}, {manifest.tokenizer.n_vocab:,} ids; written to {args.out}")
    train, val = (manifest.splits[name].tokens for name in ("train", "val"))
    for line in after_preparing(propose(train, val, manifest.tokenizer.n_vocab, this_computer()), args.out):
        (print if "groundup " in line else print_line)(line)  # a command stays one line, to be copied
    return 0
