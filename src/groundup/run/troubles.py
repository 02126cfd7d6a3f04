"""What the disk, the memory and other processes say in the middle of a run, as errors of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from groundup.checkpoint.run_folder import RunFolder
from groundup.distributed.process_group import LostError, ProcessGroup, peer_is_lost, said_by_nccl
from groundup.errors import CheckpointError, TrainingError
from groundup.training.micro_batches import BatchLoader
from groundup.utils.exhausted import is_out_of_memory


@contextmanager
def translate_errors(
    folder: RunFolder, device: torch.device, feed: BatchLoader, process_group: ProcessGroup
) -> Iterator[None]:
    """CheckpointError, TrainingError or LostError for what the system raises meanwhile."""
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
            if complaint := said_by_nccl(error):
                raise TrainingError(
                    f"process {process_group.rank}: NCCL: {complaint}; NCCL_DEBUG=INFO tells more"
                ) from error
            raise
        rows = feed.micro_rows
        # One process can go on with smaller pieces by itself; several would have to agree, in the middle of a step.
        spared = f"resume with --train.micro_batch_size {rows // 2}" if process_group.size > 1 and rows > 1 else ""
        raise TrainingError(
            f"{device}: out of memory with {rows} windows at a time; {spared or 'take a smaller model'}, "
            "or --train.activation_checkpointing full"
        ) from error
