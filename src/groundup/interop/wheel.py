"""Build a wheel of groundup from the installed package: no build tools, no network, reproducible with one Python.

Python can import from it without installing it, as from every pure-Python wheel.
Format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/.
"""

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
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold
WHEEL = "Wheel-Version: 1.0\nGenerator: groundup\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
SUFFIXES = {".py", ".cpp"}  # of the package's own files, so that no stray file is published
NAMES = {"py.typed", "gpt2-vocab.bpe.xz", "tinyshakespeare.txt.zst"}  # own files of another suffix
METADATA_FILES = ("METADATA", "entry_points.txt")  # copied from the installed dist-info, with the licences


def refuse() -> None:
    """UsageError where no wheel can be built from the running groundup."""
    if not _root().is_dir():
        raise UsageError(
            f"groundup runs from {_root().parent}, which is not unpacked; pip install that file and try again"
        )
    try:
        metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        raise UsageError(
            f"groundup runs from {_root()} but is not installed, so its dependencies are unknown; pip install it, a "
            "checkout with pip install -e ."
        ) from None


def file_name() -> str:
    """The wheel's file name, which includes the version."""
    return PATTERN.replace("*", metadata.version(NAME))


def write(folder: Path, comment: bytes = b"") -> Path:
    """Write the wheel into `folder`, also from a checkout; returns its path. `comment`: at most 65,535 bytes."""
    root, path = _root(), folder / file_name()
    own = [file for file in root.rglob("*") if file.suffix in SUFFIXES or file.name in NAMES]
    names = sorted(file.relative_to(root).as_posix() for file in own if file.is_file())
    contents = {f"{NAME}/{name}": (root / name).read_bytes() for name in names} | _dist_info_files()
    contents[f"{_dist_info()}/RECORD"] = _record(contents)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, content in contents.items():
            entry = ZipInfo(name, EPOCH)
            entry.external_attr, entry.create_system = 0o100644 << 16, 3  # Unix mode: a file that everyone may read
            archive.writestr(entry, content, ZIP_DEFLATED)
    return path


def check(folder: Path) -> None:
    """Read the wheel in `folder` again; ExportError where it is incomplete, or differs from its RECORD."""
    path = folder / file_name()
    try:
        with ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}  # which compares the CRC of each
        intact = contents.pop(f"{_dist_info()}/RECORD") == _record(contents)
    except (BadZipFile, KeyError, NotImplementedError, RuntimeError, EOFError, zlib.error):
        intact = False
    if not intact:
        raise ExportError(f"{path.name}: is not what was written; nothing was kept, check the disk and try again")


def dependencies() -> list[str]:
    """groundup's dependencies without its extras, as lines of a requirements.txt."""
    return [line for line in metadata.requires(NAME) or () if "extra ==" not in line.partition(";")[2]]


def _root() -> Path:
    return Path(str(resources.files(NAME)))


def _dist_info_files() -> dict[str, bytes]:
    """The dist-info folder, which the format wants last in the archive."""
    installed, folder = metadata.distribution(NAME), _dist_info()
    files = sorted(installed.files or (), key=lambda file: file.as_posix())
    licences = [file for file in files if file.parts[0] == folder and file.parts[1] == "licenses"]
    found = {f"{folder}/{name}": (installed.read_text(name) or "").encode() for name in METADATA_FILES}
    found |= {file.as_posix(): Path(str(file.locate())).read_bytes() for file in licences}
    return found | {f"{folder}/WHEEL": WHEEL.encode()}


def _dist_info() -> str:
    return f"{NAME}-{metadata.version(NAME)}.dist-info"


def _record(contents: Mapping[str, bytes]) -> bytes:
    """The contents of RECORD: a line for each file, its own last and without a digest."""
    digests = {name: urlsafe_b64encode(sha256(content).digest()).rstrip(b"=") for name, content in contents.items()}
    lines = [f"{name},sha256={digests[name].decode()},{len(content)}\n" for name, content in contents.items()]
    return "".join([*lines, f"{_dist_info()}/RECORD,,\n"]).encode()
