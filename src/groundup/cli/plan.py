"""`groundup plan`."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundup.cli.parsing import (
    FIRST_KEYS,
    Parser,
    add_config_files,
    add_config_options,
    add_preset,
    config_overrides,
    preset_and_config,
    propose,
)
from groundup.config.merge import flatten
from groundup.config.presets import PRESETS
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.errors import ConfigError, UsageError
from groundup.planning.gpus import GPUS
from groundup.run.dataset import needs_preparation
from groundup.run.ensure_data import KNOWN_VOCAB_SIZES, assumed_vocab_size
from groundup.ui.format import human_plural, json_line

if TYPE_CHECKING:
    from groundup.model.memory import Precision
    from groundup.planning.memory import Machine
    from groundup.planning.plan import DataSize

EPILOG = """With --data and no preset: every preset, its time here, and the one that suits the text; one of them is
timed for a few seconds.

The plan of a preset is arithmetic and needs neither data nor torch; the time needs a speed: --measure, --like or
--tokens-per-second. docs/training.md says how each line is computed.

With --nodes, the same on nodes of GPUs, from the speed of one: --mfu x peak / FLOPs, --tokens-per-second, --like, or
an MFU that was published for this kind of GPU. Communication that this speed does not include, failures and saving
are not planned. docs/cluster.md has the sources.

  groundup plan --data data/book
  groundup plan gpt2 --tokens-per-second 100000
  groundup plan gpt2-mini --data data/book --measure
  groundup plan gpt2 --data data/book --like runs/mini --train.max_tokens 3000000000
  groundup plan --nodes 128 --gpus-per-node 8 --model gpt2-xl --tokens 1T --mfu 0.35"""

# Numeric options of a cluster: type, least, greatest, help.
CLUSTER: dict[str, tuple[type, float, float, str]] = {
    "nodes": (int, 1, 1_000_000, "plan for this many nodes [1]"),
    "gpus_per_node": (int, 1, 1024, "GPUs of each node [8]"),
    "mfu": (float, 1e-6, 1, "fraction of its peak that one GPU reaches [published, by GPU]"),
}
PATHS = ("data", "init", "init_from")  # config keys outside of sections
TOKENS = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,20})?)([kmbtKMBT]?)")
SUFFIXES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}


def add_arguments(parser: Parser) -> None:
    parser.usage = (
        "groundup plan [PRESET] [--data DIR] [--measure | --like RUN] [OPTION…]\n"
        "groundup plan --nodes K [PRESET] [--tokens 10B] [OPTION…]"
    )
    parser.epilog = EPILOG
    parser.first = (
        "--data", "--measure", "--like", "--tokens-per-second", "--tokens", "--nodes", *FIRST_KEYS[3:6], "--json",
    )  # fmt: skip
    add_preset(parser)
    parser.option("--model PRESET", "alternative to PRESET", proposed=PRESETS)
    parser.option("--data DIR", "prepared folder; without PRESET: all, timed here")
    add_config_files(parser)
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--measure", action="store_true", help="time this model here, for about 2 seconds")
    speed.add_argument("--like", metavar="RUN", help="take the speed of this run, scaled to this model")
    speed.add_argument("--tokens-per-second", type=float, metavar="X", help="assume this training speed")
    parser.option("--tokens N", "train.max_tokens, such as 300M, 10B or 1T")
    parser.option("--json", "print one JSON object")
    cluster = parser.add_argument_group("cluster", "Memory and hours of a run on many GPUs.")
    for name, (kind, _, _, text) in CLUSTER.items():
        cluster.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind is int else "X", help=text)
    propose(cluster.add_argument("--gpu", metavar="NAME", help="a100, h100 or h200 [h100]"), GPUS)
    add_config_options(parser)


def run(args: argparse.Namespace) -> int:
    """Plan and print; only --measure loads torch."""
    from groundup.checkpoint.run_folder import MAX_TOKENS_PER_S, MIN_TOKENS_PER_S, logged_speed
    from groundup.planning.plan import GIVEN, Plan, Speed
    from groundup.planning.policy import resolve
    from groundup.planning.report import as_json, table
    from groundup.ui.console import print_line

    given = args.tokens_per_second
    if given is not None and not MIN_TOKENS_PER_S <= given <= MAX_TOKENS_PER_S:
        raise UsageError(f"--tokens-per-second {given}: must be between {MIN_TOKENS_PER_S:g} and {MAX_TOKENS_PER_S:g}")
    clustered = _cluster_asked(args)
    if args.model and args.preset and args.model != args.preset:
        raise UsageError(f"--model {args.model}: the preset is {args.preset} already; give one of them")
    args.preset = args.model or args.preset
    name, config = preset_and_config(args, _options(args))
    config, vocabulary = _with_vocabulary(config, name)
    all_presets = config.data and not (args.preset or args.config or args.init_from or args.init or clustered or given)
    if all_presets:
        return _run_choice(args, config)
    data = _data(config)
    if clustered:
        return _run_cluster(args, config, data)
    if args.measure:
        from groundup.run.resolve import plan_with_measured_speed

        plan = plan_with_measured_speed(config, config.model.vocab, data)
        assumed = "" if plan.speed else "it does not fit this machine, so nothing was measured"
    else:
        machine, assumed = assumed_machine(config.train)
        plan = Plan(resolve(config, machine, config.model.vocab, data.sequences if data else None), machine, data)
        if given:
            plan = replace(plan, speed=Speed(given, GIVEN))
        elif args.like:
            plan = replace(plan, speed=Speed(*logged_speed(Path(args.like), plan.flops)))
    _ = plan.run_length  # ConfigError where none is given, before anything is printed
    if args.json:
        print(as_json(plan))
        return 0
    for line in table(plan, vocabulary, assumed).split("\n"):
        print_line(line)
    return 0


def assumed_machine(train: TrainConfig) -> tuple[Machine, str]:
    """The machine as far as it is known without torch, and what is assumed of it."""
    from groundup.planning.memory import Machine
    from groundup.utils.system import free_disk, main_memory, usable_cores

    device = "cpu" if train.device == "auto" else train.device.split(":")[0]
    bf16 = train.precision == "bf16" or (train.precision == "auto" and device == "cuda")
    precision: Precision = "bf16" if bf16 else "fp32"
    auto = [name for name in ("device", "precision") if getattr(train, name) == "auto"]
    assumed = f"{device}, {precision}" + (f" (assumed: train.{' and train.'.join(auto)} auto)" if auto else "")
    memory = main_memory() if device == "cpu" else None
    threads = train.threads or (usable_cores() if device == "cpu" else 1)
    return Machine(device, precision, memory, free_disk(Path()), threads=threads), assumed


def _run_choice(args: argparse.Namespace, config: Config) -> int:
    """Print every preset on prepared data, and the one that suits it."""
    from groundup.cli.next_step import TOO_LITTLE_TEXT, train_command
    from groundup.data.shards import Manifest
    from groundup.planning.choice import choice_json, choice_table, choose, describe_choice, fit_presets
    from groundup.ui.console import print_line

    manifest = Manifest.load(Path(str(config.data)))
    splits, tokenizer, options = manifest.splits, manifest.tokenizer, _options(args)
    if args.like:
        machine, flops, source = _known_flops(args, config)
    else:
        from groundup.run.preset_plans import measure_flops

        machine, flops, source = measure_flops(config, tokenizer.n_vocab, options)
    size = splits["train"].tokens, splits["val"].tokens, tokenizer.n_vocab
    chosen = choose(fits := fit_presets(*size, machine, flops, source=source, options=options))
    command = train_command(chosen, str(config.data), option_words(options)) if chosen else None
    if args.json:
        values: dict[str, Any] = {
            "data": config.data,
            "train_tokens": splits["train"].tokens,
            "vocab_size": tokenizer.n_vocab,
        }
        values |= {"device": machine.device, "flops_per_second": flops, "speed_source": source}
        chosen_name = chosen.preset if chosen else None
        values |= {"presets": choice_json(fits, chosen), "chosen": chosen_name, "command": command}
        print(json_line(values))
        return 0
    text = human_plural(splits["train"].tokens, "token")
    print(f"{config.data}: {text} to train on, {tokenizer.n_vocab:,} ids ({tokenizer.name})\n")
    print(choice_table(fits, chosen))
    for line in describe_choice(fits, chosen, source):
        print_line(line)
    print(f"next: {command}" if command else f"next: {TOO_LITTLE_TEXT}")
    return 0


def _known_flops(args: argparse.Namespace, config: Config) -> tuple[Machine, float | None, str]:
    """FLOP/s of the run that --like names."""
    from groundup.checkpoint.run_folder import logged_speed
    from groundup.model.size import flops_per_token

    flops = flops_per_token(config.model)
    speed, source = logged_speed(Path(args.like), flops)
    return (
        assumed_machine(config.train)[0],
        speed * flops,
        source.removeprefix("as in ").removesuffix(", scaled by FLOPs per token"),
    )


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Config keys given as options."""
    options = config_overrides(args)
    if args.tokens is not None:
        train = options.setdefault("train", {})
        if "max_tokens" in train:
            raise UsageError(f"--tokens {args.tokens}: --train.max_tokens sets the same; give one of them")
        train["max_tokens"] = parse_tokens(args.tokens)
    return options


