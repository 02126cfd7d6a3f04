"""Archives are read as the folder they were packed from, in bounds; nothing in them becomes a path."""

import gzip
import io
import os
import random
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from documents import read
from tars import tar_of

from groundup.errors import DataError
from groundup.sources import archives, compression
from groundup.sources.corpus import Position, open_sources

FILES = {
    "b.txt": b"QVAR1", "a/c.md": b"QVAR2", "rows.jsonl": b'{"text": "QVAR3"}\n{"text": "QVAR4"}\n',
    "code.py": b"print('QVAR5')", "p.txt.gz": gzip.compress(b"QVAR6"), "picture.png": b"\x89PNG", "empty.txt": b"",
    "x.ts": b"G@\0", "Thumbs.db": b"\0", "._b.txt": b"\0junk", "__MACOSX/._b.txt": b"\0junk", ".hidden": b"",
    "log.jsonl": b"{}",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "in"


def texts(path, **options):
    return [text for *_, text in read(path, **options)]


def findings(path):
    with open_sources([path]) as corpus:
        for document in corpus:
            list(document.chunks())
        return corpus.findings()


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar"])
def test_a_folder_and_its_archive_give_equal_documents(tmp_path, folder, kind):
    archive = shutil.make_archive(str(tmp_path / "in"), kind, folder)
    name = Path(archive).name
    in_folder = read(folder)
    in_archive = [(source.replace(name, "in"), offset, text) for source, offset, text in read(archive)]
    assert sorted(in_archive) == sorted(in_folder)
    assert len(in_folder) == 6
    if kind == "zip":
        assert in_archive == in_folder
    left_out = (
        "3 junk",
        "1 .ts (binary)",
        "1 .txt (empty)",
        "1 hidden",
        "1 .png (not read)",
        "1 .jsonl (the log of a run)",
    )
    assert findings(archive) == [f"members left out: {what}: {what[0]} in {name}" for what in left_out]


@pytest.mark.skipif(not shutil.which("tar"), reason="needs the program tar")
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar", "v7"])
def test_archives_of_the_program_tar_are_read(tmp_path, folder, form):
    subprocess.run(["tar", f"--format={form}", "-cf", tmp_path / "a.tar", "-C", folder, "."], check=True)
    packed = zstandard.compress((tmp_path / "a.tar").read_bytes())
    (tmp_path / "a.tar.zst").write_bytes(packed)
    (tmp_path / "a.tgz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    for name in ("a.tar", "a.tar.zst", "a.tgz"):
        assert sorted(texts(tmp_path / name)) == sorted(texts(folder))
    (tmp_path / "a.tgz").rename(tmp_path / "unnamed")
    if form != "v7":  # which has no mark of its own
        assert sorted(texts(tmp_path / "unnamed")) == sorted(texts(folder))


def test_reading_can_begin_at_any_document(tmp_path, folder):
    for kind in ("zip", "gztar"):
        with open_sources([shutil.make_archive(str(tmp_path / "in"), kind, folder)]) as corpus:
            everything = [(place, "".join(each.chunks())) for place, each in corpus.documents_from(Position())]
            for i, (place, _) in enumerate(everything):
                assert [(p, "".join(d.chunks())) for p, d in corpus.documents_from(place)] == everything[i:]


def test_links_devices_and_paths_that_lead_out_are_harmless(tmp_path):
    (tmp_path / "secret.txt").write_text("SECRET")
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.tar"
    path.write_bytes(
        tar_of(
            ("link.txt", b"", tarfile.SYMTYPE, "../secret.txt"),
            ("hard.txt", b"", tarfile.LNKTYPE, str(tmp_path / "secret.txt")),
            ("fifo.txt", b"", tarfile.FIFOTYPE, ""),
            ("null.txt", b"", tarfile.CHRTYPE, ""),
            ("link.txt", b"written through the link"),
            ("../../x.txt", b"QVAR1"),
            ("/tmp/y.txt", b"QVAR2"),
            ("same.txt", b"QVAR3"),
            ("same.txt", b"QVAR4"),
        )
    )
    before = sorted(tmp_path.rglob("*"))
    assert [(source, text) for source, _, text in read(path)] == [
        ("a.tar/link.txt", "written through the link"),
        ("a.tar/x.txt", "QVAR1"), ("a.tar/tmp/y.txt", "QVAR2"), ("a.tar/same.txt", "QVAR3"),
    ]  # fmt: skip
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "secret.txt").read_text() == "SECRET"
    assert findings(path) == [
        "links and devices are left out: 4 in a.tar", "of members of one name, only the first is read: 1 in a.tar"
    ]  # fmt: skip


def test_links_and_encrypted_members_of_zip_files_are_left_out(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("../../same.txt", "old")
        archive.writestr("windows\\b.txt", "QVAR2")
        archive.writestr("same.txt", "QVAR1")
        archive.writestr("locked.txt", "QVAR9")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")  # of the last member
    data[at + 8] |= 1
    path.write_bytes(data)
    assert [(source, text) for source, _, text in read(path)] == [
        ("a.zip/same.txt", "QVAR1"), ("a.zip/windows/b.txt", "QVAR2")
    ]  # fmt: skip
    assert findings(path) == [
        "links and devices are left out: 1 in a.zip", "of members of one name, only the last is read: 1 in a.zip",
        "encrypted members such as locked.txt are left out: 1 in a.zip",
    ]  # fmt: skip


def test_names_in_other_encodings_are_shown(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("XXXX.txt", "one")
        archive.writestr("YYYYYY.txt", "two")
    names = {b"XXXX": "日本".encode("cp932"), b"YYYYYY": "名前".encode()}
    data = path.read_bytes()
    for old, new in names.items():
        data = data.replace(old, new)
    path.write_bytes(data)
    assert sorted(text for *_, text in read(path)) == ["one", "two"]
    assert "a.zip/名前.txt" in [source for source, *_ in read(path)]
    (tmp_path / "a.tar").write_bytes(tar_of((os.fsdecode(b"caf\xe9.txt"), b"one")))
    assert read(tmp_path / "a.tar")[0][0] == "a.tar/caf\ufffd.txt"


def nested(depth, kind="zip"):
    data, name = b"QVAR1", "a.txt"
    for i in range(depth):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(name, data)
            archive.writestr("beside.txt", f"beside {i}")
        data, name = file.getvalue(), "inner.zip"
    return data


def test_archives_in_each_other_are_read_up_to_a_depth(tmp_path):
    (tmp_path / "a.zip").write_bytes(nested(archives.MAX_DEPTH))
    assert "QVAR1" in texts(tmp_path / "a.zip")
    assert read(tmp_path / "a.zip")[-1][0] == "a.zip/" + "inner.zip/" * (archives.MAX_DEPTH - 1) + "beside.txt"
    (tmp_path / "b.zip").write_bytes(nested(30))
    assert len(texts(tmp_path / "b.zip")) == archives.MAX_DEPTH
    assert findings(tmp_path / "b.zip") == [
        f"members left out: 1 .zip (in more than {archives.MAX_DEPTH} archives): 1 in b.zip"
    ]


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "zip in zip", "txt.gz in zip"])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(compression, "MIN_RATIO_BYTES", 1 << 20)
    bomb = io.BytesIO()
    content = b"a b " * 500_000
    if kind == "tar.gz":
        bomb = io.BytesIO(gzip.compress(tar_of(("a.txt", content))))
    else:
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(*(("a.txt", content) if kind != "txt.gz in zip" else ("a.txt.gz", gzip.compress(content))))
        if kind == "zip in zip":
            inner = bomb.getvalue()
            bomb = io.BytesIO()
            with zipfile.ZipFile(bomb, "w") as archive:
                for i in range(9):
                    archive.writestr(f"{i}.zip", inner)
    path = tmp_path / f"a.{kind.split()[-1]}"
    path.write_bytes(bomb.getvalue())
    if kind == "txt.gz in zip":  # a text is read in small pieces, whatever it packs to
        assert texts(path) == [content.decode()]
        return
    with pytest.raises(DataError, match=r"a\.\S+: unpacks to more than 250 times its size, as no text does"):
        read(path)


def test_damaged_archives_are_refused(tmp_path, folder):
    noise = random.Random(0).randbytes(30_000).hex()
    (folder / "noise.txt").write_text(noise)
    for kind in ("zip", "tar", "gztar"):
        archive = Path(shutil.make_archive(str(tmp_path / "in"), kind, folder))
        data = archive.read_bytes()
        for cut in (0.3, 0.7):
            archive.write_bytes(data[: int(cut * len(data))])
            with pytest.raises(DataError, match=r"(damaged or cut short as a|damaged in the archive).*; get a comple"):
                read(archive)
        if kind == "zip":
            at = data.index(b"noise.txt") + 2000
            archive.write_bytes(data[:at] + b"\xff\xff" + data[at + 2 :])
            with pytest.raises(DataError, match=r"in\.zip/noise\.txt: damaged in the archive"):
                read(archive)


def test_a_damaged_header_in_a_tar_file_is_not_its_end(tmp_path):
    data = bytearray(tar_of(("a.txt", b"QVAR1"), ("b.txt", b"QVAR2")))
    data[1024 + 5] ^= 0xFF  # in the second header, after one member of two blocks
    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(
        DataError, match=r"a\.tar: damaged or cut short as a tar file \(no header where one should be\)"
    ):
        read(tmp_path / "a.tar")


def test_a_mistake_in_a_member_names_it_and_not_its_copy(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("in/b.txt", b"one\ntwo \xe9")
    with pytest.raises(
        DataError, match=rf"^{tmp_path}/a\.zip/in/b\.txt: byte 8 \(line 2\) is 0xE9, which is not UTF-8"
    ):
        read(tmp_path / "a.zip")


def test_an_archive_without_text_says_what_is_in_it(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.png", b"one")
    with pytest.raises(
        DataError, match=r"a\.zip: there is no text in it \(members left out: 1 \.png \(not read\): 1 in a\."
    ):
        read(tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "w"):
        pass
    with pytest.raises(DataError, match=r"a\.zip: there is no text in it; give a source"):
        read(tmp_path / "a.zip")


def test_what_is_found_in_members_is_counted_once_for_the_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.txt", b"\xe9 \xe9")
        archive.writestr("c.txt", b"\xe9")
    with open_sources([tmp_path / "a.zip"], errors="replace") as corpus:
        for _ in range(2):
            for document in corpus:
                for _ in range(3):
                    list(document.chunks())
        assert corpus.findings() == ["characters that are not valid were replaced by U+FFFD: 3 in a.zip"]


def test_spreadsheets_are_not_taken_for_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("xl/workbook.xml", "<x/>")
    with pytest.raises(DataError, match="another program's, as spreadsheets and presentations are, which is not read"):
        read(tmp_path / "a.zip")
