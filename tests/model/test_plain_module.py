"""A GPT is a plain `torch.nn.Module`: everything that PyTorch does with modules works, with all its parts."""

import copy
import io
import json
import pickle
import shutil

import pytest
import torch
import torch.nn.functional as F
from perturbed import perturbed
from torch import nn
from torch.utils.data import DataLoader

import groundup
from groundup import GPT, ModelConfig
from groundup.config.presets import PRESETS
from groundup.model import build_model

SHAPE = {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 16, "vocab_size": 70}
PRESETS_OF_ALL_PARTS = "gpt1", "gpt2", "modern", "fast"  # the others differ from these in sizes alone
KINDS = [
    *({**PRESETS[name]["model"], "n_inner": None, **SHAPE} for name in PRESETS_OF_ALL_PARTS),
    {"bias": False, "tie_embeddings": False, "dropout": 0.1, **SHAPE},
]

every_kind = pytest.mark.parametrize("kind", KINDS, ids=range(len(KINDS)))


def build(kind) -> GPT:
    return perturbed(ModelConfig(**kind)).eval()


def batch(seed=0):
    return torch.randint(70, (2, 4, 16), generator=torch.Generator().manual_seed(seed)).unbind()


def loss_of(model, seed=0) -> torch.Tensor:
    ids, targets = batch(seed)
    return F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())


def gradients(model) -> list[torch.Tensor]:
    model.zero_grad()
    loss_of(model).backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.requires_grad]


@every_kind
def test_ids_become_logits_over_the_vocabulary(kind):
    model = build(kind)
    assert isinstance(model, nn.Module)
    logits = model(batch()[0])
    assert logits.shape == (4, 16, 70)
    assert logits.isfinite().all()
    assert model(batch()[0][:, :5]).shape == (4, 5, 70)


@every_kind
def test_gradients_of_any_loss_are_those_of_the_unpadded_model(kind):
    padded, plain = build(kind), build({**kind, "vocab_multiple": 1})
    assert padded.config.padded_vocab > plain.config.padded_vocab == 70
    with torch.no_grad():
        for a, b in zip(padded.parameters(), plain.parameters(), strict=True):
            b.copy_(a[: b.size(0)])
    for a, b in zip(gradients(padded), gradients(plain), strict=True):
        torch.testing.assert_close(a[: b.size(0)], b)
        assert not a[b.size(0) :].any()


@every_kind
def test_a_torch_optimizer_trains_it(kind):
    model = build(kind).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    before = loss_of(model).item()
    for _ in range(20):
        loss_of(model).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss_of(model).item() < before - 0.5


def through_a_file(model: GPT) -> GPT:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build_model(model.config)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other.eval()


COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "state_dict": through_a_file,
}


@every_kind
@pytest.mark.parametrize("how", COPIES)
def test_copies_compute_the_same_and_learn_independently(kind, how):
    model = build(kind)
    before, tied = model(batch()[0]), model.config.tie_embeddings
    other = COPIES[how](model)
    assert torch.equal(other(batch()[0]), before)
    assert (other.lm_head.weight is other.wte.weight) == tied
    optimizer = torch.optim.SGD(other.parameters(), lr=0.5)
    loss_of(other).backward()
    optimizer.step()
    assert not torch.equal(other(batch()[0]), before)
    assert torch.equal(model(batch()[0]), before)


@every_kind
def test_to_converts_all_tensors(kind):
    model, before = build(kind), build(kind)(batch()[0])
    doubles = model.to(torch.float64)
    assert {tensor.dtype for tensor in doubles.state_dict().values() if tensor.is_floating_point()} == {torch.float64}
    torch.testing.assert_close(doubles(batch()[0]).float(), before)
    if model.config.tie_embeddings:
        assert doubles.lm_head.weight is doubles.wte.weight


MODERN = next(i for i, kind in enumerate(KINDS) if kind.get("position_embedding") == "rotary")
COMPILED = [
    *[pytest.param("aot_eager", kind, id=f"aot_eager-{i}") for i, kind in enumerate(KINDS)],
    *[  # which compiles C++; one kind of model is enough
        pytest.param(
            "inductor", kind, id=f"inductor-{i}", marks=[pytest.mark.slow if i == MODERN else pytest.mark.long]
        )
        for i, kind in enumerate(KINDS)
    ],
]


@pytest.mark.parametrize(("backend", "kind"), COMPILED)
def test_a_compiled_model_computes_the_same(backend, kind):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("no g++ here to compile with")
    torch._dynamo.reset()
    model = build(kind)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(batch()[0]), model(batch()[0]))
    for a, b in zip(gradients(compiled), gradients(model), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
def test_a_custom_loop_gives_the_losses_of_a_training_run(prepared, tmp_path):
    """Same seed, sequences and optimizer: the same losses as in the log of `groundup.train`."""
    steps, rows, lr, shape = 30, 8, 3e-3, {"n_layer": 2, "n_head": 2, "n_embd": 32, "block_size": 32}
    overrides = {
        "model": shape,
        "optimizer": {"learning_rate": lr, "weight_decay": 0.0, "beta2": 0.99, "grad_clip": 0.0},
        "schedule": {"name": "constant", "warmup_steps": 0},
        "train": {"seed": 3, "max_steps": steps, "batch_tokens": 256, "device": "cpu", "precision": "fp32"},
        "evaluate": {"sample_tokens": 0, "tokens": 256},
    }
    groundup.train(prepared, tmp_path / "run", preset="gpt2-nano", overrides=overrides)
    records = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    expected = [record["loss"] for record in records if record["event"] == "step"]

    data = groundup.data.dataset(prepared, block_size=32, seed=3)
    model = GPT(ModelConfig(**shape, vocab_size=data.vocab_size)).init_weights(torch.Generator().manual_seed(3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    losses = []
    for ids, targets in DataLoader(data, batch_size=rows, num_workers=2):
        loss = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) == steps:
            break
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses[-1] < losses[0] - 1.5
