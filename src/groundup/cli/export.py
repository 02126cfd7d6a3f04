"""`groundup export`: a model in another program's format."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from groundup.cli.parsing import Parser, add_source, call_arguments
from groundup.ui.format import json_line

if TYPE_CHECKING:
    from groundup.interop.export import Export


def add_arguments(parser: Parser) -> None:
    from groundup.interop.export import TARGETS

    formats = "\n".join(f"  {name:<9}{target.summary}" for name, target in TARGETS.items())
    parser.epilog = (
        f"Formats:\n{formats}\n\n"
        "An export is opened again and compared with the model before it appears at --out.\n\n"
        "  groundup export runs/book --to hf --out exports/book --license mit\n"
        "  groundup export runs/book --to gguf --dtype q8_0 --out exports/book.gguf\n"
        "  groundup export runs/book --to space --out exports/page"
    )
    add_source(parser)
    parser.option("--to FORMAT", ", ".join(TARGETS), required=True, proposed=TARGETS)
    parser.option("--out PATH", "folder to write, or for gguf the file", required=True)
    parser.option("--dtype TYPE", "of the weights in a gguf: f32, f16, bf16 or q8_0 [f32]", default="f32")
    parser.option("--name NAME", "name of the model [that of the run's folder]")
    parser.option("--overwrite", "replace an earlier export")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    from groundup.interop.export import export

    done = export(**call_arguments(args))
    if args.json:
        print(json_line({**asdict(done), "out": str(done.out)}))
        return 0
    print(f"{done.out}: {done.checkpoint} as {done.to}, {done.bytes:,} bytes")
    print_check(done)
    return 0


def print_check(done: Export) -> None:
    """Print how the exported model compares, and the notes."""
    if done.checked_by:
        rounding = f"logits differ by {done.difference:.1e} of the largest, which is rounding"
        print(f"opened with {done.checked_by}: {rounding if done.difference else 'the same logits to the last bit'}")
    for note in done.notes:
        print(f"note: {note}")
