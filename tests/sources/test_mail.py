"""Mailboxes and messages as `mailbox` and `email` of Python's library write them."""

import email.message
import email.policy
import mailbox
import time

import pytest
from documents import read
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents.mail import read_eml, read_mbox

ATTACHED = "attachments are left out"
DATE = b"Mon Nov 30 12:26:05 2026"


def message(text="", subject="Hello", **headers):
    new = email.message.EmailMessage()
    new["From"], new["Subject"] = "a@example.org", subject
    new["Received"] = "from NOSEE by NOSEE; Mon, 30 Nov 2026 12:26:05 +0000"
    new["DKIM-Signature"] = "v=1; a=NOSEE; b=NOSEE"
    for name, value in headers.items():
        new[name] = value
    if text:
        new.set_content(text)
    return new


def mbox(tmp_path, *messages):
    box = mailbox.mbox(tmp_path / "box", create=True)
    for each in messages:
        box.add(each)
    box.close()
    return (tmp_path / "box").read_bytes()


def test_a_line_of_prose_that_starts_with_from_begins_no_message(tmp_path):
    data = mbox(tmp_path, message("first\n"), message("rain:\n\nFrom here on it rains\n"), message("third\n"))
    assert b"\n>From here" in data
    wanted = ["Hello\n\nfirst", "Hello\n\nrain:\n\nFrom here on it rains", "Hello\n\nthird"]
    assert read_with(read_mbox, data) == (wanted, {})
    doubt = {"lines begin with `From ` after a blank line and were read as text": 1}
    bare = data.replace(b"\n>From here", b"\nFrom here")
    assert read_with(read_mbox, bare) == (wanted, doubt)
    note = bare.replace(b"it rains\n", b"it rains\nNote: a colon\n")
    wanted[1] += "\nNote: a colon"
    assert read_with(read_mbox, note) == (wanted, doubt)
    assert read_with(read_mbox, note.replace(b"\n", b"\r\n")) == (wanted, doubt)
    more = data.replace(b"\n>From here", b"\n>>From here")
    assert read_with(read_mbox, more)[0][1] == "Hello\n\nrain:\n\n>From here on it rains"


@pytest.mark.parametrize(
    "begin",
    [
        b"From a@example.org " + DATE,
        b"From - " + DATE,
        b"From 1784@xxx Mon Nov 30 12:26:05 +0000 2026",
        b"From MAILER-DAEMON Mon Nov  3 12:26:05 2026 +0100",
        b'From "odd name"@example.org 2026-11-30 12:26:05',
        b"From ",
    ],
)
def test_messages_begin_as_programs_write_it(begin):
    one = begin + b"\nReceived: NOSEE\nSubject: s\n\ntext\n\n"
    assert read_with(read_mbox, one * 3) == (["s\n\ntext"] * 3, {})
    assert read_with(read_mbox, b"From a " + DATE + b"\n\nno headers\n\n" + one) == (["no headers", "s\n\ntext"], {})


def test_a_forwarded_block_that_looks_like_headers_stays_in_its_message():
    text = b"\nFrom Bob\nDate: 3 May\nTo: Ann\n\nFrom 10:30 on in 1999\nit rained\n"
    data = b"From a " + DATE + b"\nSubject: s\n\n" + text
    assert read_with(read_mbox, data)[0] == ["s\n\nFrom Bob\nDate: 3 May\nTo: Ann\n\nFrom 10:30 on in 1999\nit rained"]


def test_of_the_forms_of_a_text_one_is_read():
    both = message("QVAR1 plain\n")
    both.add_alternative("<p>QVAR1 <b>html</b></p>", subtype="html")
    assert read_with(read_eml, bytes(both)) == (["Hello\n\nQVAR1 plain"], {})
    empty = message()
    empty.set_content("\n")
    empty.add_alternative("<style>NOSEE</style><p>QVAR2</p><p hidden>NOSEE</p>", subtype="html")
    assert read_with(read_eml, bytes(empty)) == (["Hello\n\nQVAR2"], {"hidden elements are left out": 1})


def test_attachments_are_left_out_and_counted():
    new = message("QVAR1\n")
    new.add_attachment(b"%PDF-1.4 " + b"NOSEE" * 99, maintype="application", subtype="pdf", filename="a.pdf")
    new.add_attachment("NOSEE\n", filename="a.txt")
    assert read_with(read_eml, bytes(new)) == (["Hello\n\nQVAR1"], {ATTACHED: 2})


def test_encodings_are_those_that_are_named_or_meant():
    def one(charset, body, transfer="8bit"):
        head = "Subject: =?utf-8?B?R3LDvMOfZQ==?= =?iso-8859-1?Q?_f=FCr_dich?=\n"
        head += f"Content-Type: text/plain; charset={charset}\nContent-Transfer-Encoding: {transfer}\n\n"
        return head.encode() + body

    def text(*arguments):
        (found,), counted = read_with(read_eml, one(*arguments))
        assert counted == {}
        assert found.startswith("Grüße für dich\n\n")
        return found.removeprefix("Grüße für dich\n\n")

    assert text("windows-1252", b"It=92s a long=\r\n line\r\n", "quoted-printable") == "It’s a long line"
    assert text("iso-8859-1", b"\x93q\x94") == "“q”"
    assert text("us-ascii", "für".encode()) == "für"
    assert text("nonsense", "für".encode("cp1252")) == "für"
    assert text("utf-8", "für".encode()) == "für"
    assert text("gb2312", "鎔".encode("gb18030")) == "鎔"
    assert text("unicode_escape", b"\\ud800") == "\\ud800"
    replaced = {"characters that are not valid were replaced by U+FFFD": 1}
    assert read_with(read_eml, one("utf-8", b"f\xfcr"))[1] == replaced


