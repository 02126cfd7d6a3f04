"""The trainer: every config key has its effect, and evaluations, samples and dry runs have none."""

import itertools
import math
import signal
import subprocess

import pytest
import torch
import torch.nn.functional as F

import groundup
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.data.shards import Manifest, Tokens
from groundup.data.windows import windows_per_epoch
from groundup.errors import ConfigError
from groundup.optim.run_length import StepLength, TimeLength, build_run_length
from groundup.run import evaluator
from groundup.run.dataset import PreparedData
from groundup.run.resolve import detect_machine, resolve_config
from groundup.run.trainer import Trainer
from groundup.training.guard import LossGuard
from groundup.training.train_state import Progress
from groundup.ui.display import NullDisplay

BASE = {
    "model": {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16, "dropout": 0.1},
    "schedule": {"warmup_steps": 2},
    "train": {"max_steps": 8, "batch_tokens": 128, "threads": 1, "precision": "fp32", "device": "cpu"},
    "evaluate": {"every_steps": 0, "tokens": 200, "sample_every_steps": 0, "sample_tokens": 4},
    "checkpoint": {"every_steps": 0, "keep_last": 2},
}


def merged(changes: dict) -> dict:
    return {name: {**BASE.get(name, {}), **changes.get(name, {})} for name in {*BASE, *changes}}


@pytest.fixture
def train(prepared, tmp_path):
    """Train with changes; returns the run's folder."""
    count = iter(range(100))

    def run(**changes) -> RunFolder:
        folder = RunFolder(tmp_path / f"run{next(count)}")
        groundup.train(prepared, folder.path, overrides=merged(changes))
        return folder

    return run


def weights(run: RunFolder) -> bytes:
    return (run.steps()[-1] / "model.safetensors").read_bytes()


def losses(run: RunFolder) -> list[float]:
    return [r["loss"] for r in read_log(run.log) if r["event"] == "step"]


def test_evaluating_and_sampling_every_step_changes_nothing(train):
    often = {"every_steps": 1, "sample_every_steps": 1, "tokens": 500, "sample_tokens": 9}
    assert weights(train(evaluate=often, checkpoint={"every_steps": 1})) == weights(train())


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"seed": 1}},
        {"train": {"precision": "bf16"}},
        {"optimizer": {"learning_rate": 5e-4}},
        {"optimizer": {"grad_clip": 0.1}},
        {"optimizer": {"beta2": 0.9}},
        {"model": {"dropout": 0.0}},
        {"schedule": {"warmup_steps": 5}},
        {"train": {"seq_len_warmup_from": 8, "seq_len_warmup_until": 1.0}},
        {"model": {"ngram": 3, "ngram_rows": 50}},
    ],
    ids=str,
)
def test_each_of_these_keys_changes_the_losses(train, changes):
    assert losses(train(**changes))[-3:] != losses(train())[-3:]


def test_sequence_length_warm_up_starts_short_and_is_logged(train):
    run = train(train={"seq_len_warmup_from": 4, "seq_len_warmup_until": 0.7})
    steps = [record for record in read_log(run.log) if record["event"] == "step"]
    block = BASE["model"]["block_size"]
    assert steps[0]["context"] == 4
    assert steps[-1]["context"] == block
    full = [record for record in read_log(train().log) if record["event"] == "step"]
    assert [record["cursor"] for record in full] == [record["cursor"] for record in steps]
    assert {record["context"] for record in full} == {block}


def build(prepared, changes: dict) -> Trainer:
    """Build a trainer without writing files."""
    data = PreparedData.open(prepared)
    config = Config.model_validate({**merged(changes), "data": str(prepared)})
    resolved = resolve_config(config, data.tokenizer.n_vocab, detect_machine(config.train, prepared)[0])
    return Trainer(resolved, data, RunFolder(prepared), NullDisplay())


