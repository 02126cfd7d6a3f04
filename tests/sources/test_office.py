"""Word processors' documents, written by python-docx and odfpy, read as they look with all changes accepted.

The words that are expected were compared with those of `pandoc --to plain --track-changes accept`, which differs in its
marks of notes, in leaving out a `fldSimple`, and in reading hidden text.
"""

import io
import zipfile

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from odf import dc, draw, office, style, table, text
from odf.opendocument import OpenDocumentSpreadsheet, OpenDocumentText
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents import office as reader
from groundup.sources.documents.office import COMMENTS, DELETED, FORMULAS, HIDDEN, SYMBOLS, read_docx, read_odt

BY = 'w:id="1" w:author="a" w:date="2026-01-01T00:00:00Z"'
OTHERS = (
    'xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006" xmlns:v="urn:schemas-microsoft-com:vml" '
    'xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
)


def run(words):
    return f'<w:r><w:t xml:space="preserve">{words}</w:t></w:r>'


def word(tmp_path, body="", document=None, **changed):
    """The bytes of a Word document with `body`, WordprocessingML, at its end."""
    document = document or docx.Document()
    for element in list(parse_xml(f"<w:body {nsdecls('w', 'm')} {OTHERS}>{body}</w:body>")):
        document.element.body.insert_element_before(element, "w:sectPr")
    document.save(tmp_path / "x.docx")
    return repacked((tmp_path / "x.docx").read_bytes(), changed)


def repacked(data, changed):
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for name, content in ({name: old.read(name) for name in old.namelist()} | changed).items():
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def test_tracked_changes_are_accepted_and_comments_are_no_text(tmp_path):
    document = docx.Document()
    document.add_comment(document.add_paragraph("Plain.").runs, text="NOSEE")
    body = f"""<w:p>{run("The ")}<w:ins {BY}>{run("inserted")}</w:ins><w:del {BY}><w:r>
      <w:delText>NOSEE</w:delText></w:r></w:del>{run(" word")}</w:p>
    <w:p><w:pPr><w:rPr><w:ins {BY}/></w:rPr></w:pPr><w:ins {BY}>{run("all inserted")}</w:ins></w:p>
    <w:p><w:moveFrom {BY}>{run("moved")}</w:moveFrom></w:p><w:p><w:moveTo {BY}>{run("moved")}</w:moveTo></w:p>
    <w:p><w:pPr><w:rPr><w:del {BY}/></w:rPr></w:pPr>{run("one ")}</w:p><w:p>{run("paragraph")}</w:p>
    <w:tbl><w:tr><w:tc><w:p>{run("a1")}</w:p></w:tc><w:tc><w:p>{run("b2")}</w:p></w:tc></w:tr>
      <w:tr><w:trPr><w:del {BY}/></w:trPr><w:tc><w:p>{run("NOSEE")}</w:p></w:tc></w:tr></w:tbl>"""
    texts, found = read_with(read_docx, word(tmp_path, body, document))
    assert texts == ["Plain.\n\nThe inserted word\n\nall inserted\n\nmoved\n\none paragraph\n\na1\tb2"]
    assert found == {COMMENTS: 1, DELETED: 3}


def field(code, shown):
    def mark(kind):
        return f'<w:r><w:fldChar w:fldCharType="{kind}"/></w:r>'

    instruction = f"<w:r><w:instrText>{code}</w:instrText></w:r>"
    return f"{mark('begin')}{instruction}{mark('separate')}{shown}{mark('end')}"


