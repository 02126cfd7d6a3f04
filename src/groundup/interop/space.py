"""A Space of the hub: a folder with a page on which the model writes, and all that the page needs.

app.py                   the page: `groundup/space/app.py` as it is, for its owner to change
README.md                what the hub must know of the Space, and the model's card
requirements.txt         what the hub installs before it brings the other files, so that it cannot name the wheel
groundup-….whl           from which app.py imports
model/                   a checkpoint without moments, and without the names of this machine's folders
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from groundup.checkpoint import state
from groundup.checkpoint.files import PROGRESS, read_json
from groundup.config.schema import Config
from groundup.distributed.gather import StateTensors
from groundup.interop import wheel
from groundup.interop.model_card import ModelCardInfo, card, plain
from groundup.interop.output import digests
from groundup.interop.parity import Agreement, batch, check_logits
from groundup.model.gpt import GPT
from groundup.sources.hub_client import PREFIX
from groundup.tokenizers.base import Tokenizer

GRADIO = "gradio>=6.31,<7"  # as the extra `serve` in pyproject.toml
SDK = "6.31.0"  # the version that the hub is to install, of those the one that the tests run with
RELEASE = re.compile(r"\d+\.\d+\.\d+", re.ASCII)  # of torch: no nightly or own build, which no index has
PUBLIC = ("model", "optimizer", "schedule", "train")  # sections that can name no folder, text or person
NAMED = 3  # texts that the page names; the card has them all


def write(
    folder: Path, checkpoint: Path, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, facts: ModelCardInfo
) -> list[str]:
    """Write all files to the empty `folder`, and return notes for whoever exports; OSError where the disk refuses."""
    asked, notes = requirements()
    (folder / "app.py").write_bytes(resources.files("groundup").joinpath("space/app.py").read_bytes())
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in asked), encoding="utf-8")
    text = card(facts, _usage(), header=_header(facts), lead=_lead(facts))
    (folder / "README.md").write_text(text, encoding="utf-8")
    kept = state.Snapshot(_public(facts.config), tokenizer, _progress(checkpoint), StateTensors(dict(tensors), {}, {}))
    state.save(folder / "model", kept)
    wheel.write(folder, json.dumps(digests(folder)).encode())  # by which a file that someone changed is known
    return notes


@torch.no_grad()
def check(folder: Path, model: GPT, opened: GPT) -> Agreement:
    """Whether the folder's model, `opened` anew, computes what `model` does, to the last bit, and its wheel is whole;
    else ExportError.
    """
    wheel.check(folder)
    ids = batch(model.config)
    return check_logits(f"groundup {metadata.version('groundup')}", model(ids), opened(ids), 0.0)


def requirements() -> tuple[list[str], list[str]]:
    """The lines of requirements.txt, and what to note of them.

    What groundup asks for and gradio, and torch in the version that is running where that is one that anybody can have.
    """
    version, lines = metadata.version("torch").partition("+")[0], [*wheel.dependencies(), GRADIO]
    if RELEASE.fullmatch(version):
        return [f"torch=={version}" if line.startswith("torch") else line for line in lines], []
    asked = next(line for line in lines if line.startswith("torch"))
    return lines, [f"requirements.txt asks for {asked}, whichever that will be: torch {version} here is no release"]


def _public(config: Config) -> Config:
    """The configuration as the world may have it: what says how the model was trained; all else is as for anybody."""
    return Config(**{name: getattr(config, name) for name in PUBLIC})


def _progress(checkpoint: Path) -> dict[str, Any]:
    """How far it was trained, and where it came from if that is on the hub."""
    known = read_json(checkpoint / PROGRESS)
    origin = known.get("origin")
    kept = {"step": known["step"], "tokens": known["tokens"]}
    if isinstance(origin, dict) and origin:
        public = str(origin.get("source", "")).startswith(PREFIX)
        kept["origin"] = origin if public else {"kind": origin.get("kind", "model")}
    return kept


def _header(facts: ModelCardInfo) -> dict[str, Any]:
    """What the hub reads: https://huggingface.co/docs/hub/spaces-config-reference."""
    return {
        "title": facts.name.rpartition("/")[2],
        "emoji": "🌱",
        "colorFrom": "green",
        "colorTo": "indigo",
        "sdk": "gradio",
        "sdk_version": SDK,
        "python_version": ".".join(platform.python_version_tuple()[:2]),
        "app_file": "app.py",
        "pinned": False,
        "short_description": "Writes on from whatever you begin",
        "tags": ["groundup"],
    }


def _lead(facts: ModelCardInfo) -> str:
    """What the page says of the model before anything else."""
    names = [f"`{plain(source)}`" for source in facts.sources[:NAMED]]
    if more := len(facts.sources) - len(names):
        names.append(f"{more:,} more")
    read = " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
    return (
        f"It has read {read}, and writes on from whatever you begin." if read else "It writes on from what you begin."
    )


def _usage() -> str:
    return f"""
# The page: pip install -r requirements.txt, then python app.py. The model alone:
import sys

sys.path.insert(0, "{wheel.file_name()}")
import groundup

print(groundup.generate("model", "Once", seed=1)[0])
"""
