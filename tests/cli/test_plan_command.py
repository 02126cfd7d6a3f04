"""`groundup plan`, and the plan that `train` prints."""

import json
import re
import shlex
import subprocess
import sys

import pytest

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.planning.choice import PROBES
from groundup.run.start import plan_with_speed, start_run
from groundup.ui.display import PlainDisplay


def test_it_needs_neither_data_nor_torch(tmp_path):
    code = (
        "import sys\nfrom groundup.cli import main\n"
        "try: main(['plan', 'gpt2', '--tokens-per-second', '1e5'])\nexcept SystemExit as e: print(e.code)\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"
    for part in ("124,439,808", "38,597,376", "798M", "GPT-2's", "19,073 steps = 10B tokens", "100,000 tokens/s"):
        assert part in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_none_is_no_value_for_a_number_and_a_word_for_a_text(groundup):
    words = ["plan", "gpt2-nano", "--json", "--train.time_limit", "none", "--evaluate.prompt"]
    assert [groundup(*words, prompt).status for prompt in ("None", "null")] == [0, 0]


def test_json_is_one_object_with_the_same_numbers(groundup):
    values = json.loads(groundup("plan", "gpt2", "--json", "--tokens_per_second", "1e5").out)
    assert values["parameters"] == 124_439_808 == sum(values["parameters_by_part"].values())
    assert values["memory"]["weights"] == 4 * (values["parameters"] + values["padding"])
    assert values["seconds"] == pytest.approx(values["tokens"] / 1e5 + values["evaluation_seconds"])
    assert json.loads(groundup("plan", "gpt2", "--json").out)["seconds"] is None


def test_the_data_determines_vocabulary_and_epochs(groundup, prepared):
    values = json.loads(groundup("plan", "gpt2-nano", "--data", prepared, "--json", "--train.epochs", 2).out)
    assert values["vocab_size"] == 257
    assert values["epochs"] == pytest.approx(2, rel=0.05)
    assert "the data's tokenizer, byte" in groundup("plan", "gpt2-nano", "--data", prepared).out


def test_the_speed_is_measured_or_taken_from_another_run(groundup, run, prepared, fast):
    like = json.loads(groundup("plan", "gpt2-nano", "--like", run, "--json", *fast).out)
    assert like["tokens_per_s"] > 0
    assert str(run) in like["speed_source"]
    measured = groundup("plan", "gpt2-nano", "--data", prepared, "--measure", *fast)
    assert measured.status == 0, measured.err
    assert "estimated from 16 sequences" in measured.out


def test_without_a_preset_all_are_listed_and_one_is_taken(groundup, prepared, run, tmp_path):
    done = groundup("plan", "--data", prepared, "--like", run)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert re.match(r".*data: 25,\d{3} tokens to train on, 257 ids \(byte\)", lines[0])
    rows = {line[2:].split()[0]: line for line in lines[3 : 3 + len(PRESETS)]}
    assert rows.keys() == PRESETS.keys()
    assert [line[0] for line in rows.values()].count(">") == 1
    assert f"time: estimated from {run}\n" in done.out
    assert max(len(line) for line in lines[1:-1] if not line.startswith(("time", "warning"))) <= 80
    command = shlex.split(lines[-1].removeprefix("next: "))
    assert command[:3] == ["groundup", "train", "gpt2-nano"]
    assert list(tmp_path.iterdir()) == []
    assert groundup(*command[1:], "--train.device", "cpu", "--dry-run").status == 0  # it is not refused


def test_the_list_is_json_too(groundup, prepared, run):
    values = json.loads(groundup("plan", "--data", prepared, "--like", run, "--train.max_steps", 100, "--json").out)
    assert [row["preset"] for row in values["presets"]] == list(PRESETS)
    assert {row["steps"] for row in values["presets"]} == {100}
    assert [row["preset"] for row in values["presets"] if row["chosen"]] == [values["chosen"]]
    assert values["command"].endswith("--train.max_steps 100")
    flops = {row["seconds"] * values["flops_per_second"] for row in values["presets"]}
    assert len(flops) > 1


def test_one_probe_times_all_presets(groundup, prepared, monkeypatch):
    monkeypatch.setitem(PROBES, "cpu", "gpt2-nano")
    options = ["--train.device", "cpu", "--train.threads", 1, "--train.max_tokens", 10**6]
    values = json.loads(groundup("plan", "--data", prepared, "--json", *options).out)
    assert "of gpt2-nano, timed here (cpu, " in values["speed_source"]
    nano, *_, mini = (row for row in values["presets"] if row["preset"] in ("gpt2-nano", "modern-mini"))
    assert mini["seconds"] > 20 * nano["seconds"] > 0


def test_presets_that_an_option_does_not_go_with_are_named(groundup, prepared, run):
    done = groundup("plan", "--data", prepared, "--like", run, "--model.n_head", 5)
    assert done.status == 2
    assert "is not divisible by n_head 5" in done.err


def test_the_plan_of_a_preset_names_measure(groundup, prepared):
    assert "unknown: no speed was measured; --measure times it here" in groundup("plan", "gpt2-nano").out
    assert "--measure" not in groundup("plan", "gpt2-nano", "--tokens-per-second", 1000).out


def test_a_model_that_does_not_fit_is_not_measured(groundup, monkeypatch):
    monkeypatch.setattr("groundup.run.resolve.main_memory", lambda: 10**6)
    done = groundup("plan", "gpt2-nano", "--measure", "--train.device", "cpu")
    assert done.status == 0
    assert "nothing was measured" in done.out
    assert "take a smaller model" in done.out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["gpt5"], "preset 'gpt5': there is none; did you mean gpt"),
        (["--tokens-per-second", "0"], "--tokens-per-second 0.0: must be between 1e-06 and 1e+15"),
        (["--tokens-per-second", "1e-320"], "must be between 1e-06 and 1e+15"),
        (["--train.max_steps", "1" + "0" * 400], "it must be at most 1e+15"),
        (["--model.n_embd", "3000000001", "--model.n_head", "7"], "it must be at most 1e+09"),
        (["--tokens-per-second", "nan"], "--tokens-per-second nan"),
        (["--tokens-per-second", "fast"], "fast"),
        (["--like", "nowhere"], "nowhere: holds no run"),
        (["--like", "x", "--measure"], "not allowed with"),
        (["--data", "nowhere"], "nowhere: no manifest.json here"),
        (["--config", "empty.yaml", "--train.max_steps", "none"], "no run length; give --train.max_steps"),
        (["--measure", "--train.device", "cuda:77"], "cuda:77 is not on this machine"),
    ],
)
def test_a_mistake_is_one_sentence(argv, sentence, groundup, tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    done = groundup("plan", *argv)
    assert done.status == 2
    assert sentence in done.err
    assert done.err.count("\n") == 1
    assert done.out == ""


def test_a_vocabulary_unlike_that_of_the_data_is_refused(groundup, prepared):
    done = groundup("plan", "--data", prepared, "--model.vocab_size", 9)
    assert done.status == 2
    assert "the data's tokenizer has 257 ids" in done.err


def test_a_dry_run_prints_what_train_would_and_writes_nothing(groundup, prepared, tmp_path, fast):
    dry = groundup("train", "gpt2-nano", "--data", prepared, "--dry-run", *fast)
    assert dry.status == 0
    assert list(tmp_path.iterdir()) == []
    wet = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast)
    names = ["model", "length", "step", "memory", "time", "disk"]
    planned = [line for line in dry.out.splitlines() if not line.startswith(("time", "machine"))]
    assert [line.split()[0] for line in dry.out.splitlines()][:6] == names
    assert planned == wet.out.splitlines()[:4] + wet.out.splitlines()[5 : len(planned) + 1]
    again = groundup("train", "gpt2-nano", "--data", prepared, "--dry-run", "--out", "run", *fast)
    assert again.status == 2
    assert "holds a run already" in again.err


