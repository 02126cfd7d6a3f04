"""Archives, and changes of these and of tables, JSON and mail: as deep, long or odd as their format allows."""

import gzip
import io
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import mutations as m
from mutations import ESCAPES, JSON_TEXTS, SECRET, MiB, Mutation, rewrite

sys.path.insert(0, str(Path(__file__).parents[1] / "sources"))

from tars import tar_of


def build(folder: Path, lines: list[str]) -> None:
    """Write archives of texts, which hold `lines`."""
    with zipfile.ZipFile(folder / "texts.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, line in enumerate(lines):
            archive.writestr(f"texts/{i}.txt", line)
        archive.writestr("texts/page.html", f"<p>{lines[0]}</p>")
    (folder / "texts.tar").write_bytes(tar_of(*((f"texts/{i}.txt", line.encode()) for i, line in enumerate(lines))))
    (folder / "texts.tgz").write_bytes(gzip.compress((folder / "texts.tar").read_bytes()))


MEMBERS = {
    "nothing": b"",
    "zero bytes": b"a\0b",
    "no UTF-8": b"\xff\xfe<x" * 100,
    "control characters": ESCAPES.encode() * 9,
    "100 MB of spaces": b" " * (100 * MiB),
    "300 MB of letters": b"x" * (300 * MiB),
    "another zip file": b"PK\3\4" + bytes(100),
    "rows": b'{"text": "a"}\n[1]\n',
}


def of_table(_: Path) -> Iterator[Mutation]:
    for name, text in {
        "an unclosed quote": b'id,text\n1,"' + b"x, \n" * MiB,
        "a row of many columns": b"id,text\n" + b"x," * MiB,
        "zero bytes": b"id,text\n1,a\0b\n",
        "names with control characters": f'"{ESCAPES}",b\n1,2\n'.encode(),
        "no text column": b"a,b\n1,2\n",
        "a field of 10 MB": b"id,text\n1," + b"x" * (10 * MiB),
        "carriage returns": b"id,text\r1,a\r2,b\r",
    }.items():
        yield Mutation(f"holds {name}", rewrite(lambda _, t=text: t))


def of_json_document(path: Path) -> Iterator[Mutation]:
    for name, text in JSON_TEXTS.items():
        yield Mutation(f"is {name}", rewrite(lambda _, t=text: t.encode()))
        yield Mutation(f"its last value is {name}", rewrite(lambda _, t=text: b'[{"text": "a"}, ' + t.encode() + b"]"))
    yield from m.of_json(path)


def of_mail(_: Path) -> Iterator[Mutation]:
    part = b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n'
    for name, text in {
        "nested parts": b"".join(part % (i, i) for i in range(10_000)) + b"\ntext\n",
        "many headers": b"X: y\n" * MiB,
        "a header of 30 MB": b"Subject: " + b"x " * (15 * MiB),
        "an unknown charset": b"Content-Type: text/plain; charset=no-such\n\ntext \xe9\n",
        "a codec that is none": b"Content-Type: text/plain; charset=zip\n\ntext\n",
        "a bad encoding": b"Content-Transfer-Encoding: base64\nContent-Type: text/plain\n\n!!!\xff" * 9,
        "a broken word": b"Subject: =?utf-8?b?////?= =?x?q?=zz?=\n\ntext\n",
        "control characters": b"Subject: " + ESCAPES.replace("\r\n", "").encode() + b"\n\n" + ESCAPES.encode(),
        "many boundaries": b'Content-Type: multipart/mixed; boundary="a"\n\n' + b"--a\n\n" * 200_000,
    }.items():
        yield Mutation(f"holds {name}", rewrite(lambda _, t=text: b"From a@b Mon Jan  1 00:00:00 2024\nFrom: a\n" + t))


def of_zip(path: Path) -> Iterator[Mutation]:
    """Of a zip file: each part replaced by what no part should be, members that should not be, numbers that lie."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    for name in names if len(names) < 20 else names[:3]:
        for what, text in MEMBERS.items():
            yield Mutation(f"its {name} holds {what}", with_member(name, text))
    for what, name in {
        "a path out": SECRET,
        "an absolute path": "/tmp/x.txt",
        "control characters": f"{ESCAPES}.txt",
    }.items():
        yield Mutation(f"has a member of {what}", with_member(name, b"text"))
    yield Mutation("has a link", with_member("link.txt", SECRET.encode(), attributes=0o120777 << 16))
    yield Mutation("holds itself", rewrite(quine))
    yield Mutation("has many members", rewrite(crowd))
    for offset, what in ((8, "flags"), (10, "method"), (20, "packed size"), (24, "size"), (28, "name"), (42, "place")):
        for value in (b"\0\0", b"\xff\xff", b"\x09\0"):
            yield Mutation(f"its {what} is {value.hex()}", rewrite(lambda b, o=offset, v=value: in_directory(b, o, v)))
    for at, what in ((10, "number of members"), (12, "size of the list"), (16, "place of the list"), (20, "comment")):
        yield Mutation(f"its {what} lies", rewrite(lambda b, a=at: in_end(b, a)))


def with_member(name: str, content: bytes, attributes: int = 0) -> Callable[[Path], None]:
    """A copy of a zip file in which a member holds something else, or is new."""

    def change(data: bytes) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as new:
            for info in old.infolist():
                if info.filename != name:
                    new.writestr(info, old.read(info))
            info = zipfile.ZipInfo(name)
            info.external_attr, info.compress_type = attributes, zipfile.ZIP_DEFLATED
            new.writestr(info, content)
        return result.getvalue()

    return rewrite(change)


def quine(data: bytes) -> bytes:
    """A zip file in a zip file, 40 deep, each beside a copy of itself."""
    for i in range(40):
        result = io.BytesIO()
        with zipfile.ZipFile(result, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{i}a.zip", data)
            if i > 35:
                archive.writestr(f"{i}b.zip", data)
        data = result.getvalue()
    return data


def crowd(_: bytes) -> bytes:
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for i in range(5000):
            archive.writestr(f"{i}.bin", b"")
    return result.getvalue()


def in_directory(data: bytes, offset: int, value: bytes) -> bytes:
    at = data.rindex(b"PK\1\2") + offset
    return data[:at] + value + data[at + len(value) :]


def in_end(data: bytes, offset: int) -> bytes:
    at = data.rindex(b"PK\5\6") + offset
    return data[:at] + b"\xfe\xff" + data[at + 2 :]


def of_tar(path: Path) -> Iterator[Mutation]:
    """Of a tar file: members that should not be, and headers that lie."""
    pack = gzip.compress if path.suffix == ".tgz" else bytes
    text = b"text"
    for name, members in {
        "a path out": [(SECRET, text)],
        "a link": [("link.txt", b"", tarfile.SYMTYPE, SECRET), ("link.txt", text)],
        "a hard link": [("link.txt", b"", tarfile.LNKTYPE, SECRET)],
        "a device": [("zero.txt", b"", tarfile.CHRTYPE, ""), ("pipe.txt", b"", tarfile.FIFOTYPE, "")],
        "control characters": [(f"{ESCAPES}.txt", text), (f"{ESCAPES}2.txt", b"\xff")],
        "a long name": [("x/" * 100_000 + "y.txt", text)],
        "itself": [("a.zip", quine(text))],
        "200 MB of zeros": [("zeros.txt", bytes(200 * MiB))],
        "a large picture": [("zeros.png", bytes(200 * MiB))],
    }.items():
        yield Mutation(f"has {name}", rewrite(lambda _, t=members: pack(tar_of(*t))))
    for name, size in {"negative": b"\xff" * 12, "huge": b"\x80" + b"\xff" * 11, "no number": b"x" * 12}.items():
        yield Mutation(f"a size is {name}", rewrite(lambda b, s=size: pack(with_size(s))))
    for kind in (b"x", b"g", b"L", b"S"):
        yield Mutation(
            f"a header of type {kind.decode()} is huge", rewrite(lambda b, k=kind: pack(with_size(b"77777777777", k)))
        )
        yield Mutation(f"a header of type {kind.decode()} is noise", rewrite(lambda b, k=kind: pack(noisy(k))))


def with_size(size: bytes, kind: bytes = b"0") -> bytes:
    """A tar file whose first header says another size or type, under a checksum that holds."""
    header = bytearray(tar_of(("a.txt", b"text" * 1000)))
    header[124 : 124 + len(size)] = size
    header[156:157] = kind
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


def noisy(kind: bytes) -> bytes:
    header = bytearray(with_size(b"00000007640", kind))
    header[512:] = b"9999999999 path=" + struct.pack("<I", 1) * 2000
    return bytes(header)
