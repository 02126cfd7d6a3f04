"""The wheel of groundup itself, made from the package as it is installed: no build, no network, and the same bytes with
the same Python.

The format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/. Python imports from it as
it lies, as every wheel of Python alone.
"""

from __future__ import annotations

import zlib
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path
from zipfile import ZIP_DEFLATED, BadZipFile, ZipFile, ZipInfo

from groundup.errors import ExportError, UsageError

NAME = "groundup"
PATTERN = f"{NAME}-*-py3-none-any.whl"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name
WHEEL = "Wheel-Version: 1.0\nGenerator: groundup\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
SUFFIXES = {".py", ".cpp"}  # of the package's own files: no stray one goes out …
NAMES = {"py.typed", "gpt2-vocab.bpe.xz"}  # … and those of no such suffix
KEPT = ("METADATA", "entry_points.txt")  # of what the installer wrote beside the package; licences besides


def refuse() -> None:
    """UsageError where no wheel can be made of the groundup that is running."""
    if not _root().is_dir():
        raise UsageError(
            f"groundup runs from {_root().parent}, which is not unpacked; pip install that file and try again"
        )
    try:
        metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"groundup runs from {_root()} but is not installed, so what it needs is not known; pip install it, a "
            "checkout with pip install -e ."
        ) from None


def file_name() -> str:
    """What the wheel is called: its name tells the version."""
    return PATTERN.replace("*", metadata.version(NAME))


def write(folder: Path, comment: bytes = b"") -> Path:
    """Write the wheel into `folder`, also where groundup is installed as a checkout; returns its path.

    `comment`: what the archive says besides, to whoever asks for that; at most 65,535 bytes.
    """
    contents = {**_package(), **_information()}
    contents[_record_name()] = _record(contents)
    path = folder / file_name()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, content in contents.items():
            entry = ZipInfo(name, EPOCH)
            entry.external_attr, entry.create_system = 0o100644 << 16, 3  # a file that all may read, as Unix says it
            archive.writestr(entry, content, ZIP_DEFLATED)
    return path


def check(folder: Path) -> None:
    """Read the wheel in `folder` again: ExportError where it is not whole, or not what its RECORD says."""
    path = folder / file_name()
    try:
        with ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}  # and compare the checksum of each
        whole = contents.pop(_record_name()) == _record(contents)
    except (BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        whole = False
    if not whole:
        raise ExportError(f"{path.name}: is not what was written; nothing was kept, check the disk and try again")


def dependencies() -> list[str]:
    """What groundup asks for without its extras, one line of a requirements.txt each."""
    return [line for line in metadata.requires(NAME) or () if "extra ==" not in line.partition(";")[2]]


def _package() -> dict[str, bytes]:
    root = _root()
    paths = [path for path in root.rglob("*") if path.suffix in SUFFIXES or path.name in NAMES]
    names = sorted(path.relative_to(root).as_posix() for path in paths if path.is_file())
    return {f"{NAME}/{name}": (root / name).read_bytes() for name in names}


def _root() -> Path:
    return Path(str(resources.files(NAME)))


def _information() -> dict[str, bytes]:
    """What an installer must know of it, in the order that the format asks for: last in the archive."""
    installed, folder = metadata.distribution(NAME), _information_folder()
    files = sorted(installed.files or (), key=lambda file: file.as_posix())
    licences = [file for file in files if file.parts[0] == folder and file.parts[1] == "licenses"]
    found = {f"{folder}/{name}": (installed.read_text(name) or "").encode() for name in KEPT}
    found |= {file.as_posix(): Path(str(file.locate())).read_bytes() for file in licences}
    return found | {f"{folder}/WHEEL": WHEEL.encode()}


def _information_folder() -> str:
    return f"{NAME}-{metadata.version(NAME)}.dist-info"


def _record_name() -> str:
    return f"{_information_folder()}/RECORD"


def _record(contents: Mapping[str, bytes]) -> bytes:
    """What RECORD says of the others, and last of itself."""
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in contents.items()]
    return "".join([*lines, f"{_record_name()},,\n"]).encode()


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
