"""The final lines of `train` and `resume`."""

import shlex
from dataclasses import asdict
from pathlib import Path

from groundup.run.trainer import TrainResult
from groundup.ui.format import json_line


def finish(result: TrainResult, *, as_json: bool, quiet: bool = False) -> int:
    """Print how a run ended (unless `quiet`); returns the exit status, 128 + n when signal n stopped it."""
    best = result.best
    if quiet:
        pass
    elif as_json:
        values = {**asdict(result), **asdict(result.losses)}
        del values["losses"]
        print(json_line(values, default=lambda path: path.as_posix() if isinstance(path, Path) else str(path)))
    elif result.signal:
        print(f"stopped at step {result.step:,}; saved in {result.checkpoint}")
        print("next:", shlex.join(["groundup", "resume", str(result.run)]), flush=True)
    else:
        print(f"step {result.step:,} saved in {result.checkpoint}")
        earlier = best.loss is not None and best.step < result.step
        if earlier:
            print(f"best validation loss {best.loss:.4f} at step {best.step:,}: --checkpoint best uses that one")
        words = ["groundup", "generate", str(result.run), "--prompt", "TEXT"]
        print("next:", shlex.join([*words, *(["--checkpoint", "best"] if earlier else [])]))
    return 128 + result.signal if result.signal else 0
