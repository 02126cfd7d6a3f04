"""Report of a quickstart: bits per byte and those of baselines, samples, their growth, and memorization."""

import math
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from groundup.checkpoint.log import iter_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.checkpoint.state import LoadedModel, load
from groundup.evaluation.baselines import Baseline, baselines, split_text
from groundup.evaluation.memorization import Memorization, overlap
from groundup.run.dataset import PreparedData
from groundup.run.evaluate_checkpoint import COMPARED_BYTES, evaluate
from groundup.run.memorization import MAX_SEARCHED_BYTES, Sample, continued, held_out_openings
from groundup.run.trainer import TrainResult


@dataclass(frozen=True, repr=False)
class Report:
    """Results of a quickstart."""

    sources: list[str]
    seconds: float  # of training that were asked for
    model: LoadedModel
    data: Path
    result: TrainResult
    checkpoint: str  # the evaluated one: best or latest
    loss: float  # nats per token, on the complete validation split
    bits_per_byte: float  # of the complete validation text
    untrained: float | None  # bits per byte before training, of the first batch; None if the log has lost it
    how: str  # bits_per_byte was computed
    baselines: list[Baseline]
    compared: int  # bytes at the end of the training text that baselines and overlap use
    samples: list[Sample]
    truth: str  # the text that follows the first sample's prompt
    growth: list[tuple[int, str]]  # steps, and samples drawn after them
    overlap: Memorization  # of the samples with the training text

    @override
    def __repr__(self) -> str:
        best = min(self.baselines, key=lambda baseline: baseline.bits_per_byte)
        found = f"{self.bits_per_byte:.2f} bits per byte, {best.name} {best.bits_per_byte:.2f}"
        return f"Report({self.result.run}: step {self.result.step:,}, {found})"


def evaluate_run(sources: list[str], result: TrainResult, data: Path) -> Report:
    """Evaluate a run: bits per byte, those of baselines, samples, and their overlap with the training text.

    The best checkpoint is used; it is not the last one if the model began to memorize the text.
    """
    name = "best" if result.best.loss is not None else "latest"
    loaded = load(result.run, checkpoint=name)
    found, prepared = evaluate(loaded, data=data), PreparedData.open(data)
    how = (
        f"cross-entropy of the {found.tokens:,} validation tokens, each predicted from the previous ones in a window "
        f"of {loaded.config.model.block_size}: {found.loss:.4f} nats per token x tokens / bytes / ln 2."
    )
    begun = held_out_openings(loaded, data, prepared.manifest)
    samples = continued(loaded, begun)
    train_text = split_text(data, "train", loaded.tokenizer, MAX_SEARCHED_BYTES)
    val_text = split_text(data, "val", loaded.tokenizer, COMPARED_BYTES)
    growth, first_loss = _history(RunFolder(result.run).log)
    split, train = prepared.manifest.splits["val"], loaded.config.train
    return Report(
        sources=sources,
        seconds=train.max_time or train.time_limit or 0.0,
        model=loaded,
        data=data,
        result=result,
        checkpoint=name,
        loss=found.loss,
        bits_per_byte=found.bits_per_byte,
        untrained=first_loss and first_loss / math.log(2) * split.tokens / split.bytes,
        how=how,
        baselines=baselines(train_text[-COMPARED_BYTES:], val_text),
        compared=min(len(train_text), COMPARED_BYTES),
        samples=samples,
        truth=begun[0].continuation,
        growth=growth,
        overlap=overlap([sample.text.encode() for sample in samples], train_text, val_text),
    )


def _history(log: Path) -> tuple[list[tuple[int, str]], float | None]:
    """Of a run's log: the first, middle and last of its samples with their steps, and the loss of the first step."""
    samples: dict[int, str] = {}
    first_loss = None
    for record in iter_log(log):
        if record["event"] == "sample":
            samples[record["step"]] = record["text"]
        elif record["event"] == "step" and record["step"] == 1:
            first_loss = record["loss"]
    steps = sorted(samples)
    shown = sorted({*steps[:1], *steps[len(steps) // 2 :][:1], *steps[-1:]})
    return [(step, samples[step]) for step in shown], first_loss
