"""The commands as a user types them: what they print, what they write, how they refuse."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from groundup.checkpoint.run import RunFolder, read_log
from groundup.cli import COMMANDS, main

FAST = (
    "--model.n_layer 1 --model.n_head 2 --model.n_embd 16 --model.block_size 16 --train.batch_tokens 256 "
    "--train.max_steps 12 --train.threads 1 --train.precision fp32 --train.device cpu --train.log_every 5 "
    "--schedule.warmup_steps 2 --evaluate.every_steps 6 --evaluate.sample_tokens 6 --checkpoint.every_steps 6"
).split()


class Done:
    """A finished command: exit status, standard output, standard error."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def groundup(capsys, tmp_path, monkeypatch):
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*argv: object) -> Done:
        with pytest.raises(SystemExit) as exit_:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return Done(exit_.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def run(prepared, tmp_path_factory) -> Path:
    """A finished run of twelve steps."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    with pytest.raises(SystemExit) as exit_:
        main(["train", "gpt2-nano", "--data", str(prepared), "--out", str(folder), *FAST])
    assert exit_.value.code == 0
    return folder


def test_help_names_every_command_and_each_has_its_own(groundup):
    done = groundup("--help")
    assert done.status == 0
    for name in COMMANDS:
        assert f"  {name}" in done.out
        assert "usage: groundup" in groundup(name, "--help").out


def test_no_command_is_help_and_version_is_said(groundup):
    assert "commands:" in groundup().out
    assert re.fullmatch(r"groundup \d+\.\d+\.\d+\n", groundup("--version").out)


def test_a_run_in_a_pipe_prints_the_plan_and_a_line_an_interval(groundup, prepared, tmp_path):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *FAST)
    lines = done.out.splitlines()
    assert lines[0].startswith("model    1 layers, 2 heads, 16 wide, context 16, vocabulary 257:")
    assert any(line.startswith("step     16 windows x 16 = 256 tokens") for line in lines)
    assert any(line.startswith("machine  cpu, 1 threads, fp32") for line in lines)
    pattern = r"step \d+ \| loss \d+\.\d{4} \| dt \d+\.\d ms \| tok/s \d+ \| norm \d+\.\d\d \| lr \d\.\d\de-\d\d"
    steps = [line for line in lines if re.fullmatch(pattern, line)]
    assert [int(line.split()[1]) for line in steps] == [1, 5, 10, 12]
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


def test_yaml_lies_between_preset_and_options(groundup, prepared, tmp_path):
    (tmp_path / "r.yaml").write_text("optimizer:\n  learning_rate: 3e-4\ntrain:\n  max_steps: 99\n")
    groundup("train", "gpt2-nano", "--config", "r.yaml", "--data", prepared, "--out", "run", *FAST)
    config = RunFolder(tmp_path / "run").config()
    assert config.optimizer.learning_rate == 3e-4
    assert config.train.max_steps == 12
    assert config.optimizer.beta2 == 0.99  # the preset's


def test_train_json_is_one_object_on_standard_output(groundup, prepared):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", "--json", *FAST)
    values = json.loads(done.out)
    assert values["step"] == 12
    assert values["val_loss"] > 0
    assert "step 5 |" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_in_a_checkpoint_and_resume_goes_on(number, status, prepared, tmp_path):
    command = [sys.executable, "-m", "groundup"]
    options = [*FAST, "--train.max_steps", "100000", "--checkpoint.every_steps", "0", "--evaluate.every_steps", "0"]
    run = tmp_path / "run"
    child = subprocess.Popen(
        [*command, "train", "gpt2-nano", "--data", str(prepared), "--out", str(run), *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not ((run / "log.jsonl").exists() and len(read_log(run / "log.jsonl")) > 5):
        assert time.monotonic() < deadline
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.05)
    child.send_signal(number)
    out, _ = child.communicate(timeout=60)
    assert child.returncode == status
    assert f"next: groundup resume {run}" in out
    (checkpoint,) = RunFolder(run).steps()
    last = max(r["step"] for r in read_log(run / "log.jsonl") if r["event"] == "step")
    assert checkpoint.name == f"step-{last:08d}"
    arguments = [*command, "resume", str(run), "--train.max_steps", str(last + 3)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert f"step {last + 3:,} saved" in done.stdout


def test_a_closed_pipe_is_no_traceback(run):
    command = f"{sys.executable} -m groundup generate {run} --max_tokens 300 --prompt The | head -c 3"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "The"
    assert "Traceback" not in done.stderr


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trian"], "trian: there is no such command; did you mean train?"),
        (["train", "--out", "y"], "--data"),
        (["train", "gpt3", "--data", "x", "--out", "y"], "preset 'gpt3': there is none; did you mean gpt2?"),
        (["train", "--data", "x", "--out", "y", "--model.n_layers", "3"], "did you mean --model.n_layer?"),
        (["train", "--data", "x", "--out", "y", "--train.max-steps", "abc"], "train.max_steps: 'abc' is not a whole"),
        (["train", "--data", "x", "--out", "y", "--model.n_head", "5"], "n_embd 128 is not divisible by n_head 5"),
        (["train", "--data", "x", "--out", "y", "--config", "no.yaml"], "no.yaml: cannot be read"),
        (["train", "--data", "nowhere", "--out", "y"], "nowhere"),
        (["resume", "nowhere"], "nowhere: holds no run"),
        (["generate", "nowhere"], "nowhere: is neither a run nor a checkpoint"),
        (["evaluate", "nowhere"], "nowhere: is neither a run nor a checkpoint"),
        (["generate", "x", "--temperature", "-1"], "temperature -1.0: must be 0 (greedy) or more"),
        (["generate", "x", "--top_p", "2"], "top_p 2.0"),
        (["generate", "x", "--max_tokens", "many"], "'many'"),
        (["prepare", "nowhere.txt", "--out", "d"], "nowhere.txt"),
        (["prepare", ".", "--out", "d"], "."),
        (["prepare", "python-docs", "--out", "d", "--tokenizer", "gpt5"], "did you mean gpt2?"),
        (["quickstart", "--minutes", "0"], "--minutes 0.0: must be more than 0"),
        (["quickstart", "nowhere.txt"], "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(argv, sentence, groundup, tmp_path):
    done = groundup(*argv)
    assert done.status == 2
    assert sentence in done.err
    assert done.err.startswith("groundup: ")
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []  # nothing half-written


def test_a_text_shorter_than_the_context_is_refused_before_anything_is_written(groundup, tmp_path):
    (tmp_path / "short.txt").write_text("Not much to learn here, is there?")
    assert groundup("prepare", "short.txt", "--out", "d", "--tokenizer", "byte").status == 0
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run")
    assert done.status == 2
    assert "fewer than a context of 64" in done.err
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(groundup, prepared, run):
    before = (run / "log.jsonl").read_bytes()
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", run, *FAST)
    assert done.status == 2
    assert "holds a run already" in done.err
    assert (run / "log.jsonl").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_place_is_refused(groundup, prepared, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "locked/run", *FAST)
    assert done.status == 2
    assert "cannot be written" in done.err


def test_a_place_below_a_file_is_refused(groundup, prepared, tmp_path):
    (tmp_path / "file").write_text("x")
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "file/run", *FAST)
    assert done.status == 2
    assert "cannot be written" in done.err


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        ("model.safetensors", 20),
        ("config.json", 20),
        ("tokenizer/groundup-tokenizer.json", 20),
        ("SHA256SUMS", 20),  # in the middle of a line
        ("SHA256SUMS", 100),  # at the end of a line, tokenizer/groundup-tokenizer.json gone
    ],
)
def test_a_checkpoint_cut_short_is_named(name, cut, groundup, run, tmp_path):
    copy = tmp_path / "checkpoint"
    shutil.copytree(RunFolder(run).steps()[-1], copy)
    path = copy / name
    path.write_bytes(path.read_bytes()[:-cut])
    done = groundup("generate", copy)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert Path(name).name in done.err


def test_data_of_another_tokenizer_does_not_fit(groundup, run, tmp_path):
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "char")
    done = groundup("evaluate", run, "--data", "d")
    assert done.status == 2
    assert "another tokenizer" in done.err


def test_a_swapped_tokenizer_in_the_data_is_noticed(groundup, prepared, tmp_path):
    shutil.copytree(prepared, tmp_path / "d")
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "other", "--tokenizer", "char")
    shutil.rmtree(tmp_path / "d" / "tokenizer")
    shutil.copytree(tmp_path / "other" / "tokenizer", tmp_path / "d" / "tokenizer")
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *FAST)
    assert done.status == 2
    assert "not the tokenizer" in done.err


def test_a_prompt_that_the_characters_cannot_say_is_refused_by_name(groundup, tmp_path):
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "char")
    groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *FAST)
    done = groundup("generate", "run", "--prompt", "né")
    assert done.status == 2
    assert "LATIN SMALL LETTER E WITH ACUTE" in done.err or "LATIN SMALL LETTER N" in done.err


def test_a_vocabulary_that_contradicts_the_data_is_refused(groundup, prepared):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *FAST, "--model.vocab_size", "300")
    assert done.status == 2
    assert "tokenizer has 257 ids" in done.err


def test_a_sample_prompt_that_cannot_be_said_is_refused_before_training(groundup, tmp_path):
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "char")
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *FAST, "--evaluate.prompt", "é")
    assert done.status == 2
    assert "LATIN SMALL LETTER E WITH ACUTE" in done.err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_a_sentence_and_the_last_checkpoint_stays_whole(groundup, prepared, tmp_path, monkeypatch):
    import errno

    from groundup.checkpoint import state

    original, calls = state.save_file, []

    def full(*args):
        calls.append(1)
        if len(calls) > 2:  # the first checkpoint takes two files
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(state, "save_file", full)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *FAST)
    assert done.status == 2
    assert "No space left on device" in done.err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000006"]
    monkeypatch.setattr(state, "save_file", original)
    assert groundup("resume", "run").status == 0
