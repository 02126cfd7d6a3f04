"""The benchmark of `modern`'s shape: its commands and its table, with fake commands."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # benchmarks are run from a checkout, not part of the package

from bench import modern_shape

from groundup.cli.parsing import Parser, add_config_arguments, config_of, normalise
from groundup.config.presets import MODERN_PARTS, NANOCHAT_PARTS


@pytest.fixture
def commands(monkeypatch):
    """Record the commands without running them; the former shape's losses are 2, the new one's 1.99."""
    words: list[list[str]] = []
    monkeypatch.setattr(modern_shape, "command", lambda *given: words.append([str(word) for word in given]) or "")
    monkeypatch.setattr(modern_shape, "find_checkpoint", lambda run: run)
    monkeypatch.setattr(modern_shape, "load_metadata", lambda folder: {"step": 7})
    losses = {"swiglu": 1.99, "relu2": 2.0}
    monkeypatch.setattr(
        modern_shape.groundup,
        "evaluate",
        lambda *_, **__: SimpleNamespace(loss=losses[option(words[-1], "activation")]),
    )
    monkeypatch.setattr(modern_shape.torch, "set_num_threads", lambda n: None)
    monkeypatch.setattr(modern_shape, "library", lambda: None)
    return words


def option(words: list[str], key: str) -> str:
    return words[words.index(f"--model.{key}") + 1]


def test_both_shapes_are_trained_with_each_seed_in_turn(commands, tmp_path, capsys):
    found = tmp_path / "found.json"
    assert modern_shape.main(["--seconds", "3", "--seeds", "2", "--books", "my/books", "--json", str(found)]) == 0
    assert [words[0] for words in commands].count("prepare") == 3
    trained = [words for words in commands if words[0] == "train"]
    assert [option(words, "activation") for words in trained[:4]] == ["relu2", "swiglu", "swiglu", "relu2"]
    assert [words[words.index("--train.seed") + 1] for words in trained[:4]] == ["1337", "1337", "1338", "1338"]
    assert {words[words.index("--train.max_time") + 1] for words in trained} == {"3s"}
    out = capsys.readouterr().out
    assert out.count("-0.0100") == 9
    assert out.count("< 0.015") == 3
    report = json.loads(found.read_text())
    assert report["arguments"]["books"] == "books"
    assert len(report["rows"]) == 12


@pytest.mark.parametrize(("shape", "parts"), [("former", NANOCHAT_PARTS), ("modern", MODERN_PARTS)])
@pytest.mark.parametrize("preset", ["modern-micro", "nanochat"])
def test_the_options_give_any_preset_the_shape(shape, parts, preset):
    parser = Parser(prog="groundup train")
    add_config_arguments(parser)
    words = [preset, *map(str, modern_shape.shape_options(shape))]
    model = config_of(parser.parse_args(normalise(words))).model
    assert {key: getattr(model, key) for key in parts} == parts


def test_novels_that_are_not_given_cannot_be_asked_for(commands, capsys):
    with pytest.raises(SystemExit, match="2"):
        modern_shape.main(["--only", "books"])
    assert "give --books a file or folder" in capsys.readouterr().err
    assert commands == []
