"""Loading of a trained model from its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from groundup.checkpoint import state
from groundup.checkpoint.files import verify
from groundup.checkpoint.run_folder import find_checkpoint
from groundup.config.schema import Config
from groundup.distributed.process_group import SINGLE_PROCESS, ProcessGroup, own_device
from groundup.model import build_model
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import GPT
from groundup.model.init import skip_init
from groundup.tokenizers.base import Tokenizer
from groundup.utils.device import choose_device


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with its tokenizer and config."""

    folder: Path
    config: Config
    model: GPT
    tokenizer: Tokenizer
    device: torch.device


def load(
    path: str | Path, *, checkpoint: str = "latest", device: str = "auto", process_group: ProcessGroup = SINGLE_PROCESS
) -> LoadedModel:
    """Load model and tokenizer from a run or a checkpoint folder, the model in evaluation mode.

    The weights are their running average if the run kept one (`optimizer.ema_decay`).

    `checkpoint` chooses among a run's: `latest`, `best` by validation loss, or a name such as `step-00001000`. Each
    process of a `process_group` reads the folder, and uses a GPU of its own.
    Raises CheckpointError when something is missing, damaged or does not fit.
    """
    folder = find_checkpoint(Path(path), checkpoint)
    verify(folder, presence_only=(state.OPTIMIZER,))
    config, where = state.load_config(folder), own_device(str(choose_device(device)), process_group)
    with skip_init():
        model = build_model(config.model)
    state.load_model(folder, model, averaged=True)
    model = use_fused_cpu_kernels(model.to(where)).eval()
    return LoadedModel(folder, config, model, state.load_tokenizer(folder), where)
