"""Files of a source: those of a path, folder or pattern, their names in the corpus, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterable
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from groundup.errors import DataError
from groundup.sources.compression import COMPRESSED

RUN_LOG = "log.jsonl"  # of a training run, which may lie in the folder that one works in; never read as text

# Read from folders, each also with .gz or .zst after it (except parquet, which compresses itself). A list instead of
# a look inside: what a corpus holds should not depend on the first bytes of its files.
TABLES = (".jsonl", ".parquet")
PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex")
CODE = tuple(
    ".py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .js .jsx .mjs .ts .tsx .go .rs .rb .php .pl "
    ".pm .lua .r .jl .swift .m .mm .cs .fs .hs .ml .mli .clj .ex .exs .erl .lisp .scm .el .vim .sh .bash .zsh .ps1 "
    ".sql .html .htm .css .scss .vue .zig .nim .dart .f90 .asm .s .v .sv .vhd .proto .cmake".split()
)
TEXT_SUFFIXES = frozenset({*TABLES, *PROSE, *CODE})

# Files that are surely not text, and how to turn them into text.
NOT_TEXT = {
    ".arrow": "write its text column as .parquet or .jsonl",
    ".xz": "unpack it with: xz -d",
    ".bz2": "unpack it with: bunzip2",
    ".zip": "unpack it with: unzip",
    **dict.fromkeys((".tar", ".tgz"), "unpack it with: tar -xf"),
    ".pdf": "convert it with: pdftotext",
    ".epub": "convert it with: pandoc -t plain",
    ".docx": "convert it with: pandoc -t plain",
    ".bin": "give the text that it was made from",
}


class File(NamedTuple):
    """A file of a corpus, or one column of it; the last `n_parts` parts of its path make its name."""

    path: Path
    n_parts: int
    source: str = ""  # as the user named it
    column: str = ""

    @property
    def absolute(self) -> Path:
        """Its absolute path, without `..`; links stay."""
        return Path(os.path.abspath(self.path))  # noqa: PTH100


def format_suffix(path: Path) -> str:
    """The suffix of the format, without that of the compression: `.jsonl` of `a.jsonl.gz`."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def single_file(path: Path, known: Iterable[str]) -> File:
    """A file that the user named, with any suffix but those that are surely not text.

    Raises DataError; if it is missing, with the closest name among its neighbours and the `known` corpora.
    """
    if not path.exists():
        neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, [*neighbours, *known], n=1)
        hint = f"did you mean {near[0]}?" if near else "check the path"
        raise DataError(f"{path}: there is no such file or folder; {hint}")
    if remedy := NOT_TEXT.get(format_suffix(path)):
        raise DataError(f"{path}: {format_suffix(path)} files are not read as text; {remedy}")
    if format_suffix(path) == ".parquet" and path.suffix.lower() in COMPRESSED:
        raise DataError(f"{path}: a parquet file is packed inside and read as it is; unpack this one first")
    return File(path, 1)


def glob_files(pattern: str) -> list[File]:
    """The files that match a pattern such as `texts/**/*.txt`, sorted. Raises DataError if there is none."""
    files = sorted(path for path in map(Path, glob(pattern, recursive=True)) if path.is_file())  # noqa: PTH207  # also absolute
    if not files:
        raise DataError(f"{pattern}: no file matches this pattern; `**` stands for any folders, `*` for any name")
    # Paths differ from their first part with a wildcard on.
    fixed = next(i for i, part in enumerate(Path(pattern).parts) if has_magic(part))
    return [single_file(path, ())._replace(n_parts=len(path.parts) - fixed) for path in files]


def folder_files(folder: Path) -> tuple[list[File], str]:
    """The text files in a folder and below, in order of their names, and a message that counts what is left out.

    Hidden files are ignored. A file's name begins with the folder's own. Raises DataError if there is no text.
    """
    files, closed = _walk(folder)
    texts = [path for path in files if _is_text(path)]
    if not texts:
        known = f"{', '.join((*TABLES, *PROSE[:3]))}, … or source code, each also with .gz or .zst"
        raise DataError(f"{folder}: no text files in this folder; it may hold {known}")
    left_out = Counter(format_suffix(path) for path in files if not _is_text(path))
    line = f"{folder}: reads {_counted(Counter(map(format_suffix, texts)))}"
    line += f"; leaves out {_counted(left_out)}" if left_out else ""
    line += f"; does not enter {', '.join(closed)}" if closed else ""
    return [File(folder / path, len(path.parts) + 1) for path in texts], line


def _walk(folder: Path) -> tuple[list[Path], list[str]]:
    """The files below a folder, relative to it, and the folders that were not entered."""
    found: list[Path] = []
    refused: list[OSError] = []
    closed: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        closed += [f"{name} (a link)" for name in folders if (Path(parent) / name).is_symlink()]
        paths = [Path(parent) / name for name in names if name != RUN_LOG and not name.startswith(".")]
        found += [path.relative_to(folder) for path in paths if path.is_file()]
    closed += [f"{Path(error.filename).name} ({error.strerror})" for error in refused]
    return sorted(found, key=Path.as_posix), closed


def _is_text(path: Path) -> bool:
    compressed_twice = format_suffix(path) == ".parquet" and path.suffix.lower() in COMPRESSED
    return format_suffix(path) in TEXT_SUFFIXES and not compressed_twice


def _counted(suffixes: Counter[str]) -> str:
    """`3 .txt, 1 .py`: the five most frequent, then the rest together."""
    frequent = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name or 'without suffix'}" for name, n in frequent[:5]]
    rest = sum(n for _, n in frequent[5:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])
