"""Import llm.c's model files: 256 numbers, then the weights of a GPT-2 (karpathy/llm.c, train_gpt2.py, write_model).

int32, little-endian: magic, version, block_size, vocab_size, n_layer, n_head, n_embd, padded vocabulary; the others are
zero. Then each kind of tensor, layer after layer, as fp32 (version 3) or bf16 (version 5). GELU is the tanh form.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError
from groundup.interop.imported import ImportedModel, check_tensors, parse_model_config

MAGIC = 20240326
HEADER_NUMBERS = 256
# numpy has no bf16: its bits are read as integers
VERSIONS: dict[int, tuple[str, np.dtype[Any]]] = {3: ("fp32", np.dtype("<f4")), 5: ("bf16", np.dtype("<i2"))}


def read_llmc(path: Path) -> ImportedModel:
    """The model in a .bin of llm.c, mapped from it. CheckpointError where it is no such file, or incomplete."""
    header = np.fromfile(path, dtype="<i4", count=HEADER_NUMBERS)
    if len(header) < HEADER_NUMBERS or header[0] != MAGIC:
        found = f"has {path.stat().st_size:,} bytes, and a header alone {HEADER_NUMBERS * 4:,}"
        if len(header) and header[0] != MAGIC:
            found = f"begins with {header[0]}, not {MAGIC}"
        raise CheckpointError(f"{path}: no model of llm.c (it {found}); give the .bin of a model")
    version, block_size, vocab_size, n_layer, n_head, n_embd, rows = (int(number) for number in header[1:8])
    if version not in VERSIONS:
        raise CheckpointError(
            f"{path}: version {version} of llm.c's format, and groundup reads 3 (fp32) and 5 (bf16); write it again"
        )
    precision, dtype = VERSIONS[version]
    sizes = {"block_size": block_size, "vocab_size": vocab_size, "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    config = parse_model_config(path, sizes)
    kinds = _kinds(config, rows)
    expected = HEADER_NUMBERS * 4 + dtype.itemsize * sum(math.prod(size) * times for _, size, times in kinds)
    if rows < vocab_size:
        raise CheckpointError(
            f"{path}: damaged (its header pads {vocab_size:,} ids to {rows:,} rows, which is fewer); get it again"
        )
    if path.stat().st_size != expected:
        raise CheckpointError(
            f"{path}: {path.stat().st_size:,} bytes, but its header asks for {expected:,}; get it again"
        )
    # Mode c, copy on write: torch needs writable memory.
    numbers = torch.from_numpy(np.memmap(path, dtype, mode="c", offset=HEADER_NUMBERS * 4))
    numbers = numbers.view(torch.bfloat16) if precision == "bf16" else numbers
    tensors = check_tensors(path, config, _split(config, kinds, numbers))
    return ImportedModel(f"llm.c model in {precision}", config, tensors)


def _kinds(config: ModelConfig, rows: int) -> list[tuple[str, tuple[int, ...], int]]:
    """Name, shape and number of each kind of tensor, in the file's order."""
    C, L = config.n_embd, config.n_layer
    blocks = {
        "ln_1.weight": (C,), "ln_1.bias": (C,),
        "attn.c_attn.weight": (3 * C, C), "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C), "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,), "ln_2.bias": (C,),
        "mlp.c_fc.weight": (4 * C, C), "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (C, 4 * C), "mlp.c_proj.bias": (C,),
    }  # fmt: skip
    ends = [("wte.weight", (rows, C), 1), ("wpe.weight", (config.block_size, C), 1)]
    return [*ends, *(("h.*." + name, size, L) for name, size in blocks.items()), ("ln_f.weight", (C,), 1),
            ("ln_f.bias", (C,), 1)]  # fmt: skip


def _split(config: ModelConfig, kinds: list[tuple[str, tuple[int, ...], int]], numbers: Tensor) -> dict[str, Tensor]:
    tensors, start = {}, 0
    for name, size, times in kinds:
        length = math.prod(size)
        for layer in range(times):
            tensors[name.replace("*", str(layer))] = numbers[start : start + length].view(size)
            start += length
    tensors["wte.weight"] = tensors["wte.weight"][: config.vocab]
    return tensors
