"""The resolved config: no value is open, it is frozen, and it resolves to itself."""

import pytest

from groundup.config.merge import diff, flatten, get, merge_and_validate
from groundup.config.presets import PRESETS, preset
from groundup.config.resolved import (
    MACHINE_KEYS,
    OPEN,
    ResolvedConfig,
    ResolvedModel,
    ResolvedOptimizer,
    ResolvedTrain,
)
from groundup.config.schema import Config, resume_rule, to_yaml
from groundup.errors import ConfigError
from groundup.planning.memory import Machine
from groundup.planning.policy import resolve
from groundup.run.resolve import resolve_config

SECTIONS = {"model": ResolvedModel, "optimizer": ResolvedOptimizer, "train": ResolvedTrain}
RESOLVED_KEYS = {f"{section}.{key}" for section, narrowed in SECTIONS.items() for key in narrowed.__annotations__}
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
    assert resolve(config, MACHINES[machine], VOCAB_SIZE).model_dump() == config.model_dump()
    assert resolve_config(config, VOCAB_SIZE, MACHINES[machine]).model_dump() == config.model_dump()


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_what_a_run_records_resolves_to_the_same_again_and_is_recorded_as_the_same(name, machine):
    _, config = resolved(name, machine)
    again = Config.model_validate(config.recorded.model_dump(mode="json"))
    assert to_yaml(again) == to_yaml(config.recorded)
    assert resolve(again, MACHINES[machine], VOCAB_SIZE) == config


@pytest.mark.parametrize(("name", "machine"), CASES)
def test_a_run_records_only_what_the_machine_decided(name, machine):
    asked, config = resolved(name, machine)
    assert set(diff(asked, config.recorded)) <= MACHINE_KEYS
    assert "recorded" not in config.model_dump()


def test_values_that_follow_from_others_follow_when_a_recorded_config_is_edited():
    recorded = resolve(merge_and_validate([preset("modern")]), MACHINES["cpu"], VOCAB_SIZE).recorded
    assert recorded.optimizer.name == "muon"
    edited = recorded.model_dump() | {"optimizer": {**recorded.optimizer.model_dump(), "learning_rate": 5e-4}}
    edited["model"] |= {"n_embd": 2 * recorded.model.n_embd}
    found = resolve(Config.model_validate(edited), MACHINES["cpu"], VOCAB_SIZE)
    assert found.model.n_inner == 2 * 2048 == 2 * recorded.model.inner
    assert found.optimizer.head_learning_rate == 5e-4


def test_what_was_asked_of_several_processes_is_recorded_by_one():
    config = Config.model_validate({"train": {"max_steps": 1, "parallel": "fsdp", "micro_batch_size": 1_000_000}})
    alone = resolve(config, MACHINES["cpu"], VOCAB_SIZE)
    assert alone.train.parallel == "none"
    assert alone.recorded.train.parallel == "fsdp"
    assert alone.recorded.train.micro_batch_size == 1_000_000
    assert resolve(alone.recorded, MACHINES["processes"], VOCAB_SIZE).train.parallel == "fsdp"


def test_threads_that_share_a_micro_batch_come_back_with_the_single_process():
    config = Config.model_validate({"train": {"max_steps": 1, "microbatch_threads": 2}})
    one = Machine("cpu", "fp32", memory=None, free_disk=10**12, threads=4)
    two = Machine("cpu", "fp32", memory=None, free_disk=10**12, processes=2, threads=2)
    for machine, threads in ((one, 2), (two, 1), (one, 2)):
        found = resolve(config, machine, VOCAB_SIZE)
        assert found.train.microbatch_threads == threads
        config = found.recorded


def test_parallel_none_is_refused_where_there_are_several_processes():
    config = Config.model_validate({"train": {"max_steps": 1, "parallel": "none"}})
    assert resolve(config, MACHINES["cpu"], VOCAB_SIZE).train.parallel == "none"
    with pytest.raises(ConfigError, match="parallel: none, but there are 3 processes"):
        resolve(config, MACHINES["processes"], VOCAB_SIZE)


def test_narrowed_fields_are_the_keys_that_change_from_open_to_set():
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
def test_a_config_with_an_open_value_is_not_resolved(key, value):
    _, config = resolved("gpt2-nano", "cpu")
    if (key, value) == ("train.device", "auto"):
        pytest.skip("a name like any other, which `detect_machine` never gives")
    values = config.model_dump() | {"recorded": config.recorded}
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
            return value | {"threads": 7}

    assert resolve_config(Config(), 257, MACHINES["cpu"], Group()).train.threads == 7
