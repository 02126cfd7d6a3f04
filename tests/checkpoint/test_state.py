"""Saving and loading of checkpoints, and rejection of invalid ones."""

import json
import os
import re
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.checkpoint import state
from groundup.checkpoint.files import FORMAT, load_config
from groundup.checkpoint.metadata import load_metadata
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig
from groundup.distributed.gather import state_tensors
from groundup.errors import CheckpointError
from groundup.model.gpt import GPT
from groundup.optim.optimizer import build_optimizer
from groundup.tokenizers.byte_char import ByteTokenizer

MODEL = ModelConfig(n_layer=1, n_head=2, n_embd=8, block_size=8, vocab_size=257)


@pytest.fixture
def checkpoint(tmp_path):
    model = GPT(MODEL).init_weights()
    optimizer = build_optimizer(model.named_parameters(), OptimizerConfig())
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    folder = tmp_path / "step-00000001"
    state.save(
        folder,
        state.Snapshot(Config(model=MODEL), ByteTokenizer(), {"step": 1, "tokens": 8}, state_tensors(model, optimizer)),
    )
    return folder, model, optimizer


def test_what_is_saved_is_loaded(checkpoint):
    folder, model, optimizer = checkpoint
    other = GPT(MODEL)
    moments = build_optimizer(other.named_parameters(), OptimizerConfig())
    state.load_model(folder, other)
    state.load_optimizer(folder, other, moments, OptimizerConfig())
    assert load_config(folder) == Config(model=MODEL)
    assert load_metadata(folder) == {"step": 1, "tokens": 8}
    assert state.load_tokenizer(folder).fingerprint == ByteTokenizer().fingerprint
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert optimizer.state[a].keys() == moments.state[b].keys()
        assert all(torch.equal(optimizer.state[a][key], moments.state[b][key]) for key in optimizer.state[a])


@pytest.mark.parametrize("change", ["missing", "foreign", "misshapen"])
def test_weights_that_do_not_fit_the_model_are_named(checkpoint, change):
    folder, model, _ = checkpoint
    tensors = load_file(folder / "model.safetensors")
    if change == "missing":
        del tensors["h.0.ln_1.weight"]
    elif change == "foreign":
        tensors["h.1.ln_1.weight"] = torch.ones(8)
    else:
        tensors["h.0.ln_1.weight"] = torch.ones(9)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"h\.[01]\.ln_1\.weight"):
        state.load_model(folder, model)


def test_a_newer_format_asks_for_an_update(checkpoint):
    folder, _, _ = checkpoint
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | {"format": FORMAT + 1}))
    with pytest.raises(CheckpointError, match="newer groundup"):
        load_config(folder)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("model", {"n_embd": 10, "n_head": 3}, "(model: n_embd 10 is not divisible by n_head 3"),
        ("train", {"seed": "x"}, "(train.seed: 'x' is not a whole number)"),
        ("train", {"sed": 1}, "(train.sed: unknown key; did you mean seed?)"),
    ],
)
def test_a_damaged_config_is_described_as_any_other(checkpoint, section, values, message):
    folder, _, _ = checkpoint
    config = json.loads((folder / "config.json").read_text())
    config[section] |= values
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=re.escape(f"config.json: damaged {message}")):
        load_config(folder)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(checkpoint):
    from groundup.tokenizers.byte_char import CharTokenizer

    folder, _, _ = checkpoint
    CharTokenizer.train(["abc"]).save(folder / "tokenizer")
    with pytest.raises(CheckpointError, match="this tokenizer has 4 ids, the model 257"):
        state.load_tokenizer(folder)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_weights_may_be_read_by_whom_the_umask_allows(umask, mode, checkpoint):
    folder, model, optimizer = checkpoint
    before = os.umask(umask)
    try:
        state.save(
            folder, state.Snapshot(Config(model=MODEL), ByteTokenizer(), {"step": 1}, state_tensors(model, optimizer))
        )
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if path.is_file()} == {mode}
