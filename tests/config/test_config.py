"""Layers merge, mistakes become sentences."""

import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from groundup.config.merge import ConfigSource, diff, merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.config.schema import Config, resume_rule, to_yaml
from groundup.config.types import OnResume, parse_duration
from groundup.errors import ConfigError

README = Path(__file__).parents[2] / "README.md"


def decoded(*values: dict) -> Config:
    return merge_and_validate([ConfigSource(f"layer {i}", v) for i, v in enumerate(values)])


def test_later_layers_win_and_keep_what_they_do_not_name():
    config = decoded({"model": {"n_layer": 2, "n_embd": 64}}, {"model": {"n_layer": 3}})
    assert (config.model.n_layer, config.model.n_embd) == (3, 64)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_survives_yaml(name):
    config = merge_and_validate([preset(name)])
    assert merge_and_validate([ConfigSource("yaml", yaml.safe_load(to_yaml(config)))]) == config


PUBLISHED = {  # layers, heads, width, context, of the papers and of the released weights
    "gpt1": (12, 12, 768, 512),
    "gpt2": (12, 12, 768, 1024),
    "gpt2-medium": (24, 16, 1024, 1024),
    "gpt2-large": (36, 20, 1280, 1024),
    "gpt2-xl": (48, 25, 1600, 1024),
    "gpt3-small": (12, 12, 768, 2048),
}


def test_presets_have_the_published_shapes_and_those_in_readme():
    shapes = {}
    for name in PRESETS:
        model = merge_and_validate([preset(name)]).model
        shapes[name] = (model.n_layer, model.n_head, model.n_embd, model.block_size)
    assert PUBLISHED.items() <= shapes.items()
    table = README.read_text(encoding="utf-8").partition("| preset | layers x width, context |")[2].partition("\n\n")[0]
    found = {}
    for row in table.splitlines()[2:]:
        names, sizes = row.split("|")[1:3]
        found |= zip(re.findall(r"`([\w-]+)`", names), re.findall(r"(\d+) x (\d+), (\d+)", sizes), strict=False)
    assert len(found) >= 10
    for name, shape in found.items():
        layers, _, width, context = shapes[name]
        assert shape == (str(layers), str(width), str(context)), name


def test_a_new_horizon_replaces_the_presets():
    config = merge_and_validate([preset("gpt2"), ConfigSource("command line", {"train": {"max_time": "30m"}})])
    assert (config.train.max_time, config.train.max_steps) == (1800, None)


def test_learning_rates_written_the_way_yaml_reads_as_text_are_numbers():
    values = yaml.safe_load("optimizer: {learning_rate: 3e-4}")
    assert isinstance(values["optimizer"]["learning_rate"], str)
    assert decoded(values).optimizer.learning_rate == 3e-4


