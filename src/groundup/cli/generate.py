"""`groundup generate`."""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from groundup.cli.parsing import Parser, add_model, utf8, whole_number
from groundup.errors import UsageError
from groundup.ui.format import json_line
from groundup.ui.streams import unescaped

STANDARD_INPUT = "-"
MAX_PROMPT_BYTES = 16 << 20  # a model reads its last tokens, as many as its context


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Without a prompt, the model starts a document; if it was trained on few, it continues a line of the text\n"
        "held out from training. The first sample is printed while it is generated, the others when all are complete.\n"
        "The same seed gives the same samples. The line end at the end of a file or of standard input is not part of\n"
        "the prompt.\n\n"
        '  groundup generate runs/book --prompt "It was" --num-samples 5 --temperature 0.7'
    )
    parser.first = (
        "path", "--prompt", "--prompt-file", "--num-samples", "--max-tokens", "--one-line", "--temperature", "--top-k",
        "--top-p", "--seed", "--checkpoint", "--device", "--json",
    )  # fmt: skip
    add_model(parser, device=True)
    parser.option("--prompt TEXT", "text to continue; - reads standard input [none]", type=utf8, default="")
    parser.option("--prompt-file FILE", "file with the text to continue")
    parser.option("--num-samples N", "number of samples [1]", type=whole_number, default=1)
    parser.option("--max-tokens N", "tokens to generate per sample [100]", type=whole_number, default=100)
    parser.option("--one-line", "end each sample at the end of its line")
    parser.option(
        "--temperature X", "0: always the most likely token; 1: the model's distribution [0.8]", type=float, default=0.8
    )
    parser.option("--top-k K", "sample from the K most likely tokens [all]", type=whole_number)
    parser.option("--top-p P", "sample from the most likely tokens that add up to P [all]", type=float)
    parser.option("--seed N", "random seed of the samples [0]", type=whole_number, default=0)
    parser.option("--quiet", "print no notes")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    from groundup.checkpoint.data_match import changed_data
    from groundup.checkpoint.state import load
    from groundup.generation.engine import generate_stream, prompt_ids, prompt_text
    from groundup.generation.sampling import Sampler
    from groundup.run.dataset import prompt_for

    sampler = Sampler(args.temperature, args.top_k, args.top_p, args.seed)  # first: it checks the values
    given = _prompt(args)
    loaded = load(args.path, checkpoint=args.checkpoint, device=args.device)
    number, length = args.num_samples, args.max_tokens
    prompt = given or prompt_for(loaded, args.seed)
    growth = generate_stream(loaded, prompt, sampler, num_samples=number, max_tokens=length)
    tokens, block_size = len(prompt_ids(loaded.tokenizer, prompt)), loaded.config.model.block_size
    if not args.quiet:
        if changed := changed_data(loaded.folder, loaded.config.data):
            print(f"note  {changed}; the model in the checkpoint is the same", file=sys.stderr)
        if given and tokens > block_size:
            note = f"note  the prompt has {tokens:,} tokens: the model reads the last {block_size:,}, its context"
            print(note, file=sys.stderr)
    texts = [prompt_text(loaded.tokenizer, prompt)] * number
    # A terminal would obey control characters in the samples; a pipe gets the text unchanged.
    out = unescaped(sys.stdout)
    say = partial(print, file=sys.stdout if out.isatty() else out)
    unprinted = texts[0]
    for pieces in _first_lines(growth, number) if args.one_line else growth:
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        if not args.json:
            say(unprinted + pieces[0], end="", flush=True)
            unprinted = ""
    if args.json:
        print(json_line({"prompt": prompt, "seed": args.seed, "samples": texts}))
        return 0
    say(unprinted)
    for text in texts[1:]:
        say("─" * 40, text, sep="\n")
    return 0


def _prompt(args: argparse.Namespace) -> str:
    """The prompt, also from a file or standard input. UsageError where it cannot be read."""
    file = args.prompt_file
    if file is not None and args.prompt:
        raise UsageError(f"--prompt-file {file}: --prompt is given as well; give one of them")
    if file is None and args.prompt != STANDARD_INPUT:
        return str(args.prompt)
    from groundup.sources.corpus import standard_input
    from groundup.utils.reading import read_bytes

    name = f"--prompt-file {file}" if file else "--prompt -"
    try:
        content = read_bytes(Path(file)) if file else standard_input().read(MAX_PROMPT_BYTES + 1)
        if len(content) > MAX_PROMPT_BYTES:
            raise ValueError(f"more than {MAX_PROMPT_BYTES:,} bytes")
        return content.decode().replace("\r\n", "\n").removesuffix("\n")
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); name a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: byte {error.start} is not UTF-8; give the text in that encoding") from None
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read ({error}); name a text file") from error


def _first_lines(growth: Iterator[list[str]], number: int) -> Iterator[list[str]]:
    """The pieces of `number` samples up to the end of the first line of each."""
    ended = [False] * number
    for pieces in growth:
        yield ["" if end else piece.partition("\n")[0] for end, piece in zip(ended, pieces, strict=True)]
        ended = [end or "\n" in piece for end, piece in zip(ended, pieces, strict=True)]
        if all(ended):
            return