def option_words(options: dict[str, Any]) -> list[str]:
    """Config options as words of a command."""
    values = {key: "none" if value is None else str(value) for key, value in flatten(options) if key not in PATHS}
    return [word for key, value in values.items() for word in (f"--{key}", value)]


def parse_tokens(text: str, option: str = "--tokens") -> int:
    """Parse a count such as 300M, 10B or 1T, in powers of 1000, given by `option`. UsageError for anything else."""
    found = TOKENS.fullmatch(text.strip())
    tokens = Decimal(found[1]) * SUFFIXES[found[2].lower()] if found else Decimal(0)
    if tokens < 1 or tokens != int(tokens):
        raise UsageError(f"{option} {text}: not a whole number of tokens; give it as 300M, 10B or 1T (k, M, B, T)")
    return int(tokens)


def _cluster_asked(args: argparse.Namespace) -> bool:
    """Whether a cluster is to be planned; UsageError for impossible options."""
    given = {name: getattr(args, name) for name in (*CLUSTER, "gpu") if getattr(args, name) is not None}
    for name, (_, least, most, _) in CLUSTER.items():
        if name in given and not least <= given[name] <= most:
            raise UsageError(f"--{name.replace('_', '-')} {given[name]}: must be between {least:g} and {most:g}")
    if not given:
        return False
    if "nodes" not in given and "gpus_per_node" not in given:
        name, value = next(iter(given.items()))
        raise UsageError(f"--{name.replace('_', '-')} {value}: describes a cluster; give --nodes as well")
    if args.measure:
        raise UsageError("--measure: measures this machine, not a cluster; give --mfu, or --tokens-per-second of a GPU")
    if "mfu" in given and (args.tokens_per_second or args.like):
        raise UsageError(f"--mfu {args.mfu:g}: the speed of one GPU is given already; leave one of them out")
    return True


