"""Runs that start with the weights of a checkpoint."""

import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from foreign_models import SMALL, gpt, hf_folder
from safetensors.torch import load_file

import groundup
from groundup.api import configure
from groundup.cli.parsing import Parser, add_config_arguments, config_of
from groundup.config.merge import ConfigSource
from groundup.data.shards import Tokens
from groundup.data.windows import ShuffledWindows
from groundup.distributed.process_group import SINGLE_PROCESS
from groundup.errors import CheckpointError, ConfigError
from groundup.interop.import_model import import_model
from groundup.model.fused_cpu import use_fused_cpu_kernels
from groundup.model.gpt import NextTokenLoss
from groundup.run.compose import compose_config
from groundup.run.init_model import build_initial_model
from groundup.training.micro_batches import BatchLoader
from groundup.training.train_state import TrainState

SHORT = {
    "train": {"batch_tokens": 64, "max_steps": 6, "threads": 1, "device": "cpu", "precision": "fp32", "log_every": 1},
    "checkpoint": {"every_steps": 6, "async_save": False},
    "evaluate": {"every_steps": 0, "sample_every_steps": 0},
    "schedule": {"warmup_steps": 1},
}


@pytest.fixture
def start(tmp_path, byte_tokenizer) -> Path:
    """An imported byte model with a context of 16 tokens."""
    model = gpt(SMALL.model_copy(update={"dropout": 0.1}))
    return import_model(hf_folder(tmp_path / "hf", model), tmp_path / "start", tokenizer=byte_tokenizer).out


def overrides(**sections):
    return {name: SHORT.get(name, {}) | sections.get(name, {}) for name in SHORT.keys() | sections.keys()}


