"""The commands as a user types them: output, files and errors."""

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module

import pytest

from groundup.checkpoint.log import read_log
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import COMMANDS
from groundup.cli.parsing import Parser, config_of, config_overrides, normalise


def test_help_names_every_command_and_each_has_its_own(groundup):
    done = groundup("--help-all")
    assert done.status == 0
    for name in COMMANDS:
        assert f"  {name}" in done.out
        assert "usage: groundup" in groundup(name, "--help").out


def test_no_command_prints_help_and_version_prints_the_version(groundup):
    assert groundup().out == groundup("--help").out
    assert re.fullmatch(r"groundup \d+\.\d+\.\d+\n", groundup("--version").out)


def test_a_run_in_a_pipe_prints_the_plan_and_a_line_per_interval(groundup, prepared, tmp_path, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast)
    lines = done.out.splitlines()
    assert lines[0].startswith("model    1 layer, 2 heads, 16 wide, context 16, vocabulary 257:")
    assert any(line.startswith("step     16 sequences x 16 = 256 tokens") for line in lines)
    assert any(line.startswith("machine  cpu, 1 thread, fp32") for line in lines)
    pattern = (
        r"step (\d+)/12 \| loss \d+\.\d{4} \| dt \d+\.\d ms \| tok/s [\d,]+ \| norm \d+\.\d\d \| lr \d\.\d\de-\d\d"
        r"( \| \ds left)?"
    )
    steps = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert [(int(match[1]), bool(match[2])) for match in steps] == [(1, False), (5, True), (10, True), (12, False)]
    assert sum("val loss" in line for line in lines) == 2
    assert lines[-1] == "next: groundup generate run --prompt TEXT"


def test_the_log_has_every_step_and_event(run):
    records = read_log(run / "log.jsonl")
    steps = [r for r in records if r["event"] == "step"]
    assert [r["step"] for r in steps] == list(range(1, 13))
    assert {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "cursor"} <= steps[0].keys()
    assert steps[-1]["tokens"] == 12 * 256
    (first, last) = [r for r in records if r["event"] == "eval"]
    assert {"step", "train_loss", "val_loss", "bits_per_byte"} <= first.keys()
    assert last["step"] == 12
    assert {r["event"] for r in records} == {"step", "eval", "sample", "save"}


def test_a_run_folder_is_complete_and_a_checkpoint_works_alone(groundup, run, tmp_path):
    assert (run / "latest" / "model.safetensors").is_file()
    assert json.loads((run / "environment.json").read_text())["versions"]["torch"]
    alone = tmp_path / "alone"
    shutil.copytree(RunFolder(run).steps()[-1], alone)
    done = groundup("generate", alone, "--prompt", "The", "--max-tokens", 5, "--json")
    assert done.status == 0
    assert json.loads(done.out)["samples"][0].startswith("The")


def test_evaluate_prints_what_the_run_logged(groundup, run):
    done = groundup("evaluate", run, "--json")
    logged = [r for r in read_log(run / "log.jsonl") if r["event"] == "eval"][-1]
    assert json.loads(done.out)["loss"] == pytest.approx(logged["val_loss"], abs=1e-5)
    assert json.loads(done.out)["bits_per_byte"] == pytest.approx(logged["bits_per_byte"], abs=1e-5)
    assert "bits/byte" in groundup("evaluate", run).out


def test_generate_streams_the_same_samples_for_the_same_seed(groundup, run):
    arguments = ("generate", run, "--prompt", "It", "--num_samples", 3, "--max_tokens", 8, "--seed", 4)
    first, second = groundup(*arguments), groundup(*arguments, "--json")
    samples = json.loads(second.out)["samples"]
    assert len(set(samples)) == 3
    for sample in samples:
        assert sample in first.out


def test_dashes_and_underscores_are_the_same(groundup, run):
    a = groundup("generate", run, "--max-tokens", 5, "--top-k", 3)
    b = groundup("generate", run, "--max_tokens=5", "--top_k=3")
    assert a.out == b.out


def test_yaml_overrides_the_preset_and_options_override_yaml(groundup, prepared, tmp_path, fast):
    (tmp_path / "r.yaml").write_text("optimizer:\n  learning_rate: 3e-4\ntrain:\n  max_steps: 99\n")
    groundup("train", "gpt2-nano", "--config", "r.yaml", "--data", prepared, "--out", "run", *fast)
    config = RunFolder(tmp_path / "run").config()
    assert config.optimizer.learning_rate == 3e-4
    assert config.train.max_steps == 12
    assert config.optimizer.beta2 == 0.99  # the preset's


@pytest.mark.parametrize("command", ["train", "resume", "verify_resume"])
@pytest.mark.parametrize("spelling", ["--track", "--tracking.backends"])
def test_trackers_are_named_by_a_plain_option_too(command, spelling):
    parser = Parser(prog=command)
    import_module(f"groundup.cli.{command}").add_arguments(parser)
    words = ["run"] if command == "resume" else ["gpt2-nano", "--data", "x"]
    args = parser.parse_args(normalise([*words, spelling, "wandb,trackio"]))
    data = {} if command == "resume" else {"data": "x"}
    assert config_overrides(args) == {"tracking": {"backends": "wandb,trackio"}} | data
    if command != "resume":
        assert config_of(args).tracking.backends == ("wandb", "trackio")


