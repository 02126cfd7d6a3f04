"""Help of every command: complete and unbroken at any width, and a first page that fits a screen."""

import argparse
import re
from importlib import import_module

import pytest

from groundup.cli import COMMANDS, FIRST, OTHER_COMMANDS
from groundup.cli.parsing import Parser
from groundup.config.presets import LAPTOP, PRESETS, PURPOSES
from groundup.config.schema import SECTIONS, resume_rule
from groundup.config.types import OnResume
from groundup.model.size import preset_parameters
from groundup.ui.format import human_count

INNER = {"tokenizer": ("train", "show"), "tune": ("lr",)}  # commands within commands
NAMED = [(name,) for name in COMMANDS] + [(name, inner) for name, some in INNER.items() for inner in some]
PAGES = [*NAMED, ()]
SPLIT = (("train",), ("plan",), ("verify-resume",), ("tune", "lr"), ("resume",))
TEN = (
    "--data DIR", "--out RUN", "--config FILE", "--train.max_steps N", "--train.max_time X",
    "--optimizer.learning_rate X", "--train.batch_tokens N", "--model.block_size N", "--train.device TEXT",
    "--train.seed N",
)  # fmt: skip


@pytest.fixture
def page(groundup, monkeypatch):
    """Function that returns the help of a command at some width."""

    def page(command: tuple[str, ...], width: int, option: str = "--help") -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        done = groundup(*command, option)
        assert (done.status, done.err) == (0, "")
        return done.out

    return page


def options(text: str) -> list[str]:
    return re.findall(r"^ {2}(-\S+(?:, -\S+)*)", text, flags=re.MULTILINE)


def words(text: str) -> list[str]:
    return [word for word in text.split() if word != "\\"]


@pytest.mark.parametrize("option", ["--help", "--help-all"])
@pytest.mark.parametrize("command", PAGES, ids=" ".join)
def test_no_width_breaks_a_word_or_loses_an_option(command, option, page):
    narrow, usual, wide = (page(command, width, option) for width in (40, 80, 200))
    for text, width in ((narrow, 40), (usual, 80), (wide, 200)):
        assert max(map(len, text.splitlines())) <= width
        assert not re.search(r"\[\(\)\]|\[\"\"\]|\[None\]|by preset|\.\.\.|\n\n\n", text)
    assert words(narrow) == words(usual) == words(wide)
    assert options(narrow) == options(usual) == options(wide)


@pytest.mark.parametrize("command", PAGES, ids=" ".join)
def test_the_first_page_fits_a_screen(command, page):
    text = page(command, 80)
    assert len(text.splitlines()) <= 24
    full = page(command, 80, "--help-all")
    assert {*options(text)} <= {*options(full)}
    assert (text != full) == ("All options: " in text or command == ())


@pytest.mark.parametrize("command", NAMED, ids=" ".join)
def test_options_have_dashes_and_keys_are_spelled_as_in_yaml(command, page):
    for names in options(page(command, 80, "--help-all")):
        for name in names.split(", "):
            section, dot, key = name.removeprefix("--").partition(".")
            assert not dot or key in SECTIONS[section].model_fields
            assert dot or "_" not in name


def test_training_has_its_ten_options_and_all_presets_with_their_sizes_on_the_first_page(page):
    text = page(("train",), 80)
    for option in TEN:
        assert f"\n  {option}  " in text
    assert len(options(text)) == len(TEN)
    for name in PRESETS:
        assert f"{name} {human_count(preset_parameters(name))}" in text
    assert "gpt2 124M" in text
    assert "gpt1 117M" in text


@pytest.mark.parametrize("command", SPLIT, ids=" ".join)
def test_the_rest_is_one_option_away(command, page):
    text, full = page(command, 80), page(command, 80, "--help-all")
    assert len(options(full)) > 2 * len(options(text))
    assert full == page((*command, "run") if command == ("resume",) else (*command, "gpt2-micro"), 80, "--help-all")


def test_every_key_is_in_the_complete_help_of_train(page):
    full = page(("train",), 80, "--help-all")
    keys = [f"--{section}.{key}" for section, kind in SECTIONS.items() for key in kind.model_fields]
    assert len(keys) > 90
    for key in keys:
        assert re.search(rf"{re.escape(key)} [A-Za-z]", full), key


def test_values_are_those_of_the_preset_that_is_named(page):
    assert "--optimizer.learning_rate X  peak learning rate [0.0006]" in page(("train", "gpt2"), 80)
    assert "--optimizer.learning_rate X  peak learning rate [0.001]" in page(("train",), 80)
    assert "--model.block_size N         context length in tokens [512]" in page(("train", "gpt1"), 80)
    full = page(("train", "modern"), 200, "--help-all")
    assert re.search(r"--model.bias true\|false +biases .*\[false\]", full)
    assert re.search(r"--train.deterministic true\|false\s+use [^\[]*\[false\]", full)


