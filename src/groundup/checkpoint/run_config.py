"""A run's config.yaml: what is lost of it, rebuilding it from a checkpoint, and whether it contradicts one."""

import os
from pathlib import Path

from groundup.checkpoint.files import load_config, unreadable
from groundup.checkpoint.run_folder import RunFolder
from groundup.config.merge import diff, flatten, get
from groundup.config.renamed import rename_keys
from groundup.config.resolved import MACHINE_KEYS, OPEN
from groundup.config.schema import Config, resume_rule
from groundup.config.types import FIXED
from groundup.config.yaml_loader import read_yaml
from groundup.errors import CheckpointError, ConfigError
from groundup.utils.files import unused

DAMAGED = ".damaged"  # end of the name under which a lost config.yaml is kept
MAX_DIFFERENCES = 3  # named in a message


def lost_config(run: RunFolder) -> str | None:
    """Why a run's config.yaml must be rebuilt, such as `missing`; None where it is at least a config. UnreadableError.

    A config with a mistake in it is none of these: its user knows what was meant.
    """
    path = run.path / "config.yaml"
    if path.is_symlink():
        raise CheckpointError(f"{path}: is a link, which is not followed; put the file itself there")
    try:
        values = read_yaml(path)
    except ConfigError as error:
        reason = error.__cause__
        if isinstance(reason, OSError) and not isinstance(reason, FileNotFoundError | IsADirectoryError):
            raise unreadable(reason, path) from error
        return "missing" if isinstance(reason, FileNotFoundError) else "no YAML"
    model = values.get("model")
    return None if isinstance(model, dict) and model.get("vocab_size") else "cut short"


def config_or_rebuilt(run: RunFolder) -> Config:
    """The run's config; where config.yaml is lost, that of the newest good checkpoint. CheckpointError."""
    if lost_config(run):
        try:
            checkpoint, _ = run.newest_good()
        except CheckpointError:
            checkpoint = None
        if checkpoint:
            return load_config(checkpoint)
    return run.config()


def keep_lost_config(run: RunFolder) -> str | None:
    """Rename a config.yaml that is lost, so that another can be written. Returns what to say; None where it is fine."""
    path, problem = run.path / "config.yaml", lost_config(run)
    if problem is None:
        return None
    message = f"{path}: {problem}; rebuilt from the newest checkpoint"
    if os.path.lexists(path):
        kept = unused(path.with_name(f"{path.name}{DAMAGED}"))
        path.rename(kept)
        message += f", and the previous one kept as {kept.name}"
    return message


def changed_config(run: RunFolder, config: Config, checkpoint: Path) -> str | None:
    """How the run's `config` contradicts the one that a checkpoint was trained with; None if it does not.

    That is a key that cannot change on resume and has, or any other that config.yaml does not hold, as if cut off.
    """
    path, trained = run.path / "config.yaml", load_config(checkpoint)
    written = {key for key, _ in flatten(rename_keys(read_yaml(path))[0])}
    found = []
    for key in diff(trained, config):
        now, before = get(config, key), get(trained, key)
        if key in MACHINE_KEYS and (now in OPEN or before in OPEN):  # chosen here, by this version or an earlier one
            continue
        if resume_rule(key) is FIXED or key not in written:
            found.append(f"{key} {f'is {now}' if key in written else 'is missing'}, not {before}")
    if not found:
        return None
    more = f" and {len(found) - MAX_DIFFERENCES} more" if len(found) > MAX_DIFFERENCES else ""
    return (
        f"{path}: {', '.join(found[:MAX_DIFFERENCES])}{more}, as {checkpoint.name} was trained with; put that back, or "
        "remove config.yaml, which resume then rebuilds from the checkpoint"
    )
