"""Books that ebooklib wrote are read in the order of their spine, each chapter once."""

import io
import re
import zipfile

import pytest
from ebooklib import epub
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents.epub import ASIDE, CONTENTS, MISSING, PICTURES, read_epub
from groundup.sources.documents.markup import READINGS

ORDER = [7, 3, 12, 1, 9, 5, 2, 11, 4, 8, 10, 6]
RUBY = "<ruby>表<rt>ひょう</rt>示<rt>じ</rt></ruby>"


def chapter(number, body=""):
    new = epub.EpubHtml(uid=f"c{number}", title=f"NAVWORD {number}", file_name=f"c{number}.xhtml")
    new.content = f"<h1>Part {number}</h1><p>QVAR{number}<span id='s2'> co\u00adop</span></p>{body}"
    return new


def book(tmp_path, spine=(), **changed):
    """The bytes of a book of 12 chapters; `changed` replaces members of its zip file, or with None removes them."""
    new = epub.EpubBook()
    new.set_title("NAVWORD"), new.set_language("en")
    chapters = {n: chapter(n, RUBY if n == 3 else "") for n in range(1, 13)}
    for n in (5, 1, 12, 3, 2, 11, 7, 4, 10, 6, 9, 8):
        new.add_item(chapters[n])
    new.toc = [epub.Link(f"c3.xhtml#s{i}", f"NAVWORD {i}", f"n{i}") for i in range(5)]
    new.toc += [epub.Link(f"c{n}.xhtml", f"NAVWORD {n}", f"m{n}") for n in range(1, 13) if n != 7]
    new.add_item(epub.EpubNcx()), new.add_item(epub.EpubNav())
    new.spine = [*spine, *(chapters[n] for n in ORDER)]
    epub.write_epub(tmp_path / "book.epub", new)
    data = (tmp_path / "book.epub").read_bytes()
    return repacked(data, changed) if changed else data


def repacked(data, changed):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        members = {name: old.read(name) for name in old.namelist()} | changed
        for name, content in members.items():
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def member(data, name):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read(name).decode()


def test_chapters_come_in_the_order_of_the_spine_once(tmp_path):
    [text], found = read_with(read_epub, book(tmp_path))
    assert [int(n) for n in re.findall(r"QVAR(\d+)", text)] == ORDER
    assert "NAVWORD" not in text
    assert text.startswith("Part 7\n\nQVAR7 coop\n\nPart 3\n\nQVAR3 coop\n\n表示\n\nPart 12\n\n")
    assert found == {READINGS: 2}


def test_tables_of_contents_are_left_out_and_asides_read_both_named(tmp_path):
    data = book(tmp_path, spine=["nav"])
    package = member(data, "EPUB/content.opf").replace('<itemref idref="c9"', '<itemref linear="no" idref="c9"')
    [text], found = read_with(read_epub, repacked(data, {"EPUB/content.opf": package}))
    assert [int(n) for n in re.findall(r"QVAR(\d+)", text)] == ORDER
    assert "NAVWORD" not in text
    assert found == {CONTENTS: 1, ASIDE: 1, READINGS: 2}


def test_what_is_missing_or_a_picture_is_counted_and_the_rest_read(tmp_path):
    data = book(tmp_path)
    package = member(data, "EPUB/content.opf")
    package = package.replace('href="c9.xhtml" id="c9" media-type="application/xhtml+xml"', 'href="c9.svg" id="c9"')
    package = package.replace('href="c8.xhtml"', 'href="%638.xhtml"').replace(
        "</spine>", '<itemref idref="c8"/></spine>'
    )
    changed = {"EPUB/content.opf": package, "EPUB/c7.xhtml": None, "EPUB/c9.svg": "<svg/>"}
    [text], found = read_with(read_epub, repacked(data, changed))
    assert [int(n) for n in re.findall(r"QVAR(\d+)", text)] == [n for n in ORDER if n not in (7, 9)]
    assert found == {MISSING: 1, PICTURES: 1, READINGS: 2}


def encryption(algorithm, path):
    return (
        '<encryption xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><EncryptedData '
        f'xmlns="http://www.w3.org/2001/04/xmlenc#"><EncryptionMethod Algorithm="{algorithm}"/><KeyInfo><EncryptedKey>'
        '<EncryptionMethod Algorithm="http://www.idpf.org/2008/embedding"/></EncryptedKey></KeyInfo><CipherData>'
        f'<CipherReference URI="{path}"/></CipherData></EncryptedData></encryption>'
    )


def test_a_protected_book_is_refused_and_one_with_obfuscated_fonts_read(tmp_path):
    drm = encryption("http://www.w3.org/2001/04/xmlenc#aes128-cbc", "EPUB/c4.xhtml")
    with pytest.raises(DataError, match=r"^b: is protected \(DRM\), so its text cannot be read; give a copy without"):
        read_with(read_epub, book(tmp_path, **{"META-INF/encryption.xml": drm}), name="b")
    fonts = encryption("http://www.idpf.org/2008/embedding", "EPUB/c4.xhtml")
    assert read_with(read_epub, book(tmp_path, **{"META-INF/encryption.xml": fonts}))[0]


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><container>&b;</container>'


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"META-INF/container.xml": None}, r"^b: META-INF/container\.xml is missing in this EPUB; get a complete copy"),
        ({"EPUB/content.opf": None}, r"^b: EPUB/content\.opf is missing"),
        ({"META-INF/container.xml": "<container/>"}, r"^b: META-INF/container\.xml names no book"),
        ({"META-INF/container.xml": "<container>"}, r"^b/META-INF/container\.xml: not well-formed XML \(line 1"),
        ({"META-INF/container.xml": BOMB}, r"^b/META-INF/container\.xml: declares entities of its own"),
        ({"META-INF/container.xml": "<a>" * 2000}, r"^b/META-INF/container\.xml: elements nested more than 1,000 deep"),
        ({"EPUB/content.opf": "<package><spine/></package>"}, r"^b: none of its 0 parts is a page of text"),
        ({"EPUB/c4.xhtml": b"\xff\xfe\x00"}, r"^b/EPUB/c4\.xhtml: byte 2"),
        ({"EPUB/c4.xhtml": b"<p>\xe9</p>"}, r"^b/EPUB/c4\.xhtml: byte 3 \(line 1\) is 0xE9"),
    ],
)
def test_a_damaged_book_gets_a_sentence(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_with(read_epub, book(tmp_path, **changed), name="b")


def test_chapters_may_not_be_larger_together_than_one_document(tmp_path):
    large = {f"EPUB/c{n}.xhtml": f"<p>{'word ' * 100}</p>" for n in range(1, 13)}
    data = book(tmp_path, **large)
    assert read_with(read_epub, data, max_bytes=12 * 507)[0]
    with pytest.raises(DataError, match=r"^b/EPUB/c6\.xhtml: longer than"):
        read_with(read_epub, data, name="b", max_bytes=12 * 507 - 1)


def test_pages_that_are_not_quite_xml_are_read(tmp_path):
    head = (
        '<?xml version="1.0"?><!DOCTYPE html [ <!ENTITY nbsp "&#160;"> ]><html><head><title/><script src="x"/></head>'
    )
    [text], _ = read_with(read_epub, book(tmp_path, **{"EPUB/c7.xhtml": f"{head}<body><p>a&nbsp;b<br>c <i>d</p>"}))
    assert text.startswith("a b\nc d\n\nPart 3")