def test_a_dry_run_is_json_too(groundup, prepared, tmp_path, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--dry-run", "--json", *fast)
    assert json.loads(done.out)["steps"] == 12
    assert list(tmp_path.iterdir()) == []


HUGE = ("--model.n_embd", 1_048_576, "--model.n_head", 4096)


@pytest.mark.parametrize("options", [["--dry-run"], ["--dry-run", "--json"], ["--out", "run"]])
def test_a_model_that_cannot_fit_is_one_sentence(options, groundup, prepared, tmp_path, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, *fast, *HUGE, *options)
    assert done.status == 2
    assert done.err.startswith("groundup: model: ")
    assert "TB of memory are more than the" in done.err
    assert "take a smaller model" in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tight(monkeypatch):
    """A little less memory than planned, which may be more than needed."""
    monkeypatch.setattr("groundup.run.resolve.main_memory", lambda: 330_000_000)


def test_a_model_that_may_not_fit_is_planned_without_being_built(groundup, prepared, fast, tight, monkeypatch):
    monkeypatch.setattr("groundup.run.start.Trainer", None)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--dry-run", *fast)
    assert done.status == 0, done.err
    assert "warning  3" in done.out
    assert "of memory are more than the 330 MB of this machine" in done.out
    assert "no speed was measured" in done.out


def test_a_model_that_may_not_fit_is_tried(groundup, prepared, tmp_path, fast, tight):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast)
    assert done.status == 0, done.err
    assert "of memory are more than the 330 MB of this machine" in done.out


def test_out_of_memory_for_the_weights_is_one_sentence(groundup, prepared, tmp_path, fast, monkeypatch):
    monkeypatch.setattr("groundup.run.resolve.main_memory", lambda: None)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast, *HUGE)
    assert done.status == 1
    assert "cpu: out of memory before the first step; take a smaller model" in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    measured = groundup("plan", "gpt2-nano", "--measure", *fast, *HUGE)
    assert measured.status == 0, measured.err
    assert "nothing was measured" in measured.out


def test_a_known_speed_is_not_measured_again(prepared, tmp_path, monkeypatch):
    overrides = {"train": {"max_steps": 2, "batch_tokens": 256, "device": "cpu"}, "model": {"block_size": 16}}
    config = merge_and_validate([preset("gpt2-nano"), ConfigSource("test", {"data": str(prepared), **overrides})])
    plan = plan_with_speed(config)
    assert plan.speed.tokens_per_s > 0
    assert plan.epochs == pytest.approx(2 * 16 / plan.data.sequences)
    monkeypatch.setattr("groundup.run.resolve.measure_throughput", None)
    messages = []
    assert start_run(config, tmp_path / "run", PlainDisplay(messages.append), speed=plan.speed).step == 2
    assert any(plan.speed.source in line for line in messages)


def test_measuring_does_not_change_the_run(groundup, prepared, tmp_path, fast, monkeypatch):
    dropout = ("--model.dropout", 0.1)
    groundup("train", "gpt2-nano", "--data", prepared, "--out", "with", *fast, *dropout)
    monkeypatch.setattr("groundup.run.resolve.measure_throughput", lambda *args, **options: None)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "without", *fast, *dropout)
    assert "no speed was measured" in done.out
    for name in ("model.safetensors", "optimizer/state.safetensors"):
        a, b = (tmp_path / run / "checkpoints" / "step-00000012" / name for run in ("with", "without"))
        assert a.read_bytes() == b.read_bytes()
