"""`groundup prepare`."""

import argparse
import shlex
from pathlib import Path

from groundup.cli.parsing import Parser, add_text_fields, call_arguments, whole_number
from groundup.ui.format import json_line

MICRO_VOCAB = 16_384  # ids; with more, the output head of a small model would be most of its work


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Sources: .txt, .md, source code and any other text, one document per file; .jsonl and .parquet, one document\n"
        "per row (--column, or FILE#COLUMN); each text also .gz or .zst; folders of these; patterns such as\n"
        "'texts/**/*.txt'; - for standard input; shakespeare, python-docs, and what `groundup corpora` lists.\n\n"
        "Of 100 documents or more, complete documents are held out, chosen by their hash; of fewer, the end of each\n"
        "document is held out. After an interruption, the same command continues.\n\n"
        "  groundup prepare book.txt --out data/book --tokenizer char\n"
        "  groundup prepare my-code/ --out data/code --tokenizer bpe:8000\n"
        "  groundup prepare dump.parquet#body --out data/some --max-tokens 10000000\n"
        "  cat *.txt | groundup prepare - --out data/all"
    )
    parser.option("sources SOURCE", "files, folders, patterns, - or names: see below", nargs="+")
    parser.option("--out DIR", "folder to write", required=True)
    parser.option(
        "--tokenizer NAME",
        "byte, char, gpt1, gpt2, bpe:SIZE[:pad] to train one, a tokenizer.json, or a folder that holds one [gpt2]",
        default="gpt2",
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
    parser.option("--json", "print the manifest as JSON and nothing else")


def run(args: argparse.Namespace) -> int:
    from groundup.preprocess.pipeline import prepare  # not the API: that would load torch, which takes a second
    from groundup.ui.progress import byte_progress

    with byte_progress(quiet=args.json) as watch:
        manifest = prepare(**call_arguments(args), progress=watch)
    if args.json:
        print(json_line(manifest.model_dump(mode="json")))
        return 0
    for name, split in manifest.splits.items():
        ratio = f", {split.bytes / split.tokens:.2f} bytes per token" if split.tokens else ""
        print(f"{name:<6}{split.documents:>10,} documents {split.bytes:>15,} bytes {split.tokens:>14,} tokens{ratio}")
    print(f"tokenizer {manifest.tokenizer.name}, {manifest.tokenizer.n_vocab:,} ids; written to {args.out}")
    preset = "gpt2-micro" if manifest.tokenizer.n_vocab <= MICRO_VOCAB else "gpt2"
    run = f"runs/{Path(args.out).resolve().name}"
    print("next:", shlex.join(["groundup", "train", preset, "--data", args.out, "--out", run]))
    return 0