def test_the_seed_decides_weights_order_and_dropout(prepared):
    a, b = (build(prepared, {"train": {"seed": seed}}) for seed in (1, 2))
    assert not torch.equal(a.model.wte.weight, b.model.wte.weight)
    assert a.sequences.window_starts(0, 8).tolist() != b.sequences.window_starts(0, 8).tolist()
    draws = []
    for step in (0, 1, 0):
        a.state.progress.step = step
        a.state.seed_dropout()
        draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[2] != draws[1]  # each step has its own mask, and always the same one


def test_grad_clip_0_turns_clipping_off(train):
    assert losses(train(optimizer={"grad_clip": 0})) != losses(train(optimizer={"grad_clip": 1e-4}))
    assert all(math.isfinite(loss) for loss in losses(train(optimizer={"grad_clip": 0})))


def test_the_resolved_config_is_in_the_run_and_in_the_checkpoint(train):
    run = train(train={"precision": "auto", "threads": None, "device": "auto"})
    config = run.config()
    assert config.train.precision in ("fp32", "bf16")
    assert config.train.threads >= 1
    assert config.model.vocab_size == 257
    assert groundup.load(run.path).config == config


def test_the_last_checkpoints_are_kept_and_latest_points_to_the_newest(train):
    run = train(checkpoint={"every_steps": 2, "keep_last": 3})
    assert [path.name for path in run.steps()] == ["step-00000004", "step-00000006", "step-00000008"]
    assert (run.path / "latest").resolve() == run.steps()[-1].resolve()


def test_evaluations_and_checkpoints_may_be_counted_in_epochs(train, prepared):
    sequences = windows_per_epoch(Manifest.load(prepared).splits["train"].tokens, 16)
    length = {"max_steps": None, "epochs": 2, "batch_tokens": 16 * -(-sequences // 3)}  # three steps per epoch
    every = {"every_epochs": 1}
    run = train(train=length, evaluate=every, checkpoint=every | {"keep_last": 9, "save_best": False})
    assert [r["step"] for r in read_log(run.log) if r["event"] == "eval"] == [3, 6]
    assert [path.name for path in run.steps()] == ["step-00000003", "step-00000006"]
    assert run.config().checkpoint.every_epochs == 1


@pytest.mark.parametrize("at", [1, 2])  # the sample of step 4, and that of the last step
def test_a_sample_that_a_stop_interrupts_is_drawn_when_the_run_is_resumed(at, prepared, tmp_path, monkeypatch):
    settings = merged({"evaluate": {"sample_every_steps": 4}})

    def samples(run):
        return [(r["step"], r["text"]) for r in read_log(run / "log.jsonl") if r["event"] == "sample"]

    groundup.train(prepared, tmp_path / "whole", overrides=settings)
    (step, _), *_ = expected = samples(tmp_path / "whole")
    assert step == 4
    assert len(expected) == 2
    calls, original = itertools.count(1), evaluator.Engine

    def stopped(*args, **kwargs):
        if next(calls) == at:
            signal.raise_signal(signal.SIGTERM)
        return original(*args, **kwargs)

    monkeypatch.setattr(evaluator, "Engine", stopped)
    result = groundup.train(prepared, tmp_path / "run", overrides=settings)
    assert (result.signal, samples(tmp_path / "run")) == (signal.SIGTERM, expected[: at - 1])
    assert groundup.resume(tmp_path / "run").signal is None
    assert samples(tmp_path / "run") == expected


def test_samples_begin_with_the_prompt(train):
    (sample,) = [r for r in read_log(train(evaluate={"prompt": "The"}).log) if r["event"] == "sample"]
    assert sample["text"].startswith("The")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"max_steps": 7}, StepLength(7)),
        ({"max_tokens": 2048}, StepLength(1)),
        ({"max_tokens": 2049}, StepLength(2)),
        ({"epochs": 1}, StepLength(13)),  # 100 sequences, 8 per step
        ({"epochs": 2.5}, StepLength(32)),
        ({"max_time": "2m"}, TimeLength(120.0)),
    ],
    ids=str,
)
def test_run_lengths(given, expected):
    assert build_run_length(TrainConfig(batch_tokens=2048, **given), 8, epoch_sequences=100) == expected


