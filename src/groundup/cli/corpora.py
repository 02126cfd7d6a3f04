"""`groundup corpora`."""

import argparse
from typing import Any

from groundup.cli.parsing import Parser
from groundup.planning.choice import LARGE_TEXT_BYTES, ONE_H100, TWO_CORES, propose_for_text
from groundup.sources.catalog import CORPORA, DOWNLOAD_BYTES_PER_SECOND, TOKENS_PER_SECOND, CatalogEntry
from groundup.sources.hub import GRAMMAR
from groundup.ui.console import print_line
from groundup.ui.format import human_bytes, human_duration, json_line
from groundup.utils.extras import install_command

NOTE = f"""
Time: the download at {8 * DOWNLOAD_BYTES_PER_SECOND / 1e6:.0f} Mbit/s (assumed), \
then {TOKENS_PER_SECOND / 1e6:.0f} million tokens per second (measured on two cores).
Training: assumed speeds; `groundup plan --data DIR` measures this machine and lists all presets.
`~` is rounded or extrapolated, `?` unknown; --json has the source of each figure.

Any other data set of the hub:
"""


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        f"Corpora other than python-docs and shakespeare come from the hub and need:\n  {install_command('data')}\n"
        "HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE have the same effect as in huggingface_hub."
    )
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    if args.json:
        print(json_line({"corpora": [_record(name, corpus) for name, corpus in CORPORA.items()]}))
        return 0
    for name, corpus in CORPORA.items():
        print_line(f"{name}: {corpus.description}")
        print_line(f"  {_figures(corpus)}; licence {corpus.licence}")
        print(f"  {_command(name, corpus)}")
        if training := _training(corpus):
            print(f"  {training}")
    for line in NOTE.splitlines():
        print_line(line)
    print(f"  groundup prepare {GRAMMAR} --out DIR")
    return 0


def _record(name: str, corpus: CatalogEntry) -> dict[str, Any]:
    return {
        "name": name,
        "what": corpus.description,
        "licence": corpus.licence,
        "source": corpus.source,
        "download_bytes": corpus.size,
        "documents": corpus.documents,
        "gpt2_tokens": corpus.tokens,
        "rounded_or_extrapolated": list(corpus.approximate),
        "seconds": None if corpus.seconds is None else round(corpus.seconds),
        "figures": corpus.basis,
        "command": _command(name, corpus),
    }


def _command(name: str, corpus: CatalogEntry) -> str:
    """The command that prepares a corpus; of one from the hub, whose size is not seen when it is read, by its size."""
    words = ["groundup", "prepare", name, "--out", f"data/{name}"]
    tokenizer = propose_for_text(corpus.text_bytes, ONE_H100)[0] if corpus.source and corpus.text_bytes else None
    return " ".join([*words, *(["--tokenizer", tokenizer] if tokenizer else [])])


def _training(corpus: CatalogEntry) -> str:
    """The preset that suits a corpus, of a large one on a GPU, with its time, as text."""
    size = corpus.text_bytes or 0
    computer = ONE_H100 if size >= LARGE_TEXT_BYTES else TWO_CORES
    fit = propose_for_text(size, computer)[1]
    return f"train {' '.join([fit.preset, *fit.options])}: about {fit.time} on {computer.name}" if fit else ""


def _figures(corpus: CatalogEntry) -> str:
    documents = f"{_count(corpus, 'documents')} {'document' if corpus.documents == 1 else 'documents'}"
    size = "nothing" if corpus.size == 0 else "an unknown size" if corpus.size is None else human_bytes(corpus.size)
    return f"{size} to download, {documents}, {_count(corpus, 'tokens')} GPT-2 tokens, {_time(corpus.seconds)}"


def _count(corpus: CatalogEntry, figure: str) -> str:
    n = getattr(corpus, figure)
    if n is None:
        return "?"
    return f"~{float(f'{n:.3g}'):,.0f}" if figure in corpus.approximate else f"{n:,}"


def _time(seconds: float | None) -> str:
    return "time unknown" if seconds is None else human_duration(seconds)
