"""Every command and every line of Python in the README runs, in the order in which it stands there."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")

# The same commands, made small enough for a test.
SHRINK = {
    "train": "--train.max_steps 3 --evaluate.tokens 300 --evaluate.sample_tokens 4 --train.device cpu",
    "resume": "--train.max_steps 4",
    "generate": "--max_tokens 4",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_it_fits_two_hundred_lines():
    assert len(README.splitlines()) <= 200


@pytest.mark.slow
def test_its_commands_run(tmp_path, sentences):
    (tmp_path / "book.txt").write_text("Once upon a time.\n" + sentences(2000))
    (tmp_path / "my-texts").mkdir()
    (tmp_path / "my-texts" / "a.md").write_text(sentences(1000, seed=1))
    (tmp_path / "recipe.yaml").write_text("train:\n  batch_tokens: 1024\n")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) >= 8
    for line in commands:
        line = re.sub(r"--train\.(budget|max_steps) \S+", "", line)
        for name, options in SHRINK.items():
            line = re.sub(rf"(groundup {name} .*)", rf"\1 {options}", line)
        line = line.replace("groundup ", f"{shlex.quote(sys.executable)} -m groundup ", 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{line}\n{done.stderr}"


@pytest.mark.slow
def test_its_python_runs(tmp_path, sentences):
    (tmp_path / "book.txt").write_text("Once upon a time.\n" + sentences(1000))
    (code,) = blocks("python")
    assert '"max_steps": 200' in code
    code = code.replace('"max_steps": 200', '"max_steps": 3')
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Once") == 2
