"""The unfinished folder of a preparation: kept through any end, in one process's hands at a time, then put in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.data.shards import MANIFEST, Manifest, check_files
from groundup.errors import DataError, TokenizerError
from groundup.preprocess.journal import JOURNAL, Journal
from groundup.preprocess.request import Request
from groundup.tokenizers import Tokenizer, load_tokenizer
from groundup.utils.files import flush, remove_folder

try:
    import fcntl
except ImportError:  # on Windows, where nothing guards against two processes at once
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"
TOKENIZER = "tokenizer"  # folder of the tokenizer


def finished(out: Path, request: Request, *, overwrite: bool) -> Manifest | None:
    """The manifest of `out` if it was made for this very request.

    Where it was not, or where it is not whole: None if it may be overwritten, and a DataError otherwise. Files are
    looked at for their sizes; who asks to `overwrite` has reason to doubt them, so that checksums are computed as well.
    """
    if not (out / MANIFEST).exists():
        return None
    remedy = "choose another folder with --out, or replace this one with --overwrite"
    try:
        manifest, former = Manifest.load(out), Request.load(out)
        check_files(out, manifest, checksums=overwrite)
        if load_tokenizer(out / TOKENIZER).fingerprint != manifest.tokenizer.fingerprint:
            raise DataError(f"{out / TOKENIZER}: is not the tokenizer that made the tokens; copy the folder again")
    except (DataError, TokenizerError) as error:
        if overwrite:
            return None
        raise DataError(f"{out}: is not whole, {error}; or replace it with --overwrite") from None
    if former is None:
        difference = f"it holds tokens but no record of what they were made from; {remedy}"
    elif found := former.difference(request):
        difference = f"already prepared in another way: {found}; {remedy}"
    else:
        (out / LOCK).unlink(missing_ok=True)  # of a process that was killed when it had put the folder in place
        return manifest
    if overwrite:
        return None
    raise DataError(f"{out}: {difference}")


class Workplace:
    """The unfinished folder, and what a former process left in it."""

    def __init__(
        self,
        folder: Path,
        journal: Journal | None = None,
        tokenizer: Tokenizer | None = None,
        manifest: Manifest | None = None,
    ) -> None:
        self.folder = folder
        self.journal = journal
        self.tokenizer = tokenizer  # there is one if there is a journal
        self.manifest = manifest  # if everything was done but for putting it in place


@contextmanager
def workplace(
    out: Path, request: Request, *, learns: bool, overwrite: bool, say: Callable[[str], None]
) -> Iterator[Workplace]:
    """Yield the hidden folder beside `out`; once it holds a manifest it becomes `out`, on leaving the block.

    When the block fails, or the process is killed, a folder with a journal is kept and the next call goes on with it;
    without one there is nothing worth keeping. `learns` says that the tokens depend on all inputs, so that none may
    have changed; otherwise those may that were still to come. Raises DataError where another process is at work, or
    where the folder was begun for another request and must not be overwritten.
    """
    target = out.resolve()
    partial = target.with_name(f".{target.name}.partial")
    missing = [parent for parent in target.parents if not parent.exists()]
    with _locked(partial, out):
        try:
            work = _continued(partial, out, request, learns=learns, overwrite=overwrite)
            yield work
            _put_in_place(partial, target)
        except BaseException:
            if (kept := _journal_or_none(partial)) is not None:
                say(f"{out}: what is done so far is kept, {kept.done}; the same command goes on from there")
            elif not (partial / MANIFEST).exists():
                shutil.rmtree(partial, ignore_errors=True)
                with suppress(OSError):  # someone else put something there meanwhile
                    for parent in missing:
                        parent.rmdir()
            raise


def _continued(partial: Path, out: Path, request: Request, *, learns: bool, overwrite: bool) -> Workplace:
    """What there is to go on with; an empty folder where there is nothing, or nothing that fits."""
    try:
        if (former := Request.load(partial)) is not None:
            journal = Journal.load(partial)
            if (partial / MANIFEST).exists():
                _refuse(former.difference(request), out)
                return Workplace(partial, manifest=Manifest.load(partial))
            if journal:
                _refuse(former.difference(request, None if learns else journal.place.input + 1), out)
                journal.check(partial)
                tokenizer = _same_tokenizer(partial / TOKENIZER, journal.tokenizer)
                request.save(partial)
                return Workplace(partial, journal, tokenizer)
    except DataError:
        if not overwrite:
            raise
    for path in partial.iterdir():
        if path.name == LOCK:
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    request.save(partial)
    return Workplace(partial)


def _same_tokenizer(folder: Path, fingerprint: str) -> Tokenizer:
    remedy = "throw the unfinished work away with --overwrite"
    try:
        tokenizer = load_tokenizer(folder)
    except TokenizerError as error:
        raise DataError(f"{error}; or {remedy}") from None
    if tokenizer.fingerprint != fingerprint:
        raise DataError(f"{folder}: is not the one it was; {remedy}")
    return tokenizer


def _refuse(difference: str | None, out: Path) -> None:
    if difference:
        raise DataError(
            f"{out}: there is unfinished work for it, and {difference}; ask for what was asked for before to go on "
            "with it, or throw it away with --overwrite"
        )


def _put_in_place(partial: Path, target: Path) -> None:
    """Make a folder with a manifest the finished one. Killed at any moment, the next call does the rest."""
    (partial / JOURNAL).unlink(missing_ok=True)
    for path in [*partial.rglob("*"), partial]:
        flush(path)
    if target.exists() and any(target.iterdir()):
        remove_folder(target)
    elif target.exists():
        target.rmdir()  # an empty folder; Windows does not rename onto one
    partial.rename(target)
    (target / LOCK).unlink(missing_ok=True)  # only now: before, another process would have taken the work for its own
    flush(target.parent)


def _journal_or_none(partial: Path) -> Journal | None:
    with suppress(DataError):
        return Journal.load(partial)
    return None


@contextmanager
def _locked(partial: Path, out: Path) -> Iterator[None]:
    """Hold the folder's lock. The system lets go of it when the process ends, in whatever way."""
    path = partial / LOCK
    partial.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    while True:
        partial.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise DataError(
                f"{out}: another groundup is preparing this folder right now (process {holder or 'unknown'}); "
                "wait for it, or choose another folder with --out"
            ) from None
        with suppress(FileNotFoundError):
            if os.fstat(handle).st_ino == path.stat().st_ino:
                break
        os.close(handle)  # its holder has finished and put the folder in place: look again
    try:
        os.truncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)
