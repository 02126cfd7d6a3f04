"""The ablation of `fast`: its table and its file, with fake commands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import ablation

from groundup.config.merge import ConfigSource
from groundup.run.compose import compose_config


@pytest.fixture
def commands(monkeypatch):
    """Record the commands without running them."""
    words = []
    monkeypatch.setattr(ablation, "groundup", lambda *given: words.append([str(word) for word in given]) or "")
    monkeypatch.setattr(
        ablation, "outcome", lambda run: {"tokens": 2048.0, "loss_256": float(len(words)), "loss_64": 2.0}
    )
    monkeypatch.setattr(ablation.torch, "set_num_threads", lambda n: None)
    return words


def test_the_command_measures_and_its_file_has_no_path(commands, tmp_path, capsys):
    given = ["--text", str(tmp_path / "input.txt"), "--tokenizer", str(tmp_path / "mine.json"), "--steps", "3"]
    rows = ["--only", "fast", "--only", "no n-grams, twice the steps"]
    assert ablation.main([*given, *rows, "--json", str(tmp_path / "found.json")]) == 0
    assert [words[0] for words in commands] == ["prepare", "train", "train"]
    assert [words[words.index("--train.max_steps") + 1] for words in commands[1:]] == ["3", "6"]
    assert "+1.0000" in capsys.readouterr().out  # difference from the first
    text = (tmp_path / "found.json").read_text()
    assert str(tmp_path) not in text
    report = json.loads(text)
    assert (report["arguments"]["text"], report["arguments"]["tokenizer"]) == ("input.txt", "mine.json")
    assert [row["name"] for row in report["rows"]] == rows[1::2]


def test_mistakes_get_the_commands_own_message(commands, monkeypatch, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        ablation.main(["--text", "a.txt", "--json", str(tmp_path / "missing" / "found.json")])
    assert commands == []  # the error comes before any measurement
    for status, expected in ((2, 2), (1, 1), (-9, 1)):

        def fail(*words, status=status):
            raise subprocess.CalledProcessError(
                status, words, stderr="groundup prepare: a.txt: there is no such file\n"
            )

        monkeypatch.setattr(ablation, "groundup", fail)
        capsys.readouterr()
        assert ablation.main(["--text", "a.txt"]) == expected
        assert capsys.readouterr().err.endswith("groundup prepare: a.txt: there is no such file\n")


@pytest.mark.parametrize("name", ablation.VARIANTS)
def test_every_row_is_a_valid_config_unlike_the_preset(name):
    words = [str(word) for word in ablation.VARIANTS[name]]
    changes = {}
    for key, value in zip(words[::2], words[1::2], strict=True):
        section, _, field = key.removeprefix("--").partition(".")
        changes.setdefault(section, {})[field] = None if value == "none" else value
    config = compose_config("fast", (), ConfigSource("here", changes))[1]
    assert (config == compose_config("fast", (), ConfigSource("here", {}))[1]) == (name == "fast")
