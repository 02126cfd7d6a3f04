"""`groundup presets`."""

import argparse
from typing import Any

from groundup.cli.parsing import Parser
from groundup.config.merge import merge_and_validate
from groundup.config.presets import PURPOSES, preset
from groundup.model.size import preset_parameters
from groundup.ui.format import columns, human_count, json_line

NOTE = """
Shape: layers x width. Parameters: without token embedding and head up to
modern-mini, which have a vocabulary of their own; with GPT-1's or GPT-2's ids
from gpt1 on.

  groundup plan PRESET --data DIR       # what a run takes on this machine
  groundup train PRESET --help          # its learning rate, batch, length, …
"""


def add_arguments(parser: Parser) -> None:
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    rows = {name: _figures(name) for name in PURPOSES}
    if args.json:
        print(json_line({"presets": [{"name": name} | row for name, row in rows.items()]}))
        return 0
    table = [("preset", "shape", "context", "parameters", "for")]
    for name, row in rows.items():
        shape = f"{row['layers']} x {row['width']}"
        table.append((name, shape, f"{row['context']:,}", human_count(row["parameters"]), row["for"]))
    print("\n".join(columns(table, right=(1, 2, 3))))
    print(NOTE, end="")
    return 0


def _figures(name: str) -> dict[str, Any]:
    model = merge_and_validate([preset(name)]).model
    return {
        "layers": model.n_layer,
        "width": model.n_embd,
        "context": model.block_size,
        "parameters": preset_parameters(name),
        "for": PURPOSES[name],
    }
