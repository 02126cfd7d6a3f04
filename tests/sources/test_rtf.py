"""RTF is decoded by the code page of its fonts; destinations, pictures and stand-ins are no text."""

import time

import pytest
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents.rtf import COMMENTS, HIDDEN, SYMBOLS, UNKNOWN_CODE_PAGE, read_rtf
from groundup.sources.text import REPLACED

CODE_PAGES = rb"""{\rtf1\ansi\ansicpg1251\uc1{\fonttbl{\f0 NOSEE;}}{\*\generator NOSEE;}
\'cf\'f0\'e8\'e2\'e5\'f2 \u8220?hi\u8221?
 {\uc0\u233}t\u233? \u-10179?\u-8704?\par{\pict ffd8ffe0}QVAR1}"""


def test_code_pages_and_unicode_with_its_stand_ins():
    texts, found = read_with(read_rtf, CODE_PAGES)
    assert (texts, found) == (["Привет “hi” été 😀\n\nQVAR1"], {})


@pytest.mark.parametrize(
    ("rtf", "text"),
    [
        (rb"\ansi caf\'e9 \'93q\'94", "café “q”"),
        (rb"\mac caf\'8e", "café"),
        (
            rb"\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 A;}{\f7\fcharset204 B;}}\f0\'e9{\f7 \'cf\'f0}\'e9\plain\f7\'e8",
            "éПрéи",
        ),
        (rb"\ansi\deff1{\fonttbl{\f1\fcharset128 A;}}\'95\'5c\'8e\'a6 \'83A", "表示 ア"),
        (rb"\ansi\ansicpg65001 \'c3\'a9", "é"),
        (rb"\ansi\ansicpg865 \'9b", "ø"),
        (rb"\ansi\ansicpg437 \'9b", "¢"),
        (rb"\uc2\u34920\'95\'5cx{\uc0\u34920}y\u8212\'81\'5c\u8212 ab", "表x表y——"),
        (rb"\u-3999?x", "x"),
        (rb"{\upr{NOSEE}{\*\ud{\u26085?}}}", "日"),
        (rb"a\~b\_c\-d\{e\}\\\emdash\lquote x\rquote\bullet \'7e", "a b\u2011cd{e}\\—‘x’•~"),
        (
            rb"one\line two\tab three\par\par\pard four\sect five\page" + b"\\\nsix",
            "one\ntwo\tthree\n\nfour\n\nfive\n\nsix",
        ),
        (rb"\intbl a1\cell b2\cell\row\intbl c3\cell d4\cell\row\pard after", "a1\tb2\nc3\td4\n\nafter"),
        (rb"{\field{\*\fldinst HYPERLINK NOSEE}{\fldrslt shown}} {\field{\fldinst NOSEE}{\fldrslt too}}", "shown too"),
        (rb"text{\footnote\pard note 1}, more{\header NOSEE}{\info{\title NOSEE}}\par", "text, more\n\nnote 1"),
        (rb"{\pntext\f1\'b7\tab}item\bin5 }}}}}end", "itemend"),
        (rb"{\shp{\*\shpinst{\sp{\sn NOSEE}{\sv NOSEE}}{\shptxt box\par}}{\shprslt NOSEE}}x", "x\n\nbox"),
        (rb"a" + b"\r\n" + rb"b{\*\unknown NOSEE{NOSEE}}\unknown c\b0d", "abcd"),
        (rb"a}{NOT READ", "a"),
    ],
)
def test_controls_are_read_as_word_processors_do(rtf, text):
    assert read_with(read_rtf, rb"{\rtf1" + rtf + b"}")[0] == [text]


def test_what_is_left_out_or_doubtful_is_counted():
    rtf = rb"{\rtf1\ansi{\fonttbl{\f1\fcharset2;}{\f2\fcharset99;}}a{\v NOSEE}{\deleted NOSEE}{\*\annotation NOSEE}"
    texts, found = read_with(read_rtf, rtf + rb"{\f1\'b7}\u-3999?{\f2 b\'e9}}")
    assert texts == ["abé"]
    assert found == {HIDDEN: 2, COMMENTS: 1, SYMBOLS: 2, UNKNOWN_CODE_PAGE: 1}


def test_bytes_that_are_not_of_their_code_page_are_refused_or_replaced_and_counted():
    rtf = rb"{\rtf1\ansi\deff1{\fonttbl{\f1\fcharset204 A;}}a\'98\u-10179?b}"
    with pytest.raises(
        DataError, match=r"^d: 0x98 before byte \d+ is not cp1251, which the document declares; save it a"
    ):
        read_with(read_rtf, rtf, name="d")
    with pytest.raises(
        DataError, match=r"^d: half of a surrogate pair stands before byte 58, which is no character; save"
    ):
        read_with(read_rtf, rtf.replace(rb"\'98", b""), name="d")
    texts, found = read_with(read_rtf, rtf, errors="replace")
    assert texts == ["a��b"]
    assert found == {REPLACED: 2}


def test_what_is_no_rtf_or_too_deep_gets_a_sentence():
    with pytest.raises(DataError, match=r"^d: no RTF, which begins with \{\\rtf"):
        read_with(read_rtf, b"text", name="d")
    with pytest.raises(DataError, match=r"^d: groups nested more than 10,000 deep"):
        read_with(read_rtf, rb"{\rtf1" + b"{" * 20_000, name="d")


@pytest.mark.parametrize(
    "part", [rb"\u8220", rb"\bin9999999999 ", b"\\", rb"\'", b"{}", rb"{\*", rb"\f1", b"\\\xff", rb"\uc999999999 "]
)
def test_odd_parts_repeated_are_read_in_linear_time(part):
    start = time.process_time()
    read_with(read_rtf, rb"{\rtf1 " + part * 10_000, errors="replace") if part != rb"{\*" else None
    assert time.process_time() - start < 3
