"""What the config says is what happens; what should not matter does not."""

import math
import subprocess

import pytest
import torch
import torch.nn.functional as F

import groundup
from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.schema import Config
from groundup.config.sections import TrainConfig
from groundup.data.shards import Tokens
from groundup.errors import ConfigError
from groundup.optim.run_length import StepLength, TimeLength, build_run_length
from groundup.run.trainer import Trainer
from groundup.training.guard import LossGuard
from groundup.training.loop import Progress

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
def test_what_the_config_says_has_an_effect(train, changes):
    assert losses(train(**changes))[-3:] != losses(train())[-3:]


def test_short_contexts_come_first_and_the_log_says_so(train):
    run = train(train={"seq_len_warmup_from": 4, "seq_len_warmup_until": 0.7})
    steps = [record for record in read_log(run.log) if record["event"] == "step"]
    block = BASE["model"]["block_size"]
    assert steps[0]["context"] == 4
    assert steps[-1]["context"] == block
    whole = [record for record in read_log(train().log) if record["event"] == "step"]
    assert [record["cursor"] for record in whole] == [record["cursor"] for record in steps]
    assert {record["context"] for record in whole} == {block}


def test_the_seed_decides_weights_order_and_dropout(prepared):
    def first(seed: int, dropout: float) -> tuple[torch.Tensor, list[int], Trainer]:
        values = merged({"train": {"seed": seed}, "model": {"dropout": dropout, "vocab_size": 257}})
        training = Trainer(Config.model_validate({**values, "data": str(prepared)}), data, RunFolder(prepared), None)
        return training.moving.gpt.wte.weight, training.windows.window_starts(0, 8).tolist(), training

    from groundup.run.trainer import PreparedData

    data = PreparedData.open(prepared)
    (a, starts_a, training), (b, starts_b, _) = first(1, 0.1), first(2, 0.1)
    assert not torch.equal(a, b)
    assert starts_a != starts_b
    draws = []
    for step in (0, 1, 0):
        training._reseed(step)
        draws.append(torch.rand(4).tolist())
    assert draws[0] == draws[2] != draws[1]  # each step has a mask of its own, and always the same one


def test_no_clipping_means_no_clipping(train):
    assert losses(train(optimizer={"grad_clip": 0})) != losses(train(optimizer={"grad_clip": 1e-4}))
    assert all(math.isfinite(loss) for loss in losses(train(optimizer={"grad_clip": 0})))


def test_the_settled_config_stands_in_the_run_and_in_the_checkpoint(train):
    run = train(train={"precision": "auto", "threads": None, "device": "auto"})
    config = run.config()
    assert config.train.precision in ("fp32", "bf16")
    assert config.train.threads >= 1
    assert config.model.vocab_size == 257
    assert groundup.load(run.path).config == config


def test_the_last_checkpoints_stay_and_latest_points_to_the_newest(train):
    run = train(checkpoint={"every_steps": 2, "keep_last": 3})
    assert [path.name for path in run.steps()] == ["step-00000004", "step-00000006", "step-00000008"]
    assert (run.path / "latest").resolve() == run.steps()[-1].resolve()


def test_samples_begin_with_the_prompt(train):
    (sample,) = [r for r in read_log(train(evaluate={"prompt": "The"}).log) if r["event"] == "sample"]
    assert sample["text"].startswith("The")


@pytest.mark.parametrize(
    ("horizon", "expected"),
    [
        ({"max_steps": 7}, StepLength(7)),
        ({"max_tokens": 2048}, StepLength(1)),
        ({"max_tokens": 2049}, StepLength(2)),
        ({"epochs": 1}, StepLength(13)),  # 100 windows, 8 a step
        ({"epochs": 2.5}, StepLength(32)),
        ({"max_time": "2m"}, TimeLength(120.0)),
    ],
    ids=str,
)
def test_horizons(horizon, expected):
    config = Config(train=TrainConfig(batch_tokens=2048, **horizon))
    assert build_run_length(config, windows=100) == expected


def test_no_horizon_is_refused():
    with pytest.raises(
        ConfigError, match=r"--train\.max_steps, --train\.max_tokens, --train\.epochs or --train\.budget"
    ):
        build_run_length(Config(), windows=100)


def test_two_horizons_at_once_are_refused(train):
    with pytest.raises(ConfigError, match="give one horizon, not both max_steps and epochs"):
        train(train={"max_steps": 3, "epochs": 1})


def test_the_clock_counts_the_step_to_come():
    assert TimeLength(10.0).reached(Progress(step=5, elapsed=9.5, dt=0.6))
    assert not TimeLength(10.0).reached(Progress(step=5, elapsed=9.5, dt=0.4))
    assert TimeLength(10.0).fraction(Progress(elapsed=4.0, dt=1.0)) == 0.5


def test_a_good_step_ends_a_row_of_bad_ones():
    guard = LossGuard(bad_steps=2)
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
def test_a_disk_that_is_really_full_is_a_sentence(size, prepared, tmp_path, forks):
    command = [*forks.words, "-c", FULL_DISK, str(prepared), str(tmp_path / "run"), str(size)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "run").rglob("step-*"))


def test_one_path_is_as_good_as_a_list(tmp_path, sentences):
    (tmp_path / "a.txt").write_text(sentences(20))
    manifest = groundup.prepare(tmp_path / "a.txt", tmp_path / "d", tokenizer="byte")
    assert manifest.splits["train"].documents == 1


def test_a_context_too_long_is_a_sentence(train):
    model = groundup.load(train().path).model
    with pytest.raises(ValueError, match="17 tokens exceed the context of 16"):
        model(torch.zeros(1, 17, dtype=torch.long))


def test_shorter_windows_are_scored_as_if_the_context_were_shorter(train, prepared):
    run = train().path
    whole = groundup.evaluate(run)
    assert groundup.evaluate(run, window=16) == whole, "the model's own context is the default"
    short = groundup.evaluate(run, window=4)
    assert short.tokens == whole.tokens
    assert short.loss > whole.loss, "less is known in a shorter window"
    model = groundup.load(run).model
    ids = torch.from_numpy(Tokens.open(prepared, "val").read(0, whole.tokens + 1))
    rows = [(ids[i : i + 4], ids[i + 1 : i + 5]) for i in range(0, whole.tokens, 4)]
    with torch.no_grad():
        nats = sum(F.cross_entropy(model(x[None, : len(y)])[0], y, reduction="sum").item() for x, y in rows)
    assert short.loss == pytest.approx(nats / whole.tokens, abs=1e-4)
    for window in (0, 17):
        with pytest.raises(groundup.UsageError, match="from 1 to the model's context of 16"):
            groundup.evaluate(run, window=window)


def test_a_rehearsal_of_evaluation_and_sample_leaves_no_trace(prepared):
    from groundup.run.resolve import PreparedData

    values = merged({"model": {"vocab_size": 257}, "optimizer": {"ema_decay": 0.9}})
    config = Config.model_validate({**values, "data": str(prepared)})
    training = Trainer(config, PreparedData.open(prepared), RunFolder(prepared), None)
    before = [parameter.clone() for parameter in training.moving.gpt.parameters()]
    training.examiner.rehearse()
    assert all(map(torch.equal, before, training.moving.gpt.parameters()))
    assert training.examiner.losses.train_loss is None
    assert not (prepared / "log.jsonl").exists()
