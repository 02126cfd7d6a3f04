"""Failures of a run: errors of the disk, the memory and other processes in sentences; documents of skipped data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from groundup.checkpoint.run_folder import RunFolder
from groundup.data.shards import Documents, Manifest
from groundup.data.windows import ShuffledWindows
from groundup.distributed.process_group import LostError, ProcessGroup, nccl_message, peer_is_lost
from groundup.errors import CheckpointError, DataError, TrainingError
from groundup.utils.device import is_out_of_memory

MESSAGE_DOCUMENTS = 3  # named in a message; the log has more
LOGGED_DOCUMENTS = 100


@contextmanager
def translate_errors(
    folder: RunFolder, device: torch.device, process_group: ProcessGroup, micro_batch_size: Callable[[], int]
) -> Iterator[None]:
    """Turn what the system raises while a run trains into CheckpointError, TrainingError or LostError."""
    try:
        yield
    except OSError as error:
        reason, steps = error.strerror or error, folder.steps()
        raise CheckpointError(
            f"{error.filename or folder.path}: cannot be written or read ({reason}); "
            f"last checkpoint: {steps[-1] if steps else 'none yet'}"
        ) from error
    except RuntimeError as error:
        if not is_out_of_memory(error):
            if peer_is_lost(error):
                raise LostError(process_group.rank, error) from error
            if complaint := nccl_message(error):
                raise TrainingError(
                    f"process {process_group.rank}: NCCL: {complaint}; NCCL_DEBUG=INFO tells more"
                ) from error
            raise
        size = micro_batch_size()
        # One process halves its micro-batch by itself; several would have to agree on it, in the middle of a step.
        smaller = process_group.size > 1 and size > 1
        remedy = f"resume with --train.micro_batch_size {size // 2}" if smaller else "take a smaller model"
        raise TrainingError(
            f"{device}: out of memory with micro-batches of {size}; {remedy}, or --train.activation_checkpointing full"
        ) from error


def documents_of(folder: Path, sequences: ShuffledWindows, start: int, stop: int) -> list[str]:
    """`source:offset` of the documents that the sequences from position `start` up to `stop` lie in, each once."""
    found: dict[str, None] = {}
    try:
        documents = Documents.open(folder, Manifest.load(folder), "train")
        for first in sequences.window_starts(start, stop - start).tolist():
            for span in documents.spans(first, sequences.block_size):
                found[f"{span.source}:{span.offset}"] = None
                if len(found) == LOGGED_DOCUMENTS:
                    return list(found)
    except DataError:  # moved while the tokens are still open, or damaged: the log has the sequences' positions
        return []
    return list(found)


def first_documents(documents: list[str]) -> str:
    """The first few documents by name, and how many more."""
    if not documents:
        return "the sequences of these steps"
    rest = len(documents) - MESSAGE_DOCUMENTS
    more = f" and {rest} more (see log.jsonl)" if rest > 0 else ""
    return ", ".join(documents[:MESSAGE_DOCUMENTS]) + more
