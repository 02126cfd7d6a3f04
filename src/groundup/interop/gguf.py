"""Export to a GGUF file for llama.cpp: GPT-2's shape with a byte-level BPE, weights in fp32.

Sources: llama.cpp's `src/models/gpt2.cpp` for tensors and keys, its `llama-vocab.cpp` for the tokenizer "gpt2" with
the pattern "gpt-2", and the library `gguf`, which names and writes them.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import ExportError, UsageError
from groundup.interop import hf_tokenizer
from groundup.interop.hf_mapping import other_format
from groundup.interop.imported import VOCAB_TENSORS
from groundup.interop.parity import Agreement, batch, check_logits, identical, opened_by
from groundup.model.gpt import GPT
from groundup.tokenizers.base import Tokenizer
from groundup.utils.extras import install_command

ARCHITECTURE, TOKENIZER, PATTERN = "gpt2", "gpt2", "gpt-2"

# What llama.cpp's gpt2 computes, independent of the file. Its GELU is the tanh form.
REQUIRED: Mapping[str, Any] = {
    "norm_position": "pre_norm", "norm": "layernorm", "position_embedding": "learned", "qk_norm": "none",
    "embedding_norm": False, "logit_softcap": None, "activation": "gelu_tanh",
}  # fmt: skip

BOUND = 1e-2  # of the largest logit: ggml looks GELU up in a table of fp16


def refuse(config: ModelConfig, tokenizer: Tokenizer) -> None:
    """UsageError where llama.cpp's gpt2 cannot compute the model, or cannot split texts as the tokenizer does."""
    for key, value in REQUIRED.items():
        if (found := getattr(config, key)) != value:
            raise UsageError(
                f"model.{key} {found}: llama.cpp's {ARCHITECTURE} has {value} there; {other_format(config)}"
            )
    _vocabulary(tokenizer)


def write(
    path: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, *, name: str, licence: str
) -> None:
    """Write the file; UsageError as `refuse`, and where the library `gguf` is missing."""
    gguf = library()
    tokens, merges, specials = _vocabulary(tokenizer)
    with closing(gguf.GGUFWriter(path, ARCHITECTURE)) as writer:
        writer.add_name(name)
        if licence:
            writer.add_license(licence)
        writer.add_context_length(config.block_size)
        writer.add_embedding_length(config.n_embd)
        writer.add_block_count(config.n_layer)
        writer.add_feed_forward_length(config.inner)
        writer.add_head_count(config.n_head)
        writer.add_layer_norm_eps(config.norm_eps)
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        writer.add_tokenizer_model(TOKENIZER)
        writer.add_tokenizer_pre(PATTERN)
        writer.add_token_list(tokens)
        kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
        writer.add_token_types([kinds[token in specials] for token in tokens])
        writer.add_token_merges(merges)
        writer.add_bos_token_id(tokenizer.end_of_text)
        writer.add_eos_token_id(tokenizer.end_of_text)
        writer.add_pad_token_id(hf_tokenizer.pad_token(tokenizer)[1])
        writer.add_add_bos_token(False)
        for key, tensor in _gguf_tensors(gguf, config, tensors):
            writer.add_tensor(key, tensor.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


@torch.no_grad()
def check(path: Path, model: GPT, tensors: Mapping[str, Tensor], tokenizer: Tokenizer) -> Agreement | None:
    """Reopen the file and compare: every bit of the tensors, and logits and ids of llama.cpp.

    None where llama.cpp is not installed. ExportError where anything differs.
    """
    gguf = library()
    with opened_by("gguf", f"{install_command('gguf')} --upgrade"):
        found = {
            tensor.name: torch.from_numpy(np.array(tensor.data).reshape([int(size) for size in tensor.shape[::-1]]))
            for tensor in gguf.GGUFReader(path).tensors
        }
    identical("the gguf", dict(_gguf_tensors(gguf, model.config, tensors)), found)
    try:
        import llama_cpp
    except ImportError:
        return None
    by, ids = f"llama.cpp (llama_cpp {llama_cpp.__version__})", batch(model.config)
    llama_cpp.llama_log_set(_silence(llama_cpp), None)
    rows = []
    with opened_by(by, "pip install --upgrade llama-cpp-python"):
        llama = llama_cpp.Llama(str(path), n_ctx=ids.size(1), n_batch=ids.size(1), logits_all=True, verbose=False)
        try:
            for text in hf_tokenizer.SAMPLES:
                if llama.tokenize(text.encode(), add_bos=False, special=False) != tokenizer.encode(text).tolist():
                    raise ExportError(f"{by} gives {text!r} other ids than the tokenizer of the model")
            for row in ids.tolist():
                llama.reset()
                llama.eval(row)
                rows.append(torch.from_numpy(np.array(llama.scores[: len(row)])))
        finally:
            llama.close()
    ours = model(ids.to(next(model.parameters()).device)).cpu()
    return check_logits(by, ours, torch.stack(rows), BOUND)


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


def _gguf_tensors(gguf: Any, config: ModelConfig, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors under GGUF's names: the vocabulary unpadded, missing biases zero, a tied head left out."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, config.n_layer)
    for name, tensor in tensors.items():
        prefix = "" if name == "lm_head.weight" else "transformer."
        key = names.get_name(prefix + name, try_suffixes=(".weight", ".bias"))
        if key is None:
            raise ExportError(f"{name}: has no name in a gguf of {ARCHITECTURE}")
        yield key, tensor[: config.vocab] if name in VOCAB_TENSORS else tensor
        bias = key.removesuffix("weight") + "bias"
        if not config.bias and name.startswith(("h.", "ln_f.")):
            yield bias, tensor.new_zeros(tensor.size(0))


def _vocabulary(tokenizer: Tokenizer) -> tuple[list[str], list[str], set[str]]:
    """Tokens by id, merges in order of rank, special tokens. UsageError unless it is a byte-level BPE as GPT-2's."""
    contents = hf_tokenizer.contents(tokenizer)
    model, split = contents["model"], contents["pre_tokenizer"] or {}
    plain = model["type"] == "BPE" and contents["normalizer"] is None and split.get("type") == "ByteLevel"
    if not plain or split.get("add_prefix_space") or (model["merges"] and not split.get("use_regex", True)):
        raise UsageError(
            f"tokenizer {tokenizer.name}: llama.cpp has no such tokenizer; a gguf needs a byte-level BPE that "
            "splits texts as GPT-2 does (byte, gpt2 or bpe:SIZE); export it with --to hf"
        )
    added = {token["content"]: token["id"] for token in contents["added_tokens"]}
    pieces = {id_: piece for piece, id_ in {**model["vocab"], **added}.items()}
    if (missing := next((id_ for id_ in range(tokenizer.n_vocab) if id_ not in pieces), None)) is not None:
        raise UsageError(f"tokenizer {tokenizer.name}: its id {missing} has no name; export it with --to hf")
    end = hf_tokenizer.end_token(tokenizer)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    specials = {token["content"] for token in contents["added_tokens"] if token["special"]}
    # With no merges one that never applies: llama.cpp needs a list of them, and the format has no empty list.
    return [pieces[id_] for id_ in range(tokenizer.n_vocab)], merges or [f"{end} {end}"], specials