def test_a_missing_run_length_is_refused():
    with pytest.raises(
        ConfigError, match=r"--train\.max_steps, --train\.max_tokens, --train\.epochs or --train\.max_time"
    ):
        build_run_length(TrainConfig(), 8, epoch_sequences=100)


def test_two_run_lengths_at_once_are_refused(train):
    with pytest.raises(ConfigError, match="give one run length, not both max_steps and epochs"):
        train(train={"max_steps": 3, "epochs": 1})


def test_a_run_length_in_time_counts_the_coming_step():
    assert TimeLength(10.0).reached(Progress(step=5, elapsed=9.5, dt=0.6))
    assert not TimeLength(10.0).reached(Progress(step=5, elapsed=9.5, dt=0.4))
    assert TimeLength(10.0).fraction(Progress(elapsed=4.0, dt=1.0)) == 0.5


def test_a_good_step_resets_the_count_of_bad_ones():
    guard = LossGuard(max_bad_steps=2)
    for step in range(0, 10, 2):
        assert not guard.allows_step(step, math.nan, 1.0)
        assert guard.allows_step(step + 1, 1.0, 1.0)


FULL_DISK = """
import resource, sys, groundup
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from groundup.cli import main
options = ["--train.max_steps", "3", "--train.threads", "1"]
main(["train", "gpt2-nano", "--data", sys.argv[1], "--out", sys.argv[2], *options])
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [10, 100_000])  # bytes: too few for the log, too few for the weights
def test_a_full_disk_is_one_sentence(size, prepared, tmp_path, forks):
    command = [*forks.words, "-c", FULL_DISK, str(prepared), str(tmp_path / "run"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("step-*"))


def test_one_path_works_like_a_list_of_one(tmp_path, sentences):
    (tmp_path / "a.txt").write_text(sentences(20))
    manifest = groundup.prepare(tmp_path / "a.txt", tmp_path / "d", tokenizer="byte")
    assert manifest.splits["train"].documents == 1


def test_a_context_that_is_too_long_is_refused(train):
    model = groundup.load(train().path).model
    with pytest.raises(ValueError, match="17 tokens exceed the context of 16"):
        model(torch.zeros(1, 17, dtype=torch.long))


def test_a_shorter_window_is_scored_as_if_the_context_were_shorter(train, prepared):
    run = train().path
    complete = groundup.evaluate(run)
    assert groundup.evaluate(run, window=16) == complete, "the model's own context is the default"
    short = groundup.evaluate(run, window=4)
    assert short.tokens == complete.tokens
    assert short.loss > complete.loss, "less is known in a shorter window"
    model = groundup.load(run).model
    ids = torch.from_numpy(Tokens.open(prepared, "val").read(0, complete.tokens + 1))
    rows = [(ids[i : i + 4], ids[i + 1 : i + 5]) for i in range(0, complete.tokens, 4)]
    with torch.no_grad():
        nats = sum(F.cross_entropy(model(x[None, : len(y)])[0], y, reduction="sum").item() for x, y in rows)
    assert short.loss == pytest.approx(nats / complete.tokens, abs=1e-4)
    for window in (0, 17):
        with pytest.raises(groundup.UsageError, match="from 1 to the model's context of 16"):
            groundup.evaluate(run, window=window)


def test_a_dry_run_of_evaluation_and_sample_leaves_no_trace(prepared):
    trainer = build(prepared, {"optimizer": {"ema_decay": 0.9}})
    before = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.evaluator.dry_run()
    assert all(map(torch.equal, before, trainer.model.parameters()))
    assert trainer.evaluator.losses.train_loss is None
    assert not (prepared / "log.jsonl").exists()
