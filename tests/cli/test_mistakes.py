"""Mistakes get one sentence: where, value, remedy; exit status 2; no partial files."""

import errno
import os
import re
import shutil
from importlib import import_module
from pathlib import Path

import pytest

from groundup.checkpoint import state
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli.parsing import Parser
from groundup.config.aliases import ADVICE_FOR


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["trian"], "trian: there is no such command; did you mean train?"),
        (["train", "--data", "x"], "--out"),
        (["train", "gpt3", "--data", "x", "--out", "y"], "preset 'gpt3': there is none; did you mean gpt2?"),
        (["train", "", "--data", "x", "--out", "y"], "preset '': there is none; known: gpt1"),  # "$UNSET"
        (["train", "--data", "x", "--out", "y", "--model.n_layerz", "3"], "did you mean --model.n_layer?"),
        (["train", "--data", "x", "--out", "y", "--train.max-steps", "abc"], "train.max_steps: 'abc' is not a whole"),
        (["train", "--data", "x", "--out", "y", "--model.n_head", "5"], "n_embd 128 is not divisible by n_head 5"),
        (["train", "--data", "x", "--out", "y", "--config", "no.yaml"], "no.yaml: cannot be read"),
        (["train", "--data", "nowhere", "--out", "y"], "nowhere"),
        (["train", "--out", "y"], "no prepared folder is named; give one with --data"),
        (["train", "--data", "x", "--out", "y", "--optimizer.beta1", "1"], "must be less than 1"),
        (["train", "--data", "x", "--out", "y", "--optimizer.learning_rate", "1e38"], "must be at most 10"),
        (["train", "--data", "x", "--out", "y", "--train.threads", "100000"], "must be at most 1024"),
        (["train", "--data", "x", "--out", "y", "--train.seed", "9" * 20], "train.seed"),
        (
            ["train", "--data", "x", "--out", "y", "--train.max_steps", "2", "--train.epochs", "1"],
            "give one run length",
        ),
        (["resume", "nowhere"], "nowhere: holds no run"),
        (["generate", "nowhere"], "nowhere: is neither a run nor a checkpoint"),
        (["evaluate", "nowhere"], "nowhere: is neither a run nor a checkpoint"),
        (["generate", "x", "--temperature", "-1"], "temperature -1.0: must be 0 (greedy) or more"),
        (["generate", "x", "--top_p", "2"], "top_p 2.0"),
        (["generate", "x", "--temperature", "nan"], "temperature nan"),
        (["generate", "x", "--seed", "9" * 20], "seed 999"),
        (["generate", "x", "--max_tokens", "many"], "'many'"),
        (["prepare", "nowhere.txt", "--out", "d"], "nowhere.txt"),
        (["prepare", ".", "--out", "d"], "."),
        (["prepare", "python-docs", "--out", "d", "--tokenizer", "gpt5"], "did you mean gpt2?"),
        (["prepare", "https://example.com/a.txt", "--out", "d"], "https://example.com/a.txt: an address"),
        (["prepare", "python-docs", "--out", "a\0b"], r"a\x00b: has a NUL character; leave it out"),
        (["tokenizer", "train", "python-docs", "--out", "a\0b"], r"a\x00b: has a NUL character; leave it out"),
        (["train", "--data", "x", "--out", "y", "--optimizer.learning_rate", "-1e-3"], "must be at least 1e-12"),
        (["train", "--data", "x", "--out", "y", "--data", "a\0b"], r"a\x00b: has a NUL character; leave it out"),
        (["prepare", "x", "--out", "a" * 5000], "File name too long"),
        (["resume", "a" * 5000], "File name too long"),
        (["train", "--data", "a" * 5000, "--out", "y"], "File name too long"),
        (["train", "--data", "x", "--out", "a" * 5000, "--init-from", "a" * 5000], "File name too long"),
        (["generate", "x", "--temperature", "-1e-3"], "temperature -0.001: must be 0 (greedy) or more"),
        (["generate", "x", "--max-tokens", "1e-1"], "--max-tokens: '1e-1' is not a whole number"),
        (["generate", "x", "--prompt", "\udce9"], r"--prompt: '\udce9' is not UTF-8; give the text in that encoding"),
        (["train", "--data", "x", "--out", "y", "--train.device", "cuda:" + "9" * 20], "cuda:N or mps"),
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
    assert list(tmp_path.iterdir()) == []  # no partial files


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("empty.txt", b"", "there is no text in it"),
        ("blank.jsonl", b"\n\n", "there is no text in it"),
        ("binary.txt", b"text\0text", "byte 4 is NUL"),
        ("utf16.txt", "text".encode("utf-16"), "add --encoding utf-16"),
        ("latin.txt", b"fine\ncaf\xe9 au lait", "byte 8 (line 2)"),
        ("picture.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "NUL"),
        ("wrong.jsonl", b'{"txt": "a"}', "did you mean"),
        ("number.jsonl", b'{"text": 5}', "text"),
        ("torn.jsonl", b'{"text": "a', "torn.jsonl, line 1"),
        ("cut.txt.gz", b"\x1f\x8b\x08\x00", "cut.txt.gz"),
        ("table.parquet", b"PAR1", "damaged or cut short as a parquet file"),
    ],
)
@pytest.mark.parametrize("tokenizer", ["byte", "char"])
def test_a_source_that_is_not_text_is_one_sentence(name, content, sentence, tokenizer, groundup, tmp_path):
    (tmp_path / name).write_bytes(content)
    done = groundup("prepare", name, "--out", "d", "--tokenizer", tokenizer)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert name in done.err
    assert sentence in done.err
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_empty_folder_is_refused(groundup, tmp_path):
    (tmp_path / "empty").mkdir()
    done = groundup("prepare", "empty", "--out", "d")
    assert done.status == 2
    assert "no text files in this folder" in done.err


