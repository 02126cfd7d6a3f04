"""Models of other programs, tiny, as these write them."""

import json
from pathlib import Path

import numpy as np
import torch

from groundup.config.model import ModelConfig
from groundup.interop.hf_mapping import config_json, to_hf
from groundup.model.gpt import GPT
from groundup.tokenizers.gpt2 import GPT2Tokenizer

SMALL = ModelConfig(n_layer=2, n_head=2, n_embd=8, block_size=16, vocab_size=257)


def gpt(config: ModelConfig = SMALL, seed: int = 0) -> GPT:
    """Model with all weights random, including biases and norms."""
    generator, model = torch.Generator().manual_seed(seed), GPT(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
        for table in (model.wte.weight, model.lm_head.weight):
            table[config.vocab :] = 0
    return model


def logits(model: GPT) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(32).view(2, 16))


def plain(model: GPT) -> dict[str, torch.Tensor]:
    """Weights as nanoGPT and llm.c name them, with an unpadded vocabulary."""
    named = {f"transformer.{name}": tensor.detach().clone() for name, tensor in model.named_parameters()}
    named["transformer.wte.weight"] = named["transformer.wte.weight"][: model.config.vocab].clone()
    return named


def hf_folder(folder: Path, model: GPT, **changes: object) -> Path:
    """Write a folder of transformers, without a tokenizer."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    values = config_json(model.config, 256) | changes
    (folder / "config.json").write_text(json.dumps(values), encoding="utf-8")
    save_file(to_hf(model.config, {n: p.detach() for n, p in model.named_parameters()}), folder / "model.safetensors")
    return folder


def nanogpt(path: Path, model: GPT, **changes: object) -> Path:
    c = model.config
    weights = {f"_orig_mod.{name}": tensor for name, tensor in plain(model).items()}
    weights["_orig_mod.lm_head.weight"] = weights["_orig_mod.transformer.wte.weight"]
    settings = {"n_layer": c.n_layer, "n_head": c.n_head, "n_embd": c.n_embd, "block_size": c.block_size,
                "bias": c.bias, "vocab_size": c.vocab, "dropout": 0.0}  # fmt: skip
    torch.save({"model": weights, "model_args": settings | changes, "iter_num": 5, "config": {}, "optimizer": {}}, path)
    return path


def llmc(path: Path, model: GPT, *, version: int = 3) -> Path:
    """Write a file as llm.c's train_gpt2.py does: each kind of weight for all layers."""
    c, named = model.config, plain(model)
    rows = -(-c.vocab // 128) * 128
    named["transformer.wte.weight"] = torch.cat([named["transformer.wte.weight"], torch.full((rows - c.vocab, 8), 9.0)])
    parts = ["ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight",
             "attn.c_proj.bias", "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight",
             "mlp.c_proj.bias"]  # fmt: skip
    order = ["wte.weight", "wpe.weight", *(f"h.{i}.{part}" for part in parts for i in range(c.n_layer))]
    header = np.zeros(256, dtype="<i4")
    header[:8] = 20240326, version, c.block_size, c.vocab, c.n_layer, c.n_head, c.n_embd, rows
    tensors = [named[f"transformer.{name}"] for name in (*order, "ln_f.weight", "ln_f.bias")]
    body = [t.bfloat16().view(torch.int16).numpy() if version == 5 else t.numpy() for t in tensors]
    path.write_bytes(header.tobytes() + b"".join(part.tobytes() for part in body))
    return path


def gpt2_vocabulary() -> dict[str, int]:
    """GPT-2's vocabulary as in the hub's vocab.json."""
    from groundup.tokenizers.gpt2 import byte_characters

    spelling = {byte: character for character, byte in byte_characters().items()}
    tokenizer = GPT2Tokenizer()
    pieces = [tokenizer.decode_bytes([i]) for i in range(50_256)]
    return {"".join(spelling[b] for b in piece): i for i, piece in enumerate(pieces)} | {"<|endoftext|>": 50_256}
