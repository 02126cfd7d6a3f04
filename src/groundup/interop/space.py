"""Export to a Space of the hub: a folder with a page that runs the model.

app.py                   the page: a copy of `groundup/space/app.py`, for its owner to change
README.md                the hub's metadata of the Space, and the model's card
requirements.txt         installed by the hub before it copies the other files, so it cannot name the wheel
groundup-….whl           the package, imported by app.py
model/                   a checkpoint without optimizer state, and without the paths of this machine
"""

import json
import platform
import re
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch import Tensor

from groundup.checkpoint import state
from groundup.checkpoint.metadata import load_metadata
from groundup.config.schema import Config
from groundup.distributed.gather import StateTensors
from groundup.interop import wheel
from groundup.interop.model_card import ModelCardInfo, card, plain
from groundup.interop.output import digests
from groundup.interop.parity import Agreement, batch, check_logits
from groundup.model.gpt import GPT
from groundup.sources.hub import PREFIX
from groundup.tokenizers.base import Tokenizer

SDK = "6.31.0"  # of gradio, for the hub to install: the version that the tests use
RELEASE = re.compile(r"\d+(\.\d+)*(\.?post\d+)?", re.ASCII)  # a nightly or local build is on no index
PUBLIC_SECTIONS = ("model", "optimizer", "schedule", "train")  # of the config: none can name a path, text or person
MAX_SOURCES = 3  # named on the page; the card has more
USAGE = """
# The page: pip install -r requirements.txt, then python app.py. The model alone:
import sys

sys.path.insert(0, "{wheel}")
import groundup

print(groundup.generate("model", "Once", seed=1)[0])
"""


def write(
    folder: Path, checkpoint: Path, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, info: ModelCardInfo
) -> list[str]:
    """Write all files to the empty `folder`, and return notes for the user; OSError from the disk."""
    lines, notes = requirements()
    (folder / "app.py").write_bytes(resources.files("groundup").joinpath("space/app.py").read_bytes())
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = card(info, USAGE.format(wheel=wheel.file_name()), header=_header(info), lead=_lead(info))
    (folder / "README.md").write_text(text, encoding="utf-8")
    config = Config(**{name: getattr(info.config, name) for name in PUBLIC_SECTIONS})
    snapshot = state.Snapshot(config, tokenizer, _progress(checkpoint), StateTensors(dict(tensors), {}, {}))
    state.save(folder / "model", snapshot)
    wheel.write(folder, json.dumps(digests(folder)).encode())  # to recognize changed files later
    return notes


@torch.no_grad()
def check(folder: Path, model: GPT, opened: GPT) -> Agreement:
    """ExportError unless `opened`, the folder's model, has `model`'s logits to the last bit and the wheel is intact."""
    wheel.check(folder)
    ids = batch(model.config)
    return check_logits(f"groundup {metadata.version('groundup')}", model(ids), opened(ids), 0.0)


def requirements() -> tuple[list[str], list[str]]:
    """The lines of requirements.txt, and notes about them.

    They are groundup's dependencies and gradio, each in the version that runs here if that is a release.
    """
    lines = [_pinned(line) for line in wheel.dependencies()]
    notes = [
        f"requirements.txt asks for {line}, in any version: torch {metadata.version('torch')} here is no release"
        for line in lines
        if line.startswith("torch") and "==" not in line
    ]
    return [*lines, f"gradio=={SDK}"], notes


def _pinned(line: str) -> str:
    name = Requirement(line).name
    version = metadata.version(name).partition("+")[0]
    return f"{name}=={version}" if RELEASE.fullmatch(version) else line


def _progress(checkpoint: Path) -> dict[str, Any]:
    """Training progress, and the source of an imported model if that is on the hub."""
    progress = load_metadata(checkpoint)
    origin = progress.get("origin")
    kept = {"step": progress["step"], "tokens": progress["tokens"]}
    if isinstance(origin, dict) and origin:
        public = str(origin.get("source", "")).startswith(PREFIX)
        kept["origin"] = origin if public else {"kind": origin.get("kind", "model")}
    return kept


def _header(info: ModelCardInfo) -> dict[str, Any]:
    """Metadata for the hub: https://huggingface.co/docs/hub/spaces-config-reference."""
    return {
        "title": info.name.rpartition("/")[2],
        "emoji": "🌱",
        "colorFrom": "green",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": SDK,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Continues your text",
        "tags": ["groundup"],
    }


def _lead(info: ModelCardInfo) -> str:
    """The first paragraph of the page."""
    names = [f"`{plain(source)}`" for source in info.sources[:MAX_SOURCES]]
    if more := len(info.sources) - len(names):
        names.append(f"{more:,} more")
    read = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return f"Trained on {read}. It continues your text." if read else "It continues your text."