def test_dashes_in_keys_are_underscores():
    assert decoded({"model": {"n-layer": 7}}).model.n_layer == 7


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"model": {"n_layerz": 3}}, "layer 0: model.n_layerz: unknown key; did you mean n_layer?"),
        ({"modle": {"n_layer": 3}}, "layer 0: modle: unknown key; did you mean model?"),
        ({"model": {"n_layer": "three"}}, "layer 0: model.n_layer: 'three' is not a whole number"),
        ({"model": {"dropout": "some"}}, "layer 0: model.dropout: 'some' is not a number"),
        ({"model": {"dropout": 1.0}}, "layer 0: model.dropout: 1.0 is out of range; it must be less than 1"),
        ({"model": {"bias": "perhaps"}}, "layer 0: model.bias: 'perhaps' is neither true nor false"),
        ({"model": {"n_embd": 100, "n_head": 7}}, "n_embd 100 is not divisible by n_head 7; n_head 5 would fit"),
        ({"model": 3}, "layer 0: model: 3 is not a section; write `model:` and indented keys under it"),
        ({"train": {"max_steps": 0}}, "layer 0: train.max_steps: 0 is out of range; it must be at least 1"),
        (
            {"train": {"max_time": "soon"}},
            "layer 0: train.max_time: 'soon': expected a duration such as 90s, 30m or 1h30m",
        ),
        (
            {"train": {"precision": "fp8"}},
            "layer 0: train.precision: 'fp8' is not one of 'auto', 'fp32', 'bf16' or 'fp16'",
        ),
        (
            {"train": {"device": "gpu"}},
            "layer 0: train.device: 'gpu' is not valid; expected: auto, cpu, cuda, cuda:N or mps",
        ),
        ({"train": {"batch_tokens": 1000}}, "train.batch_tokens 1000 is not a multiple of model.block_size 256"),
        ({"train": {"max_steps": 10**400}}, "is out of range; it must be at most 1e+15"),
        ({"train": {"epochs": 1e308}}, "layer 0: train.epochs: 1e+308 is out of range; it must be at most 1e+09"),
        ({"train": {"max_time": "9" * 400}}, "layer 0: train.max_time"),
        ({"model": {"n_embd": 3_000_000_001, "n_head": 7}}, "model.n_embd: 3000000001 is out of range; it must be at"),
        ({"model": {"n_embd": 999_999_937, "n_head": 7}}, "not divisible by n_head 7; n_head 1 would fit"),  # a prime
        ({"model": {"n_embd": 10**9, "n_head": 10**9 - 1}}, "n_head 1000000000 would fit"),
        ({"model": {"logit_softcap": 1e308}}, "layer 0: model.logit_softcap: 1e+308 is out of range"),
        ({"optimizer": {"learning_rate": 1e-320}}, "it must be at least 1e-12"),
        ({"optimizer": {"learning_rate": float("nan")}}, "layer 0: optimizer.learning_rate: nan is not a number"),
    ],
)
def test_a_mistake_is_one_sentence_with_place_key_value_and_remedy(values, sentence):
    with pytest.raises(ConfigError) as caught:
        decoded(values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_layer_that_made_the_mistake_is_named():
    with pytest.raises(ConfigError, match=r"^layer 1: model: n_embd 128 is not divisible by n_head 5"):
        decoded({"model": {"n_embd": 128}}, {"model": {"n_head": 5}})


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean gpt2-medium"):
        preset("gpt2-meduim")


def test_configs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        decoded({}).model.n_layer = 5


def test_changed_lists_dotted_keys():
    assert diff(decoded({}), decoded({"model": {"n_layer": 9}, "data": "x"})) == ["data", "model.n_layer"]


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59))
def test_durations(h, m, s):
    assert parse_duration(f"{h}h{m}m{s}s") == h * 3600 + m * 60 + s


@pytest.mark.parametrize("duration", ["0.00001s", "0.0000001", 1e10, 3, 0.5])
def test_a_duration_of_any_size_survives_yaml(duration):
    config = decoded({"train": {"max_time": duration}})
    assert decoded(yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize("text", ["", "m", "5x", "-3m", "1h2"])
def test_an_invalid_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_every_key_has_a_line_of_help():
    for name, field in Config.model_fields.items():
        for key, inner in getattr(field.annotation, "model_fields", {}).items():
            assert inner.description, f"{name}.{key}"


@pytest.mark.parametrize(
    ("rule", "keys"),
    [
        (OnResume.FREE, ["data", "train.max_steps", "train.time_limit", "evaluate.tasks", "tracking.backends"]),
        (OnResume.ROUNDING, ["train.device", "train.threads", "train.microbatch_threads", "train.compile"]),
        (OnResume.FIXED, ["init_from", "init_sha256", "prepare.sources", "model.n_layer", "optimizer.learning_rate"]),
        (OnResume.FIXED, ["schedule.name", "train.seed", "train.batch_tokens", "train.precision"]),
    ],
)
def test_resume_rules_are_those_declared_with_the_fields(rule, keys):
    assert {key: resume_rule(key) for key in keys} == dict.fromkeys(keys, rule)


def test_resume_rule_of_an_unknown_key_is_refused():
    with pytest.raises(KeyError):
        resume_rule("train.sed")
