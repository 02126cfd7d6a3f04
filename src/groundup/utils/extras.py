"""The command that installs an extra into this installation: groundup is on no package index."""

import json
import shlex
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]  # of a checkout


def install_command(extra: str) -> str:
    """`pip install …` with an extra such as `data`: of the checkout that runs, or of where this was installed from."""
    if (ROOT / "pyproject.toml").is_file():
        place = "." if Path.cwd() == ROOT else str(ROOT)
        return f"pip install --editable {shlex.quote(f'{place}[{extra}]')}"
    try:
        origin = json.loads(metadata.distribution("groundup").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        origin = {}
    source = f" @ {origin['url']}" if isinstance(origin, dict) and isinstance(origin.get("url"), str) else ""
    return f"pip install {shlex.quote(f'groundup[{extra}]{source}')}"
