"""Export a trained model to the formats of other programs, and compare what they compute with the model.

    import groundup

    groundup.export("runs/book", "exports/book", to="hf")      # transformers, and what reads its folders
    groundup.export("runs/book", "book.gguf", to="gguf")       # llama.cpp and ollama
    groundup.export("runs/book", "exports/book", to="space")   # a page for a Space of the hub

No torch before a checkpoint is loaded.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from groundup.checkpoint.run_folder import read_checkpoint, run_of
from groundup.config.merge import did_you_mean
from groundup.errors import UsageError
from groundup.interop import modelfile, wheel
from groundup.interop.model_card import card, collect_card_info
from groundup.interop.output import GGUF_FILE, HF_FOLDER, MODELFILE, SPACE_FOLDER, OutputKind, check_output, new_output
from groundup.utils.extras import install_command
from groundup.utils.files import resolved

if TYPE_CHECKING:
    from torch import Tensor

    from groundup.checkpoint.state import LoadedModel
    from groundup.interop.parity import Agreement

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
NAME = re.compile(r"([A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
NOT_IN_NAMES = re.compile(r"[^\w.-]+", re.ASCII)  # a name is quoted in commands and code
F32 = "f32"
HF_USAGE = """
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "{name}"  # the folder of this file, or the model's name on the hub
tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
ids = tokenizer("Once", return_tensors="pt").input_ids
print(tokenizer.decode(model.generate(ids, max_new_tokens=100, do_sample=True, temperature=0.8)[0]))
"""


@dataclass(frozen=True)
class Export:
    """A finished export, and the result of its check."""

    out: Path
    to: str
    checkpoint: str
    bytes: int
    notes: tuple[str, ...]
    checked_by: str | None  # None where the program that reads the format is not installed
    difference: float | None  # maximum over logits, relative to the model's largest
    seconds: float  # of writing, without the check


@dataclass(frozen=True)
class Source:
    """The checkpoint to export."""

    loaded: LoadedModel
    name: str
    licence: str
    run: Path | None  # the run that the checkpoint is in, if any
    dtype: str = F32

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The weights by groundup's names, a tied head once."""
        return {name: p.detach().cpu() for name, p in self.loaded.model.named_parameters()}


Written = tuple[list[str], "Callable[[Path], Agreement | None]"]
"""Notes for the user, and the check of what was written: None where the program that reads it is not installed."""


@dataclass(frozen=True)
class Target:
    """One format."""

    summary: str
    kind: OutputKind
    refuse: Callable[[LoadedModel], None]  # UsageError before anything is written
    write: Callable[[Source, Path], Written]
    reader_missing: str = ""  # note where the program that reads the format is not installed
    dtypes: tuple[str, ...] = (F32,)
    beside: Callable[[Path], Path] | None = None  # path of the Modelfile, for a format that has one


def _refuse_hf(loaded: LoadedModel) -> None:
    from groundup.interop.hf_mapping import family_of

    family_of(loaded.config.model)


def _write_hf(source: Source, folder: Path) -> Written:
    from groundup.interop import hf

    loaded, info = source.loaded, collect_card_info(source.loaded, source.name, source.licence, source.run)
    text = card(info, HF_USAGE.format(name=source.name))
    hf.write(folder, loaded.config.model, source.tensors, loaded.tokenizer, text)
    return [], lambda path: hf.check(path, loaded.model, loaded.tokenizer)


def _refuse_gguf(loaded: LoadedModel) -> None:
    from groundup.interop import gguf

    gguf.refuse(loaded.config.model, loaded.tokenizer)
    gguf.library()


def _write_gguf(source: Source, path: Path) -> Written:
    from groundup.interop import gguf

    loaded, tensors, dtype = source.loaded, source.tensors, source.dtype
    names = {"name": source.name, "licence": source.licence}
    notes = gguf.write(path, loaded.config.model, tensors, loaded.tokenizer, dtype=dtype, **names)
    return notes, lambda path: gguf.check(path, loaded.model, tensors, loaded.tokenizer, dtype)


def _write_space(source: Source, folder: Path) -> Written:
    from groundup.checkpoint.state import load
    from groundup.interop import space

    loaded, info = source.loaded, collect_card_info(source.loaded, source.name, source.licence, source.run)
    notes = space.write(folder, loaded.folder, source.tensors, loaded.tokenizer, info)
    return notes, lambda path: space.check(path, loaded.model, load(path / "model", device="cpu").model)


