"""Which files a source means, what they are called, and what is left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from groundup.errors import DataError
from groundup.sources.compression import PACKED

RUN_LOG = "log.jsonl"  # a training run's own, which may lie below the folder that one works in

# What is read from folders, each also with .gz or .zst behind it (but for tables, which pack themselves).
# A list and no look inside: what a corpus holds should not depend on the first bytes of its files.
TABLES = (".jsonl", ".parquet")
PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex")
CODE = tuple(
    ".py .pyi .pyx .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .js .jsx .mjs .ts .tsx .go .rs .rb .php .pl "
    ".pm .lua .r .jl .swift .m .mm .cs .fs .hs .ml .mli .clj .ex .exs .erl .lisp .scm .el .vim .sh .bash .zsh .ps1 "
    ".sql .html .htm .css .scss .vue .zig .nim .dart .f90 .asm .s .v .sv .vhd .proto .cmake".split()
)
TEXT_SUFFIXES = frozenset({*TABLES, *PROSE, *CODE})

# Files that are surely not text, and what makes text of them.
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


def suffix(path: Path) -> str:
    """The suffix that tells the format: of `a.jsonl.gz`, it is `.jsonl`."""
    name = Path(path.name.lower())
    return Path(name.stem).suffix if name.suffix in PACKED else name.suffix


def named(path: Path, known: Iterable[str]) -> File:
    """A file that the user named. Its suffix may be any but those that are surely not text.

    Raises DataError, with the nearest name among its neighbours and the `known` corpora, where there is none.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file or folder; {_near(path, known)}")
    if remedy := NOT_TEXT.get(suffix(path)):
        raise DataError(f"{path}: {suffix(path)} files are not read as text; {remedy}")
    if suffix(path) == ".parquet" and path.suffix.lower() in PACKED:
        raise DataError(f"{path}: a parquet file is packed inside and read as it is; unpack this one first")
    return File(path, 1)


def is_pattern(text: str) -> bool:
    """Whether `*`, `?` or `[` stand in a source."""
    return has_magic(text)


def matching(pattern: str) -> list[File]:
    """The files that a pattern such as `texts/**/*.txt` names, sorted. Raises DataError where there is none."""
    files = sorted(path for path in map(Path, glob(pattern, recursive=True)) if path.is_file())  # noqa: PTH207  # also absolute
    if not files:
        raise DataError(f"{pattern}: no file matches this pattern; `**` stands for any folders, `*` for any name")
    listed = [named(path, ()) for path in files]
    return [File(file.path, _parts_that_vary(file.path, pattern)) for file in listed]


def _parts_that_vary(path: Path, pattern: str) -> int:
    """From the first part with a wildcard on, a path is what tells its file from the others'."""
    fixed = next(i for i, part in enumerate(Path(pattern).parts) if has_magic(part))
    return len(path.parts) - fixed


def below(folder: Path) -> tuple[list[File], str]:
    """The text files anywhere below a folder in order of their names, and a line that counts what is left out.

    Hidden files are none of both. A file's name begins with the folder's own. Raises DataError where there is no text.
    """
    files, closed = _inside(folder)
    texts = [(relative, path) for _, relative, path in files if _is_text(path)]
    if not texts:
        known = ", ".join((*TABLES, *PROSE[:3]))
        raise DataError(
            f"{folder}: no text files in this folder; it may hold {known}, … or source code, each also with .gz or .zst"
        )
    left_out = Counter(suffix(path) for _, _, path in files if not _is_text(path))
    line = f"{folder}: reads {_counted(Counter(suffix(path) for _, path in texts))}"
    line += f"; leaves out {_counted(left_out)}" if left_out else ""
    line += f"; does not enter {', '.join(closed)}" if closed else ""
    return [File(path, len(relative.parts) + 1) for relative, path in texts], line


def _inside(folder: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """The files below a folder, each as its name, path from there, and path; and which folders were not entered."""
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
    packed_twice = suffix(path) == ".parquet" and path.suffix.lower() in PACKED
    return suffix(path) in TEXT_SUFFIXES and not packed_twice


def _counted(suffixes: Counter[str]) -> str:
    """`3 .txt, 1 .py`: the five most frequent, then the rest together."""
    frequent = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name or 'without suffix'}" for name, n in frequent[:5]]
    rest = sum(n for _, n in frequent[5:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])


def distinct_names(files: Sequence[File]) -> list[str]:
    """What to call files so that no two share a name: more of the path where the names alone are the same."""
    paths = [Path(os.path.abspath(file.path)) for file in files]  # noqa: PTH100  # `..` goes, links stay
    lengths = [file.n_parts for file in files]
    while True:
        names = ["/".join(path.parts[-n:]) for path, n in zip(paths, lengths, strict=True)]
        shared = {name for name, n in Counter(names).items() if n > 1}
        if not shared:
            # On disk a name may be any bytes; in a manifest it must be text.
            return [name.encode(errors="replace").decode() for name in names]
        lengths = [n + (name in shared) for n, name in zip(lengths, names, strict=True)]


def once(columns: Iterable[tuple[File, str]], say: Callable[[str], None]) -> list[tuple[File, str]]:
    """Pairs of a file and a column, each in the first place where it comes; says which files came again."""
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


def _near(path: Path, known: Iterable[str]) -> str:
    """The remedy for a missing file: the nearest name that exists."""
    neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, [*neighbours, *known], n=1)
    return f"did you mean {near[0]}?" if near else "check the path"