def test_errors_replace_continues(groundup, tmp_path):
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 au lait " * 20)
    assert groundup("prepare", "latin.txt", "--out", "d", "--tokenizer", "byte", "--errors", "replace").status == 0


@pytest.mark.parametrize("command", ["generate", "evaluate"])
def test_an_unknown_device_is_refused(command, groundup, run):
    done = groundup(command, run, "--device", "gpu")
    assert done.status == 2
    assert "'gpu' is not one of auto, cpu, cuda, cuda:N, mps" in done.err


def test_values_out_of_range_are_named_before_anything_is_printed(groundup, run):
    done = groundup("generate", run, "--prompt", "hello", "--num_samples", "0")
    assert (done.status, done.out) == (2, "")
    assert "num_samples 0: must be from 1 to 1,000" in done.err
    done = groundup("generate", run, "--prompt", "hello", "--num_samples", "1000000000")  # before room is made for them
    assert (done.status, done.out) == (2, "")
    assert "num_samples 1000000000: must be from 1 to 1,000" in done.err
    assert "tokens -5: must be 1 or more" in groundup("evaluate", run, "--tokens", "-5").err


def test_a_text_shorter_than_the_context_is_refused_before_anything_is_written(groundup, tmp_path):
    (tmp_path / "short.txt").write_text("Not much to learn here, is there?")
    assert groundup("prepare", "short.txt", "--out", "d", "--tokenizer", "byte").status == 0
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run")
    assert done.status == 2
    assert "fewer than a context of 64" in done.err
    assert not (tmp_path / "run").exists()


def test_a_run_is_never_overwritten(groundup, prepared, run, fast):
    before = (run / "log.jsonl").read_bytes()
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", run, *fast)
    assert done.status == 2
    assert "holds a run already" in done.err
    assert (run / "log.jsonl").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_path_is_refused(groundup, prepared, tmp_path, fast):
    (tmp_path / "locked").mkdir(mode=0o500)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "locked/run", *fast)
    assert done.status == 2
    assert "cannot be written" in done.err


def test_a_path_below_a_file_is_refused_too(groundup, prepared, tmp_path, fast):
    (tmp_path / "file").write_text("x")
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "file/run", *fast)
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


def test_a_swapped_tokenizer_in_the_data_is_noticed(groundup, prepared, tmp_path, fast):
    shutil.copytree(prepared, tmp_path / "d")
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "other", "--tokenizer", "char")
    shutil.rmtree(tmp_path / "d" / "tokenizer")
    shutil.copytree(tmp_path / "other" / "tokenizer", tmp_path / "d" / "tokenizer")
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *fast)
    assert done.status == 2
    assert "not the tokenizer" in done.err