def test_trackers_are_named(page):
    full = page(("train",), 100, "--help-all")
    assert re.search(r"--track, --tracking.backends TEXT\n +any of wandb, trackio, tensorboard", full)


def test_resume_lists_what_may_change(page):
    full = page(("resume",), 80, "--help-all")
    for section in ("train", "evaluate", "checkpoint", "guard", "tracking"):
        for key in SECTIONS[section].model_fields:
            fixed = resume_rule(f"{section}.{key}") is OnResume.FIXED
            assert (f"--{section}.{key} " in full) != fixed


@pytest.mark.parametrize("command", NAMED, ids=" ".join)
def test_help_command_is_its_help(command, page, groundup):
    assert groundup("help", *command).out == page(command, 80)


def test_the_help_of_the_program_names_every_command(page):
    text, full = page((), 80), page((), 80, "--help-all")
    for name in COMMANDS:
        assert f"\n  {name} " in (text if name in FIRST else full)
        assert re.search(rf"\b{name}\b", text)


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in INNER])
def test_what_the_first_page_names_exists(command):
    parser = Parser(prog=command)
    import_module(f"groundup.cli.{COMMANDS[command][0]}").add_arguments(parser)
    names = {name for action in parser._actions for name in (action.dest, *action.option_strings)}
    assert {*parser.first} <= names


def test_presets_are_listed_with_shape_and_size(groundup):
    done = groundup("presets")
    assert re.search(r"^gpt2 +12 x 768 +1,024 +124M  OpenAI's GPT-2 small$", done.out, flags=re.MULTILINE)
    assert max(map(len, done.out.splitlines())) <= 80
    assert {*PURPOSES} == {*PRESETS} > {*LAPTOP}
    for name in PRESETS:
        assert re.search(rf"^{name} ", done.out, flags=re.MULTILINE)


def test_sizes_of_presets_are_those_of_their_models():
    assert preset_parameters("gpt2") == 124_439_808
    assert preset_parameters("gpt1") == 116_534_784
    assert preset_parameters("gpt2-mini") == 6 * (12 * 384**2 + 13 * 384) + 2 * 384 + 256 * 384


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("chat", "groundup generate RUN"),
        ("convert", "groundup export RUN --to hf"),
        ("finetune", "groundup train --init-from RUN"),
        ("preset", "did you mean presets?"),
    ],
)
def test_words_for_commands_lead_somewhere(word, sentence, groundup):
    done = groundup(word, "x")
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith(f"groundup: {word}: there is no such command; ")
    assert sentence in done.err


@pytest.mark.parametrize(("word", "command"), OTHER_COMMANDS.items())
def test_words_for_a_command_are_that_command(word, command, groundup):
    done = groundup(word, "--help")
    assert (done.status, done.err) == (0, f"groundup: {word} is groundup {command}\n")
    assert done.out == groundup(command, "--help").out


@pytest.fixture
def place(tmp_path, prepared, run, groundup):
    """Folders and files that are no presets, by what they are."""
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "a.txt").write_text("text")
    (tmp_path / "book.txt").write_text("text")
    (tmp_path / "recipe.yaml").write_text("train: {epochs: 3}")
    return {"data": prepared, "run": run, "checkpoint": run / "latest"}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("my texts/", "groundup quickstart 'my texts/'; or in two steps: groundup prepare 'my texts/' --out "),
        ("book.txt", "groundup quickstart book.txt; or in two steps: groundup prepare book.txt --out data/book, and "
         "groundup train gpt2-micro --data data/book --out runs/book"),
        ("shakespeare", "groundup quickstart shakespeare; or in two steps"),
        ("recipe.yaml", "it is a config: groundup train --config recipe.yaml --data DIR --out RUN"),
        ("data", "it is prepared data: groundup train gpt2-micro --data "),
        ("run", "it is a run: groundup resume "),
        ("checkpoint", "it is a checkpoint: groundup train --init-from "),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train", "plan"])
def test_what_is_no_preset_gets_the_commands_for_it(command, word, sentence, place, groundup):
    done = groundup(command, place.get(word, word), *(["--out", "y"] if command == "train" else []))
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert ": is not a preset; " in done.err
    assert sentence in done.err


def test_a_namespace_with_no_alias_given_is_unchanged():
    parser = Parser(prog="x")
    import_module("groundup.cli.train").add_arguments(parser)
    assert vars(parser.parse_args([])) == vars(argparse.Namespace(
        preset=None, data=None, init_from=None, init=None, config=[], laptop=False, out=None, checkpoints=None,
        auto_resume=False, dry_run=False, quiet=False, json=False,
    ))  # fmt: skip
