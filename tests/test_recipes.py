"""The recipes: their headers, their hyperparameters, and their results at laptop size (`make recipes`)."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from groundup.checkpoint.log import read_log
from groundup.config.merge import ConfigSource
from groundup.model.size import parameters
from groundup.run.compose import compose_config
from groundup.tokenizers.registry import load_tokenizer

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))
NAMES = [path.stem for path in RECIPES]
OPENWEBTEXT, FINEWEB, GPT1, GPT3, SHAKESPEARE = (
    "gpt2-124m-openwebtext10k", "gpt2-124m-fineweb-edu", "gpt1-books", "gpt2-124m-gpt3-hparams", "gpt2-124m-shakespeare"
)  # fmt: skip
HEADINGS = ("data", "machine", "hours", "loss")


def config_of(name, *, laptop=False):
    path = Path(__file__).parents[1] / "recipes" / f"{name}.yaml"
    return compose_config(None, [path], ConfigSource("options", {}), laptop=laptop)[1]


def test_there_are_five_known_runs():
    assert sorted(NAMES) == sorted([OPENWEBTEXT, FINEWEB, GPT1, GPT3, SHAKESPEARE])


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_names_its_needs_and_the_source_of_each_figure(path):
    head = path.read_text(encoding="utf-8").partition("\npreset:")[0]
    for word in HEADINGS:
        assert re.search(rf"^# {word}\s+\S", head, flags=re.MULTILINE), word
    about = {
        word: re.search(rf"^# {word}\s(.*?)(?=^# \w+\s\s|^#$)", head, re.MULTILINE | re.DOTALL)[1] for word in HEADINGS
    }
    for word in ("hours", "loss"):
        assert re.search("published|extrapolated|measured", about[word]), word
    assert f"--config recipes/{path.name}" in head


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_prepares_its_own_text_and_has_a_size_for_a_laptop(name):
    full, small = config_of(name), config_of(name, laptop=True)
    assert full.prepare.sources
    assert full.data != small.data
    vocab = {"vocab_size": 50_257 if full.prepare.tokenizer == "gpt2" else 40_000}
    complete, little = (parameters(config.model.model_copy(update=vocab)) for config in (full, small))
    assert complete == (124_439_808 if name != GPT1 else 116_167_680)  # the paper's shape with 40,000 ids
    assert little < 8_000_000


def test_an_epoch_of_ten_billion_tokens_is_as_long_as_published():
    config = config_of(FINEWEB)
    assert 10_000_000_000 // config.train.batch_tokens == 19_073
    assert (config.train.epochs, config.train.micro_batch_size * config.model.block_size) == (1, 32 * 1024)
    rate, schedule = config.optimizer.learning_rate, config.schedule
    assert (rate, rate * schedule.min_lr_ratio, schedule.warmup_steps) == (1e-3, pytest.approx(1e-4), 715)
    assert (config.evaluate.every_steps, config.evaluate.tasks) == (250, ("hellaswag",))


def test_the_hyperparameters_are_those_that_were_published():
    gpt3, bard, first = config_of(GPT3), config_of(SHAKESPEARE), config_of(GPT1)
    assert (gpt3.optimizer.beta1, gpt3.optimizer.beta2, gpt3.optimizer.grad_clip) == (0.9, 0.95, 1.0)
    assert (gpt3.optimizer.learning_rate, gpt3.optimizer.weight_decay) == (6e-4, 0.1)
    assert (gpt3.schedule.warmup_steps, gpt3.schedule.warmup_tokens) == (None, 375_000_000)
    assert (bard.batch_size, bard.model.block_size, bard.train.max_steps) == (16, 1024, 5000)
    assert (bard.schedule.warmup_steps, bard.optimizer.learning_rate * bard.schedule.min_lr_ratio) == (
        60,
        pytest.approx(6e-5),
    )
    assert bard.model.model_copy(update={"vocab_size": 50_257}).padded_vocab == 50_304
    assert (first.batch_size, first.model.block_size, first.train.max_steps) == (6, 512, 7000)
    assert first.evaluate.tokens == 200 * 6 * 512
    assert first.model.norm_position == "post_norm"


@pytest.fixture
def laptop(tmp_path, shared_data):
    """Train a recipe's laptop size; returns its log records. Shakespeare's text is read from a local file."""

    def train(name, *options, processes=1, out="run"):
        launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        words = ["-m", "groundup", "train", "--config", Path(__file__).parents[1] / "recipes" / f"{name}.yaml"]
        text = shared_data / "tinyshakespeare" / "input.txt"
        words += ["--laptop", "--out", out, "--prepare.sources", text, *options]
        command = [sys.executable, *launch, *words]
        done = subprocess.run(
            list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ.copy()
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return read_log(tmp_path / out / "log.jsonl"), done.stdout

    return train


def of(records, event):
    return [record for record in records if record["event"] == event]


@pytest.mark.long
def test_openwebtext10k_overfits_and_early_stopping_would_have_ended_it(laptop, tmp_path):
    records, _ = laptop(OPENWEBTEXT)
    evaluations = of(records, "eval")
    losses = [record["val_loss"] for record in evaluations]
    best = losses.index(min(losses))
    assert evaluations[-1]["train_loss"] <= 0.15
    assert losses[-1] > losses[best] + 1.0
    early, output = laptop(
        OPENWEBTEXT, "--data", "data/shakespeare-3k", "--train.early_stopping_patience", 5, out="early"
    )
    assert of(early, "step")[-1]["step"] == evaluations[best + 5]["step"] < of(records, "step")[-1]["step"]
    assert "no better validation loss in 5 evaluations" in output
    assert of(early, "eval")[best]["val_loss"] == losses[best]  # the same run, but for its end
    step = int((tmp_path / "early" / "best").resolve().name.removeprefix("step-"))
    assert step == evaluations[best]["step"]


@pytest.mark.long
def test_fineweb_edu_runs_hellaswag_at_its_interval_under_torchrun(laptop, shared_data, tmp_path):
    text = shared_data / "tinyshakespeare" / "input.txt"
    words = ["-m", "groundup", "prepare", text, "--out", "data/shakespeare-gpt2"]
    subprocess.run(list(map(str, [sys.executable, *words])), cwd=tmp_path, check=True, capture_output=True)
    questions = next((shared_data / "hellaswag").glob("*.jsonl"))
    records, output = laptop(FINEWEB, "--evaluate.tasks", f"{questions}:40", processes=2)
    steps, every = of(records, "step"), config_of(FINEWEB, laptop=True).evaluate.every_steps
    due = [n for n in range(1, steps[-1]["step"] + 1) if n % every == 0 or n == steps[-1]["step"]]
    assert [record["step"] for record in of(records, "eval")] == due
    assert all(next(iter(record["tasks"].values()))["n"] == 40 for record in of(records, "eval"))
    assert [record["step"] for record in of(records, "sample")] == due
    rates = [record["lr"] for record in steps]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] == pytest.approx(1e-4, rel=0.05)
    assert of(records, "eval")[-1]["val_loss"] < 7.0 < 10.5 < steps[0]["loss"]
    assert "2 processes" in output


@pytest.mark.long
def test_gpt1_has_its_own_vocabulary_and_both_norm_positions_learn(laptop, tmp_path):
    post, _ = laptop(GPT1)
    pre, _ = laptop(GPT1, "--model.norm_position", "pre_norm", out="pre")
    tokenizer = load_tokenizer(tmp_path / "data" / "shakespeare-1k" / "tokenizer")
    assert tokenizer.n_vocab == 1024
    assert [tokenizer.decode([id_]) for id_ in range(2)] == ["<|pad|>", "<|endoftext|>"]
    assert tokenizer.end_of_text == 1
    for records in (post, pre):
        assert [record["step"] for record in of(records, "eval")] == [200, 400, 600]
        assert of(records, "eval")[-1]["val_loss"] < 4.6 < 6.5 < of(records, "step")[0]["loss"]


@pytest.mark.long
def test_the_schedule_of_gpt3_at_laptop_size(laptop):
    records, _ = laptop(GPT3)
    rates = [record["lr"] for record in of(records, "step")]
    config = config_of(GPT3, laptop=True)
    warm = config.schedule.warmup_tokens / config.train.batch_tokens  # steps
    part = 375_000_000 / (19_073 * 524_288)
    assert warm / len(rates) == pytest.approx(part, rel=0.01)
    assert warm - 1 <= rates.index(max(rates)) <= warm
    assert rates[-1] == pytest.approx(0.1 * max(rates), rel=0.02)
    losses = [record["loss"] for record in of(records, "step")]
    assert losses[-1] < 7.0 < 10.5 < losses[0]


@pytest.mark.long
def test_shakespeare_is_memorised(laptop):
    records, output = laptop(SHAKESPEARE)
    losses = [record["loss"] for record in of(records, "step")]
    assert losses[60] < 3.0 < 4.0 < losses[0]
    assert min(losses) < 0.1
    assert of(records, "eval")[-1]["train_loss"] < 0.1
    assert of(records, "sample")[-1]["text"]
    assert of(records, "sample")[-1]["step"] == len(losses)
    assert re.search(
        r"^step \d+ \| loss [\d.]+ \| dt [\d.]+ ms \| tok/s \d+ \| norm [\d.]+ \| lr \d.\d\de-\d\d$", output, re.M
    )


@pytest.mark.long
def test_onecycle_peaks_at_the_right_step(laptop):
    steps = ["--train.max_steps", 60, "--evaluate.every_steps", 0, "--evaluate.sample_tokens", 0]
    records, _ = laptop(SHAKESPEARE, "--schedule.name", "onecycle", "--schedule.warmup_steps", "none", *steps)
    rates = [record["lr"] for record in of(records, "step")]
    assert rates.index(max(rates)) in (17, 18)  # at three tenths of the steps
    assert max(rates) == pytest.approx(config_of(SHAKESPEARE, laptop=True).optimizer.learning_rate)
    assert rates[0] == pytest.approx(max(rates) / 25, rel=0.01)
    assert rates[-1] < max(rates) / 1e4
