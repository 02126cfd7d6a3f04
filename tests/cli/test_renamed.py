"""Previous names of config keys and values stay accepted everywhere, with one line that names the new one."""

import argparse
import warnings

import pytest
import yaml

import groundup
from groundup.api import configure
from groundup.checkpoint.run_folder import RunFolder
from groundup.cli import _show_warning
from groundup.cli.parsing import Parser, add_config_arguments, config_of, normalise
from groundup.config.merge import RenamedKeyWarning, get
from groundup.config.renamed import RENAMED_KEYS, RENAMED_VALUES
from groundup.config.schema import Config
from groundup.errors import ConfigError, FallbackWarning, UsageError

VALUES = {
    "batches.seed": 7, "batches.micro_batch": 2, "batches.first_context": 8, "batches.whole_from": 0.25,
    "train.budget": "30m", "train.stop_after": "1h", "train.patience": 3, "train.shares": 2, "optimizer.ema": 0.99,
    "schedule.floor": 0.25, "guard.spike": 5.0, "guard.bad_steps": 4, "guard.rollbacks": 2,
    "checkpoint.asynchronous": False, "checkpoint.best": False, "tracking.to": "wandb", "model.positions": "rotary",
    "model.softcap": 15.0, "model.tied": False, "model.block": "post_norm", "prepare.as": "text",
}  # fmt: skip
KEYS = [key for key in RENAMED_KEYS if key != "init"]  # which names a folder: see below
PREVIOUS_VALUES = [(key, old, new) for key, values in RENAMED_VALUES.items() for old, new in values.items()]


def parse(*words: object) -> argparse.Namespace:
    parser = Parser(prog="groundup train")
    add_config_arguments(parser)
    return parser.parse_args(normalise(["gpt2-nano", "--data", "x", *map(str, words)]))


def nested(dotted: str, value: object) -> dict:
    section, _, key = dotted.partition(".")
    return {section: {key: value}} if key else {section: value}


def run_config(dotted: str, value: object) -> str:
    """A run's config.yaml with one value that is not the default."""
    values = nested(dotted, value)
    values.setdefault("model", {})["vocab_size"] = 257
    return yaml.safe_dump(values)