def _run_cluster(args: argparse.Namespace, config: Config, data: DataSize | None) -> int:
    """Plan for a cluster and print."""
    from groundup.checkpoint.run_folder import logged_speed
    from groundup.planning.gpus import find_gpu
    from groundup.planning.memory import Machine
    from groundup.planning.plan import Plan, Speed
    from groundup.planning.policy import resolve
    from groundup.planning.report import ClusterPlan, assumed_speed, cluster_json, cluster_table
    from groundup.ui.console import print_line
    from groundup.utils.system import free_disk

    device, precision = config.train.device, config.train.precision
    if device in ("cpu", "mps"):
        raise ConfigError(f"train.device: {device}, but --nodes plans GPUs; leave it out")
    if precision not in ("auto", "bf16") and not (args.tokens_per_second or args.like):
        raise ConfigError(f"train.precision: {precision}, but the table of GPUs is for bf16; give --tokens-per-second")
    gpu = find_gpu(args.gpu or "h100")
    kind: Precision = "bf16" if precision == "auto" else precision
    machine = Machine("cuda", kind, int(gpu.memory), free_disk(Path()))
    plan = Plan(resolve(config, machine, config.model.vocab), machine, data)
    if args.like:
        speed = Speed(*logged_speed(Path(args.like), plan.flops))
    elif args.tokens_per_second:
        speed = Speed(args.tokens_per_second, "what was given")
    else:
        speed = assumed_speed(plan, gpu, args.mfu)
    cluster = ClusterPlan(plan, gpu, args.nodes or 1, args.gpus_per_node or 8, speed)
    if args.json:
        print(cluster_json(cluster))
        return 0
    for line in cluster_table(cluster).split("\n"):
        print_line(line)
    return 0


def _with_vocabulary(config: Config, name: str) -> tuple[Config, str]:
    """The config with a vocabulary size, and the source of that size."""
    wanted = config.model.vocab_size
    if needs_preparation(config):
        vocab, origin = assumed_vocab_size(config)
        model = config.model.model_copy(update={"vocab_size": vocab})
        return config.model_copy(update={"data": None, "model": model}), f"{origin}, data not prepared yet"
    if config.data:
        from groundup.data.shards import Manifest

        tokenizer = Manifest.load(Path(config.data)).tokenizer
        vocab, origin = tokenizer.n_vocab, f"the data's tokenizer, {tokenizer.name}"
        if wanted not in (None, vocab):
            raise ConfigError(f"model.vocab_size: {wanted}, but the data's tokenizer has {vocab} ids; leave it out")
    elif wanted:
        vocab, origin = wanted, "as given"
    elif name == "gpt1":
        vocab, origin = KNOWN_VOCAB_SIZES["gpt1"], "GPT-1's"
    else:
        vocab, origin = KNOWN_VOCAB_SIZES["gpt2"], "GPT-2's, without --data"
    return config.model_copy(update={"model": config.model.model_copy(update={"vocab_size": vocab})}), origin


def _data(config: Config) -> DataSize | None:
    from groundup.data.shards import Manifest, Tokens
    from groundup.data.windows import ShuffledWindows
    from groundup.planning.plan import DataSize

    if config.data is None:
        return None
    folder = Path(config.data)
    batches = ShuffledWindows(Tokens.open(folder, "train"), config.model.block_size, config.train.seed)
    return DataSize(batches.per_epoch, Manifest.load(folder).splits["val"].tokens)
