"""`groundup prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "From 100 documents up, documents are held out whole, chosen by their hash;\n"
        "below that, the last part of each document is held out.\n\n"
        "  groundup prepare book.txt --out data/book --tokenizer char\n"
        "  cat *.txt | groundup prepare - --out data/all --tokenizer bpe:8000"
    )
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="a .txt, .md or .jsonl file, also .gz; a folder of them; - for standard input; or python-docs",
    )  # fmt: skip
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write; must not hold anything yet")
    parser.add_argument("--tokenizer", default="gpt2", metavar="NAME", help="byte, char, gpt2 or bpe:SIZE [gpt2]")
    parser.add_argument(
        "--column", default="text", metavar="NAME", help="field of .jsonl lines that holds the text [text]"
    )
    parser.add_argument(
        "--errors", default="strict", choices=("strict", "replace"),
        help="bytes that are no UTF-8: stop and say where, or replace them by U+FFFD [strict]",
    )  # fmt: skip
    parser.add_argument(
        "--val_fraction", type=float, default=0.1, metavar="X", help="part of the text to hold out [0.1]"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    """Prepare, with a progress bar on a terminal."""
    from groundup.cli.progress import reading
    from groundup.preparation.prepare import prepare_tokens  # not the API: that would load torch, which takes a second

    with reading("reading", quiet=args.json) as progress:
        manifest = prepare_tokens(
            args.sources,
            Path(args.out),
            tokenizer=args.tokenizer,
            column=args.column,
            errors=args.errors,
            val_fraction=args.val_fraction,
            progress=progress,
        )
    if args.json:
        print(manifest.model_dump_json())
        return 0
    for name, split in manifest.splits.items():
        ratio = f", {split.bytes / split.tokens:.2f} bytes a token" if split.tokens else ""
        print(f"{name:<6}{split.documents:>10,} documents {split.bytes:>15,} bytes {split.tokens:>14,} tokens{ratio}")
    print(f"tokenizer {manifest.tokenizer.name}, {manifest.tokenizer.n_vocab:,} ids; written to {args.out}")
    print(f"next: groundup train gpt2-micro --data {args.out} --out runs/{Path(args.out).name}")
    return 0
