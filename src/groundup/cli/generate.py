"""`groundup generate`."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.cli.generation_options import Values, add_generation_options, option_words, sampling_of, values_of
from groundup.cli.parsing import Parser, add_model, add_quantize, add_speculation, utf8, whole_number
from groundup.errors import UsageError
from groundup.ui.format import json_line
from groundup.ui.streams import unescaped

if TYPE_CHECKING:
    from groundup.checkpoint.state import LoadedModel
    from groundup.generation.engine import Engine, Request

STANDARD_INPUT = "-"
SESSION_TOKENS = 1000  # about as many are generated at a prompt line
MAX_PROMPT_BYTES = 16 << 20  # a model reads its last tokens, as many as its context


def add_arguments(parser: Parser) -> None:
    parser.epilog = (
        "Without a prompt, on a terminal, a prompt line continues what you type, unless --num-samples, --json or\n"
        "--memorization is given. Otherwise, as with --prompt '', the model starts a document; if it was trained\n"
        "on few, it continues a line of the text held out from training. The first sample is printed while it is\n"
        "generated, the others when all are complete. The same seed gives the same samples. The line end at the\n"
        "end of a file or of standard input is not part of the prompt. Sampling applies, in this order, penalties,\n"
        "bias, temperature, top-k, top-p and min-p.\n\n"
        '  groundup generate runs/book --prompt "It was" --num-samples 5 --temperature 0.7'
    )
    parser.first = (
        "path", "--prompt", "--prompt-file", "--num-samples", "--max-tokens", "--one-line", "--temperature", "--top-k",
        "--top-p", "--seed", "--checkpoint", "--device", "--json",
    )  # fmt: skip
    add_model(parser, device=True)
    parser.option("--prompt TEXT", "text to continue; - reads standard input [a prompt line]", type=utf8)
    parser.option("--prompt-file FILE", "file with the text to continue; - reads standard input")
    parser.option("--num-samples N", "number of samples [1]", type=whole_number)
    parser.option("--one-line", "end each sample at the end of its line")
    add_generation_options(parser)
    add_quantize(parser)
    logprobs = "log-probability of each token, and of the N most likely ones in its place; with --json"
    parser.option("--logprobs N", logprobs, type=whole_number)
    add_speculation(parser)
    parser.option("--memorization", "look the samples up in the training text: does the model copy?")
    parser.option("--data DIR", "prepared folder for --memorization [the run's own]")
    parser.option("--quiet", "print no notes")
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    values = values_of(args)
    if args.one_line:
        values["stop"] = [*values["stop"], "\n"]
    sampling = sampling_of(values)  # first: it checks them
    for option, needed in (("logprobs", "json"), ("data", "memorization")):
        if getattr(args, option) is not None and not getattr(args, needed):
            raise UsageError(f"--{option}: is for --{needed}; add that")
    if _opens_prompt_line(args):
        _open_prompt_line(args, values)
        return 0
    given = _prompt(args)

    from groundup.generation.completion import engine_for, long_prompt, prompt_text, text_request
    from groundup.run.dataset import prompt_for
    from groundup.run.drafts import drafter_of

    loaded = _load(args)
    prompt = given or prompt_for(loaded, args.seed)
    request = text_request(
        loaded, prompt, sampling, num_samples=1 if args.num_samples is None else args.num_samples,
        max_tokens=args.max_tokens, logprobs=args.logprobs, stop=values["stop"],
    )  # fmt: skip
    drafter = drafter_of(loaded, args.speculation, request.samples * request.max_tokens)
    engine = engine_for(loaded, request.samples, drafter, draft_sampled=args.speculation == "on")
    if not args.quiet:
        _print_notes(loaded, engine, long_prompt(loaded, request) if given else None)
    if args.memorization:
        from groundup.run.evaluate_checkpoint import prepared_data

        prepared_data(loaded, args.data)  # where it is missing, nothing is generated
    beginning = prompt_text(loaded.tokenizer, prompt)
    if args.json:
        values = _as_json(loaded, engine, request, beginning, args)
        print(json_line({"prompt": prompt, "seed": args.seed, **values}))
        return 0
    texts = _print_samples(loaded, engine, request, beginning)
    if args.memorization:
        from groundup.run.memorization import find_overlap

        print(find_overlap(loaded, texts, args.data).describe(), file=sys.stderr)
    return 0


def _load(args: argparse.Namespace) -> LoadedModel:
    from groundup.checkpoint.state import load

    return load(args.path, checkpoint=args.checkpoint, device=args.device, quantize=args.quantize)


def _opens_prompt_line(args: argparse.Namespace) -> bool:
    """Whether neither a prompt nor an output for files is asked for, and a person is at the terminal."""
    asked = (args.prompt, args.prompt_file, args.num_samples)
    if any(value is not None for value in asked) or args.json or args.memorization:
        return False
    from groundup.cli.prompt_line import can_talk

    return can_talk()


def _open_prompt_line(args: argparse.Namespace, values: Values) -> None:
    from groundup.cli.prompt_line import hidden_typing, talk
    from groundup.generation.completion import engine_for
    from groundup.run.drafts import drafter_of

    with hidden_typing():
        loaded = _load(args)
        drafter = drafter_of(loaded, args.speculation, SESSION_TOKENS)
        new_engine = partial(engine_for, loaded, 1, drafter, draft_sampled=args.speculation == "on")
        if not args.quiet:
            _print_notes(loaded, new_engine())
        talk(loaded, new_engine, _command(args), values, quiet=args.quiet)


def _command(args: argparse.Namespace) -> list[str]:
    """Words that generate with this model; options of sampling and a prompt may follow."""
    words = ["groundup", "generate", args.path]
    for name, default in (("checkpoint", "latest"), ("device", "auto"), ("quantize", "none"), ("speculation", "auto")):
        if getattr(args, name) != default:
            words += option_words(name, getattr(args, name))
    return words


def _print_notes(loaded: LoadedModel, engine: Engine, about_prompt: str | None = None) -> None:
    from groundup.checkpoint.data_match import changed_data

    computed = f"computed by {engine.describe()}"
    if loaded.quantize != "none":
        print(f"note  weights packed in {loaded.quantize}; {computed}", file=sys.stderr)
    elif ";" in computed:  # it says why there is no faster way
        print(f"note  {computed}", file=sys.stderr)
    if changed := changed_data(loaded.folder, loaded.config.data):
        print(f"note  {changed}; the model in the checkpoint is the same", file=sys.stderr)
    if about_prompt:
        print(f"note  {about_prompt}", file=sys.stderr)


def _print_samples(loaded: LoadedModel, engine: Engine, request: Request, beginning: str) -> list[str]:
    """Print the samples, the first one while it is generated; returns them without their beginning."""
    from groundup.generation.completion import stream_request

    # A terminal would obey control characters in the samples; a pipe gets the text unchanged.
    out = unescaped(sys.stdout)
    say = partial(print, file=sys.stdout if out.isatty() else out)
    texts, unprinted = [""] * request.samples, beginning
    for pieces in stream_request(engine, loaded.model, request):
        texts = [text + piece for text, piece in zip(texts, pieces, strict=True)]
        say(unprinted + pieces[0], end="", flush=True)
        unprinted = ""
    say(unprinted)
    for text in texts[1:]:
        say("─" * 40, beginning + text, sep="\n")
    return texts


def _as_json(
    loaded: LoadedModel, engine: Engine, request: Request, beginning: str, args: argparse.Namespace
) -> dict[str, Any]:
    from groundup.generation.completion import run_requests

    (samples,) = run_requests(engine, [request])
    texts = ["".join(piece.text for piece in pieces) for pieces in samples]
    values: dict[str, Any] = {"samples": [beginning + text for text in texts]}
    if args.logprobs is not None:
        values["logprobs"] = [
            {
                "tokens": [token for piece in pieces for token in piece.tokens],
                "values": [value for piece in pieces if piece.logprobs for value in piece.logprobs.chosen],
                "top": [top for piece in pieces if piece.logprobs for top in piece.logprobs.top],
            }
            for pieces in samples
        ]
    if args.memorization:
        from groundup.run.memorization import find_overlap

        values["overlap"] = find_overlap(loaded, texts, args.data).as_json()
    return values


def _prompt(args: argparse.Namespace) -> str:
    """The prompt, also from a file or standard input. UsageError where it cannot be read."""
    file = args.prompt_file
    if file is not None and args.prompt is not None:
        raise UsageError(f"--prompt-file {file}: --prompt is given as well; give one of them")
    if file is None and args.prompt != STANDARD_INPUT:
        return args.prompt or ""
    from groundup.sources.corpus import standard_input
    from groundup.utils.reading import read_bytes

    name = f"--prompt {STANDARD_INPUT}" if file is None else f"--prompt-file {file}"
    path = None if file in (None, STANDARD_INPUT) else Path(file)
    if path is None and sys.stdin is not None and sys.stdin.isatty() and not args.quiet:
        print("note  type the prompt; Ctrl-D at the beginning of a line ends it", file=sys.stderr, flush=True)
    try:
        content = read_bytes(path) if path else standard_input().read(MAX_PROMPT_BYTES + 1)
        if len(content) > MAX_PROMPT_BYTES:
            raise ValueError(f"more than {MAX_PROMPT_BYTES:,} bytes")
        prompt = content.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n")
        if not (prompt or args.quiet):
            print(f"note  {name}: is empty, so the model begins a text as without a prompt", file=sys.stderr)
        return prompt
    except OSError as error:
        raise UsageError(f"{name}: cannot be read ({error.strerror}); name a text file") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: byte {error.start} is not UTF-8; give the text in that encoding") from None
    except ValueError as error:
        raise UsageError(f"{name}: cannot be read ({error}); name a text file") from error
