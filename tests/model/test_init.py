"""skip_init skips the initialisation of weights and changes nothing else."""

import torch

from groundup.config.model import ModelConfig
from groundup.config.presets import MODERN_PARTS
from groundup.model.gpt import GPT
from groundup.model.init import skip_init

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 8, "vocab_size": 30}


def test_skip_init_draws_nothing_and_changes_nothing_else():
    for parts in ({}, MODERN_PARTS):
        config = ModelConfig(**{**SHAPE, **parts})
        state = torch.get_rng_state()
        with skip_init():
            bare = GPT(config)
        assert torch.equal(torch.get_rng_state(), state), "no generator was asked"
        drawn = GPT(config)
        assert not torch.equal(torch.get_rng_state(), state), "as it is outside"
        for model in (bare, drawn):
            model.init_weights(torch.Generator().manual_seed(0))
        ours, usual = bare.state_dict(), drawn.state_dict()
        assert ours.keys() == usual.keys()
        assert all(torch.equal(ours[name], usual[name]) for name in usual)
        assert all(torch.equal(a, b) for a, b in zip(bare.buffers(), drawn.buffers(), strict=True))
        assert torch.equal(bare(torch.zeros(1, 3, dtype=torch.long)), drawn(torch.zeros(1, 3, dtype=torch.long)))