TARGETS: dict[str, Target] = {
    "hf": Target(
        "a folder for transformers", HF_FOLDER, _refuse_hf, _write_hf,
        f"transformers, which reads it, is not installed: {install_command('hf')}",
    ),
    "gguf": Target(
        "a file for llama.cpp, and a Modelfile for ollama", GGUF_FILE, _refuse_gguf, _write_gguf,
        "llama.cpp, which reads it, is not installed: pip install llama-cpp-python",
        (F32, "f16", "bf16", "q8_0"), modelfile.path_for,
    ),
    "space": Target(
        "a folder with a page for a Space of the hub", SPACE_FOLDER, lambda _: wheel.refuse(), _write_space,
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
    dtype: str = F32,
    overwrite: bool = False,
) -> Export:
    """Write the model of a run or checkpoint to `out` in another program's format: `hf`, `gguf` or `space`.

    The moving average of the weights is exported where the checkpoint has one. The output is opened again, with the
    program that reads it where that is installed, and compared with the model; only then does it appear at `out`. An
    earlier export is replaced with `overwrite`. `gguf` stores matrices as `dtype`: f32, f16, bf16 or q8_0, and has a
    Modelfile next to it. Raises CheckpointError, UsageError, ExportError.
    """
    if to not in TARGETS:
        raise UsageError(f"to {to!r}: there is no such format; {did_you_mean(to, TARGETS)}")
    target, out = TARGETS[to], Path(out)
    if dtype not in target.dtypes:
        raise UsageError(f"dtype {dtype}: --to {to} writes {' or '.join(target.dtypes)}; take one of these")
    check_output(out, target.kind, overwrite=overwrite)
    if target.beside:
        check_output(target.beside(out), MODELFILE, overwrite=overwrite)
    if name is not None and not NAME.fullmatch(name):
        raise UsageError(f"name {name!r}: must be letters, digits, '-', '_' and '.', as in book or me/book")
    if license and not LICENCE.fullmatch(license):
        raise UsageError(f"license {license!r}: no identifier; give one of the SPDX list, such as mit or cc-by-4.0")

    def write(folder: Path) -> Export:
        source = _open_source(folder, name=name, licence=license, dtype=dtype)
        return _export(source, out, to, overwrite=overwrite)

    return read_checkpoint(Path(path), checkpoint, write)


def _export(source: Source, out: Path, to: str, *, overwrite: bool) -> Export:
    target = TARGETS[to]
    target.refuse(source.loaded)
    with new_output(out, target.kind, overwrite=overwrite) as partial:
        start = perf_counter()
        notes, check = target.write(source, partial)
        seconds = perf_counter() - start
        agreement = check(partial)
        files = [file for file in partial.rglob("*") if file.is_file()] if target.kind.files else [partial]
        size = sum(file.stat().st_size for file in files)
    if target.beside:
        notes.append(_write_modelfile(source, out, target.beside(out), overwrite=overwrite))
    if agreement is None:
        notes.append(f"not checked: {target.reader_missing}")
    by, difference = (agreement.by, agreement.difference) if agreement else (None, None)
    return Export(out, to, source.loaded.folder.name, size, tuple(notes), by, difference, seconds)


def _write_modelfile(source: Source, gguf: Path, path: Path, *, overwrite: bool) -> str:
    """Write the Modelfile of `gguf` to `path`; returns how to use it."""
    with new_output(path, MODELFILE, overwrite=overwrite) as partial:
        contents = modelfile.text(gguf, source.loaded.config.model.block_size, source.licence)
        partial.write_text(contents, encoding="utf-8")
    name = source.name.lower()
    return f"for ollama: ollama create {name} -f {shlex.quote(str(path))} && ollama run {name} 'It was'"


def _open_source(folder: Path, *, name: str | None, licence: str, dtype: str) -> Source:
    """Load the checkpoint. UsageError where a weight is not finite."""
    run = run_of(folder)
    from groundup.checkpoint.state import load

    name = name or NOT_IN_NAMES.sub("-", resolved(run or folder).name).strip("-") or "model"
    source = Source(load(folder, device="cpu"), name, licence.lower(), run, dtype)
    for key, tensor in source.tensors.items():
        if not tensor.isfinite().all():
            raise UsageError(f"{folder}: {key} holds numbers that are not finite; export another checkpoint")
    return source