def test_hyphens_tabs_fields_and_controls_are_read_as_they_look(tmp_path):
    inner = field(r" PAGEREF _Toc1 \h ", run("QVAR3"))
    outer = field(r' TOC \o "1-3" ', run("QVAR2") + "<w:r><w:tab/></w:r>" + inner)
    nested = field(
        ' IF "NOSEE" ' + "</w:instrText></w:r>" + field("NOSEE", run("NOSEE")) + "<w:r><w:instrText>", run("q")
    )
    body = f"""<w:p><w:r><w:t>1</w:t><w:noBreakHyphen/><w:t>24 h</w:t><w:cr/><w:t>QVAR1</w:t><w:tab/><w:t>co</w:t>
      <w:softHyphen/><w:t>op</w:t></w:r></w:p>
    <w:p>{outer}</w:p>
    <w:p><w:fldSimple w:instr=" DATE ">{run("QVAR4")}</w:fldSimple>{run(" after ")}{nested}
      <w:sdt><w:sdtPr><w:alias w:val="NOSEE"/></w:sdtPr><w:sdtContent>{run(" QVAR5")}</w:sdtContent></w:sdt></w:p>
    <w:sdt><w:sdtContent><w:p>{run("QVAR6")}</w:p></w:sdtContent></w:sdt>
    <w:tbl><w:sdt><w:sdtContent><w:tr><w:tc><w:p>{run("QVAR7")}</w:p></w:tc><w:tc><w:p/></w:tc></w:tr></w:sdtContent>
      </w:sdt></w:tbl><w:p>{run("QVAR8")}</w:p>"""
    wanted = "1\u201124 h\nQVAR1\tcoop\n\nQVAR2\tQVAR3\n\nQVAR4 after q QVAR5\n\nQVAR6\n\nQVAR7\n\nQVAR8"
    assert read_with(read_docx, word(tmp_path, body)) == ([wanted], {})


def test_headings_lists_text_boxes_and_raised_text_of_word(tmp_path):
    document = docx.Document()
    document.add_heading("Heading", 1)
    for item in ("one", "two"):
        document.add_paragraph(item, "List Bullet")
    for font in ("superscript", "subscript", "hidden"):
        setattr(document.add_paragraph("x").add_run("2").font, font, True)
    box = f"<w:txbxContent><w:p>{run('in a')}</w:p><w:p>{run('box')}</w:p></w:txbxContent>"
    body = f"""<w:p>{run("around ")}<w:r><mc:AlternateContent><mc:Choice Requires="wps"><wps:txbx>{box}
      </wps:txbx></mc:Choice><mc:Fallback><w:pict><v:textbox>{box}</v:textbox></w:pict></mc:Fallback></mc:AlternateContent></w:r>{run("it")}</w:p>
    <w:p><w:r><w:sym w:font="Wingdings" w:char="F0FC"/></w:r><m:oMath><m:f><m:num><m:r><m:t>1</m:t></m:r></m:num><m:den>
      <m:r><m:t>2</m:t></m:r></m:den></m:f></m:oMath></w:p>"""
    texts, found = read_with(read_docx, word(tmp_path, body, document))
    assert texts == ["Heading\n\none\ntwo\n\nx²\n\nx₂\n\nx\n\naround it\n\nin a\n\nbox\n\n1/2"]
    assert found == {HIDDEN: 1, SYMBOLS: 1, FORMULAS: 1}


NOTES = f"""<w:footnotes {nsdecls("w")}><w:footnote w:type="separator" w:id="-1"><w:p>{run("NOSEE")}</w:p></w:footnote>
<w:footnote w:id="2"><w:p>{run("The note.")}</w:p></w:footnote></w:footnotes>"""


