"""A trained model in the formats of other programs: written, opened again, compared, and only then there. No torch
before a checkpoint is loaded.

    import groundup

    groundup.export("runs/book", "exports/book", to="hf")      # transformers, and what reads its folders
    groundup.export("runs/book", "book.gguf", to="gguf")       # llama.cpp
    groundup.export("runs/book", "exports/book", to="space")   # a page on the hub, or here
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from groundup.checkpoint.run_folder import find_checkpoint, run_of
from groundup.config.merge import did_you_mean
from groundup.errors import UsageError
from groundup.interop import wheel
from groundup.interop.model_card import ModelCardInfo, card, collect_card_info
from groundup.interop.output import Like, check_output, is_gguf, is_hf, is_space, new_output

if TYPE_CHECKING:
    from torch import Tensor

    from groundup.checkpoint.load import LoadedModel

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
FOREIGN = re.compile(r"[^\w.-]+", re.ASCII)  # what a name cannot hold, as it stands in commands and code
NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True)
class Export:
    """What was written, and what was found when it was opened again."""

    out: Path
    to: str
    checkpoint: str
    bytes: int
    notes: tuple[str, ...]
    checked_by: str | None  # None where the program that reads the format is not installed
    difference: float | None  # of its logits from the model's, as a part of the largest
    seconds: float  # without opening it again


@dataclass(frozen=True)
class Source:
    """A checkpoint on its way out."""

    loaded: LoadedModel
    name: str
    licence: str
    run: Path | None  # the run that the checkpoint lies in, if it does

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by our names, a tied head once."""
        return {name: p.detach().cpu() for name, p in self.loaded.model.named_parameters()}

    @property
    def card_info(self) -> ModelCardInfo:
        """Facts for the model card."""
        return collect_card_info(self.loaded, self.name, self.licence, self.run)


Written = tuple[list[str], Callable[[Path], Any]]
"""Notes for whoever exports, and what opens the written again: it returns an `Agreement`, or None."""


@dataclass(frozen=True)
class Target:
    """One format."""

    summary: str
    like: Like
    refuse: Callable[[LoadedModel], None]  # before anything is written
    write: Callable[[Source, Path], Written]
    reader: str  # what is needed to open it again, and how it is installed


def _refuse_hf(loaded: LoadedModel) -> None:
    from groundup.interop.hf_mapping import family_of

    family_of(loaded.config.model)


def _write_hf(source: Source, folder: Path) -> Written:
    from groundup.interop import hf_export

    loaded = source.loaded
    hf_export.write(
        folder, loaded.config.model, source.tensors, loaded.tokenizer, card(source.card_info, _usage(source))
    )
    return [], lambda place: hf_export.check(place, loaded.model, loaded.tokenizer)


def _refuse_gguf(loaded: LoadedModel) -> None:
    from groundup.interop import gguf

    gguf.refuse(loaded.config.model, loaded.tokenizer)
    gguf.library()


def _write_gguf(source: Source, path: Path) -> Written:
    from groundup.interop import gguf

    loaded, tensors = source.loaded, source.tensors
    gguf.write(path, loaded.config.model, tensors, loaded.tokenizer, name=source.name, licence=source.licence)
    return [], lambda place: gguf.check(place, loaded.model, tensors, loaded.tokenizer)


def _write_space(source: Source, folder: Path) -> Written:
    from groundup.checkpoint.load import load
    from groundup.interop import space

    loaded = source.loaded
    notes = space.write(folder, loaded.folder, source.tensors, loaded.tokenizer, source.card_info)
    return notes, lambda place: space.check(place, loaded.model, load(place / "model", device="cpu").model)


_TRANSFORMERS = "transformers, which reads it, is not installed: pip install 'groundup[hf]'"
_LLAMA = "llama.cpp, which reads it, is not installed: pip install llama-cpp-python"

_HF_FILES = frozenset(
    {"config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json",
     "tokenizer_config.json"}
)  # fmt: skip
_SPACE_FILES = frozenset({"app.py", "README.md", "requirements.txt", "model", wheel.PATTERN})

TARGETS: dict[str, Target] = {
    "hf": Target(
        "a folder for transformers", Like(_HF_FILES, partial(is_hf, _HF_FILES)),
        _refuse_hf, _write_hf, _TRANSFORMERS,
    ),
    "gguf": Target("a file for llama.cpp", Like(frozenset(), is_gguf), _refuse_gguf, _write_gguf, _LLAMA),
    "space": Target(
        "a folder with a page for a Space of the hub", Like(_SPACE_FILES, partial(is_space, wheel.PATTERN)),
        lambda _: wheel.refuse(), _write_space, "",
    ),
}  # fmt: skip


def export(
    path: str | Path,
    out: str | Path,
    *,
    to: str = "hf",
    checkpoint: str = "latest",
    name: str | None = None,
    license: str = "",  # noqa: A002  # as the option and the card's key are called
    overwrite: bool = False,
) -> Export:
    """Write a run's or checkpoint's model to `out` in another program's format: `hf`, `gguf`, `space`.

    The running average of the weights goes out where one was kept. What was written is opened again, with the program
    that reads it where that is installed, and compared with the model; only then is it at `out`. An earlier export is
    replaced with `overwrite`. Raises CheckpointError, UsageError, ExportError.
    """
    target, place = _target(to), Path(out)
    check_output(place, target.like, overwrite=overwrite)
    source = open_source(path, target, checkpoint=checkpoint, name=name, licence=license)
    with new_output(place, target.like, overwrite=overwrite) as hidden:
        start = perf_counter()
        notes, check = target.write(source, hidden)
        seconds = perf_counter() - start
        agreement = check(hidden)
        files = [file for file in hidden.rglob("*") if file.is_file()] if target.like.files else [hidden]
        size = sum(file.stat().st_size for file in files)
    if agreement is None and target.reader:
        notes.append(f"not opened there: {target.reader}")
    by, difference = (agreement.by, agreement.difference) if agreement else (None, None)
    return Export(place, to, source.loaded.folder.name, size, tuple(notes), by, difference, seconds)


def open_source(
    path: str | Path, target: Target, *, checkpoint: str = "latest", name: str | None = None, licence: str = ""
) -> Source:
    """The checkpoint that is to go out as `target`. Raises CheckpointError, UsageError."""
    folder = find_checkpoint(Path(path), checkpoint)
    run = run_of(folder)
    called = name or FOREIGN.sub("-", (run or folder).resolve().name).strip("-") or "model"
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: must be letters, digits, '-', '_' and '.', as in book or me/book")
    if licence and not LICENCE.fullmatch(licence):
        raise UsageError(f"license {licence!r}: no identifier; give one of the SPDX list, such as mit or cc-by-4.0")
    from groundup.checkpoint.load import load

    source = Source(load(folder, device="cpu"), called, licence.lower(), run)
    _refuse_damage(folder, source.tensors)
    target.refuse(source.loaded)
    return source


def _refuse_damage(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """UsageError where a weight is no finite number: no other program computes anything from it, nor do we."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise UsageError(f"{folder}: {name} holds numbers that are not finite; export another checkpoint")


def _usage(source: Source) -> str:
    return f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{source.name}"  # where this file lies, or the model's name on the hub
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("Once", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True, temperature=0.8)[0]))
"""


def _target(to: str) -> Target:
    if to not in TARGETS:
        raise UsageError(f"to {to!r}: there is no such format; {did_you_mean(to, TARGETS)}")
    return TARGETS[to]
