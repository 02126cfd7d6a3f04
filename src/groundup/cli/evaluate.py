"""`groundup evaluate`."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from groundup.cli.parsing import Parser, add_model, add_quantize, whole_number
from groundup.errors import UsageError
from groundup.ui.format import json_line, single_line

if TYPE_CHECKING:
    from groundup.evaluation.baselines import Baseline
    from groundup.evaluation.tasks import TaskResult, TaskSpec
    from groundup.run.evaluate_checkpoint import Evaluation

EPILOG = """\
Tasks, separated by commas: loss; hellaswag, arc_easy, arc_challenge, piqa, winogrande, lambada, downloaded once from
the hub at a pinned commit; or a file with `context`, `choices` and the index of the right `answer` on each line.
A suffix such as `:500` takes the first 500 questions; `NAME=FILE` reads one of the tasks from a file.

Losses are in nats per token. acc_norm is llm.c's (mean over tokens), acc_norm_harness that of lm-evaluation-harness
(mean over characters). The results of a run are appended to its log.jsonl.

  groundup evaluate runs/book --checkpoint best
  groundup evaluate runs/web --tasks loss,hellaswag,lambada --precision bf16
  groundup evaluate runs/book --tasks mine.jsonl
  torchrun --nproc-per-node 8 -m groundup evaluate runs/web --tasks hellaswag"""

MAX_TABLE_CELLS = 1000  # more than any name of a file has
LOGGED_OPTIONS = ("split", "window", "stride")  # of the loss, logged with it


def add_arguments(parser: Parser) -> None:
    parser.epilog = EPILOG
    parser.first = (
        "path", "--checkpoint", "--device", "--tasks", "--data", "--split", "--tokens", "--stride", "--no-baselines",
        "--json",
    )  # fmt: skip
    add_model(parser, device=True)
    parser.option("--tasks TASK,…", "what to evaluate [loss]")
    parser.option("--data DIR", "prepared folder for the loss [the run's own]")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="split of the data [val]")
    parser.option("--tokens N", "score about N tokens, spread evenly [all]", type=whole_number)
    parser.option("--window N", "score in windows of N tokens [the model's context]", type=whole_number)
    parser.option("--stride N", "start a window every N tokens, so that they overlap [the window]", type=whole_number)
    parser.option("--no-baselines", "do not compute the gzip, xz and n-gram baselines")
    parser.option("--memorization", "generate samples and look them up in the training text: does the model copy?")
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="of matrix products [fp32]"
    )
    add_quantize(parser)
    parser.option("--json", "print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the results, and append them to the run's log."""
    with_loss, specs = _requested(args)

    from groundup.checkpoint.state import load
    from groundup.distributed.launch import init_distributed
    from groundup.evaluation.tasks import LOSS, open_tasks
    from groundup.model.size import parameters
    from groundup.run.evaluate_checkpoint import append_to_log, evaluate, evaluate_tasks, prepared_data, run_baselines
    from groundup.run.memorization import memorization
    from groundup.ui.progress import count_progress
    from groundup.utils.device import choose_precision

    process_group = init_distributed()
    loaded = load(
        args.path, checkpoint=args.checkpoint, device=args.device, quantize=args.quantize, process_group=process_group
    )
    precision = choose_precision(args.precision, loaded.device).name
    # Opened first: mistakes in the questions are found before any computation.
    tasks = open_tasks(specs, loaded.tokenizer, block_size=loaded.config.model.block_size)
    options = {name: getattr(args, name) for name in ("data", "split", "tokens", "window", "stride")}
    options["progress"] = not args.json
    loss = evaluate(loaded, precision=precision, process_group=process_group, **options) if with_loss else None
    with count_progress(quiet=args.json or process_group.rank > 0) as progress:
        results = evaluate_tasks(loaded, tasks, precision=precision, process_group=process_group, progress=progress)
    if process_group.rank:
        return 0
    with_baselines = loss and args.split == "val" and not args.no_baselines
    baselines, compared = run_baselines(loaded, args.data) if with_baselines else ([], 0)
    copied = memorization(loaded, args.data) if args.memorization else None
    if args.json:
        overlap = {"overlap": copied.as_json()} if copied else {}
        model = {"checkpoint": str(loaded.folder), "quantize": loaded.quantize}
        print(json_line(model | _as_json(loss, baselines, results) | overlap))
    else:
        size = parameters(loaded.config.model)
        packed = "" if loaded.quantize == "none" else f"weights in {loaded.quantize}, "
        print(f"{loaded.folder}: {size:,} parameters, {packed}{precision} on {loaded.device}\n")
        _print(loss, baselines, compared, results)
        if copied:
            print(copied.describe())
    how: dict[str, Any] = {"precision": precision, "sources": {result.task: result.source for result in results}}
    if loss:
        folder, _, match = prepared_data(loaded, args.data)
        how |= {"data": str(folder), "own_data": match.answer} | {key: options[key] for key in LOGGED_OPTIONS}
        if match.answer == "other":
            print(f"note  {match.difference}; it may hold text that the run was trained on", file=sys.stderr)
    values = ({LOSS: loss.flat()} if loss else {}) | {result.task: result.flat() for result in results}
    if loaded.quantize != "none":
        print(f"note  not in the run's log, as the run's weights are not in {loaded.quantize}", file=sys.stderr)
    elif not_logged := append_to_log(loaded, values, how):
        print(f"note  {not_logged}", file=sys.stderr)
    return 0


