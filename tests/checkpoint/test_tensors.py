"""Tensors of a checkpoint: only those of its config, all finite, are loaded, and the others are named."""

import json
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from groundup.checkpoint import state
from groundup.checkpoint.files import CONFIG, MODEL, OPTIMIZER, PROGRESS
from groundup.checkpoint.tensors import expected_tensors, is_finite, read_tensors, tensor_problems
from groundup.config.model import ModelConfig
from groundup.config.schema import Config
from groundup.config.sections import OptimizerConfig
from groundup.distributed.gather import state_tensors
from groundup.errors import CheckpointError
from groundup.model import build_model
from groundup.model.size import MAX_READ_CONTEXT, is_learned, shapes
from groundup.optim.optimizer import build_optimizer, state_shapes
from groundup.tokenizers.byte_char import ByteTokenizer
from groundup.utils.files import write_checksums

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 8, "block_size": 8, "vocab_size": 257}
CONFIG_VALUES = Config(model=ModelConfig(**SIZES))


@pytest.fixture
def checkpoint(tmp_path):
    """The folder of a checkpoint after one step of AdamW."""
    model = build_model(CONFIG_VALUES.model).init_weights()
    optimizer = build_optimizer(model.named_parameters(), CONFIG_VALUES.optimizer)
    sum(p.sum() for p in model.parameters()).backward()
    optimizer.step()
    folder, metadata = tmp_path / "step-00000001", {"step": 1, "tokens": 8}
    state.save(folder, state.Snapshot(CONFIG_VALUES, ByteTokenizer(), metadata, state_tensors(model, optimizer)))
    return folder


def change(file, **changes):
    """Replace tensors of a file; None removes one."""
    tensors = load_file(file) | changes
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, file)


def reconfigure(folder, **model):
    """Give the checkpoint another model in its config.json, under checksums that match."""
    values = json.loads((folder / CONFIG).read_text())
    values["model"] |= model
    values["train"]["batch_tokens"] = values["model"]["block_size"]
    (folder / CONFIG).write_text(json.dumps(values))
    write_checksums_again(folder)


def write_checksums_again(folder):
    (folder / "SHA256SUMS").unlink()
    write_checksums(folder)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("changes", [{}, {"ngram": 3, "ngram_rows": 50, "norm": "rmsnorm", "tie_embeddings": False}])
@pytest.mark.parametrize(
    "rule", [{"name": "adamw"}, {"name": "muon"}, {"name": "sgd"}, {"name": "sgd", "momentum": 0.0}], ids=str
)
def test_expected_state_is_what_an_optimizer_has_after_a_step(rule, changes, fused, monkeypatch):
    if not fused:
        for name in ("AdamW", "SGD"):
            kind = getattr(torch.optim, name)
            monkeypatch.setattr(torch.optim, name, lambda *a, kind=kind, **k: kind(*a, **k | {"fused": False}))
    config = OptimizerConfig(**rule)
    model = build_model(ModelConfig(**SIZES, **changes)).init_weights()
    optimizer = build_optimizer(model.named_parameters(), config)
    sum(p.sum() for p in model.parameters() if p.requires_grad).backward()
    optimizer.step()
    found = state_tensors(model, optimizer).optimizer
    learned = {name: shape for name, shape in shapes(model.config).items() if is_learned(name)}
    assert learned.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert {key: tuple(tensor.shape) for key, tensor in found.items()} == state_shapes(config, learned)
    assert all(tensor.dtype == torch.float32 for tensor in found.values())


KEY, STEP = "h.1.mlp.c_fc.weight|exp_avg", "h.1.mlp.c_fc.weight|step"
SHAPE = (32, 8)
SPOILED_STATE = {
    "a moment that is one number": {KEY: torch.tensor(1.0)},
    "a moment of another shape": {KEY: torch.ones(8, 32)},
    "a moment in int8": {KEY: torch.ones(SHAPE, dtype=torch.int8)},
    "a moment in float64": {KEY: torch.ones(SHAPE, dtype=torch.float64)},
    "a moment that is NaN": {KEY: torch.full(SHAPE, torch.nan)},
    "a moment that is infinite": {KEY: torch.full(SHAPE, -torch.inf)},
    "a squared moment below 0": {KEY + "_sq": torch.full(SHAPE, -1.0)},
    "a step below 0": {STEP: torch.tensor(-1.0)},
    "a missing moment": {KEY: None},
    "a missing step": {STEP: None},
    "a step of two numbers": {STEP: torch.ones(2)},
    "a step that is NaN": {STEP: torch.tensor(torch.nan)},
    "an unknown key": {"h.1.mlp.c_fc.weight|max_exp_avg_sq": torch.ones(SHAPE)},
    "a key of another optimizer": {"h.1.mlp.c_fc.weight|momentum_buffer": torch.ones(SHAPE)},
    "a foreign parameter": {"h.2.mlp.c_fc.weight|exp_avg": torch.ones(SHAPE)},
    "no key": {"h.1.mlp.c_fc.weight": torch.ones(SHAPE)},
}


