"""Names that other trainers have for config keys: accepted where they mean one thing, and said in one line."""

import argparse
import re
import warnings
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from groundup.api import configure
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli.parsing import Parser, add_config_arguments, config_of, normalise
from groundup.config.aliases import ADVICE_FOR, ALIASES, ALIASES_IN_SECTIONS, BATCH_SIZE, GRAD_ACCUM
from groundup.config.merge import AliasWarning, diff, flatten
from groundup.config.presets import preset
from groundup.config.schema import SECTIONS, Config, resume_rule, to_yaml
from groundup.errors import ConfigError, UsageError

# Key -> a value that is not gpt2-nano's.
VALUES = {
    "model.n_layer": 2, "model.n_head": 2, "model.n_embd": 12, "model.n_inner": 40, "model.block_size": 32,
    "model.dropout": 0.3, "optimizer.learning_rate": 3e-4, "optimizer.weight_decay": 0.25, "optimizer.beta1": 0.5,
    "optimizer.beta2": 0.75, "optimizer.grad_clip": 0.5, "schedule.warmup_steps": 7, "schedule.warmup_fraction": 0.25,
    "schedule.min_lr_ratio": 0.5, "train.seed": 7, "train.max_steps": 77, "train.epochs": 2.5, "train.max_time": 90,
    "train.batch_tokens": 640, "train.micro_batch_size": 3, "train.device": "cpu", "train.precision": "fp32",
    "train.log_every": 3, "evaluate.every_steps": 9, "checkpoint.every_steps": 11,
}  # fmt: skip
TRAINING = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
LENGTHS = ({"train.epochs", "schedule.warmup_fraction"}, {"train.max_time"})  # not together with others


def rounds() -> list[dict[str, str]]:
    """Each alias once: the n-th ones of all keys that may be given together, as alias -> key."""
    names: dict[str, list[str]] = {}
    for name, key in (ALIASES | ALIASES_IN_SECTIONS).items():
        names.setdefault(key, []).append(name)
    keys = {*VALUES} - {key for some in LENGTHS for key in some}
    table = [zip_longest(*([(name, key) for name in names[key]] for key in sorted(some))) for some in (keys, *LENGTHS)]
    return [dict(filter(None, row)) for rows in table for row in rows]


@pytest.fixture(scope="module")
def parse():
    """Function that parses the options of `groundup train gpt2-nano`; the parser is built once."""
    parser = Parser(prog="groundup train")
    add_config_arguments(parser)

    def parse(*words: object) -> argparse.Namespace:
        return parser.parse_args(normalise(["gpt2-nano", "--data", "x", *map(str, words)]))

    return parse


def without_note(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AliasWarning)
        return function(*args, **options)


def nested(values: dict[str, object]) -> dict[str, object]:
    tree: dict[str, object] = {}
    for name, value in values.items():
        section, dot, key = name.partition(".")
        if dot:
            tree.setdefault(section, {})[key] = value
        else:
            tree[name] = value
    return tree


def given(name: str, key: str) -> object:
    return VALUES[key] / 60 if name.endswith("minutes") else VALUES[key]


def test_the_table_names_keys_and_no_key_has_an_alias_that_is_another_key():
    for key in {*ALIASES.values()} - {BATCH_SIZE, GRAD_ACCUM}:
        assert resume_rule(key)
        assert key in VALUES
    for name in ALIASES_IN_SECTIONS:
        section, _, key = name.partition(".")
        assert key not in SECTIONS[section].model_fields, name
    assert not {*ALIASES} & {*Config.model_fields}
    assert not {*ALIASES} & {*ADVICE_FOR}


def test_the_documents_have_the_same_table():
    table = TRAINING.partition("| also accepted |")[2].partition("\n\n")[0]
    assert re.findall(r"`([\w.]+)`", re.sub(r"^\| .*? \|", "", table, flags=re.MULTILINE)) == [*ALIASES]


def test_every_alias_is_tested():
    plain = {name for name, key in (ALIASES | ALIASES_IN_SECTIONS).items() if key in VALUES}
    assert {name for names in rounds() for name in names} == plain


