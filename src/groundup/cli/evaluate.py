"""`groundup evaluate`."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from groundup.cli.options import add_checkpoint
from groundup.errors import UsageError

if TYPE_CHECKING:
    from groundup.evaluation.baselines import Baseline
    from groundup.evaluation.evaluate import Evaluation
    from groundup.evaluation.task_set import TaskResult, TaskSpec

LOSS = "loss"
EPILOG = """\
Tasks, by comma: loss; hellaswag, arc_easy, arc_challenge, piqa, winogrande, lambada, fetched once from the
hub at a pinned commit; or a file of questions: `context`, `choices` and the number of the right `answer` on each
line. `:500` behind a task asks its first 500 questions; `NAME=FILE` reads a task from a file.

Losses are in nats a token. acc_norm is llm.c's (mean over tokens), acc_norm_harness that of lm-evaluation-harness
(mean over characters). Of a run, the results are appended to its log.jsonl.

  groundup evaluate runs/book --checkpoint best
  groundup evaluate runs/web --tasks loss,hellaswag,lambada --precision bf16
  groundup evaluate runs/book --tasks mine.jsonl
  torchrun --nproc-per-node 8 -m groundup evaluate runs/web --tasks hellaswag"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = EPILOG
    parser.add_argument("path", metavar="RUN_OR_CHECKPOINT", help="folder written by `groundup train` or `import`")
    parser.add_argument("--tasks", metavar="TASK,…", help=f"what to measure [{LOSS}]")
    parser.add_argument(
        "--task_file", action="append", default=[], metavar="FILE", help="a file of questions; may be repeated"
    )
    parser.add_argument("--data", metavar="DIR", help="prepared folder for the loss [the run's own]")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="which part of it [val]")
    parser.add_argument("--tokens", type=int, metavar="N", help="score about N tokens, spread evenly [all]")
    parser.add_argument("--window", type=int, metavar="N", help="score in windows of N tokens [the model's context]")
    parser.add_argument(
        "--stride", type=int, metavar="N", help="begin a window every N tokens, so that they overlap [the window]"
    )
    parser.add_argument(
        "--no_baselines", action="store_true", help="leave out what simpler models need for the same text"
    )
    parser.add_argument(
        "--precision", choices=("auto", "fp32", "bf16", "fp16"), default="fp32", help="arithmetic of products [fp32]"
    )
    add_checkpoint(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps [auto]")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Evaluate, note it in the run's log, and print."""
    wanted = _wanted(args)

    from groundup.checkpoint.load import load
    from groundup.distributed.launch import init_distributed
    from groundup.run.evaluate_checkpoint import append_to_log, evaluate, evaluate_tasks, open_all, run_baselines
    from groundup.ui.progress import counting
    from groundup.utils.device import choose_precision

    process_group = init_distributed()
    loaded = load(args.path, checkpoint=args.checkpoint, device=args.device, process_group=process_group)
    precision = choose_precision(args.precision, loaded.device).name
    exams = open_all(loaded, [task for task in wanted if task != LOSS])  # mistakes in them come before any work
    loss: Evaluation | None = None
    simpler: list[Baseline] = []
    compared = 0
    if LOSS in wanted:
        loss = evaluate(
            loaded,
            data=args.data,
            split=args.split,
            tokens=args.tokens,
            window=args.window,
            stride=args.stride,
            precision=precision,
            process_group=process_group,
        )
    with counting(quiet=args.json or process_group.rank > 0) as progress:
        grades = evaluate_tasks(loaded, exams, precision=precision, process_group=process_group, progress=progress)
    if process_group.rank:
        return 0
    if loss and args.split == "val" and not args.no_baselines:
        simpler, compared = run_baselines(loaded, args.data)
    if args.json:
        print(json.dumps(_as_json(loaded.folder, loss, simpler, grades)))
    else:
        print(f"{loaded.folder}: {_parameters(loaded.model)} parameters, {precision} on {loaded.device}\n")
        _show(loss, simpler, compared, grades)
    results = ({LOSS: loss.flat()} if loss else {}) | {grade.task: grade.flat() for grade in grades}
    how: dict[str, Any] = {"precision": precision}
    if loss:
        data = args.data or loaded.config.data
        how |= {"data": data, "split": args.split, "window": args.window, "stride": args.stride}
    append_to_log(
        loaded, results, how | {"sources": {grade.task: grade.source for grade in grades}}
    )  # shown, whatever the disk
    return 0


def _wanted(args: argparse.Namespace) -> list[TaskSpec | str]:
    """What is asked for, without torch: LOSS, or a task. UsageError for one that is none, or that comes twice."""
    from groundup.evaluation.task_set import TaskSpec

    listed = None if args.tasks is None else [part.strip() for part in args.tasks.split(",")]
    words = [*(listed or ()), *args.task_file] or [LOSS]
    if twice := next((word for i, word in enumerate(words) if word in words[:i]), None):
        raise UsageError(f"--tasks {twice}: named twice; name it once")
    wanted: list[TaskSpec | str] = [task if task == LOSS else TaskSpec.parse(task) for task in listed or ()]
    wanted += [TaskSpec.of_file(file) for file in args.task_file]
    wanted = wanted or [LOSS]
    for option in ("data", "tokens", "window", "stride"):
        if LOSS not in wanted and getattr(args, option) is not None:
            raise UsageError(f"--{option}: is for the loss; add it: --tasks loss,{args.tasks or 'FILE'}")
    return wanted


def _parameters(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()):,}"


