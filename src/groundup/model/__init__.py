"""GPT models: their parts, and the context that attention asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from groundup.config.model import ModelConfig
    from groundup.model.gpt import GPT


def build_model(config: ModelConfig) -> GPT:
    """The model that `config` describes, its weights not yet initialised: a GPT, with n-gram tables an NGramGPT."""
    # Imported here, for memory and size estimates need no torch.
    from groundup.model.gpt import GPT
    from groundup.model.ngram import NGramGPT

    return NGramGPT(config) if config.model_class == "NGramGPT" else GPT(config)
