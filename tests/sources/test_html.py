"""Pages are read as a browser shows them; no tag, script or hidden element becomes text."""

import codecs
import time
from collections import Counter

import pytest
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents.markup import CUT_SHORT, HIDDEN, NAVIGATION, READINGS, html_text, read_html


def shown(markup):
    return html_text(markup, Counter())


BLOCKS = """<p>First</p>loose QVAR1<div><h4>QVAR2</h4><p>QVAR3</p></div>
<p><span class="cap">T</span>he <b>W</b>ord x<wbr>y
co&shy;op<br>QVAR4</p><table><tr><td>a1<td>b2</table>
<ruby>表<rp>（</rp><rt>ひょう</rt><rp>）</rp>示<rp>（</rp><rt>じ</rt><rp>）</rp></ruby>"""


def test_blocks_are_apart_and_words_in_one_piece():
    texts, found = read_with(read_html, BLOCKS.encode())
    assert texts == [
        "First\n\nloose QVAR1\n\nQVAR2\n\nQVAR3\n\nThe Word xy coop\nQVAR4\n\na1\tb2\n\n表示",
    ]
    assert found == {READINGS: 2}


UNSEEN = """<!doctype html><html><head><title>NOSEE8 <script> & co</title><script>var a = "</p>NOSEE1 <!-- ";</script>
<style>p { content: "NOSEE2" }</style><script type="application/ld+json">{"text": "NOSEE9"}</script>
<template><p>NOSEE3</p></template></head><body><!-- NOSEE4 <script> -->
<div hidden>NOSEE5<div>NOSEE5</div></div><p style="color: red; display:none">NOSEE6<p>One.
<textarea hidden>&lt;style&gt;NOSEE7</textarea><noscript>NOSEE <p></noscript><svg><text>NOSEE</text></svg>
<select><option>NOSEE</select><dialog>NOSEE</dialog><nav><ul><li>NOSEE</ul></nav><span aria-hidden="true">NOSEE</span>
<p>About the &lt;script&gt; tag.<pre>
  &lt;script&gt;
    x = 1
</pre><p>Later.</body></html>"""


def test_what_a_browser_does_not_show_is_left_out_and_what_is_written_about_it_stays():
    texts, found = read_with(read_html, UNSEEN.encode())
    assert texts == ["One.\n\nAbout the <script> tag.\n\n  <script>\n    x = 1\n\nLater."]
    assert found == {HIDDEN: 4, NAVIGATION: 1}


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<ul><li>a<li>b<ul><li>c</ul><li>d</ul>e", "a\nb\nc\nd\n\ne"),
        ("<ul><li hidden>NOSEE<li>b</ul>", "b"),
        ("<dl><dt>a<dd hidden>NOSEE<dt>b<dd>c</dl>", "a\nb\nc"),
        ("<table><tr><td>a<td hidden>NOSEE<td>c<tr><td>d<td>e</table>f", "a\tc\nd\te\n\nf"),
        ("<table><tr><td><p>a</p></td><td><p>b</p></td></tr><tr><td><p>c</table>", "a\tb\nc"),
        ("<table><tr><td>a<table><tr><td>b<td>c</table><td>d</table>", "a\n\nb\tc\td"),
        ("<p>x</p><table><tr><td>a</table>", "x\n\na"),
        ("<b hidden>NOSEE<p>NOSEE</b></p>seen", "seen"),
        ("<i>a<p>b</i>c</p>d", "a\n\nbc\n\nd"),
        ("a<br><br>b<br>c", "a\n\nb\nc"),
        ("<p>a &nbsp;</p><p>&nbsp;</p><p>&nbsp; b</p>", "a\n\nb"),
        ("10<sup>6</sup> and 1<sup>st</sup>, H<sub>2</sub>O", "10⁶ and 1st, H₂O"),
        ("sea<a epub:type='noteref' href='#n'>12</a>.", "sea¹²."),
        ("<q>a</q> <img alt='T'>he <img alt='a picture'>end", "“a” The end"),
        ("AT&T &#147;x&#148; &amp;lt; &notit; &#0;&#xD800;", "AT&T “x” &lt; ¬it; ��"),
        ("a <![if !IE]>b<![endif]><![foo x> c<?php d ?> e", "a b c e"),
        ("<title/><script src='x'/><p>seen<a id='y'/> too", "seen too"),
        ("<html:p>a</html:p><html:p><![CDATA[b <c>]]></html:p>", "a\n\nb <c>"),
        ("<pre>\na\n b\r\n\r\nc  </pre>d", "a\n b\n\nc\n\nd"),
        ("", ""),
    ],
)
def test_markup_is_laid_out_as_browsers_do(markup, text):
    assert shown(markup) == text


