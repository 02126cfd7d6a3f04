"""What the formulas say a backward pass needs, against the tensors that torch keeps for it."""

import pytest
import torch

from groundup.config import ModelConfig
from groundup.model import context, memory
from groundup.model.gpt import GPT, NextTokenLoss
from groundup.model.memory import activation_bytes, weight_copy_bytes
from groundup.training.device import autocast

MODERN = {
    "norm": "rmsnorm", "positions": "rotary", "qk_norm": True, "embedding_norm": True, "activation": "relu2",
    "bias": False, "tied": False, "softcap": 15.0,
}  # fmt: skip
ROWS = 4


def kept_bytes(config: ModelConfig, precision: str) -> int:
    """Bytes of all storages that autograd saves, parameters and constants of the model left out."""
    gpt = GPT(config).init_weights()
    own = {t.untyped_storage().data_ptr() for t in (*gpt.parameters(), *gpt.buffers())}
    kept: dict[int, torch.Tensor] = {}

    def pack(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in own:
            kept[t.untyped_storage().data_ptr()] = t  # held, so that no place in memory is used twice
        return t

    ids = torch.randint(config.vocab, (ROWS, config.block_size))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), autocast(precision, torch.device("cpu"))():
        NextTokenLoss(gpt)(ids, ids)
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "parts",
    [
        {}, {"block": "post_norm"}, {"activation": "relu"}, {"activation": "relu2"}, {"norm": "rmsnorm"},
        {"positions": "rotary"}, {"embedding_norm": True}, {"softcap": 15.0}, {"n_inner": 100}, {"dropout": 0.1},
        {"dropout": 0.1, "block": "post_norm"}, {"qk_norm": True, "norm": "rmsnorm"}, MODERN,
    ],
    ids=lambda parts: "-".join(map(str, parts)) or "gpt2",
)  # fmt: skip
def test_it_is_what_autograd_keeps(parts, precision):
    config = ModelConfig(**{"n_layer": 3, "n_head": 2, "n_embd": 128, "block_size": 128, "vocab_size": 256} | parts)
    e = 4 if precision == "fp32" else 2
    kept_logits = config.padded_vocab * (4 + (e if config.softcap else 0))
    planned = (activation_bytes(config, precision) + kept_logits) * ROWS * config.block_size
    assert planned + weight_copy_bytes(config, precision) == pytest.approx(kept_bytes(config, precision), rel=0.03)


def test_attention_is_spelt_out_up_to_the_same_length():
    assert memory.SPELT_OUT == context.SPELT_OUT
