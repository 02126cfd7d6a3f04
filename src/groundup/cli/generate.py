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
        "Without a prompt the model begins a document. The first sample appears as it is written; the others, written\n"
        "beside it, follow. The same seed gives the same samples.\n\n"
        '  groundup generate runs/book --prompt "It was" --num_samples 5 --max_tokens 200 --temperature 0.7'
    )
    add_model(parser, device=True)
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what to continue [nothing]")
    parser.add_argument("--num_samples", type=int, default=1, metavar="N", help="how many continuations [1]")
    parser.add_argument("--max_tokens", type=int, default=100, metavar="N", help="length of each in tokens [100]")
    parser.add_argument(
        "--temperature", type=float, default=0.8, metavar="X", help="0 is greedy, 1 the model's own [0.8]"
    )
    parser.add_argument("--top_k", type=int, metavar="K", help="draw from the K likeliest tokens [all]")
    parser.add_argument("--top_p", type=float, metavar="P", help="draw from the likeliest tokens of mass P [all]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws [0]")
    parser.add_argument("--json", action="store_true", help="print one JSON object when all is written")


def run(args: argparse.Namespace) -> int:
    """Generate, streaming the first sample."""
    from groundup.checkpoint.load import load
    from groundup.generation.engine import prompt_text, stream_text
    from groundup.generation.sampling import Sampler

    sampler = Sampler(args.temperature, args.top_k, args.top_p, args.seed)  # refuses bad values before anything loads
    loaded = load(args.path, checkpoint=args.checkpoint, device=args.device)
    texts = [prompt_text(loaded.tokenizer, args.prompt)] * args.num_samples
    # A terminal obeys control characters, and a model may write some; a pipe gets the text as it is.
    show = visible if sys.stdout.isatty() else str
    unprinted = texts[0] if texts else ""
    for pieces in stream_text(
        loaded.model,
        loaded.tokenizer,
        args.prompt,
        sampler,
        device=loaded.device,
        num_samples=args.num_samples,
        max_tokens=args.max_tokens,
    ):
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
