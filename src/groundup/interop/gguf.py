"""Export to a GGUF file for llama.cpp: the shapes of GPT-2 and Qwen3, with a byte-level BPE.

Sources: llama.cpp's `src/models/gpt2.cpp` and `qwen3.cpp` for tensors and keys, and the library `gguf`, which names,
packs and writes them. `gguf_tokenizer` makes the vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import ExportError, UsageError
from groundup.interop import hf_tokenizer
from groundup.interop.gguf_tokenizer import MODEL, vocabulary
from groundup.interop.hf_architectures import BLOCK, FAMILIES
from groundup.interop.hf_mapping import family_of, to_hf
from groundup.interop.parity import Agreement, batch, check_logits, identical, opened_by
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer
from groundup.utils.extras import install_command


@dataclass(frozen=True)
class Dtype:
    """How matrices are stored; vectors and position embeddings are fp32, as llama.cpp's own converter writes them."""

    type: str  # in gguf.GGMLQuantizationType
    file: str  # in gguf.LlamaFileType
    bound: float  # of the difference of logits, relative to the largest; ggml rounds activations as it does weights
    block: int = 1  # numbers of a row that are packed together; a matrix whose rows they do not divide is f16


DTYPES = {
    "f32": Dtype("F32", "ALL_F32", 1e-2),  # ggml looks GELU and SiLU up in tables of fp16
    "f16": Dtype("F16", "MOSTLY_F16", 1e-2),
    "bf16": Dtype("BF16", "MOSTLY_BF16", 5e-2),
    "q8_0": Dtype("Q8_0", "MOSTLY_Q8_0", 1e-1, block=32),  # 8 bits each, and one scale in fp16
}

# Architectures of llama.cpp that compute what those of the same name in transformers do, and their activation.
ACTIVATIONS = {"gpt2": "gelu_tanh", "qwen3": "swiglu"}

F16_MAX = 65504.0


@dataclass(frozen=True)
class Stored:
    """A tensor as it is in the file."""

    name: str
    type: str  # in gguf.GGMLQuantizationType
    values: npt.NDArray[Any]  # bytes where numpy has no such numbers


