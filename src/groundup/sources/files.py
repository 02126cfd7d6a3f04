"""Files of a source: those of a path, folder or pattern, their names in the corpus, and what is left out."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from glob import glob, has_magic
from pathlib import Path
from typing import NamedTuple

from groundup.errors import DataError
from groundup.sources.compression import COMPRESSED
from groundup.sources.formats import CODE, MARKUP, NOT_TEXT, PACKED_PARQUET, TABLES, format_suffix, is_binary
from groundup.utils.files import leads_out

RUN_LOG = "log.jsonl"  # of a training run, which may lie in the folder that one works in; never read as text

# Read from folders besides rows, each also with .gz or .zst after it (except parquet, which compresses itself). A list
# instead of a look inside, as a folder may hold anything; but what is called like code and is binary is left out, as
# .ts may also be a video.
PROSE = (".txt", ".text", ".md", ".markdown", ".rst", ".org", ".adoc", ".tex")
TEXT_SUFFIXES = frozenset({*TABLES, *PROSE, *CODE})
MAX_NAMES = 5  # in a message


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


def single_file(path: Path, known: Iterable[str]) -> File:
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
    if remedy := NOT_TEXT.get(format_suffix(path)):
        raise DataError(f"{path}: {format_suffix(path)} files are not read as text; {remedy}")
    if _is_packed_parquet(path):
        raise DataError(f"{path}: {PACKED_PARQUET}")
    return File(path, 1)


def glob_files(pattern: str) -> tuple[list[File], str]:
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
    return [single_file(path, ())._replace(n_parts=len(path.parts) - fixed) for path in files], line


def folder_files(folder: Path) -> tuple[list[File], str]:
    """The text files in a folder and below, in order of their names, and a message that counts what is left out.

    Hidden files, and links to files outside of the folder, are not read. A file's name begins with the folder's own.
    Raises DataError if there is no text.
    """
    closed, texts, odd, outside = list[str](), list[Path](), list[str](), list[str]()
    kept, left_out = Counter[str](), Counter[str]()  # by suffix
    for parent, names in _walk(folder, closed):
        for path in (parent / name for name in names if not name.startswith(".")):
            if path.is_symlink() and leads_out(path, folder):
                outside.append(path.name)
            elif path.is_file():
                suffix = format_suffix(path)
                if suffix not in TEXT_SUFFIXES or _is_packed_parquet(path):
                    left_out[suffix] += 1
                elif path.name == RUN_LOG:
                    odd.append(f"{path.relative_to(folder)} (the log of a run)")
                elif suffix in CODE and is_binary(path):
                    odd.append(f"{path.relative_to(folder)} (binary)")
                else:
                    kept[suffix] += 1
                    texts.append(path)
    empty = sum(not path.stat().st_size for path in texts)
    line = f"; leaves out {_counted(left_out)}" if left_out else ""
    line += f"; leaves out {listed(odd)}" if odd else ""
    line += f"; does not enter {listed(closed)}" if closed else ""
    line += f"; does not follow links out of the folder: {listed(sorted(outside))}" if outside else ""
    if not texts:
        known = f"{', '.join((*TABLES, *PROSE[:3]))}, … or source code, each also with .gz or .zst"
        raise DataError(f"{folder}: no text files in this folder{line}; it may hold {known}")
    line = f"{folder}: reads {_counted(kept)}" + (f" ({empty:,} empty)" if empty else "") + line
    above = len(folder.parts) - 1
    return [File(path, len(path.parts) - above) for path in sorted(texts, key=Path.as_posix)], line


def markup_message(files: Sequence[File]) -> str | None:
    """The message about files whose markup is read as text; None where there is none."""
    marked = [(file.path, remedy) for file in files if (remedy := MARKUP.get(format_suffix(file.path)))]
    if not marked:
        return None
    path, remedy = marked[0]
    others = f" and {len(marked) - 1:,} more files" if marked[1:] else ""
    return f"{path}{others}: read with markup; for the text alone convert it with: {remedy}"


def _walk(folder: Path, closed: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """A folder and those below it, but no hidden ones, each with the names in it. `closed` gets those not entered."""

    def refuse(error: OSError) -> None:
        closed.append(f"{Path(error.filename).name} ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        closed += [f"{name} (a link)" for name in folders if (Path(parent) / name).is_symlink()]
        yield Path(parent), names


def _is_packed_parquet(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSED and format_suffix(path) == ".parquet"


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
