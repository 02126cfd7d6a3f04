"""Files of a source: those of a path, folder or pattern, their names in the corpus, and what is left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
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
    ".tar": "unpack it with: tar -xf",
    ".tgz": "unpack it with: tar -xf",
    ".pdf": "convert it with: pdftotext",
    ".epub": "convert it with: pandoc -t plain",
    ".docx": "convert it with: pandoc -t plain",
    ".bin": "give the text that it was made from",
}


class File(NamedTuple):
    """A file of a corpus; the last `n_parts` parts of its path make its name."""

    path: Path
    n_parts: int


def format_suffix(path: Path) -> str:
    """The suffix of the format, without that of the compression: `.jsonl` of `a.jsonl.gz`."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


def single_file(path: Path, known: Iterable[str]) -> File:
    """A file that the user named, with any suffix but those that are surely not text.

    Raises DataError; if it is missing, with the closest name among its neighbours and the `known` corpora.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {_closest(path, known)}")
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
    listed = [single_file(path, ()) for path in files]
    return [File(file.path, _parts_that_vary(file.path, pattern)) for file in listed]


def _parts_that_vary(path: Path, pattern: str) -> int:
    """Number of parts of a path from the first one with a wildcard on, which distinguish it from other matches."""
    fixed = next(i for i, part in enumerate(Path(pattern).parts) if has_magic(part))
    return len(path.parts) - fixed


def folder_files(folder: Path) -> tuple[list[File], str]:
    """The text files in a folder and below, in order of their names, and a message that counts what is left out.

    Hidden files are ignored. A file's name begins with the folder's own. Raises DataError if there is no text.
    """
    files, closed = _walk(folder)
    texts = [(relative, path) for _, relative, path in files if _is_text(path)]
    if not texts:
        known = ", ".join((*TABLES, *PROSE[:3]))
        raise DataError(
            f"{folder}: no text files in this folder; it may hold {known}, … or source code, each also with .gz or .zst"
        )
    left_out = Counter(format_suffix(path) for _, _, path in files if not _is_text(path))
    line = f"{folder}: reads {_counted(Counter(format_suffix(path) for _, path in texts))}"
    line += f"; leaves out {_counted(left_out)}" if left_out else ""
    line += f"; does not enter {', '.join(closed)}" if closed else ""
    return [File(path, len(relative.parts) + 1) for relative, path in texts], line


def _walk(folder: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """The files below a folder (name, relative path, path), and the folders that were not entered."""
    found: list[tuple[str, Path, Path]] = []
    refused: list[OSError] = []
    closed: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        closed += [f"{name} (a link)" for name in folders if (Path(parent) / name).is_symlink()]
        for path in (Path(parent) / name for name in names):
            if path.name != RUN_LOG and not path.name.startswith(".") and path.is_file():
                relative = path.relative_to(folder)
                found.append((relative.as_posix(), relative, path))
    return sorted(found), [*closed, *(f"{Path(error.filename).name} ({error.strerror})" for error in refused)]


def _is_text(path: Path) -> bool:
    compressed_twice = format_suffix(path) == ".parquet" and path.suffix.lower() in COMPRESSED
    return format_suffix(path) in TEXT_SUFFIXES and not compressed_twice


def _counted(suffixes: Counter[str]) -> str:
    """`3 .txt, 1 .py`: the five most frequent, then the rest together."""
    frequent = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name or 'without suffix'}" for name, n in frequent[:5]]
    rest = sum(n for _, n in frequent[5:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def distinct_names(files: Sequence[File]) -> list[str]:
    """Names of files that no two share: more of the path where the names alone are the same."""
    paths = [Path(os.path.abspath(file.path)) for file in files]  # noqa: PTH100  # `..` goes, links stay
    lengths = [file.n_parts for file in files]
    while True:
        names = ["/".join(path.parts[-n:]) for path, n in zip(paths, lengths, strict=True)]
        shared = {name for name, n in Counter(names).items() if n > 1}
        if not shared:
            # On disk a name may be any bytes; in a manifest it must be text.
            return [name.encode(errors="replace").decode() for name in names]
        lengths = [n + (name in shared) for n, name in zip(lengths, names, strict=True)]


def drop_duplicates(columns: Iterable[tuple[File, str]], say: Callable[[str], None]) -> list[tuple[File, str]]:
    """Pairs of a file and a column without repetitions; `say` gets a message about those."""
    kept: dict[tuple[Path, str], tuple[File, str]] = {}
    again: list[Path] = []
    for file, column in columns:
        real = file.path.resolve()
        if (real, column) in kept:
            again.append(file.path)
        kept.setdefault((real, column), (file, column))
    if again:
        others = f" and {len(again) - 1:,} more files" if len(again) > 1 else ""
        say(f"{again[0]}{others}: given more than once; read once")
    return list(kept.values())


def _closest(path: Path, known: Iterable[str]) -> str:
    """The remedy for a missing file: the closest name that exists."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*neighbours, *known], n=1)
    return f"did you mean {near[0]}?" if near else "check the path"