def _as_json(folder: Any, loss: Evaluation | None, simpler: list[Baseline], grades: list[TaskResult]) -> dict[str, Any]:
    """All that the table shows."""
    from dataclasses import asdict

    values: dict[str, Any] = {"checkpoint": str(folder)}
    if loss:
        values |= {k: v if isinstance(v, str) or math.isfinite(v) else None for k, v in asdict(loss).items()}
    if simpler:
        values["baselines"] = {one.name: one.bits_per_byte for one in simpler}
    if grades:
        chance = {g.task: {m: one.chance for m, one in g.metrics.items() if one.chance is not None} for g in grades}
        values["tasks"] = {
            g.task: g.flat() | {"chance": chance[g.task], "cut": g.cut, "source": g.source} for g in grades
        }
    return values


def _show(loss: Evaluation | None, simpler: list[Baseline], compared: int, grades: list[TaskResult]) -> None:
    """Numbers, how sure they are, and what they are to be compared with."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "metric", box=None, padding=(0, 2, 0, 0))
    for title in ("value", "± stderr", "chance", "questions"):
        table.add_column(title, justify="right")
    if loss:
        table.add_row(f"{loss.split} loss", "nats a token", f"{loss.loss:.4f}", _error(loss.loss_stderr, 4))
        table.add_row("", "perplexity", f"{loss.perplexity:.2f}", _error(loss.perplexity_stderr, 2))
        table.add_row("", "bits/byte", f"{loss.bits_per_byte:.4f}", _error(loss.bits_per_byte_stderr, 4))
    for model in simpler:
        table.add_row("", f"  {model.name}", f"{model.bits_per_byte:.4f}", style="dim")
    for grade in grades:
        first = [grade.task, f"{grade.questions:,}"]
        for name, one in grade.metrics.items():
            digits = 2 if name == "perplexity" else 4
            chance = "" if one.chance is None else f"{one.chance:.4f}"
            table.add_row(first[0], name, f"{one.value:.{digits}f}", _error(one.stderr, digits), chance, first[1])
            first = ["", ""]
    console = Console(highlight=False, markup=False)
    console.print(table)
    if loss:
        console.print(f"\nloss over {loss.tokens:,} tokens", end="" if simpler else "\n")
    if simpler:
        console.print(f"; below it, what simpler models need for the last {compared:,} bytes of the text, in bits/byte")
    for grade in grades:
        if grade.cut:
            console.print(f"{grade.task}: {grade.cut:,} endings lost the beginning of a context too long for the model")


def _error(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else ""