def test_messages_inside_messages_are_read():
    inner, outer = message("QVAR2\n", subject="inner"), message("QVAR1\n")
    outer.add_attachment(inner)
    assert read_with(read_eml, bytes(outer)) == (["Hello\n\nQVAR1"], {ATTACHED: 1})
    parts = b"--x\n\nSubject: a\n\nQVAR1\n--x\n\nSubject: b\n\nQVAR2\n--x--\n"
    digest = b"Subject: d\nMIME-Version: 1.0\nContent-Type: multipart/digest; boundary=x\n\n" + parts
    assert read_with(read_eml, digest) == (["d\n\na\n\nQVAR1\n\nb\n\nQVAR2"], {})


def test_flowed_lines_are_joined():
    head = b"Subject: s\nContent-Type: text/plain; format=flowed"
    body = b"a long \nline \nhere\n> quoted \n> lines\n  stuffed\n-- \nname\n"
    assert read_with(read_eml, head + b"\n\n" + body)[0] == [
        "s\n\na long line here\n> quoted \n> lines\n stuffed\n-- \nname"
    ]
    assert read_with(read_eml, head + b"; delsp=yes\n\n" + "字 \n字\n".encode())[0] == ["s\n\n字字"]


def test_messages_without_text_are_counted(tmp_path):
    picture = message()
    picture.set_content(b"GIF89a", maintype="image", subtype="gif")
    data = mbox(tmp_path, message("text\n"), picture, message())
    assert read_with(read_mbox, data) == (
        ["Hello\n\ntext"],
        {ATTACHED: 1, "messages without text are left out": 2},
    )


def test_a_message_of_a_mailbox_has_a_largest_size(tmp_path):
    data = mbox(tmp_path, message("one\n"), message("long line\n" * 500), message("three\n"))
    texts, found = read_with(read_mbox, data, max_bytes=2000)
    assert texts == ["Hello\n\none", "Hello\n\nthree"]
    assert found == {"messages longer than 2,000 bytes are left out": 1}
    with pytest.raises(DataError, match="longer than"):
        read_with(read_eml, bytes(message("long line\n" * 500)), max_bytes=2000)


def test_damaged_messages_are_never_a_traceback(tmp_path):
    nested = b"Content-Type: multipart/mixed; boundary=x\n\n--x\n" * 300
    for data in (
        nested,
        b"Content-Type: text/plain; charset*0*=\xff'\n\na",
        b"Subject: =?utf-8?B?=x?=\n\na",
        b"\0\n\xff",
    ):
        read_with(read_eml, data)
        read_with(read_mbox, b"From a " + DATE + b"\n" + data)


def test_mail_in_folders_is_one_document_each(tmp_path):
    (tmp_path / "mail").mkdir()
    box = mailbox.Maildir(tmp_path / "mail" / "Maildir", create=True)
    for text in ("one\n", "two\n"):
        box.add(mailbox.MaildirMessage(message(text)))
    key = box.add(mailbox.MaildirMessage(message("three\n")))
    seen = box[key]
    seen.set_subdir("cur")
    seen.add_flag("S")
    box[key] = seen
    box.close()
    (tmp_path / "mail" / "saved.eml").write_bytes(bytes(message("four\n")))
    (tmp_path / "mail" / "inbox").write_bytes(mbox(tmp_path, message("no\n")))  # without a suffix, so left out
    messages = []
    texts = sorted(text for _, _, text in read(tmp_path / "mail", say=messages.append))
    assert texts == [f"Hello\n\n{text}" for text in ("four", "one", "three", "two")]
    assert messages == [f"{tmp_path}/mail: reads 4 .eml; leaves out 1 without suffix (not read)"]
    assert [(offset, text) for _, offset, text in read(tmp_path / "mail" / "inbox")] == [(0, "Hello\n\nno")]


def test_long_headers_take_no_quadratic_time():
    started = time.process_time()
    parameters = b"Subject: s\nContent-Type: text/plain" + b"; a=b" * 400_000 + b"\n\na\n"
    assert read_with(read_eml, parameters) == ([], {"damaged messages are left out": 1})
    ((text,), _) = read_with(read_eml, b"Subject: " + b"=?utf-8?Q?a?= " * 400_000 + b"\n\nb\n")
    assert text.startswith("aaa")
    assert text.endswith("\n\nb")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("suffix", [".msg", ".emlx"])
def test_mail_in_the_formats_of_other_programs_is_refused_with_what_to_do(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_text("17\nSubject: s\n\ntext\n")
    with pytest.raises(
        DataError, match=rf"a\{suffix}: \{suffix} files are not read as text; save the message as \.eml$"
    ):
        read(tmp_path / f"a{suffix}")