def changed(config: Config, key: str) -> object:
    """Value of a key; fails if it is the default."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedKeyWarning)
        plain = config_of(parse())
    assert get(config, key) != get(plain, key)
    return get(config, key)


def test_every_renamed_key_is_tested():
    assert set(VALUES) == set(KEYS)


@pytest.mark.parametrize("old", KEYS)
@pytest.mark.parametrize("dashes", [False, True])
def test_a_previous_key_as_an_option(old, dashes):
    new, value = RENAMED_KEYS[old], str(VALUES[old]).lower()
    with pytest.warns(RenamedKeyWarning) as warned:
        config = config_of(parse(f"--{old.replace('_', '-') if dashes else old}", value))
    assert [str(one.message) for one in warned] == [f"command line: {old} is called {new} now"]
    assert changed(config, new) == get(config_of(parse(f"--{new}", value)), new)


@pytest.mark.parametrize("old", KEYS)
def test_a_previous_key_in_yaml(old, tmp_path):
    new, file = RENAMED_KEYS[old], tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(nested(old, VALUES[old])))
    with pytest.warns(RenamedKeyWarning) as warned:
        config = config_of(parse("--config", file))
    assert [str(one.message) for one in warned] == [f"{file}: {old} is called {new} now"]
    file.write_text(yaml.safe_dump(nested(new, VALUES[old])))
    assert changed(config, new) == get(config_of(parse("--config", file)), new)


@pytest.mark.parametrize("old", KEYS)
def test_a_previous_key_in_a_run_is_read_silently(old, tmp_path):
    run = RunFolder(tmp_path)
    (tmp_path / "config.yaml").write_text(run_config(old, VALUES[old]))
    (tmp_path / "log.jsonl").write_text("")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedKeyWarning)
        read, layered = run.config(), config_of(parse("--config", tmp_path / "config.yaml"))
    new = RENAMED_KEYS[old]
    assert get(read, new) == get(layered, new) == changed(layered, new)


@pytest.mark.parametrize(("key", "old", "new"), PREVIOUS_VALUES)
def test_a_previous_value_as_an_option_in_yaml_and_in_a_run(key, old, new, tmp_path):
    sentence = f"{key} {str(old).lower()} is called {key} {new} now"
    with pytest.warns(RenamedKeyWarning, match=f"command line: {sentence}"):
        assert get(config_of(parse(f"--{key}", str(old).lower())), key) == new
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump(nested(key, old)))
    with pytest.warns(RenamedKeyWarning, match=sentence):
        assert get(config_of(parse("--config", file)), key) == new
    (tmp_path / "config.yaml").write_text(run_config(key, old))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RenamedKeyWarning)
        assert get(RunFolder(tmp_path).config(), key) == new


@pytest.mark.parametrize("old", KEYS)
def test_a_previous_key_in_dotted_form(old, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(yaml.safe_dump({old: VALUES[old]}))
    with pytest.warns(RenamedKeyWarning, match=f"{old} is called {RENAMED_KEYS[old]} now"):
        config = config_of(parse("--config", file))
    value = str(VALUES[old]).lower()
    assert changed(config, RENAMED_KEYS[old]) == get(
        config_of(parse(f"--{RENAMED_KEYS[old]}", value)), RENAMED_KEYS[old]
    )


def test_a_previous_key_in_dotted_form_replaces_what_a_preset_gives():
    with pytest.warns(RenamedKeyWarning):
        config = configure("x", preset="fast", overrides={"train.budget": "30m", "batches.first_context": 64})
    assert (config.train.max_time, config.train.max_steps, config.train.seq_len_warmup_from) == (1800, None, 64)


def test_previous_names_in_a_model_config_of_its_own():
    model = groundup.ModelConfig(tied=False, softcap=30.0, positions="rotary", block="post_norm")
    assert (model.tie_embeddings, model.logit_softcap) == (False, 30.0)
    assert (model.position_embedding, model.norm_position) == ("rotary", "post_norm")


def test_a_previous_value_in_capitals():
    with pytest.warns(RenamedKeyWarning):
        assert config_of(parse("--train.activation_checkpointing", "True")).train.activation_checkpointing == "full"


def test_other_warnings_are_shown_as_python_shows_them(capsys):
    shown = []
    _show_warning(lambda *rest: shown.append(rest), "a library's own", UserWarning, "file.py", 3)
    assert shown == [("a library's own", UserWarning, "file.py", 3)]
    for message, kind in [("a key has another name", RenamedKeyWarning), ("slower: why", FallbackWarning)]:
        _show_warning(lambda *rest: shown.append(rest), message, kind, "file.py", 3)
    assert len(shown) == 1
    assert capsys.readouterr().err == "groundup: a key has another name\ngroundup: slower: why\n"


def test_a_key_under_both_names_is_refused():
    with pytest.raises(ConfigError, match=r"command line: batches\.seed: the previous name of train\.seed"):
        config_of(parse("--batches.seed", "1", "--train.seed", "2"))


def test_previous_names_are_hidden_and_never_suggested():
    parser = Parser(prog="groundup train")
    add_config_arguments(parser)
    text = parser.format_help()
    for old, new in RENAMED_KEYS.items():
        assert f"--{old} " not in text
        assert f"--{new}" in text.replace("--init-from", "--init_from")
    with pytest.raises(UsageError, match=r"--batches\.sed: unknown option; did you mean --train\.seed\?"):
        parse("--batches.sed", "1")


def test_one_line_on_standard_error_and_none_where_the_run_is_read_again(groundup, prepared, fast):
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "r", *fast, "--batches.seed", "3")
    assert (done.status, done.err) == (0, "groundup: command line: batches.seed is called train.seed now\n")
    done = groundup("resume", "r", "--train.max_steps", "13", "--train.patience", "5")
    line = "groundup: resume: train.patience is called train.early_stopping_patience now\n"
    assert (done.status, done.err) == (0, line), done.err
    assert groundup("resume", "r", "--train.max_steps", "14").err == ""


@pytest.mark.parametrize("how", ["option", "yaml"])
def test_init_is_the_previous_name_of_init_from(how, groundup, prepared, fast, run, tmp_path):
    (tmp_path / "my.yaml").write_text(f"init: {run}\n")
    words = ["--init", run] if how == "option" else ["--config", "my.yaml"]
    done = groundup("train", "gpt2-nano", "--data", prepared, "--out", "r", *fast, *words)
    place = "command line" if how == "option" else "my.yaml"
    assert (done.status, done.err) == (0, f"groundup: {place}: init is called init_from now\n")
    config = RunFolder(tmp_path / "r").config()
    assert config.init_from == str(RunFolder(run).steps()[-1])
    assert config.init_sha256


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--tracking.project", "my project"), "expected: project name in the tracker: letters, digits"),
        (("--train.device", "gpu"), "expected: auto, cpu, cuda, cuda:N or mps"),
        (("--train.compile", "On!"), "expected: on, or a mode or backend of torch.compile"),
    ],
)
def test_an_invalid_value_gets_the_expected_form(words, expected):
    with pytest.raises(ConfigError) as caught:
        config_of(parse(*words))
    assert str(caught.value).startswith(f"command line: {words[0][2:]}: {words[1]!r} is not valid; {expected}")
