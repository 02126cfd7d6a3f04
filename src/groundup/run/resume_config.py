"""Config of a resumed run: what may change, and what a restarted command may leave open."""

from collections.abc import Mapping
from typing import Any

from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import ConfigSource, diff, get, merge_and_validate
from groundup.config.resolved import OPEN, RESOLVED_KEYS
from groundup.config.schema import Config, resume_rule
from groundup.config.types import OnResume
from groundup.distributed.launch import init_distributed
from groundup.distributed.process_group import ProcessGroup
from groundup.errors import ConfigError


def reconfigure(
    run: RunFolder, overrides: Mapping[str, Any], process_group: ProcessGroup | None = None
) -> tuple[Config, list[str]]:
    """A run's config with `overrides`, and the keys these change; ConfigError for a key that cannot change."""
    previous = run_config(run, process_group or init_distributed())
    sources = [ConfigSource(str(run.path), previous.model_dump()), ConfigSource("resume", dict(overrides), typed=True)]
    config = merge_and_validate(sources)
    keys = diff(previous, config)
    for key in keys:
        if resume_rule(key) is OnResume.FIXED:
            raise ConfigError(f"{key}: cannot change when a run is resumed; start a new run with --out")
    return config, keys


def overrides_of(config: Config, run: RunFolder, process_group: ProcessGroup) -> dict[str, Any]:
    """What `config` changes in the run that a restarted command finds; keys that it leaves open stay as they are."""
    previous = run_config(run, process_group)
    given = {key: get(config, key) for key in diff(previous, config)}
    return {key: value for key, value in given.items() if key not in RESOLVED_KEYS or value not in OPEN}


def run_config(run: RunFolder, process_group: ProcessGroup) -> Config:
    """The run's config, read on rank 0."""
    config = process_group.broadcast_object(None if process_group.rank else run.config())
    assert config is not None, "rank 0 has read it"
    return config
