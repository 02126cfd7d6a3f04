"""`groundup generate`."""

from __future__ import annotations

import argparse
import json
import sys

from groundup.cli.parsing import add_model
from groundup.ui.format import visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "Without a prompt, the model starts a document. The first sample is printed as it is generated, the\n"
        "others follow. The same seed gives the same samples.\n\n"
        '  groundup generate runs/book --prompt "It was" --num_samples 5 --max_tokens 200 --temperature 0.7'
    )
    add_model(parser, device=True)
    parser.add_argument("--prompt", default="", metavar="TEXT", help="text to continue [none]")
    parser.add_argument("--num_samples", type=int, default=1, metavar="N", help="number of samples [1]")
    parser.add_argument("--max_tokens", type=int, default=100, metavar="N", help="tokens to generate per sample [100]")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0: greedy; 1: the model's distribution [0.8]"
    )
    parser.add_argument("--top_k", type=int, metavar="K", help="sample from the K most likely tokens [all]")
    parser.add_argument(
        "--top_p", type=float, metavar="P", help="sample from the top tokens of total probability P [all]"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="random seed [0]")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    """Generate, streaming the first sample."""
    from groundup.checkpoint.state import load
    from groundup.generation.engine import generate_stream, prompt_text
    from groundup.generation.sampling import Sampler

    sampler = Sampler(args.temperature, args.top_k, args.top_p, args.seed)  # first: it checks the values
    loaded = load(args.path, checkpoint=args.checkpoint, device=args.device)
    texts = [prompt_text(loaded.tokenizer, args.prompt)] * args.num_samples
    # A terminal would obey control characters in the samples; a pipe gets the text unchanged.
    show = visible if sys.stdout.isatty() else str
    unprinted = texts[0] if texts else ""
    number, length = args.num_samples, args.max_tokens
    for pieces in generate_stream(loaded, args.prompt, sampler, num_samples=number, max_tokens=length):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        if not args.json:
            print(show(unprinted + pieces[0]), end="", flush=True)
            unprinted = ""
    if args.json:
        print(json.dumps({"prompt": args.prompt, "seed": args.seed, "samples": texts}, ensure_ascii=False))
        return 0
    print(show(unprinted))
    for text in texts[1:]:
        print("─" * 40, show(text), sep="\n")
    return 0