def log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def final(run):
    return load_file(sorted((run / "checkpoints").iterdir())[-1] / "model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_training_starts_from_the_imported_loss_and_lowers_it(tmp_path, prepared, start):
    settings = overrides(model={"dropout": 0.0}, train={"max_steps": 40}, optimizer={"learning_rate": 0.01})
    groundup.train(prepared, tmp_path / "run", init_from=start, overrides=settings)
    imported = groundup.load(start, device="cpu")
    ids = torch.from_numpy(ShuffledWindows(Tokens.open(prepared, "train"), 16, 1337).read(0, 4).astype("int64"))
    with torch.no_grad():
        expected = NextTokenLoss(imported.model)(ids[:, :-1], ids[:, 1:]).item() / 64
    first = next(record for record in log(tmp_path / "run") if record["event"] == "step")
    assert math.isclose(first["loss"], expected, rel_tol=1e-6)
    before = groundup.evaluate(start, data=prepared, device="cpu").loss
    assert groundup.evaluate(tmp_path / "run", device="cpu").loss < before - 0.1
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert written["init_from"] == str(start)
    assert groundup.resume(tmp_path / "run").step == 40  # and its config.yaml can be reused


class Killed(BaseException):
    """Replaces SIGKILL: nothing is saved."""


def cut_off(monkeypatch, work):
    """Stop `work` in its third step, with only the run's config on disk."""
    original, calls = BatchLoader.micro_batches, []

    def micro_batches(self, cursor, *position):
        calls.append(cursor)
        if len(set(calls)) == 3:
            raise Killed
        return original(self, cursor, *position)

    with monkeypatch.context() as patched:
        patched.setattr(BatchLoader, "micro_batches", micro_batches)
        with pytest.raises(Killed):
            work()


def test_killed_before_its_first_checkpoint_a_run_resumes_bit_for_bit(tmp_path, prepared, start, monkeypatch):
    run, straight = tmp_path / "run", tmp_path / "straight"
    groundup.train(prepared, straight, init_from=start, overrides=overrides())
    cut_off(monkeypatch, lambda: groundup.train(prepared, run, init_from=start, overrides=overrides()))
    assert not list((run / "checkpoints").iterdir())
    groundup.resume(run)
    assert same(final(run), final(straight))
    start.rename(tmp_path / "moved")  # no longer needed
    assert groundup.resume(run, overrides={"train": {"max_steps": 7}}).step == 7


def test_a_checkpoint_that_has_changed_or_vanished_is_refused(tmp_path, prepared, start, byte_tokenizer, monkeypatch):
    run = tmp_path / "run"
    cut_off(monkeypatch, lambda: groundup.train(prepared, run, init_from=start, overrides=overrides()))
    import_model(hf_folder(tmp_path / "b", gpt(seed=1)), start, tokenizer=byte_tokenizer, overwrite=True)
    with pytest.raises(CheckpointError, match="is not what it was when the run was configured"):
        groundup.resume(run)
    start.rename(tmp_path / "moved")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read .*put the folder back"):
        groundup.resume(run)


def test_a_reset_restores_the_weights_of_the_checkpoint(tmp_path, prepared, start, monkeypatch):
    forward, reset, calls, seen = NextTokenLoss.forward, TrainState.reset, [], []

    def poisoned(self, ids, targets):
        calls.append(self.training)
        return forward(self, ids, targets) * (float("nan") if sum(calls) in (3, 4) else 1.0)

    def reset_and_record(self, initial):
        reset(self, initial)
        seen.append({name: tensor.clone() for name, tensor in self.model.named_parameters()})

    monkeypatch.setattr("groundup.training.dry_run.DryRunStep.__call__", lambda *_: None)
    monkeypatch.setattr("groundup.run.start._with_speed", lambda plan, trainer: plan)
    monkeypatch.setattr(NextTokenLoss, "forward", poisoned)
    monkeypatch.setattr(TrainState, "reset", reset_and_record)
    guard = {"max_bad_steps": 2, "max_rollbacks": 1}
    groundup.train(prepared, tmp_path / "run", init_from=start, overrides=overrides(guard=guard))
    assert len(seen) == 1
    assert same(seen[0], load_file(start / "model.safetensors"))


def test_a_run_starts_with_the_ema_of_the_checkpoint(tmp_path, prepared, start):
    groundup.train(prepared, tmp_path / "run", init_from=start, overrides=overrides(optimizer={"ema_decay": 0.5}))
    config = configure(prepared, init_from=tmp_path / "run", overrides=overrides())
    average = load_file(Path(config.init_from) / "average.safetensors")
    assert same(dict(build_initial_model(config, SINGLE_PROCESS).named_parameters()), average)


def test_the_model_card_names_the_initial_weights(tmp_path, prepared, start, monkeypatch):
    monkeypatch.setattr("groundup.interop.hf.check", lambda *_: None)
    short = overrides(train={"max_steps": 1})
    groundup.train(prepared, tmp_path / "first", init_from=start, overrides=short)
    groundup.train(prepared, tmp_path / "second", init_from=tmp_path / "first", overrides=short)

    def card(name):
        groundup.export(tmp_path / "second", tmp_path / name)
        return (tmp_path / name / "README.md").read_text()

    assert "initialized with the weights of a GPT2LMHeadModel of transformers" in card("all")
    start.rename(tmp_path / "moved")
    assert "initialized with the weights of start" in card("without the import")
    (tmp_path / "first").rename(tmp_path / "moved too")
    assert "initialized with the weights of first" in card("without the run")


def test_a_shorter_block_size_drops_the_last_positions(prepared, start):
    config = configure(prepared, init_from=start, overrides=overrides(model={"block_size": 8}))
    shorter, ids = use_fused_cpu_kernels(build_initial_model(config, SINGLE_PROCESS)).eval(), torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(shorter(ids), groundup.load(start, device="cpu").model(ids))


def test_the_shape_comes_from_the_checkpoint_not_the_preset(prepared, start, tmp_path):
    parser = Parser(prog="groundup train")
    add_config_arguments(parser)
    (tmp_path / "run.yaml").write_text(f"init_from: {start}\nmodel: {{dropout: 0.3}}")
    options = ["modern", "--init-from", str(start), "--model.dropout", "0.3"]
    for argv in (options, ["--config", str(tmp_path / "run.yaml")]):
        config = config_of(parser.parse_args(["--data", str(prepared), "--train.batch_tokens", "64", *argv]))
        assert config.model == SMALL.model_copy(update={"dropout": 0.3})
        assert config.init_from == str(start)
    assert config.init_sha256


def test_a_checksum_applies_only_to_its_checkpoint(prepared, start, tmp_path, byte_tokenizer):
    other = import_model(hf_folder(tmp_path / "b", gpt(seed=1)), tmp_path / "other", tokenizer=byte_tokenizer).out
    noted = {
        "init_from": str(other),
        "init_sha256": configure(prepared, init_from=other, overrides=overrides()).init_sha256,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(noted))
    assert (
        compose_config("gpt2-micro", [tmp_path / "run.yaml"], ConfigSource("options", {}))[1].init_sha256
        == noted["init_sha256"]
    )
    _, config = compose_config(
        "gpt2-micro", [tmp_path / "run.yaml"], ConfigSource("options", {"init_from": str(start)})
    )
    assert same(
        dict(build_initial_model(config, SINGLE_PROCESS).named_parameters()), load_file(start / "model.safetensors")
    )
    with pytest.raises(ConfigError, match="init_from: is empty; name a run"):
        compose_config("gpt2-micro", [], ConfigSource("options", {"init_from": ""}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            {"n_layer": 3},
            r"model\.n_layer: 3, but .*start, with whose weights the run is to start, has 2; leave it out",
        ),
        ({"block_size": 32}, r"model\.block_size: 32, but .* has 16; leave it out, or take a smaller one"),
        ({"activation": "relu"}, r"model\.activation: relu, but .* has gelu_tanh"),
        ({"vocab_size": 300}, r"model\.vocab_size: 300, but .* has 257"),
        ({"n_inner": 33}, r"model\.n_inner: 33, but .* has None"),
    ],
)
def test_another_shape_is_refused(start, model, message):
    with pytest.raises(ConfigError, match=message):
        compose_config("gpt2-micro", [], ConfigSource("options", {"init_from": str(start), "model": model}))


def test_a_missing_checkpoint_and_another_tokenizer_are_refused(tmp_path, start, sentences):
    with pytest.raises(CheckpointError, match="none: is neither a run nor a checkpoint"):
        compose_config("gpt2-micro", [], ConfigSource("options", {"init_from": str(tmp_path / "none")}))
    with pytest.raises(ConfigError, match="init_from: 3 is not text"):
        compose_config("gpt2-micro", [], ConfigSource("options", {"init_from": 3}))
    (tmp_path / "text.txt").write_text(sentences(50), encoding="utf-8")
    groundup.prepare([tmp_path / "text.txt"], tmp_path / "chars", tokenizer="char")
    with pytest.raises(ConfigError, match=r"another tokenizer than .*; prepare it with --tokenizer .*start/tokenizer"):
        configure(tmp_path / "chars", init_from=start)


def test_a_plan_has_the_shape_of_the_checkpoint(start, capsys):
    from groundup.cli import run

    assert run(["plan", "--init-from", str(start), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 3_944
    assert run(["plan", "--init-from", str(start), "--train.max_steps", "2"]) == 0
    assert "would learn more" not in capsys.readouterr().out  # it is already trained
