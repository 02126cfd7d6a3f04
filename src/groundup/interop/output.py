"""Path of an export, a file or folder: appears complete or not at all, replaces only an earlier export. No torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

from groundup.errors import UsageError
from groundup.interop import modelfile
from groundup.interop.wheel import PATTERN
from groundup.utils.files import atomic_output, files_below, resolved, restore_previous, sha256
from groundup.utils.reading import open_regular, parse_json, read_bytes

HF_FILES = frozenset(
    {"config.json", "generation_config.json", "model.safetensors", "README.md", "tokenizer.json",
     "tokenizer_config.json"}
)  # fmt: skip


@dataclass(frozen=True)
class OutputKind:
    """One format's output, and how an earlier export of it is recognized."""

    files: frozenset[str]  # names or patterns of what the folder may hold; empty where the export is a single file
    is_export: Callable[[Path], bool]  # OSError or ValueError where the path cannot be read


def _is_gguf(path: Path) -> bool:
    with open_regular(path) as file:
        return file.read(4) == b"GGUF"


def _is_hf(folder: Path) -> bool:
    """Whether the folder holds all of HF_FILES, and a card with groundup's tag."""
    if {path.name for path in folder.iterdir()} != HF_FILES:
        return False
    _, _, rest = read_bytes(folder / "README.md").decode(errors="replace").partition("---\n")
    return "\n- groundup\n" in rest.partition("\n---")[0] + "\n"


def _is_space(folder: Path) -> bool:
    """Whether the folder holds a wheel whose comment lists the digests of the other exported files.

    UsageError where a file was changed or added since: the folder holds the only copy of that.
    """
    for wheel in folder.glob(PATTERN):
        try:
            with open_regular(wheel) as file, ZipFile(file) as archive:  # its members are not read, and may be damaged
                written = parse_json(archive.comment)
        except (FileNotFoundError, BadZipFile, ValueError, NotImplementedError):
            continue
        if not isinstance(written, dict):
            continue
        others = {name: digest for name, digest in digests(folder).items() if not Path(name).match(PATTERN)}
        if changed := [name for name, digest in others.items() if written.get(name) != digest]:
            raise UsageError(
                f"{folder}: since it was exported someone changed {', '.join(changed)}; give another --out"
            )
        return (folder / "model").is_dir()
    return False


GGUF_FILE = OutputKind(frozenset(), _is_gguf)
MODELFILE = OutputKind(frozenset(), modelfile.is_export)
HF_FOLDER = OutputKind(HF_FILES, _is_hf)
SPACE_FOLDER = OutputKind(frozenset({"app.py", "README.md", "requirements.txt", "model", PATTERN}), _is_space)


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files_below(folder)}


def check_output(out: Path, kind: OutputKind, *, overwrite: bool = False) -> None:
    """UsageError where `out` holds something that an export may not replace.

    If an export was killed while it replaced an earlier one, the earlier one is restored first.
    """
    try:
        restore_previous(resolved(out))
        _check(out, kind, overwrite)
    except (OSError, ValueError) as error:
        raise _unwritable(out, error) from error


def _check(out: Path, kind: OutputKind, overwrite: bool) -> None:
    if not out.name:
        raise UsageError(f"{out}: is no name for something new; give another --out")
    if not out.exists():
        return
    if not kind.files:
        if out.is_dir():
            raise UsageError(f"{out}: is a folder; name a file with --out")
    elif not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder with --out")
    elif foreign := sorted(path.name for path in out.iterdir() if not any(map(path.match, kind.files))):
        raise UsageError(f"{out}: holds {foreign[0]}, which is of no such export; give another --out")
    elif not any(out.iterdir()):
        return
    if not kind.is_export(out):
        raise UsageError(f"{out}: is there already, and is no such export of groundup's; give another --out")
    if not overwrite:
        raise UsageError(f"{out}: is there already; give another --out, or --overwrite to replace it")


@contextmanager
def new_output(out: Path, kind: OutputKind, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a hidden sibling of `out`, an empty folder or the path of a file, to fill; then it is renamed to `out`.

    If the block fails, what was at `out` stays. Raises UsageError as `check_output` does, and for errors of the disk.
    """
    check_output(out, kind, overwrite=overwrite)
    try:
        # Checked again at the end: hours may have passed, and another export may have been faster.
        with atomic_output(out, lambda _: _check(out, kind, overwrite), is_folder=bool(kind.files)) as partial:
            yield partial
    except OSError as error:
        raise _unwritable(out, error) from error


def _unwritable(out: Path, error: OSError | ValueError) -> UsageError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    path = str(out)[:200]
    path = path if path.isprintable() else repr(path)
    return UsageError(f"{path}: cannot be written ({reason}); give another --out, or make room")