@pytest.mark.parametrize("names", rounds(), ids=lambda names: next(iter(names)))
def test_an_alias_saves_what_the_key_does(names, parse, tmp_path):
    expected = config_of(parse(*(word for key in names.values() for word in (f"--{key}", VALUES[key]))))
    assert {*diff(config_of(parse()), expected)} >= {*names.values()}
    values, file = {name: given(name, key) for name, key in names.items()}, tmp_path / "my.yaml"
    for dashed in (False, True):
        options = {name.replace("_", "-") if dashed else name: value for name, value in values.items()}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        assert to_yaml(without_note(config_of, parse(*words))) == to_yaml(expected)
    for content in (values, nested(values)):
        file.write_text(yaml.safe_dump(content))
        assert to_yaml(without_note(config_of, parse("--config", file))) == to_yaml(expected)
        overridden = without_note(configure, "x", preset="gpt2-nano", overrides=content)
        assert to_yaml(overridden) == to_yaml(expected)


def test_it_says_in_one_line_what_each_was_taken_for(parse):
    with pytest.warns(AliasWarning) as said:
        config_of(parse("--lr", "3e-4", "--max-iters", 50, "--batch_size", 4))
    batch = "batch_size 4 is train.batch_tokens 256 (4 sequences of 64 tokens per step)"
    line = f"command line: lr is optimizer.learning_rate, max_iters is train.max_steps, {batch}"
    assert [str(one.message) for one in said] == [line]


def test_the_line_is_on_standard_error_and_the_run_has_the_keys(groundup, prepared, fast, tmp_path):
    data = ["--data", prepared, "--out"]
    (tmp_path / "r.yaml").write_text("batch_size: 8\ngrad_accum: 2\n")
    fast = [word for word in fast if word not in ("--train.batch_tokens", "256")] + ["--train.max_steps", "2"]
    done = groundup("train", "gpt2-nano", *data, "a", *fast, "--config", "r.yaml", "--lr", "2e-3")
    assert done.status == 0
    batch = "batch_size 8 and grad_accum 2 is train.batch_tokens 256 (16 sequences of 16 tokens per step)"
    assert done.err.splitlines() == [
        f"groundup: r.yaml: {batch}",
        "groundup: command line: lr is optimizer.learning_rate",
    ]
    long = ["--optimizer.learning_rate", "2e-3", "--train.batch_tokens", "256"]
    assert groundup("train", "gpt2-nano", *data, "b", *fast, *long).err == ""
    assert (tmp_path / "a" / "config.yaml").read_text() == (tmp_path / "b" / "config.yaml").read_text()
    done = groundup("resume", "a", "--max-steps", 3)
    assert (done.status, done.err) == (0, "groundup: resume: max_steps is train.max_steps\n")
    assert RunFolder(tmp_path / "a").config().train.max_steps == 3


@pytest.mark.parametrize(
    ("sources", "tokens"),
    [
        ([{"batch_size": 5}], 5 * 64),
        ([{"batch_size": "5", "block_size": 32}], 5 * 32),
        ([{"batch_size": 5}, {"block_size": "16"}], 5 * 16),
        ([{"train": {"batch_size": 3, "grad_accum": 4}}], 12 * 64),
        ([{"batch_size": 3}, {"gradient_accumulation_steps": 4}], 12 * 64),
        ([{"batch_size": 3, "grad_accum": 2}, {"batch_size": 5}], 10 * 64),
        ([{"batch_size": 3, "grad_accum": 2}, {"train": {"batch_tokens": 128}}], 128),
        ([{"train": {"batch_tokens": 128}}, {"train": {"global_batch_size": 3}}], 3 * 64),
        ([{"batch_size": None}], 32 * 64),
    ],
)
def test_a_batch_in_sequences_is_a_batch_in_tokens(sources, tokens, parse, tmp_path):
    words = []
    for i, source in enumerate(sources):
        (tmp_path / f"{i}.yaml").write_text(yaml.safe_dump(source))
        words += ["--config", tmp_path / f"{i}.yaml"]
    assert without_note(config_of, parse(*words)).train.batch_tokens == tokens


