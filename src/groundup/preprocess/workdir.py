"""Output folders of a preparation: checks of what is there, and the unfinished folder, which outlives its process."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from groundup.data.shard_writer import check_written
from groundup.data.shards import MANIFEST, Manifest, check_files
from groundup.errors import DataError, TokenizerError, UsageError
from groundup.preprocess.records import Journal, Request, Setting
from groundup.tokenizers import Tokenizer, load_tokenizer
from groundup.utils.files import atomic_output, move_into_place, resolved
from groundup.utils.lock import LOCK, locked

TOKENIZER = "tokenizer"  # folder of the tokenizer


@dataclass(frozen=True)
class WorkDir:
    """The unfinished folder of a preparation, and what a previous process left in it."""

    path: Path
    journal: Journal | None = None
    tokenizer: Tokenizer | None = None  # present if there is a journal
    manifest: Manifest | None = None  # present if only the move into place is left to do


def check_output(out: Path, *, prepared: bool = False) -> None:
    """DataError unless `out` is free: nothing there, an empty folder, or, if allowed, a `prepared` one."""
    if "\0" in str(out):
        raise UsageError(f"--out {str(out)!r}: holds NUL, which no path may; choose another folder with --out")
    if out.exists() and not out.is_dir():
        raise DataError(f"{out}: is a file; choose another folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (prepared and (out / MANIFEST).is_file()):
        raise DataError(f"{out}: already holds files; choose another folder with --out, or remove this one")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """`atomic_output` for a folder that must not exist yet. DataError when `out` holds something or is not writable."""
    try:
        check_output(out)
        with atomic_output(out, check_output) as partial:
            yield partial
    except OSError as error:
        raise unwritable(out, error) from error


def unwritable(out: Path, error: OSError) -> DataError:
    """The error for an output folder that the system refuses to write."""
    return DataError(
        f"{error.filename or out}: cannot be written ({error.strerror or error}); choose another path with --out"
    )


def finished_manifest(out: Path, request: Request, *, overwrite: bool) -> Manifest | None:
    """The manifest of `out` if it was prepared for this very request.

    If it was not, or is incomplete: None with `overwrite`, else DataError. File sizes are always checked, and with
    `overwrite`, which says that the folder is doubted, the checksums as well.
    """
    if not (out / MANIFEST).exists():
        return None
    remedy = "choose another folder with --out, or replace this one with --overwrite"
    try:
        manifest, previous = Manifest.load(out), Request.load(out)
        check_files(out, manifest, checksums=overwrite)
        if load_tokenizer(out / TOKENIZER).fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(f"{out / TOKENIZER}: is not the tokenizer that made the tokens; copy the folder again")
    except (DataError, TokenizerError) as error:
        if overwrite:
            return None
        otherwise = "" if "--overwrite" in str(error) else "; or replace it with --overwrite"
        raise DataError(f"{out}: is incomplete, {error}{otherwise}") from None
    if previous is None:
        difference = f"it holds tokens but no record of what they were made from; {remedy}"
    elif found := previous.difference(request):
        difference = f"already prepared in another way: {found}; {remedy}"
    else:
        (out / LOCK).unlink(missing_ok=True)  # of a process that was killed just after moving the folder into place
        return manifest
    if overwrite:
        return None
    raise DataError(f"{out}: {difference}")


def recorded_settings(out: Path) -> dict[str, Setting] | None:
    """Settings that the finished folder `out`, or unfinished work for it that can be resumed, was started with."""
    with suppress(DataError, OSError):  # `finished_manifest` and `open_workdir` report them
        for folder in (out, _partial(out)):
            kept = (folder / MANIFEST).is_file() or Journal.load(folder)
            if kept and (request := Request.load(folder)):
                return request.settings
    return None


def _partial(out: Path) -> Path:
    """The hidden sibling of `out` that holds it while it is unfinished."""
    target = resolved(out)
    return target.with_name(f".{target.name}.partial")


@contextmanager
def open_workdir(
    out: Path, request: Request, *, trains_tokenizer: bool, overwrite: bool, log: Callable[[str], None]
) -> Iterator[WorkDir]:
    """Yield the hidden sibling of `out`; if it holds a manifest at the end of the block, it is renamed to `out`.

    When the block fails or the process is killed, a folder with a journal is kept and the next call resumes from it;
    one without a journal is removed. `trains_tokenizer`: the tokens depend on all inputs, so none may have changed;
    otherwise inputs that were not read yet may. UsageError where another process is at work; DataError where the folder
    was started for another request and must not be overwritten.
    """
    target, partial = resolved(out), _partial(out)
    missing = [parent for parent in target.parents if not parent.exists()]
    if partial.is_symlink():
        raise DataError(f"{partial}: is a link, which is not followed; remove it")
    partial.mkdir(parents=True, exist_ok=True)
    with locked(partial, "preparing this folder", shown=out) as guarded:
        if not guarded:
            log(f"{out}: cannot be locked here; make sure that no second process prepares this folder")
        try:
            yield _resume(partial, out, request, trains_tokenizer=trains_tokenizer, overwrite=overwrite)
            (partial / Journal.FILE).unlink(missing_ok=True)
            move_into_place(partial, target)
            (target / LOCK).unlink(missing_ok=True)  # only now: another process would have taken over the work before
        except BaseException:
            kept = None
            with suppress(DataError):
                kept = Journal.load(partial)
            if kept:
                log(f"{out}: {kept.done} is done and kept; the same command resumes from there")
            elif not (partial / MANIFEST).exists():
                shutil.rmtree(partial, ignore_errors=True)
                with suppress(OSError):  # another process has put something there
                    for parent in missing:
                        parent.rmdir()
            raise


def _resume(partial: Path, out: Path, request: Request, *, trains_tokenizer: bool, overwrite: bool) -> WorkDir:
    """The work to resume; an emptied folder if there is none, or none for this request."""
    try:
        if (previous := Request.load(partial)) is not None:
            journal = Journal.load(partial)
            if (partial / MANIFEST).exists():
                _require_same(previous.difference(request), out)
                return WorkDir(partial, manifest=Manifest.load(partial))
            if journal:
                _require_same(previous.difference(request, None if trains_tokenizer else journal.place.input + 1), out)
                for name, split in journal.splits.items():
                    check_written(partial, name, journal.dtype, split)
                tokenizer = _load_same_tokenizer(partial / TOKENIZER, journal.tokenizer)
                request.save(partial)
                return WorkDir(partial, journal, tokenizer)
    except DataError:
        if not overwrite:
            raise
    for path in partial.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    request.save(partial)
    return WorkDir(partial)


def _load_same_tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    remedy = "discard the unfinished work with --overwrite"
    try:
        tokenizer = load_tokenizer(folder)
    except TokenizerError as error:
        raise DataError(f"{error}; or {remedy}") from None
    if tokenizer.fingerprint != fingerprint:
        raise DataError(f"{folder}: is not the tokenizer that the work was started with; {remedy}")
    return tokenizer


def _require_same(difference: str | None, out: Path) -> None:
    if difference:
        raise DataError(
            f"{out}: there is unfinished work for it, and {difference}; repeat the previous command to resume it, "
            "or discard it with --overwrite"
        )