def refuse(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UsageError where llama.cpp cannot compute the model, or cannot split texts as the tokenizer does."""
    _architecture(config)
    vocabulary(tokenizer)


def write(
    path: Path,
    config: ModelConfig,
    tensors: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    *,
    name: str,
    licence: str = "",
    dtype: str = "f32",
) -> list[str]:
    """Write the file, and return notes for the user.

    UsageError as `refuse`, for a weight beyond f16, and where the library `gguf` is missing.
    """
    gguf, fallback = library(), {}
    with closing(gguf.GGUFWriter(path, _architecture(config))) as writer:
        writer.add_name(name)
        if licence:
            writer.add_license(licence)
        writer.add_file_type(gguf.LlamaFileType[DTYPES[dtype].file])
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_dimensions(writer, config)
        _add_vocabulary(writer, tokenizer)
        for tensor in _stored(gguf, config, tensors, dtype):
            writer.add_tensor(tensor.name, tensor.values, raw_dtype=gguf.GGMLQuantizationType[tensor.type])
            if tensor.type not in ("F32", DTYPES[dtype].type):
                fallback[_of_any_layer(tensor.name)] = tensor.values.shape[-1]
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    if not fallback:
        return []
    named = ", ".join(f"{name} ({length})" for name, length in fallback.items())
    return [f"f16 and not {dtype}, whose blocks of {DTYPES[dtype].block} do not divide the rows: {named}"]


@torch.no_grad()
def check(
    path: Path, model: GPT, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, dtype: str = "f32"
) -> Agreement | None:
    """Reopen the file and compare: every bit of the tensors, and logits and ids of llama.cpp.

    None where llama.cpp is not installed. ExportError where anything differs.
    """
    gguf = library()
    with opened_by("gguf", f"{install_command('gguf')} --upgrade"):
        found = {
            (t.name, t.tensor_type.name): torch.from_numpy(np.array(t.data)) for t in gguf.GGUFReader(path).tensors
        }
    written = {(t.name, t.type): torch.from_numpy(t.values) for t in _stored(gguf, model.config, tensors, dtype)}
    identical("the gguf", _by_text(written), _by_text(found))
    try:
        import llama_cpp
    except ImportError:
        return None
    by, ids = f"llama.cpp (llama_cpp {llama_cpp.__version__})", batch(model.config)
    llama_cpp.llama_log_set(_silence(llama_cpp), None)
    rows = []
    with opened_by(by, "pip install --upgrade llama-cpp-python"):
        cache = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)
        llama = llama_cpp.Llama(
            str(path), n_ctx=ids.size(1), n_batch=ids.size(1), logits_all=True, verbose=False, **cache
        )
        try:
            for text in hf_tokenizer.samples(tokenizer):
                if llama.tokenize(text.encode(), add_bos=False, special=True) != tokenizer.encode(text).tolist():
                    raise ExportError(f"{by} gives {text!r} other ids than the tokenizer of the model")
            for row in ids.tolist():
                llama.reset()
                llama.eval(row)
                rows.append(torch.from_numpy(np.array(llama.scores[: len(row)])))
        finally:
            llama.close()
    ours = model(ids.to(next(model.parameters()).device)).cpu()
    return check_logits(by, ours, torch.stack(rows), DTYPES[dtype].bound)


@cache
def _silence(llama_cpp: Any) -> Any:
    """A callback that discards llama.cpp's log lines; cached, as C holds no reference to it."""
    return llama_cpp.llama_log_callback(lambda level, text, data: None)


def library() -> Any:
    """Import the library `gguf`; UsageError where it is not installed."""
    try:
        import gguf
    except ImportError:
        raise UsageError(f"--to gguf: needs the library gguf; install it with {install_command('gguf')}") from None
    return gguf


def _architecture(config: ModelConfig) -> str:
    """The architecture of llama.cpp that computes such a model. UsageError as `family_of`, or where it has none."""
    name = family_of(config).model_type
    if name not in ACTIVATIONS:
        known = " and ".join(ACTIVATIONS)
        raise UsageError(f"llama.cpp does not compute models of the {name} shape, only {known}; export it with --to hf")
    if config.activation != ACTIVATIONS[name]:
        raise UsageError(
            f"model.activation {config.activation}: llama.cpp's {name} has {ACTIVATIONS[name]}; export it with --to hf"
        )
    return name


def _add_dimensions(writer: Any, config: ModelConfig) -> None:
    writer.add_context_length(config.block_size)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner)
    writer.add_head_count(config.n_head)
    if writer.arch == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_head_count_kv(config.n_head)
    writer.add_key_length(config.n_embd // config.n_head)
    writer.add_value_length(config.n_embd // config.n_head)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rotary_base)


def _add_vocabulary(writer: Any, tokenizer: Tokenizer) -> None:
    vocab = vocabulary(tokenizer)
    writer.add_tokenizer_model(MODEL)
    writer.add_tokenizer_pre(vocab.words)
    writer.add_token_list(vocab.tokens)
    writer.add_token_types(vocab.types)
    writer.add_token_merges(vocab.merges)
    writer.add_bos_token_id(tokenizer.end_of_text)
    writer.add_eos_token_id(tokenizer.end_of_text)
    writer.add_pad_token_id(hf_tokenizer.pad_token(tokenizer)[1])
    writer.add_add_bos_token(False)


def _stored(gguf: Any, config: ModelConfig, tensors: Mapping[str, Tensor], dtype: str) -> Iterator[Stored]:
    """The tensors under GGUF's names: the vocabulary unpadded, missing biases zero, a tied head left out."""
    family = FAMILIES[_architecture(config)]
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.model_type.upper()], config.n_layer)
    for name, tensor in to_hf(config, tensors).items():
        key = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if key is None:
            raise ExportError(f"{name}: has no name in a gguf of {family.model_type}")
        in_first = family.conv1d and name.removesuffix(".weight").endswith(BLOCK)  # stored as (in, out)
        values = (tensor.T.contiguous() if in_first else tensor).numpy()
        type_ = _type(key, values, dtype)
        if type_ == "F16" and np.abs(values).max() > F16_MAX:
            raise UsageError(f"{name}: holds a weight beyond {F16_MAX:,.0f}, the largest of f16; take --dtype bf16")
        yield Stored(key, type_, gguf.quantize(values, gguf.GGMLQuantizationType[type_]))


def _type(key: str, values: npt.NDArray[Any], dtype: str) -> str:
    if values.ndim == 1 or key == "position_embd.weight":
        return "F32"
    return DTYPES[dtype].type if values.shape[-1] % DTYPES[dtype].block == 0 else "F16"


def _of_any_layer(key: str) -> str:
    return ".".join("*" if part.isdigit() else part for part in key.split("."))


def _by_text(tensors: Mapping[tuple[str, str], Tensor]) -> dict[str, Tensor]:
    return {f"{name} ({type_})": tensor for (name, type_), tensor in tensors.items()}