def test_minutes_replace_the_steps_of_the_preset(parse):
    train = without_note(config_of, parse("--minutes", "1.5")).train
    assert (train.max_time, train.max_steps) == (90, None)
    assert preset("gpt2-nano").values["train"]["max_steps"]


def test_with_muon_the_line_says_what_the_learning_rate_is_of(parse):
    with pytest.warns(AliasWarning, match=r"lr is optimizer.learning_rate \(of what AdamW updates; Muon has optim"):
        config_of(parse("--lr", 1e-3, "--optimizer.name", "muon"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--lr 1 --lr 2", "--lr: given twice; give --optimizer.learning_rate once"),
        ("--lr 1 --optimizer.learning_rate 2", "lr and optimizer.learning_rate are both optimizer.learning_rate; give"),
        ("--lr 1 --learning-rate 1", "lr and learning_rate are both optimizer.learning_rate; give that one once"),
        ("--batch_size 8 --train.batch_tokens 64", "batch_size and train.batch_tokens both set the tokens of a step"),
        ("--max_steps 8 --minutes 3", "give one run length, not both max_steps and max_time"),
        ("--grad_accum 8", "command line: grad_accum: needs batch_size too"),
        ("--batch_size 0", "command line: batch_size: '0' is not a whole number of 1 or more"),
        ("--batch_size x", "command line: batch_size: 'x' is not a whole number of 1 or more"),
        ("--batch_size 8 --model.block_size x", "command line: model.block_size: 'x' is not a whole number"),
        ("--minutes soon", "command line: minutes: 'soon' is not a number"),
        ("--minutes -3", "command line: train.max_time: -180.0 is out of range"),
        ("--lr high", "command line: optimizer.learning_rate: 'high' is not a number"),
        ("--l 3", "--l: unknown option; did you mean --lr (--optimizer.learning_rate)"),
        ("--budget 3", "--budget: unknown option; here that is --minutes, or --train.max_time"),
        ("--preset gpt2", "--preset: unknown option; here that is a preset, the first argument of `groundup train`"),
        ("--prompt x", "--prompt: unknown option; it is an option of `groundup generate`"),
        ("--lrr 3", "--lrr: unknown option; did you mean --lr (--optimizer.learning_rate)?"),
        ("--learn 3", "--learn: unknown option; did you mean --optimizer.learning_rate?"),
        ("--learning_rat 3", "did you mean --optimizer.learning_rate?"),
        ("--n_layerz 3", "(--model.n_layer)?"),
        ("--hidden_dim 3", "here that is --model.n_embd for the width of the model, or --model.n_inner for that of"),
    ],
)
def test_what_is_not_one_key_once_is_refused_with_the_right_name(words, message, parse):
    with pytest.raises((UsageError, ConfigError)) as caught:
        without_note(config_of, parse(*words.split()))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("lr: 1\nlearning_rate: 1\n", "lr and learning_rate are both optimizer.learning_rate"),
        ("lrr: 1\n", "lrr: unknown key; did you mean lr?"),
        ("train: {learning_rate: 1}\n", "train.learning_rate: unknown key; here that is optimizer.learning_rate"),
        ("model: {hidden_dim: 1}\n", "model.hidden_dim: unknown key; here that is --model.n_embd for the width"),
        ("nonsense: 1\n", "nonsense: unknown key; known: data, init_from"),
    ],
)
def test_a_file_gets_the_same_sentences(content, message, parse, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError) as caught:
        config_of(parse("--config", file))
    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize("option", ["--lr", "--batch-size", "--seed"])
def test_resume_refuses_what_would_change_the_result(option, groundup, run):
    done = groundup("resume", run, option, "3")
    assert done.status == 2
    assert "cannot change when a run is resumed" in done.err


def test_no_saved_config_has_an_alias(parse):
    config = without_note(config_of, parse("--batch_size", 4, "--grad_accum", 2))
    assert not {*dict(flatten(config.model_dump()))} & {*ALIASES, *ALIASES_IN_SECTIONS, BATCH_SIZE, GRAD_ACCUM}
