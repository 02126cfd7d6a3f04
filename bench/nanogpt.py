"""nanoGPT, loaded from a checkout; none of its code is in this repository.

Shapes and weights come from a groundup model, so that both compute the same function.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.measure import CLONE
from groundup.model.gpt import GPT

HINT = f"without nanoGPT's rows: `{CLONE}` and give its folder with --nanogpt"

PADDED = ("wte.weight", "lm_head.weight")  # ours have padding rows; nanoGPT's have none


def twin(gpt: GPT, checkout: Path) -> Any:
    """nanoGPT's model with the shape and the weights of ours."""
    config = gpt.config
    assert config.activation in ("gelu", "gelu_tanh"), "nanoGPT has no other activation"
    assert config.tie_embeddings, "nanoGPT always ties its head"
    shape = {name: getattr(config, name) for name in ("block_size", "n_layer", "n_head", "n_embd", "dropout", "bias")}
    module = load_module(checkout / "model.py")
    with quiet():
        model = module.GPT(module.GPTConfig(vocab_size=config.vocab, **shape))
    for block in model.transformer.h if config.activation == "gelu_tanh" else ():
        block.mlp.gelu.approximate = "tanh"
    model.load_state_dict(
        {
            name if name.startswith("lm_head") else f"transformer.{name}": t[: config.vocab] if name in PADDED else t
            for name, t in gpt.state_dict().items()
        }
    )
    return model


def quiet() -> contextlib.AbstractContextManager[object]:
    """Discard standard output, as nanoGPT prints while it builds."""
    return contextlib.redirect_stdout(io.StringIO())


def load_module(path: Path) -> ModuleType:
    """A file of the checkout as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
