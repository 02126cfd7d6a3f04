"""The wheel of groundup itself, made from the package as it is installed: no build, no network, the same bytes always.

The format: https://packaging.python.org/en/latest/specifications/binary-distribution-format/. Python imports from it as
it lies, as every wheel of Python alone.
"""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import sha256
from importlib import metadata, resources
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

NAME = "groundup"
PATTERN = f"{NAME}-*-py3-none-any.whl"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can name
WHEEL = "Wheel-Version: 1.0\nGenerator: groundup\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
KEPT = ("METADATA", "entry_points.txt")  # of what the installer wrote beside the package; licences besides


def file_name() -> str:
    """What the wheel is called: its name tells the version."""
    return PATTERN.replace("*", metadata.version(NAME))


def write(folder: Path, comment: bytes = b"") -> Path:
    """Write the wheel into `folder`, also where groundup is installed as a checkout; returns its path.

    `comment`: what the archive says besides, to whoever asks for that; at most 65,535 bytes.
    """
    contents = {**_package(), **_information()}
    record = f"{_information_folder()}/RECORD"
    lines = [f"{name},sha256={_digest(content)},{len(content)}\n" for name, content in contents.items()]
    contents[record] = "".join([*lines, f"{record},,\n"]).encode()
    path = folder / file_name()
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        archive.comment = comment
        for name, content in contents.items():
            entry = ZipInfo(name, EPOCH)
            entry.external_attr, entry.create_system = 0o100644 << 16, 3  # a file that all may read, as Unix says it
            archive.writestr(entry, content, ZIP_DEFLATED)
    return path


def dependencies() -> list[str]:
    """What groundup asks for without its extras, one line of a requirements.txt each."""
    return [line for line in metadata.requires(NAME) or () if "extra ==" not in line.partition(";")[2]]


def _package() -> dict[str, bytes]:
    root = Path(str(resources.files(NAME)))
    paths = (path.relative_to(root) for path in sorted(root.rglob("*")) if path.is_file())
    kept = [path for path in paths if not any(part == "__pycache__" or part.startswith(".") for part in path.parts)]
    return {f"{NAME}/{path.as_posix()}": (root / path).read_bytes() for path in kept}


def _information() -> dict[str, bytes]:
    """What an installer must know of it, in the order that the format asks for: last in the archive."""
    installed, folder = metadata.distribution(NAME), _information_folder()
    files = sorted(installed.files or (), key=str)
    licences = [file for file in files if file.parts[0] == folder and file.parts[1] == "licenses"]
    found = {f"{folder}/{name}": (installed.read_text(name) or "").encode() for name in KEPT}
    found |= {file.as_posix(): Path(str(file.locate())).read_bytes() for file in licences}
    return found | {f"{folder}/WHEEL": WHEEL.encode()}


def _information_folder() -> str:
    return f"{NAME}-{metadata.version(NAME)}.dist-info"


def _digest(content: bytes) -> str:
    return urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()
