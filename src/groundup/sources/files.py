"""Files of a source: those of a path, folder or pattern, their names in the corpus, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from groundup.errors import DataError
from groundup.sources.compression import COMPRESSED
from groundup.sources.documents import needs_library
from groundup.sources.formats import (
    CODE,
    NOT_TEXT,
    PACKED_PARQUET,
    SUFFIXES,
    TABLES,
    format_suffix,
    is_binary,
    packed_suffix,
)
from groundup.utils.files import leads_out

RUN_LOG = "log.jsonl"  # of a training run, which may lie in the folder that one works in; never read as text
JUNK = ("__MACOSX", ".DS_Store", "Thumbs.db", "desktop.ini")  # that other systems leave in folders and archives

# Read from folders besides rows, each also with .gz or .zst after it (except parquet, which compresses itself). A list
# instead of a look inside, as a folder may hold anything; but what is called like code and is binary is left out, as
# .ts may also be a video.
PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex")
TEXT_SUFFIXES = frozenset({*PROSE, *CODE})
MAX_NAMES = 5  # in a message


class File(NamedTuple):
    """A file of a corpus, or one column of it; the last `n_parts` parts of its path make its name."""

    path: Path
    n_parts: int
    source: str = ""  # as the user named it
    column: str = ""
    is_named: bool = True  # by the user, and not found in a folder

    @property
    def absolute(self) -> Path:
        """Its absolute path, without `..`; links stay."""
        return Path(os.path.abspath(self.path))  # noqa: PTH100


def single_file(path: Path, known: Iterable[str], *, as_text: bool = False) -> File:
    """A file that the user named, with any suffix but those that are surely not text.

    Raises DataError; if it is missing, with the closest name among its neighbours and the `known` corpora.
    """
    if path.is_symlink() and not path.exists():
        raise DataError(f"{path}: a link to {os.readlink(path)}, which leads nowhere; give the file itself")  # noqa: PTH115
    if not path.exists():
        neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, [*neighbours, *known], n=1)
        hint = f"did you mean {near[0]}?" if near else "check the path"
        raise DataError(f"{path}: there is no such file or folder; {hint}")
    if not path.is_file():
        raise DataError(f"{path}: a device or socket, which is not read as text; give a file, or - for standard input")
    if as_text:
        return File(path, 1)
    suffix = format_suffix(path)
    if remedy := NOT_TEXT.get(suffix):
        raise DataError(f"{path}: {suffix} files are not read as text; {remedy}")
    if _is_packed_parquet(path, suffix):
        raise DataError(f"{path}: {PACKED_PARQUET}")
    return File(path, 1)


def glob_files(pattern: str, *, as_text: bool = False) -> tuple[list[File], str]:
    """The files that match a pattern such as `texts/**/*.txt`, sorted, and a message about folders not entered.

    As in a folder, `**` enters no links, which may lead back to where they are. Raises DataError if no file matches.
    """
    paths, closed = [Path(Path(pattern).anchor)], list[str]()
    parts = Path(pattern).relative_to(paths[0]).parts
    for part in (*parts, "*") if parts[-1] == "**" else parts:
        if part == "**":
            paths = list(dict.fromkeys(folder for path in paths if path.is_dir() for folder, _ in _walk(path, closed)))
        else:
            paths = [path / name for path in paths for name in glob(part, root_dir=path)]  # noqa: PTH207  # no hidden files
    files = sorted({path for path in paths if path.is_file()})
    if not files:
        bracket = "; for a [ in a name write [[]" if "[" in pattern else ""
        raise DataError(
            f"{pattern}: no file matches this pattern; `**` stands for any folders, `*` for any name{bracket}"
        )
    # Paths differ from their first part with a wildcard on.
    fixed = next(i for i, part in enumerate(Path(pattern).parts) if has_magic(part))
    line = f"{pattern}: does not enter {listed(closed)}" if closed else ""
    named = [single_file(path, (), as_text=as_text) for path in files]
    return [file._replace(n_parts=len(file.path.parts) - fixed) for file in named], line


def folder_files(folder: Path, *, as_text: bool = False) -> tuple[list[File], str]:
    """The readable files in a folder and below, in order of their names, and a message that counts what is left out.

    Hidden files, and links to files outside of the folder, are not read. A file's name begins with the folder's own.
    Empty files are among them, and counted as left out. Raises DataError if there is no text.
    """
    closed, texts, outside = list[str](), list[Path](), list[str]()
    kept, left_out = Counter[str](), Counter[tuple[str, str]]()  # suffix; suffix and reason
    for parent, names in _walk(folder, closed):
        inside = parent.relative_to(folder)
        for path in (parent / name for name in names):
            suffix = format_suffix(path)
            reason = left_out_by_name(inside / path.name, suffix, as_text=as_text)
            if path.is_symlink() and leads_out(path, folder):
                outside += [path.name] if reason != "hidden" else []
            elif path.is_file():
                if reason := reason or left_out_by_content(path, suffix, as_text=as_text):
                    left_out[packed_suffix(path), reason] += 1
                else:
                    kept[packed_suffix(path)] += 1
                if reason in (None, "empty"):
                    texts.append(path)
    line = f"; leaves out {', '.join(summary(left_out).values())}" if left_out else ""
    line += f"; does not enter {listed(closed)}" if closed else ""
    line += f"; does not follow links out of the folder: {listed(sorted(outside))}" if outside else ""
    if not kept:
        known = f"{', '.join((*TABLES, *PROSE[:3]))}, … or source code, each also with .gz or .zst"
        raise DataError(f"{folder}: no text files in this folder{line}; it may hold {known}")
    above = len(folder.parts) - 1
    return [File(path, len(path.parts) - above, is_named=False) for path in sorted(texts, key=Path.as_posix)], (
        f"{folder}: reads {_counted(kept)}{line}"
    )


BARE_REASONS = ("hidden", "junk")  # whose suffixes say nothing


def left_out_by_name(path: Path, suffix: str, *, as_text: bool = False) -> str | None:
    """Why a file is not read whose path in a folder or archive this is; None if it is read."""
    if any(part in JUNK or part.startswith("._") for part in path.parts):
        return "junk"
    if any(part.startswith(".") for part in path.parts):
        return "hidden"
    if path.name == RUN_LOG:
        return "the log of a run"
    if (suffix not in TEXT_SUFFIXES and suffix not in SUFFIXES) or _is_packed_parquet(path, suffix):
        return "not read"
    return None if as_text else needs_library(SUFFIXES.get(suffix, ""))


def left_out_by_content(path: Path, suffix: str, *, as_text: bool = False) -> str | None:
    """Why a file is not read that is on disk, and readable by its name; None if it is read."""
    if not path.stat().st_size:
        return "empty"
    return "binary" if (as_text or suffix in CODE) and is_binary(path) else None


def summary(left_out: Counter[tuple[str, str]]) -> dict[str, str]:
    """By reason, how many files of each suffix are left out: `3 .png, 1 .mp3 (not read)`."""
    by_reason: dict[str, Counter[str]] = {}
    for (suffix, reason), n in left_out.items():
        by_reason.setdefault(reason, Counter())[suffix] += n
    return {
        reason: f"{files.total():,} {reason}" if reason in BARE_REASONS else f"{_counted(files)} ({reason})"
        for reason, files in sorted(by_reason.items(), key=lambda item: (-item[1].total(), item[0]))
    }


def _walk(folder: Path, closed: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, but no hidden ones, each with the names in it. `closed` gets those not entered."""

    def refuse(error: OSError) -> None:
        closed.append(f"{Path(error.filename).name} ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        closed += [f"{name} (a link)" for name in folders if (Path(parent) / name).is_symlink()]
        yield Path(parent), names


def _is_packed_parquet(path: Path, suffix: str) -> bool:
    return suffix == ".parquet" and path.suffix.lower() in COMPRESSED


def listed(names: list[str]) -> str:
    """`a, b, c and 4 more`: the first names, and how many follow."""
    more = f" and {len(names) - MAX_NAMES:,} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more


def _counted(suffixes: Counter[str]) -> str:
    """`3 .txt, 1 .py`: the five most frequent, then the rest together."""
    frequent = sorted(suffixes.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{n:,} {name or 'without suffix'}" for name, n in frequent[:5]]
    rest = sum(n for _, n in frequent[5:])
    return ", ".join([*shown, *([f"{rest:,} others"] if rest else [])])
