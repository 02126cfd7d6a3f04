"""The resolved config: nothing is left open, nothing can change, and it resolves to itself."""

import pytest

from groundup.config.merge import diff, flatten, get, merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.config.resolved import OPEN, RESOLVED_KEYS, ResolvedConfig
from groundup.config.schema import Config, resume_rule, to_yaml
from groundup.errors import ConfigError
from groundup.planning.memory import Machine
from groundup.planning.policy import resolve
from groundup.run.resolve import resolve_config

MACHINES = {
    "cpu": Machine("cpu", "bf16", memory=16 * 10**9, free_disk=10**12, threads=4),
    "gpu": Machine("cuda", "bf16", memory=80 * 10**9, free_disk=10**12, threads=8, device_name="cuda:1"),
    "processes": Machine("cuda", "bf16", memory=24 * 10**9, free_disk=10**12, processes=3, threads=2),
    "unknown memory": Machine("mps", "fp32", memory=None, free_disk=10**12, threads=8),
}
CASES = [(name, machine) for name in PRESETS for machine in MACHINES]
VOCAB_SIZE = 50_257


def resolved(name: str, machine: str) -> tuple[Config, ResolvedConfig]:
    config = merge_and_validate([preset(name)])
    return config, resolve(config, MACHINES[machine], VOCAB_SIZE)


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_nothing_is_left_open(name, machine):
    _, config = resolved(name, machine)
    assert [key for key, value in flatten(config.model_dump()) if value == "auto"] == []
    assert {key: get(config, key) for key in RESOLVED_KEYS if get(config, key) in OPEN} == {}


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_given_values_are_kept(name, machine):
    config, found = resolved(name, machine)
    changed = {key for key in diff(config, found) if get(config, key) not in OPEN}
    assert changed <= {"schedule.cooldown_fraction", "schedule.warmup_fraction", "train.micro_batch_size"}
    for key in changed & {"train.micro_batch_size"}:
        assert get(found, key) == config.batch_size < get(config, key), "no more than a batch has"


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_a_resolved_config_resolves_to_itself(name, machine):
    _, config = resolved(name, machine)
    assert resolve(config, MACHINES[machine], VOCAB_SIZE) == config
    assert resolve_config(config, VOCAB_SIZE, MACHINES[machine]) == config


@pytest.mark.parametrize("name", PRESETS)
def test_read_again_from_a_runs_config_it_resolves_to_itself(name):
    _, config = resolved(name, "cpu")
    again = Config.model_validate(config.model_dump(mode="json"))
    assert to_yaml(again) == to_yaml(config)
    assert resolve(again, MACHINES["cpu"], VOCAB_SIZE) == config


def test_resolved_keys_are_those_that_change_from_open_to_set():
    everything_open = Config.model_validate({"train": {"max_steps": 1}})
    found = resolve(everything_open, MACHINES["cpu"], VOCAB_SIZE)
    assert set(diff(everything_open, found)) == RESOLVED_KEYS
    assert all(get(everything_open, key) in OPEN for key in RESOLVED_KEYS)


def test_every_key_that_can_be_auto_is_resolved():
    given = dict(flatten(Config().model_dump()))
    assert {key for key, value in given.items() if value == "auto"} <= RESOLVED_KEYS
    for key in RESOLVED_KEYS:
        resume_rule(key)  # KeyError for a key that does not exist


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("train", "micro_batch_size", 1), ("model", "vocab_size", 9), ("optimizer", "head_learning_rate", 0.1)],
)
def test_a_resolved_config_is_frozen(section, key, value):
    _, config = resolved("gpt2-nano", "cpu")
    with pytest.raises(ValueError, match="frozen"):
        setattr(getattr(config, section), key, value)
    with pytest.raises(ValueError, match="frozen"):
        config.train = config.train


@pytest.mark.parametrize("key", sorted(RESOLVED_KEYS))
@pytest.mark.parametrize("value", OPEN)
def test_an_open_value_is_no_resolved_config(key, value):
    _, config = resolved("gpt2-nano", "cpu")
    if (key, value) == ("train.device", "auto"):
        pytest.skip("a name like any other, which `detect_machine` never gives")
    values = config.model_dump()
    section, name = key.split(".")
    values[section][name] = value
    with pytest.raises(ValueError, match=name):
        ResolvedConfig.model_validate(values)


def test_a_vocabulary_unlike_that_of_the_tokenizer_is_refused():
    config = Config.model_validate({"model": {"vocab_size": 99}})
    with pytest.raises(ConfigError, match="99, but the data's tokenizer has 257 ids"):
        resolve_config(config, 257, MACHINES["cpu"])


def test_rank_0_resolves_for_all():
    class Group:
        def broadcast_object(self, value):
            return "what rank 0 resolved"

    assert resolve_config(Config(), 257, MACHINES["cpu"], Group()) == "what rank 0 resolved"