def _requested(args: argparse.Namespace) -> tuple[bool, list[TaskSpec]]:
    """Whether to evaluate the loss, and the tasks; without torch. UsageError for unknown and repeated tasks."""
    from groundup.evaluation.tasks import LOSS, TaskSpec

    names = [LOSS] if args.tasks in (None, "none") else [name.strip() for name in args.tasks.split(",")]
    if twice := next((name for i, name in enumerate(names) if name in names[:i]), None):
        raise UsageError(f"--tasks {twice}: given twice; give it once")
    specs = [TaskSpec.parse(name) for name in names if name != LOSS]
    for option in ("data", "tokens", "window", "stride"):
        if LOSS not in names and getattr(args, option) is not None and not (option == "data" and args.memorization):
            raise UsageError(f"--{option}: is for the loss; add it: --tasks loss,{args.tasks}")
    return LOSS in names, specs


def _as_json(loss: Evaluation | None, baselines: list[Baseline], results: list[TaskResult]) -> dict[str, Any]:
    """Everything in the table."""
    values: dict[str, Any] = {}
    if loss:
        values |= {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in asdict(loss).items()}
    if baselines:
        values["baselines"] = {baseline.name: baseline.bits_per_byte for baseline in baselines}
    if results:
        values["tasks"] = {
            result.task: result.flat()
            | {"chance": {name: m.chance for name, m in result.metrics.items() if m.chance is not None}}
            | {"cut": result.truncated, "source": result.source}
            for result in results
        }
    return values


def _print(loss: Evaluation | None, baselines: list[Baseline], compared: int, results: list[TaskResult]) -> None:
    """Print values with their standard errors, baselines, and the values of random guessing."""
    from rich.table import Table

    from groundup.ui.console import Console, print_line

    table = Table("task", "metric", box=None, padding=(0, 2, 0, 0))
    for title in ("value", "± stderr", "chance", "questions"):
        table.add_column(title, justify="right")
    if loss:
        table.add_row(f"{loss.split} loss", "nats per token", f"{loss.loss:.4f}", _stderr(loss.loss_stderr, 4))
        table.add_row("", "perplexity", f"{loss.perplexity:.2f}", _stderr(loss.perplexity_stderr, 2))
        table.add_row("", "bits/byte", f"{loss.bits_per_byte:.4f}", _stderr(loss.bits_per_byte_stderr, 4))
    for baseline in baselines:
        table.add_row("", f"  {baseline.name}", f"{baseline.bits_per_byte:.4f}", style="dim")
    for result in results:
        task, questions = result.task, f"{result.questions:,}"
        for name, metric in result.metrics.items():
            digits = 2 if name == "perplexity" else 4
            chance = "" if metric.chance is None else f"{metric.chance:.4f}"
            table.add_row(
                single_line(task), name, f"{metric.value:.{digits}f}", _stderr(metric.stderr, digits), chance, questions
            )
            task = questions = ""
    console = Console()
    wide = console.options.update(max_width=MAX_TABLE_CELLS)
    table.width = console.measure(table, options=wide).maximum  # a narrower screen would cut numbers
    console.print(table, soft_wrap=True)
    if loss:
        indented = f"; indented: baselines on the last {compared:,} bytes of the same text" if baselines else ""
        console.print()
        print_line(f"loss over {loss.tokens:,} tokens{indented}", console)
    for result in results:
        if cut := result.truncated:
            console.print(
                f"{result.task}: {cut:,} endings lost the beginning of a prompt too long for the model", soft_wrap=True
            )
        if tied := ", ".join(f"{m.ties:,} in {name}" for name, m in result.metrics.items() if m.ties):
            console.print(
                f"{result.task}: the right choice is as likely as another, and scores its share: {tied}", soft_wrap=True
            )


def _stderr(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
