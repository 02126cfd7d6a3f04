"""A YAML file of someone else takes no more than its size, and every mistake in it is one sentence."""

import os
from pathlib import Path

import pytest

from groundup.config.merge import ConfigSource, merge_and_validate
from groundup.config.schema import Config, to_yaml
from groundup.config.yaml_loader import MAX_FILE_BYTES, read_yaml
from groundup.errors import ConfigError

MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(9))
ALIASES = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
NOT_YAML = "not YAML; write `section:` and indented `key: value` lines"


@pytest.fixture
def parse(tmp_path):
    def parse(text: str) -> dict:
        (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
        return read_yaml(tmp_path / "c.yaml")

    return parse


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: &x [*x]", "line 1: x: anchors and aliases are not accepted; write the value out"),
        ("a: 1\nb: *x", "line 2: x: anchors and aliases are not accepted; write the value out"),
        (MERGES, "line 1: a0: anchors and aliases are not accepted; write the value out"),
        (ALIASES, "line 1: a0: anchors and aliases are not accepted; write the value out"),
        ("[" * 3000, "line 1: nested more than 10 deep; no key needs that"),
        ("{a: " * 3000, "line 1: nested more than 10 deep; no key needs that"),
        ("- " * 3000, "line 1: nested more than 10 deep; no key needs that"),
        ("a: !!int ''", "line 1: tag:yaml.org,2002:int: tags are not accepted; write the value alone"),
        ("a: !!float ''", "tags are not accepted"),
        ("a: !!bool x", "tags are not accepted"),
        ("a: !!timestamp x", "tags are not accepted"),
        ("a: !!python/object/apply:os.system ['true']", "tags are not accepted"),
        ("a: !mine x", "line 1: !mine: tags are not accepted; write the value alone"),
        ("train: {max_steps: 5}\nmodel: {}\ntrain: {seed: 1}", "line 3: train: is also in line 1; write it once"),
        ("train:\n  max_steps: 5\n  max-steps: 6", "line 3: max-steps: is also in line 2; write it once"),
        ("? [a]\n: 1", "line 1: a key is a list or a section; write `key: value`"),
        ("--- {}\n--- {}", f"line 2: {NOT_YAML}"),
        ("a: 'x", f"line 1: {NOT_YAML}"),
        ("a: \x07", f"c.yaml: {NOT_YAML}"),
        ("- 1", "expected sections such as `model:` and `train:`, found list"),
        (f"a: {'x' * MAX_FILE_BYTES}", "c.yaml: larger than 1,048,576 bytes, so it is no config; give another file"),
    ],
    ids=lambda text: text[:30].strip(),
)
def test_a_mistake_is_one_sentence_with_file_and_line(text, sentence, parse):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert sentence in str(caught.value)
    assert str(caught.value).count("\n") == 0
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("true", True), ("False", False), ("~", None),
        ("12", 12), ("0x1f", 31), ("1:30", "1:30"), ("010", "010"),
        ("3.0e-4", 3e-4), ("3e-4", "3e-4"), (".inf", float("inf")),
        ("'1'", "1"), ("2024-01-01", "2024-01-01"),
        ("0x" + "f" * 50_000, "0x" + "f" * 50_000), ("[a, 1]", ["a", 1]), ("! x", "x"),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_values(text, value, parse):
    assert parse(f"a: {text}") == {"a": value}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("<<: {n_layer: 3}", "c.yaml: <<: unknown key; known: data"),
        ('data: "a\\0b"', r"c.yaml: data: 'a\x00b' has a NUL or half of a surrogate pair; leave that out"),
        ('prepare: {sources: ["a\\uD800"]}', r"prepare.sources: 'a\ud800' has a NUL or half of a surrogate pair"),
        ("model: {n_layer: 0x" + "f" * 50_000 + "}", "model.n_layer: '0xffff"),
        ("model: [" + "9, " * 5_000 + "]", "model: [9, 9, "),
        ("train:\n\u00a0\u00a0max_steps: 5", r"c.yaml: \xa0\xa0max_steps: unknown key"),  # as copied from a page
        ("train: {max_time: 1:30}", "expected a duration such as 90s, 30m or 1h30m"),
        ("train: {max_steps: .inf}", "train.max_steps: inf is not a number"),
        ("train: {max_steps: 1e-3}", "train.max_steps: '1e-3' is not a whole number"),
        ("train: {device: 'cuda:99999999999999999999'}", "expected: auto, cpu, cuda, cuda:N or mps"),
    ],
    ids=lambda text: text[:30],
)
def test_a_value_that_fits_no_key_is_one_short_sentence(text, sentence, parse):
    with pytest.raises(ConfigError) as caught:
        merge_and_validate([ConfigSource("c.yaml", parse(text))])
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 400


def test_on_and_off_are_values_as_on_the_command_line(parse):
    text = "train: {compile: on, deterministic: on, activation_checkpointing: off}\ntracking: {offline: yes}"
    config = merge_and_validate([ConfigSource("c.yaml", parse(text))])
    assert (config.train.compile, config.train.deterministic, config.tracking.offline) == ("on", True, True)
    assert config.train.activation_checkpointing == "none"


@pytest.mark.parametrize("text", ["1e3", "1000", "1.0e3", "0.1e+4", "'1e3'"])
def test_a_whole_number_may_be_written_with_an_exponent(text, parse):
    values = parse(f"train: {{max_steps: {text}, seed: {text}, threads: {text}}}\nmodel: {{block_size: {text}}}")
    values["train"]["batch_tokens"] = "2e3"
    config = merge_and_validate([ConfigSource("c.yaml", values)])
    assert [config.train.max_steps, config.train.seed, config.train.threads, config.model.block_size] == [1000] * 4


def test_a_number_with_leading_zeros_is_decimal_as_on_the_command_line(parse):
    config = merge_and_validate(
        [ConfigSource("c.yaml", parse("train: {max_steps: 0100, seed: -0}\nmodel: {dropout: 00.5}"))]
    )
    assert (config.train.max_steps, config.train.seed, config.model.dropout) == (100, 0, 0.5)


def test_a_section_whose_keys_are_all_commented_out_changes_nothing(parse):
    given = ConfigSource("options", {"train": {"max_steps": 5}})
    config = merge_and_validate([given, ConfigSource("c.yaml", parse("train:\n  # max_steps: 100\nmodel:\ndata:\n"))])
    assert config == merge_and_validate([given])


def test_a_path_that_is_not_utf8_stays_as_it_is():
    assert merge_and_validate([ConfigSource("options", {"data": "\udce9"})]).data == "\udce9"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_only_where_a_user_names_it(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"a: 1")
    os.close(writing)
    assert read_yaml(Path(f"/dev/fd/{reading}"), pipe=True) == {"a": 1}
    os.close(reading)
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"config.yaml: cannot be read \(not a regular file\)"):
        read_yaml(tmp_path / "config.yaml")


def test_what_groundup_writes_it_reads(parse):
    names = ("on", "1e3", "a: b", "é\t")
    config = Config(data="2024-01-01", prepare={"sources": names}, evaluate={"tasks": names, "prompt": "\x1b&x *y"})
    assert merge_and_validate([ConfigSource("c.yaml", parse(to_yaml(config)))]) == config