def test_a_page_that_ends_in_a_tag_keeps_what_is_before_and_says_so():
    for end in ("<p class='x", "<!-- y", "<script>z"):
        texts, found = read_with(read_html, f"<p>one</p>{end}".encode())
        assert texts == ["one"]
        assert found == {CUT_SHORT: 1}


@pytest.mark.parametrize(
    ("head", "encoded", "text"),
    [
        ("<meta charset=iso-8859-1>", b"\x93q\x94", "“q”"),
        ('<META http-equiv="Content-Type" content="text/html; charset=ISO-8859-1">', b"caf\xe9 \x80", "café €"),
        ("<meta charset='gb2312'>", "镕".encode("gbk"), "镕"),
        ("<meta charset=shift_jis>", "①".encode("cp932"), "①"),
        ("<meta charset=utf-16>", "é".encode(), "é"),
        ("<meta charset=rot13>", "é".encode(), "é"),
        ("<!-- <meta charset=koi8-r> --><meta name=x charset=cp1251>", "Привет".encode("cp1251"), "Привет"),
        ("", "é".encode(), "é"),
    ],
)
def test_a_page_is_in_the_encoding_that_it_declares_as_browsers_mean_it(head, encoded, text):
    assert read_with(read_html, head.encode() + b"<p>" + encoded) == ([text], {})


def test_marks_declarations_of_xml_and_the_given_encoding_count_too():
    assert read_with(read_html, codecs.BOM_UTF8 + "<meta charset=koi8-r>é".encode()) == (["é"], {})
    assert read_with(read_html, "<p>é".encode("utf-16")) == (["é"], {})
    xml = '<?xml version="1.0" encoding="windows-1252"?><p>é</p>'
    assert read_with(read_html, xml.encode("cp1252")) == (["é"], {})
    assert read_with(read_html, "<p>é".encode("cp1252"), encoding="cp1252") == (["é"], {})
    assert read_with(read_html, "<meta charset=utf-8>é".encode("cp1252"), encoding="cp1252") == (["é"], {})
    with pytest.raises(DataError, match=r"^page: byte 20 \(line 1\) is 0xE9, which is not UTF-8"):
        read_with(read_html, "<meta charset=utf-8>é".encode("cp1252"), name="page")


@pytest.mark.parametrize(
    "markup",
    [
        "<a " * 50_000,
        "<!--" * 50_000,
        "<![" * 50_000,
        "&" * 200_000,
        '<a b="' * 30_000,
        "<div>" * 20_000 + "</p></b>" * 20_000,
        "<p>" + "".join(f"<b id={i}>" for i in range(5_000)) + "</p>" + "<p>y" * 5_000,
        "<b>" * 10_000 + "<table><td>" * 5_000 + "</i>" * 10_000,
        "<p><table>" + "<b>" * 1_000 + "<div>" * 5_000,
        "</" * 50_000,
        "<script>" + "</scrip" * 20_000,
    ],
)
def test_hostile_pages_take_no_longer_than_others(markup):
    start = time.process_time()
    shown(markup)
    assert time.process_time() - start < 3
