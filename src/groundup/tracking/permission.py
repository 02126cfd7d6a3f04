"""Which runs this account asked trackers to show.

A run's folder may come from others, and its config.yaml may name trackers. So the request is noted under the user's own
home, by the random id of the run, when a run is started with trackers or an option names them.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from groundup.config.sections import TrackingConfig
from groundup.tracking.trackers import noted_identity, run_identity
from groundup.utils.system import state_folder

LOCAL = {"tensorboard"}  # writes into the run's folder alone, and needs no permission

_asked_here: set[str] = set()  # by this process, whose user may have no home that can be written


def permit(run: Path, say: Callable[[str], None]) -> None:
    """Note that this account asked for trackers of the run in the folder `run`, now and whenever it is resumed."""
    run_id, _ = run_identity(run, say)
    _asked_here.add(run_id)
    with suppress(OSError):
        note = _note(run_id)
        note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        note.touch()


def permitted(config: TrackingConfig, run: Path, say: Callable[[str], None]) -> TrackingConfig:
    """`config` without trackers that this account did not ask for; one message names them."""
    refused = [name for name in config.backends if name not in LOCAL]
    if not refused or _is_permitted(run):
        return config
    names = ",".join(refused)
    say(
        f"tracking: {names} in the run's config is not contacted: nothing on this account notes that you asked for it; "
        f"`groundup resume {run} --track {','.join(config.backends)}` does"
    )
    return config.model_copy(update={"backends": tuple(name for name in config.backends if name in LOCAL)})


def _is_permitted(run: Path) -> bool:
    with suppress(OSError, ValueError):  # no id yet: no tracker was requested
        run_id, _ = noted_identity(run)
        return run_id in _asked_here or _note(run_id).is_file()
    return False


def _note(run_id: str) -> Path:
    return state_folder() / "tracked" / run_id
