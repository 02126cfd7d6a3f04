"""`groundup generate`."""

import argparse
import sys
from functools import partial

from groundup.cli.parsing import Parser, add_model, utf8, whole_number
from groundup.ui.format import json_line
from groundup.ui.streams import unescaped


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Without a prompt, the model starts a document. The first sample is printed as it is generated, the\n"
        "others follow. The same seed gives the same samples.\n\n"
        '  groundup generate runs/book --prompt "It was" --num-samples 5 --max-tokens 200 --temperature 0.7'
    )
    add_model(parser, device=True)
    parser.option("--prompt TEXT", "text to continue [none]", type=utf8, default="")
    parser.option("--num-samples N", "number of samples [1]", type=whole_number, default=1)
    parser.option("--max-tokens N", "tokens to generate per sample [100]", type=whole_number, default=100)
    parser.option("--temperature X", "0: greedy; 1: the model's distribution [0.8]", type=float, default=0.8)
    parser.option("--top-k K", "sample from the K most likely tokens [all]", type=whole_number)
    parser.option("--top-p P", "sample from the top tokens of total probability P [all]", type=float)
    parser.option("--seed N", "random seed [0]", type=whole_number, default=0)
    parser.option("--json", "print one JSON object at the end")


def run(args: argparse.Namespace) -> int:
    from groundup.checkpoint.data_match import changed_data
    from groundup.checkpoint.state import load
    from groundup.generation.engine import generate_stream, prompt_ids, prompt_text
    from groundup.generation.sampling import Sampler

    sampler = Sampler(args.temperature, args.top_k, args.top_p, args.seed)  # first: it checks the values
    loaded = load(args.path, checkpoint=args.checkpoint, device=args.device)
    if changed := changed_data(loaded.folder, loaded.config.data):
        print(f"note  {changed}; the model in the checkpoint is the same", file=sys.stderr)
    number, length = args.num_samples, args.max_tokens
    growth = generate_stream(loaded, args.prompt, sampler, num_samples=number, max_tokens=length)
    tokens, block_size = len(prompt_ids(loaded.tokenizer, args.prompt)), loaded.config.model.block_size
    if tokens > block_size:
        note = f"note  the prompt has {tokens:,} tokens: the model reads the last {block_size:,}, its context"
        print(note, file=sys.stderr)
    texts = [prompt_text(loaded.tokenizer, args.prompt)] * number
    # A terminal would obey control characters in the samples; a pipe gets the text unchanged.
    out = unescaped(sys.stdout)
    say = partial(print, file=sys.stdout if out.isatty() else out)
    unprinted = texts[0]
    for pieces in growth:
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        if not args.json:
            say(unprinted + pieces[0], end="", flush=True)
            unprinted = ""
    if args.json:
        print(json_line({"prompt": args.prompt, "seed": args.seed, "samples": texts}))
        return 0
    say(unprinted)
    for text in texts[1:]:
        say("─" * 40, text, sep="\n")
    return 0