def test_notes_follow_the_text_and_strict_documents_are_read_too(tmp_path):
    data = word(tmp_path, f"<w:p>{run('Text.')}</w:p>")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        relations = archive.read("word/_rels/document.xml.rels").decode()
        document = archive.read("word/document.xml").decode()
    link = '<Relationship Id="f" Type="http://x/relationships/footnotes" Target="/word/notes.xml"/></Relationships>'
    changed = {"word/notes.xml": NOTES, "word/_rels/document.xml.rels": relations.replace("</Relationships>", link)}
    assert read_with(read_docx, repacked(data, changed)) == (["Text.\n\nThe note."], {})
    old, new = (
        "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
        "http://purl.oclc.org/ooxml/wordprocessingml/main",
    )
    assert read_with(read_docx, repacked(data, {"word/document.xml": document.replace(old, new)})) == (["Text."], {})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"_rels/.rels": None}, r"^d: no Word document, as none is named in it"),
        ({"word/document.xml": None}, r"^d: word/document\.xml is missing in it; get a complete copy of it"),
        ({"word/document.xml": "<w:document>"}, r"^d/word/document\.xml: not well-formed XML \(line 1: unbound prefix"),
        (
            {"word/document.xml": '<!DOCTYPE x [<!ENTITY a "b">]><x/>'},
            r"^d/word/document\.xml: declares entities of its",
        ),
    ],
)
def test_a_damaged_word_document_gets_a_sentence(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        read_with(read_docx, word(tmp_path, **changed), name="d")


def opened(tmp_path, document, **changed):
    document.save(tmp_path / "x.odt")
    return repacked((tmp_path / "x.odt").read_bytes(), changed)


def filled(element, *parts):
    for part in parts:
        element.addText(part) if isinstance(part, str) else element.addElement(part)
    return element


def test_spaces_tabs_spans_and_headings_of_odt_are_kept_and_notes_of_editors_are_not(tmp_path):
    document = OpenDocumentText()
    region = text.ChangedRegion(qattributes={(text.TEXTNS, "id"): "c"}, check_grammar=False)
    change = filled(text.Deletion(), filled(office.ChangeInfo(), dc.Creator(text="NOSEE")), text.P(text="NOSEE"))
    annotation = filled(office.Annotation(), dc.Creator(text="NOSEE"), text.P(text="NOSEE"))
    parts = (text.S(c=3), "QVAR1", text.Tab(), "QVAR2", text.LineBreak(), "QVAR3", filled(text.Span(), " in"), " tail")
    span = filled(text.Span(text="a"), *parts)
    filled(
        document.text,
        filled(text.TrackedChanges(), filled(region, change)),
        text.H(outlinelevel=1, text="Heading"),
        filled(text.P(), span, annotation, " end  of\n  it", text.Change(changeid="c")),
    )
    texts, found = read_with(read_odt, opened(tmp_path, document))
    assert texts == ["Heading\n\na   QVAR1\tQVAR2\nQVAR3 in tail end of it"]
    assert found == {COMMENTS: 1, DELETED: 1}


def test_what_stands_between_the_paragraphs_of_odt_is_no_text(tmp_path):
    data = opened(tmp_path, filled(OpenDocumentText().text, text.P(text="one"), text.P(text="two")).ownerDocument)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        spaced = archive.read("content.xml").replace(b"<text:p>", b"\n NOSEE <text:p>")
    assert read_with(read_odt, repacked(data, {"content.xml": spaced})) == (["one\n\ntwo"], {})


def test_notes_lists_tables_and_hidden_text_of_odt(tmp_path):
    document = OpenDocumentText()
    for name, properties in (("up", {"textposition": "super 58%"}), ("no", {"display": "none"})):
        document.automaticstyles.addElement(
            filled(style.Style(name=name, family="text"), style.TextProperties(**properties))
        )
    note = filled(
        text.Note(noteclass="footnote"), text.NoteCitation(text="1"), filled(text.NoteBody(), text.P(text="Note."))
    )
    box = filled(draw.Frame(), filled(draw.TextBox(), text.P(text="box")))
    items = filled(text.List(), *(filled(text.ListItem(), text.P(text=item)) for item in ("one", "two")))
    row = filled(table.TableRow(), *(filled(table.TableCell(), text.P(text=cell)) for cell in ("a1", "b2")))
    ruby = filled(text.Ruby(), text.RubyBase(text="表"), text.RubyText(text="NOSEE"))
    filled(
        document.text,
        filled(text.P(), "With", note, " and ", box, "after 10", text.Span(stylename="up", text="6"), "."),
        filled(text.P(), text.Span(stylename="no", text="NOSEE"), ruby, text.S(c=10**9), "far"),
        items,
        filled(table.Table(), row),
        text.P(text="last"),
    )
    texts, found = read_with(read_odt, opened(tmp_path, document))
    far = f"表{' ' * reader.MAX_SPACES}far"
    assert texts == [f"With and after 10⁶.\n\nbox\n\n{far}\n\none\ntwo\n\na1\tb2\n\nlast\n\nNote."]
    assert found == {HIDDEN: 1}


def test_an_odt_with_a_password_and_one_that_is_no_text_are_refused(tmp_path):
    locked = (
        '<m xmlns="urn:oasis:names:tc:opendocument:xmlns:manifest:1.0"><file-entry><encryption-data/></file-entry></m>'
    )
    document = filled(OpenDocumentText().text, text.P(text="x")).ownerDocument
    with pytest.raises(DataError, match=r"^d: is protected by a password; save it without one$"):
        read_with(read_odt, opened(tmp_path, document, **{"META-INF/manifest.xml": locked}), name="d")
    with pytest.raises(DataError, match=r"^d: content\.xml is missing"):
        read_with(read_odt, opened(tmp_path, document, **{"content.xml": None}), name="d")
    with pytest.raises(DataError, match=r"^d: holds no text document but spreadsheet; save its text as \.odt"):
        read_with(read_odt, opened(tmp_path, OpenDocumentSpreadsheet()), name="d")