def test_a_character_of_the_prompt_outside_the_vocabulary_is_named(groundup, tmp_path, fast):
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "char")
    groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *fast)
    done = groundup("generate", "run", "--prompt", "né")
    assert done.status == 2
    assert "LATIN SMALL LETTER E WITH ACUTE" in done.err or "LATIN SMALL LETTER N" in done.err


def test_a_vocabulary_that_contradicts_the_data_is_refused(groundup, prepared, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast, "--model.vocab_size", "300")
    assert done.status == 2
    assert "tokenizer has 257 ids" in done.err


def test_a_sample_prompt_outside_the_vocabulary_is_refused_before_training(groundup, tmp_path, fast):
    (tmp_path / "t.txt").write_text("abc " * 500)
    groundup("prepare", "t.txt", "--out", "d", "--tokenizer", "char")
    done = groundup("train", "gpt2-nano", "--data", "d", "--out", "run", *fast, "--evaluate.prompt", "é")
    assert done.status == 2
    assert "LATIN SMALL LETTER E WITH ACUTE" in done.err
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_one_sentence_and_the_last_checkpoint_stays(groundup, prepared, tmp_path, monkeypatch, fast):

    original, calls = state.save_file, []

    def full(*args):
        calls.append(1)
        if len(calls) > 2:  # the first checkpoint takes two files
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(state, "save_file", full)
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "run", *fast)
    assert done.status == 2
    assert "No space left on device" in done.err
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000006"]
    monkeypatch.setattr(state, "save_file", original)
    assert groundup("resume", "run").status == 0


@pytest.mark.parametrize("command", ["generate", "quickstart"])
def test_a_command_for_one_process_refuses_several(command, groundup, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = groundup(command, "run")
    assert done.status == 2
    assert f"{command}: runs in one process" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "--eval_iters", "3"], "--eval_iters: unknown option; here that is --evaluate.tokens"),
        (["train", "--max_tokens", "3"], "did you mean --train.max_tokens?"),  # ours, by its last part
        (["generate", "run", "--num-seq", "3"], "here that is --num-samples"),
        (["generate", "run", "--max_new_tokens", "3"], "here that is --max-tokens"),
        (["train", "--total_batch_size", "8"], "here that is --train.batch_tokens"),
        (["train", "--max_new_tokens", "8"], "here that is --max-tokens, of `groundup generate`"),
        (["generate", "run", "--max_iters", "8"], "--train.max_steps is an option of `groundup train`"),
        (["generate", "run", "--total-batch-size=8"], "here that is --train.batch_tokens, of `groundup train`"),
    ],
)
def test_the_options_of_other_programs_are_known_by_name(groundup, words, message):
    done = groundup(*words)
    assert done.status == 2
    assert message in done.err


def test_words_with_advice_are_not_options_of_groundup():
    known = set()
    for name in ("train", "generate", "evaluate"):
        parser = Parser()
        import_module(f"groundup.cli.{name}").add_arguments(parser)
        known |= {option.replace("_", "-") for option in parser._option_string_actions}
    for theirs, ours in ADVICE_FOR.items():
        assert f"--{theirs}".replace("_", "-") not in known or theirs in ("max_tokens", "resume", "init_from")
        for option in re.findall(r"--[\w.-]+", ours.partition("torchrun")[0].partition("`groundup prepare")[0]):
            assert option.replace("_", "-") in known, theirs


def test_an_error_that_quotes_a_long_text_keeps_its_place_and_its_remedy(groundup, prepared, tmp_path):
    data = shutil.copytree(prepared, tmp_path / "data")
    request = data / "request.json"
    request.write_text(request.read_text().replace('"byte"', f'"{"x" * 1_000_000}"'))
    (tmp_path / "text.txt").write_text("other text")
    done = groundup("prepare", tmp_path / "text.txt", "--out", data, "--tokenizer", "byte")
    assert done.status == 2
    assert done.err.startswith(f"groundup: {data}: ")
    assert "--overwrite" in done.err
    assert len(done.err) < 2100
