"""Pages, books and office documents as libraries of others write them, and changes of them, inside of zip files too."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docx
from ebooklib import epub
from fpdf import FPDF
from mutations import DEPTH, ESCAPES, SECRET, MiB, Mutation, of_binary, of_text, rewrite
from odf import text
from odf.opendocument import OpenDocumentText

PACKAGES = ("book.epub", "letter.docx", "letter.odt")


def build(folder: Path, lines: list[str]) -> None:
    """Write one document of each format, which holds `lines`."""
    (folder / "page.html").write_text("<!doctype html><ul><li>" + "<li>".join(lines) + "</ul><p hidden>x<p>y")
    (folder / "letter.rtf").write_bytes(rb"{\rtf1\ansi " + rb"\par ".join(line.encode() for line in lines) + b"}")
    book, document, open_document, pdf = epub.EpubBook(), docx.Document(), OpenDocumentText(), FPDF()
    book.set_title("a"), book.set_language("en")
    book.spine = [epub.EpubHtml(uid=f"c{n}", file_name=f"c{n}.xhtml", content=f"<p>{lines[n]}</p>") for n in (0, 1)]
    for item in (*book.spine, epub.EpubNcx(), epub.EpubNav()):
        book.add_item(item)
    epub.write_epub(folder / "book.epub", book)
    pdf.add_page()
    pdf.set_font("Times", size=12)
    for line in lines[:40]:
        document.add_paragraph(line)
        open_document.text.addElement(text.P(text=line))
        pdf.cell(text=line, new_x="LMARGIN", new_y="NEXT")
    document.save(folder / "letter.docx")
    open_document.save(folder / "letter.odt")
    pdf.output(folder / "letter.pdf")


def of_page(path: Path) -> Iterator[Mutation]:
    """Of HTML or RTF: parts that are opened again and again, and never closed."""
    yield from of_text(path)
    for part in ("<a ", "<!--", "<![", "<b>", "<table><td>", "<p hidden>", '<a b="', "</", "&#x1;", "<script>"):
        yield Mutation(f"{part} without end", rewrite(lambda content, p=part: content + p.encode() * DEPTH))
    for part in (rb"{", rb"\u55357?", rb"\'81", rb"\bin999999999 ", rb"\uc99999999", rb"{\*\x", b"\\"):
        yield Mutation(f"{part!r} without end", rewrite(lambda content, p=part: content[:-1] + p * DEPTH))


XML = {
    "elements in each other": b"<a>" * DEPTH,
    "no XML": b"\0\xff",
    "a billion laughs": b'<!DOCTYPE a [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (97 + i, b"&%c;" % (96 + i) * 50) for i in range(1, 12))
    + b"]><a>&l;</a>",
    "an entity of another file": f'<!DOCTYPE a [<!ENTITY a SYSTEM "{SECRET}">]><a>&a;</a>'.encode(),
    "paths that lead elsewhere": f'<a full-path="{SECRET}" Target="/{SECRET}" href="{SECRET}" id="a"/>'.encode(),
    "control characters": f'<a id="{ESCAPES[:5]}">'.encode(),
    "600 MB of spaces": b" " * (600 * MiB),
}


def of_package(path: Path) -> Iterator[Mutation]:
    """Of a zip file of XML: each of its parts is something else, missing, or cut in the middle."""
    yield from of_binary(path)
    with zipfile.ZipFile(path) as archive:
        members = [name for name in archive.namelist() if name.endswith(("ml", ".rels", ".opf"))]
    for member in members:
        for name, content in XML.items():
            yield Mutation(f"{member} is {name}", with_member(member, lambda _, c=content: c))
        yield Mutation(f"{member} is missing", with_member(member, lambda _: None))
        yield Mutation(f"{member} is cut", with_member(member, lambda content: content[: len(content) // 2]))


def with_member(member: str, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in contents.items():
                if (new := change(content) if name == member else content) is not None:
                    archive.writestr(name, new)

    return apply
