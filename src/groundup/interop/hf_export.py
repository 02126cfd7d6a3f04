"""Export to a folder for `transformers`: config.json, model.safetensors, a tokenizer, a model card."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import ExportError
from groundup.interop import hf_tokenizer
from groundup.interop.hf_mapping import config_json, to_hf
from groundup.interop.parity import Agreement, batch, check_logits, opened_by
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer

MODEL, CONFIG, GENERATION, CARD = "model.safetensors", "config.json", "generation_config.json", "README.md"
BOUND = 1e-5  # of the largest logit: fp32 rounding of sums in another order


def write(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, card: str) -> None:
    """Write all files to the empty `folder`; OSError from the disk, UsageError for a model of no family."""
    end = tokenizer.end_of_text
    _json(folder / CONFIG, config_json(config, end))
    _json(folder / GENERATION, {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end})
    hf_tokenizer.write(tokenizer, folder, config.block_size)
    (folder / CARD).write_text(card, encoding="utf-8")
    try:
        save_file(to_hf(config, tensors), folder / MODEL, metadata={"format": "pt"})
    except SafetensorError as error:  # also raised for a full disk
        raise OSError(str(error)) from error


@torch.no_grad()
def check(folder: Path, model: GPT, tokenizer: Tokenizer) -> Agreement | None:
    """Open `folder` with transformers and compare its logits with the model's; None where it is not installed.

    The tokenizer's ids are compared in any case. ExportError where logits or ids differ.
    """
    hf_tokenizer.check(tokenizer, folder)
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        return None
    by = f"transformers {transformers.__version__}"
    with opened_by(by, "pip install --upgrade 'groundup[hf]'"), _quiet():
        loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        opened = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = batch(model.config)
        logits = loaded.eval()(ids).logits
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            raise ExportError(f"{by}: {what.replace('_', ' ')} in the export, {sorted(map(str, found[what]))[0]} first")
    if (len(opened), opened.eos_token_id) != (tokenizer.n_vocab, tokenizer.end_of_text):
        raise ExportError(f"{by}: reads a tokenizer of {len(opened)} ids that ends texts with {opened.eos_token_id}")
    device = next(model.parameters()).device
    return check_logits(by, model(ids.to(device)).cpu(), logits, BOUND)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and advice of transformers; restore its settings afterwards."""
    logging: Any = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
