"""Completion of command lines by the shells."""

import os
import shutil
import subprocess
import sys

import pytest
from argcomplete.finders import CompletionFinder
from argcomplete.lexers import split_line

from groundup.cli import COMMANDS
from groundup.cli.completion import SHELLS, build_parser

# Calls the function that bash would call for Tab at the end of a line, and prints what it answers.
ASK = """
groundup() { "$PYTHON" -m groundup "$@"; }
compopt() { :; }
source <(groundup completion bash)
COMP_LINE="groundup train gpt2-m" COMP_POINT=21 COMP_TYPE=9 COMP_WORDS=(groundup train gpt2-m) COMP_CWORD=2
_python_argcomplete groundup
echo "${COMPREPLY[*]}"
"""
CASES = {
    "groundup veri": ["verify-resume "],
    "groundup train gpt2-m": ["gpt2-medium", "gpt2-micro", "gpt2-mini"],
    "groundup train --optimizer.learning": ["--optimizer.learning_rate "],
    "groundup train --model.norm ": ["layernorm", "rmsnorm", "rmsnorm_scaled"],
    "groundup train --train.deterministic t": ["true "],
    "groundup tokenizer ": ["show", "train"],
    "groundup prepare my-b": ["my-book.txt "],
    "groundup generate --see": ["--seed "],
    "groundup train --lr": [],  # another trainer's
    "groundup train --train.seed ": [],
    "groundup export run --to ": ["gguf", "hf", "space"],
    "groundup plan --gpu ": ["a100", "h100", "h200"],
    "groundup plan --model modern-mi": ["modern-micro", "modern-mini"],
    "groundup generate run --device c": ["cpu", "cuda"],
    "groundup generate run --checkpoint ": ["best", "latest"],
    "groundup generate run --prompt my": [],
    "groundup generate run --prompt-file my": ["my-book.txt "],
    "groundup prepare my-book.txt --tokenizer b": ["bpe:4096", "byte"],
    "groundup prepare my-book.txt --tokenizer my": ["my-book.txt "],
    "groundup prepare shake": ["shakespeare "],
    "groundup quickstart shake": ["shakespeare "],
    "groundup quickstart my": ["my-book.txt "],
    "groundup tokenizer show --file my": ["my-book.txt "],
    "groundup tokenizer show my": [],
}


@pytest.mark.parametrize("line", CASES)
def test_commands_presets_options_values_and_files_are_completed(line, tmp_path, monkeypatch):
    (tmp_path / "my-book.txt").write_text("text")
    monkeypatch.chdir(tmp_path)
    quote, prefix, _, words, last = split_line(line)
    finder = CompletionFinder(build_parser(COMMANDS, words), always_complete_options=False)
    assert sorted(finder._get_completions(words, prefix, quote, last)) == CASES[line]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_asks_groundup():
    done = subprocess.run(
        ["bash", "-c", ASK], env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, check=False
    )
    assert sorted(done.stdout.split()) == ["gpt2-medium", "gpt2-micro", "gpt2-mini"], done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_gets_a_script_of_its_own(shell, groundup):
    done = groundup("completion", shell)
    assert (done.status, done.err) == (0, "")
    assert "groundup" in done.out
    assert {"bash": "complete -o", "zsh": "compdef", "fish": "complete --command"}[shell] in done.out


def test_an_unknown_shell_is_refused(groundup):
    done = groundup("completion", "tcsh")
    assert done.status == 2
    assert "tcsh" in done.err


def test_completion_needs_no_torch():
    code = (
        "import os, sys\nos.environ |= {'COMP_LINE': 'groundup train ', 'COMP_POINT': '15'}\n"
        "from groundup.cli import COMMANDS, completion\ncompletion.build_parser(COMMANDS, ['groundup', 'train'])\n"
        "import argcomplete, argcomplete.completers\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
