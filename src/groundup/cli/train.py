"""`groundup train`."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from groundup.cli.parsing import FIRST_KEYS, Parser, add_config_arguments, preset_and_config
from groundup.config.presets import DEFAULT
from groundup.config.schema import Config
from groundup.errors import UsageError
from groundup.ui.display import PlainDisplay
from groundup.utils.ranks import is_rank_0


def add_arguments(parser: Parser) -> None:
    parser.usage = (
        "groundup train [PRESET] --data DIR --out RUN [OPTION…]\n"
        "groundup train --config RECIPE [--laptop] --out RUN [OPTION…]"
    )
    parser.epilog = (
        "A preset sets the model's shape and recipe, a file overrides the preset, an option overrides the file.\n"
        "--section.key VALUE is the key `key:` of the section `section:` in YAML. In brackets: the value with the\n"
        f"preset that is named before --help-all, or {DEFAULT}. Ctrl-C ends the run with a checkpoint.\n\n"
        "  groundup train gpt2-mini --data data/book --out runs/book --train.max_time 30m --model.dropout 0.1\n"
        "  groundup train --config recipes/gpt2-124m-shakespeare.yaml --laptop --out runs/bard\n"
        "  torchrun --nproc-per-node 8 -m groundup train gpt2 --data data/web --out runs/web --parallel fsdp"
    )
    parser.first = ("--data", "--out", "--config", *FIRST_KEYS)
    add_config_arguments(parser)
    parser.option("--out RUN", "new folder for the run")
    parser.option("--checkpoints DIR", "a new folder for the checkpoints, such as one on a larger disk [in RUN]")
    parser.option("--auto-resume", "resume RUN if it holds this run; after a restart by torchrun or SLURM, always")
    parser.option("--dry-run", "print the plan, write nothing, and stop")
    parser.option("--quiet", "print nothing but errors")
    parser.option("--json", "print one JSON object; progress goes to standard error")


def run(args: argparse.Namespace) -> int:
    """Validate the config, then train. Mistakes in the config are found before torch is loaded."""
    preset, config = preset_and_config(args)
    if args.out is None and not args.dry_run:
        raise UsageError("--out: give the folder to write the run to, or --dry-run for the plan alone")

    from groundup.ui.watch import watching

    title, shown = f"{preset} on {config.data}", [] if args.dry_run else _known_lines(args, config)
    with watching(title, config.train, quiet=not shown) as display:
        for line in shown:
            display.message(line)

    from groundup.cli.display import finish
    from groundup.distributed.launch import expected_world_size, init_distributed
    from groundup.run.ensure_data import ensure_prepared
    from groundup.run.start import restarted, start_or_resume, start_run
    from groundup.ui.progress import byte_progress

    if args.dry_run:
        return _dry_run(args, config)
    out, may_resume = Path(args.out), args.auto_resume or restarted()
    elsewhere = Path(args.checkpoints) if args.checkpoints else None
    with byte_progress(quiet=args.json or args.quiet) as watch:
        ensure_prepared(
            config, out, watch, checkpoints=elsewhere, processes=expected_world_size(), may_resume=may_resume
        )
    process_group = init_distributed()
    first = process_group.rank == 0
    with watching(title, config.train, plain=args.json, quiet=args.quiet or not first) as display:
        resume = partial(start_or_resume, preset=preset)
        start = resume if process_group.any(may_resume) else start_run
        result = start(config, out, display, checkpoints=elsewhere, shown=shown)
    return finish(result, as_json=args.json, quiet=not first or (args.quiet and not args.json))


def _known_lines(args: argparse.Namespace, config: Config) -> list[str]:
    """Lines on the model and length of a new run, computed without torch; empty if the data is not prepared yet."""
    from groundup.checkpoint.run_folder import RunFolder
    from groundup.cli.plan import assumed_machine
    from groundup.data.shards import MANIFEST, Manifest
    from groundup.data.windows import windows_per_epoch
    from groundup.planning.plan import DataSize, Plan
    from groundup.planning.policy import resolve
    from groundup.planning.report import first_lines

    is_prepared = config.data is not None and (Path(config.data) / MANIFEST).is_file()
    if args.json or args.quiet or not is_rank_0() or not is_prepared or RunFolder(Path(args.out)).exists:
        return []
    manifest, machine = Manifest.load(Path(str(config.data))), assumed_machine(config.train)[0]
    train, val = manifest.splits["train"], manifest.splits["val"]
    if train.tokens <= config.model.block_size:  # refused later, in a sentence
        return []
    size = DataSize(windows_per_epoch(train.tokens, config.model.block_size), val.tokens)
    return first_lines(Plan(resolve(config, machine, manifest.tokenizer.n_vocab), machine, size))


def _dry_run(args: argparse.Namespace, config: Config) -> int:
    """Print the plan and write nothing."""
    from groundup.distributed.launch import init_distributed
    from groundup.planning.report import as_json, summary
    from groundup.run.dataset import needs_preparation
    from groundup.run.ensure_data import plan_without_data
    from groundup.run.start import dry_run
    from groundup.ui.console import print_line

    first = init_distributed().rank == 0
    say: Callable[[str], None] = print_line if first and not args.json else lambda line: None
    if needs_preparation(config):
        plan, line = plan_without_data(config)
        for each in (*summary(plan), line):
            say(each)
    else:
        out, checkpoints = (Path(given) if given else None for given in (args.out, args.checkpoints))
        plan = dry_run(config, out, PlainDisplay(say), checkpoints=checkpoints)
    if args.json and first:
        print(as_json(plan))
    return 0