@pytest.mark.parametrize("kind", SPOILED_STATE)
def test_optimizer_state_other_than_expected_is_refused_and_named(kind, checkpoint):
    changes = SPOILED_STATE[kind]
    change(checkpoint / OPTIMIZER, **changes)
    model = build_model(CONFIG_VALUES.model)
    optimizer = build_optimizer(model.named_parameters(), CONFIG_VALUES.optimizer)
    (name,) = changes
    with pytest.raises(CheckpointError) as caught:
        state.load_optimizer(checkpoint, model, optimizer, CONFIG_VALUES.optimizer)
    assert name in str(caught.value)
    assert str(caught.value).startswith(str(checkpoint / OPTIMIZER))
    assert not any(optimizer.state.values())
    (found,) = tensor_problems(checkpoint / OPTIMIZER, expected_tensors(checkpoint, CONFIG_VALUES)[OPTIMIZER])
    assert found in str(caught.value)


def test_an_optimizer_may_have_no_state_before_its_first_step(checkpoint):
    save_file({}, checkpoint / OPTIMIZER)
    model = build_model(CONFIG_VALUES.model)
    optimizer = build_optimizer(model.named_parameters(), CONFIG_VALUES.optimizer)
    state.load_optimizer(checkpoint, model, optimizer, CONFIG_VALUES.optimizer)
    assert not any(optimizer.state.values())


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_weight_that_is_not_finite_is_refused_and_named(number, checkpoint):
    bias = torch.zeros(8)
    bias[3] = number
    change(checkpoint / MODEL, **{"ln_f.bias": bias})
    write_checksums_again(checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: ln_f\.bias has 1 numbers that are not finite"):
        state.load(checkpoint, device="cpu")


def test_finite_numbers_with_an_infinite_sum_are_finite():
    largest = torch.full((4,), torch.finfo(torch.float32).max)
    assert is_finite(largest)
    assert not is_finite(torch.cat([largest, torch.tensor([torch.inf])]))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))
    assert not is_finite(torch.tensor([0.0, torch.nan]))
    assert is_finite(torch.empty(0))


@pytest.mark.parametrize(
    "model",
    [
        {"n_layer": 10**6},
        {"n_layer": 10**9},
        {"n_layer": 3},
        {"n_embd": 10**9},
        {"n_inner": 10**9},
        {"vocab_size": 10**9},
        {"vocab_multiple": 10**9},
        {"block_size": 10**9},
        {"ngram": 8, "ngram_rows": 10**9},
    ],
    ids=str,
)
def test_a_config_that_asks_for_more_than_the_weights_hold_is_refused_before_anything_is_built(
    model, checkpoint, monkeypatch
):
    def build(config):
        raise AssertionError("built")

    monkeypatch.setattr(state, "build_model", build)
    reconfigure(checkpoint, **model)
    with pytest.raises(CheckpointError, match="use another checkpoint"):
        state.load(checkpoint, device="cpu")


def test_a_context_that_no_tensor_confirms_has_a_largest_length(tmp_path):
    rotary = ModelConfig(**SIZES | {"block_size": MAX_READ_CONTEXT, "position_embedding": "rotary"})
    save_file({name: torch.zeros(shape) for name, shape in shapes(rotary).items()}, tmp_path / MODEL)
    config = Config(model=rotary, train={"batch_tokens": MAX_READ_CONTEXT})
    assert expected_tensors(tmp_path, config)[MODEL] == shapes(rotary)
    longer = Config(
        model=rotary.model_copy(update={"block_size": 2 * MAX_READ_CONTEXT}),
        train={"batch_tokens": 2 * MAX_READ_CONTEXT},
    )
    with pytest.raises(CheckpointError, match="block_size is 2,097,152, of at most 1,048,576"):
        expected_tensors(tmp_path, longer)


def test_a_header_of_more_than_the_file_holds_is_refused_before_anything_is_built(checkpoint, monkeypatch):
    width = 10**8
    reconfigure(checkpoint, n_embd=width)
    wide = shapes(ModelConfig(**SIZES | {"n_embd": width}))
    entries = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]} for name, shape in wide.items()}
    header = json.dumps(entries).encode()
    (checkpoint / MODEL).write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    write_checksums_again(checkpoint)
    monkeypatch.setattr(state, "build_model", lambda config: pytest.fail("built"))
    with pytest.raises(CheckpointError, match="its tensors are larger than the file"):
        state.load(checkpoint, device="cpu")


def test_of_many_wrong_names_a_few_are_told(tmp_path):
    save_file({f"{i:03}" + "x" * 500: torch.zeros(1) for i in range(50)}, tmp_path / MODEL)
    with pytest.raises(CheckpointError) as caught:
        read_tensors(tmp_path / MODEL, {})
    assert "002" in str(caught.value)
    assert "and 47 more" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_state_is_missing_only_before_the_first_step(checkpoint):
    save_file({}, checkpoint / OPTIMIZER)
    values = {"step": 1, "tokens": 8, "cursor": 1, "elapsed": 0.1, "dt": 0.1, "data": ""}
    for guard, missing in ({}, False), ({"guard": {"loss": {"n": 0}}}, False), ({"guard": {"loss": {"n": 1}}}, True):
        (checkpoint / PROGRESS).write_text(json.dumps(values | guard))
        if missing:
            with pytest.raises(CheckpointError, match=r"state\.safetensors: .* of the model missing"):
                state.load_resumable(checkpoint)
        else:
            assert state.load_resumable(checkpoint) == values | guard