def test_train_json_is_one_object_on_standard_output(groundup, prepared, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", "--json", *fast)
    values = json.loads(done.out)
    assert values["step"] == 12
    assert values["val_loss"] > 0
    assert "step 5/12 |" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.long)]
)
def test_a_signal_saves_a_checkpoint_and_the_run_resumes(number, status, prepared, tmp_path, fast, forks):
    command = [sys.executable, "-m", "groundup"]
    options = [*fast, "--train.max_steps", "100000", "--checkpoint.every_steps", "0", "--evaluate.every_steps", "0"]
    run = tmp_path / "run"
    child = subprocess.Popen(
        [*command, "train", "gpt2-nano", "--data", str(prepared), "--out", str(run), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not ((run / "log.jsonl").exists() and len(read_log(run / "log.jsonl")) > 5):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(number)
    out, _ = child.communicate(timeout=300)
    assert child.returncode == status
    assert f"next: groundup resume {run}" in out
    (checkpoint,) = RunFolder(run).steps()
    last = max(r["step"] for r in read_log(run / "log.jsonl") if r["event"] == "step")
    assert checkpoint.name == f"step-{last:08d}"
    arguments = [*forks.words, "-m", "groundup", "resume", str(run), "--train.max_steps", str(last + 3)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"step {last + 3:,} saved" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_sigterm_before_training_ends_with_a_sentence(forks):
    code = """
import os, signal
from groundup.cli import corpora, main

def run(args):
    if not os.fork():  # a worker process, which is ended in silence
        signal.raise_signal(signal.SIGTERM)
    assert os.wait()[1] == signal.SIGTERM
    signal.raise_signal(signal.SIGTERM)

corpora.run = run
main(["corpora"])
"""
    done = subprocess.run([*forks.words, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (143, "groundup: ended by SIGTERM\n", "")


def test_a_closed_pipe_prints_no_traceback(run):
    command = f"{sys.executable} -m groundup generate {run} --max_tokens 300 --prompt The | head -c 3"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout == "The"
    assert "Traceback" not in done.stderr


@pytest.mark.long  # test_streams.py has it in one process
def test_if_the_reader_closes_the_pipe_the_run_saves_a_checkpoint(prepared, tmp_path, fast):
    run = tmp_path / "run"
    words = [sys.executable, "-m", "groundup", "train", "gpt2-nano", "--data", prepared, "--out", run, *fast]
    words += ["--train.max_steps", "100000", "--checkpoint.every_steps", "0"]
    command = f"({shlex.join(map(str, words))}; echo $? > {tmp_path}/status) | head -n 12"  # plan, then steps
    subprocess.run(command, shell=True, capture_output=True, timeout=300, check=True)
    assert (tmp_path / "status").read_text() == "141\n"
    assert RunFolder(run).steps()


def test_characters_that_the_terminal_cannot_show_are_escaped(groundup, run, monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown := io.BytesIO(), encoding="ascii"))
    assert groundup("generate", run, "--prompt", "caf\u00e9", "--max_tokens", "2").status == 0
    assert b"caf\\xe9" in shown.getvalue()


def test_a_prompt_may_begin_with_dashes(groundup, run):
    done = groundup("generate", run, "--max_tokens", 1, "--prompt=--- a-title", "--json")
    assert json.loads(done.out)["samples"][0].startswith("--- a-title")


def test_prepare_loads_no_torch(tmp_path):
    (tmp_path / "t.txt").write_text("some text " * 50)
    code = (
        "import sys\nfrom groundup.cli import main\n"
        "try: main(['prepare', 't.txt', '--out', 'd', '--tokenizer', 'gpt2'])\nexcept SystemExit: pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "False"


def test_options_are_spelled_with_dashes_or_underscores_and_help_shows_dashes(groundup, run):
    alike = [groundup("generate", run, option, 5, "--json").out for option in ("--max-tokens", "--max_tokens")]
    assert alike[0] == alike[1]
    text = groundup("generate", "--help").out
    assert "--max-tokens N" in text
    assert "max_tokens" not in text
    assert groundup("plan", "gpt2-nano", "--train.max-steps", 7, "--json").status == 0


BEFORE_TORCH = """
import sys
sys.modules["torch"] = None  # importing it fails
from groundup.cli import main
main(sys.argv[1:])
"""


def test_model_and_length_of_a_run_are_printed_before_torch_is_loaded(prepared, tmp_path, fast):
    words = [
        sys.executable,
        "-P",
        "-c",
        BEFORE_TORCH,
        "train",
        "gpt2-nano",
        "--data",
        str(prepared),
        "--out",
        "run",
        *fast,
    ]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    first, second = done.stdout.splitlines()
    assert first.startswith("model    1 layer, 2 heads")
    assert second.startswith("length   12 steps")
    assert "torch" in done.stderr


def test_no_line_of_the_plan_is_printed_twice(groundup, prepared, fast):
    lines = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast).out.splitlines()
    plan = [line.split()[0] for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("machine"))]]
    assert sorted(set(plan) - {"warning"}) == ["disk", "length", "memory", "model", "step", "time"]
    assert len([word for word in plan if word != "warning"]) == 6
