"""`groundup plan`."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from groundup.cli.parsing import add_config_options, config_overrides
from groundup.config import Config, read_yaml
from groundup.decode import Overrides, decode
from groundup.errors import ConfigError, UsageError
from groundup.presets import DEFAULT, PRESETS, preset

if TYPE_CHECKING:
    from groundup.model.memory import Precision
    from groundup.planning.plan import Data

GPT1_VOCAB, GPT2_VOCAB = 40_478, 50_257  # ids of their own tokenizers

EPILOG = """The plan is arithmetic and needs neither data nor torch; a speed must come from somewhere to give a time.
Letters: N weights, L layers, C width, T context, P vocabulary padded, B windows a micro-batch.

  parameters   counted by part, rows that pad the vocabulary left out
  FLOPs        6·(weights that multiply) + 6·L·C·(T + 1) a token: twice a weight forward, four times backward; attention
  weights      4 bytes each, as many for gradients; AdamW's moments 8, Muon's 4 for the matrices inside blocks
  activations  what the backward pass needs: in a GPT-2 block 64·C bytes a token in fp32, 36·C in bf16; where a
               CPU has no fused attention (dropout; bf16 up to 512 tokens), also its T x T matrices
  logits       12·P bytes a token of a micro-batch: log-probabilities and two gradients, in fp32
  program      on a CPU: Python and torch 0.34 GB, and half of the activations, which the allocator cannot fill again
  time         tokens / speed, and evaluations at a third of the work a token; saving and sampling left out
  Chinchilla   20 tokens for each parameter (arXiv:2203.15556); 4 epochs are as good as new text (arXiv:2305.16264)

Against the peak resident memory of real steps on two cores, ten of eleven shapes were within 11 %; rotary positions
and QK-norm in fp32 took 24 % more than planned.

  groundup plan gpt2 --tokens-per-second 100000
  groundup plan gpt2-mini --data data/book --measure
  groundup plan gpt2 --data data/book --like runs/mini --train.max_tokens 3000000000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command, and one for each key of the config."""
    parser.usage = (
        "groundup plan [PRESET] [--data DIR] [--config FILE…] [--section.key VALUE…]\n"
        "                     [--measure | --like RUN | --tokens-per-second X] [--json]"
    )
    parser.epilog = EPILOG
    parser.add_argument(
        "preset", nargs="?", default=DEFAULT, metavar="PRESET", help=f"{', '.join(PRESETS)} [{DEFAULT}]"
    )
    parser.add_argument("--data", metavar="DIR", help="folder written by `groundup prepare`: vocabulary and epochs")
    parser.add_argument(
        "--config", action="append", default=[], metavar="FILE", help="YAML with sections; may be repeated"
    )
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--measure", action="store_true", help="time this model here, for about 2 seconds")
    speed.add_argument("--like", metavar="RUN", help="the speed of a run, scaled by FLOPs a token")
    speed.add_argument("--tokens_per_second", type=float, metavar="X", help="a speed you know")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan and print; torch is loaded for --measure alone."""
    from groundup.planning.plan import FASTEST, SLOWEST, Machine, Plan, Speed, speed_of
    from groundup.planning.room import free_disk, main_memory
    from groundup.planning.words import as_json, table

    given = args.tokens_per_second
    if given is not None and not SLOWEST <= given <= FASTEST:
        raise UsageError(f"--tokens-per-second {given}: must be between {SLOWEST:g} and {FASTEST:g}")
    files = [Overrides(path, read_yaml(Path(path))) for path in args.config]
    options = Overrides("command line", config_overrides(args) | ({"data": args.data} if args.data else {}))
    config, vocabulary = _with_vocabulary(decode([preset(args.preset), *files, options]), args.preset)
    data = _data(config)
    if args.measure:
        from groundup.planning.here import measured

        plan = measured(config, data)
        assumed = "" if plan.speed else "it does not fit this machine, so nothing was measured"
    else:
        train = config.train
        device = "cpu" if train.device == "auto" else train.device.split(":")[0]
        bf16 = train.precision == "bf16" or (train.precision == "auto" and device == "cuda")
        precision: Precision = "bf16" if bf16 else "fp32"
        auto = [name for name in ("device", "precision") if getattr(train, name) == "auto"]
        assumed = f"{device}, {precision}" + (f" (assumed: train.{' and train.'.join(auto)} auto)" if auto else "")
        memory = main_memory() if device == "cpu" else None
        plan = Plan(config, Machine(device, precision, memory, free_disk(Path())), data)
        if given:
            plan = replace(plan, speed=Speed(given, "as given"))
        elif args.like:
            plan = replace(plan, speed=speed_of(Path(args.like), plan.flops))
    _ = plan.horizon  # refuses a run without one before anything is printed
    print(as_json(plan) if args.json else table(plan, vocabulary, assumed))
    return 0


def _with_vocabulary(config: Config, name: str) -> tuple[Config, str]:
    """The config with a vocabulary, and where it is from."""
    wanted = config.model.vocab_size
    if config.data:
        from groundup.data.shards import Manifest

        tokenizer = Manifest.load(Path(config.data)).tokenizer
        vocab, origin = tokenizer.n_vocab, f"the data's tokenizer, {tokenizer.name}"
        if wanted not in (None, vocab):
            raise ConfigError(f"model.vocab_size: {wanted}, but the data's tokenizer has {vocab} ids; leave it out")
    elif wanted:
        vocab, origin = wanted, "as given"
    else:
        vocab, origin = (GPT1_VOCAB, "GPT-1's") if name == "gpt1" else (GPT2_VOCAB, "GPT-2's, for want of --data")
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": vocab})}), origin


def _data(config: Config) -> Data | None:
    from groundup.data.batches import Batches
    from groundup.data.shards import Manifest, Tokens
    from groundup.planning.plan import Data

    if config.data is None:
        return None
    folder = Path(config.data)
    batches = Batches(Tokens.open(folder, "train"), config.model.block_size, config.batches.seed)
    return Data(batches.windows, Manifest.load(folder).splits["val"].tokens)
