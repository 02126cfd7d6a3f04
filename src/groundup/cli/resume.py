"""`groundup resume`."""

import argparse
from pathlib import Path

from groundup.cli.parsing import Parser, add_config_options, config_overrides


def add_arguments(parser: Parser) -> None:
    """Options of the command; of the config, only the sections with keys that may change when a run is resumed."""
    parser.usage = "groundup resume RUN [--data DIR] [OPTION…]"
    parser.first = (
        "run", "--data", "--checkpoints", "train.max_steps", "train.max_time", "train.epochs", "train.device",
        "evaluate.every_steps", "checkpoint.every_steps", "--track", "--json",
    )  # fmt: skip
    parser.epilog = (
        "Resumes from the newest checkpoint whose checksums match. Run length, evaluation, checkpoints, guard and\n"
        "trackers may change; and device, threads, micro-batch size and the like, which change rounding. All other\n"
        "settings are fixed, because they would change the result.\n\n"
        "  groundup resume runs/book --train.max_steps 10000"
    )
    parser.option("run RUN", "folder written by `groundup train`")
    parser.option("--data DIR", "the prepared folder, if it has moved")
    parser.option("--checkpoints DIR", "the folder of the run's checkpoints, if they have been moved")
    parser.option("--quiet", "print nothing but errors")
    parser.option("--json", "print one JSON object; progress goes to standard error")
    add_config_options(parser, ("train", "evaluate", "checkpoint", "guard", "tracking"))


def run(args: argparse.Namespace) -> int:
    """Resume, showing the run as `train` does."""
    from groundup.checkpoint.run_folder import RunFolder
    from groundup.cli.display import finish
    from groundup.distributed.launch import init_distributed
    from groundup.run.start import reconfigure, resume_run
    from groundup.ui.watch import watching

    first, run = init_distributed().rank == 0, RunFolder(Path(args.run))
    checkpoints = Path(args.checkpoints) if args.checkpoints else None
    config, keys = reconfigure(run, config_overrides(args), checkpoints=checkpoints)
    with watching(args.run, config.train, plain=args.json, quiet=args.quiet or not first) as display:
        result = resume_run(run, config, keys, display)
    return finish(result, as_json=args.json, quiet=not first or (args.quiet and not args.json))
