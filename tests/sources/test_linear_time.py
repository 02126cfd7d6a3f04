"""Text that makes patterns try again and again takes no longer than other text of its length."""

import time
from collections import Counter
from io import BufferedReader, BytesIO

import pytest
from reading import read_with

from groundup.sources.documents.json_documents import read_json
from groundup.sources.documents.pdf import _join_words
from groundup.sources.documents.subtitles import read_subtitles
from groundup.sources.formats import identify
from groundup.sources.gutenberg import without_boilerplate
from groundup.sources.separators import spans

START = "*** START OF THE PROJECT GUTENBERG EBOOK X ***\n"
CUE = "1\n00:00:00,000 --> 00:00:01,000\n"


@pytest.mark.parametrize(
    ("start", "kind"),
    [
        ("<!-- a note -->\n" * 500 + "# Title\n", "text"),
        ("<!-- a note -->\n" * 400 + "<!DOCTYPE html>", "html"),
        ("<!-" + "-" * 8000, "text"),
        ("From " + "1" * 8000, "text"),
        ("From 1" + " 1999" * 1600, "text"),
        (" " * 8000 + "1", "text"),
        ("[" * 8000 + '"', "text"),
    ],
    ids=lambda value: value[:12],
)
def test_a_format_is_known_at_once_from_the_beginning_of_a_file(tmp_path, start, kind):
    (tmp_path / "a.txt").write_text(start)
    began = time.process_time()
    assert identify(tmp_path / "a.txt") == kind
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "read",
    [
        lambda: read_with(read_subtitles, f"{CUE}a\n{'A' * 50_000}\n".encode()),
        lambda: read_with(read_subtitles, f"{CUE}a\n<v{' ' * 50_000}x\n".encode()),
        lambda: read_with(read_subtitles, f"{CUE}a\n{'Mc' * 9}{'A. ' * 20_000}\n".encode()),
        lambda: _join_words(f"{'a' * 100_000} b-\nc", Counter()),
        lambda: _join_words("a-\n" * 50_000, Counter()),
        lambda: [*spans(BufferedReader(BytesIO(b"a short line\n" * 160_000)), b"\n")],
        lambda: [*without_boilerplate([START, *["\n" * (1 << 20)] * 9], lambda finding, n: None)],
        lambda: [*without_boilerplate([START, *[" " * (1 << 20)] * 9], lambda finding, n: None)],
        lambda: read_with(read_json, b'{"n": [' + b"1," * 500_000 + b'1], "data": ["a"]}'),
        lambda: read_with(read_json, b'{"n": [' + b"[[]]," * 200_000 + b'1], "data": ["a"]}'),
    ],
    ids=[
        *("a line of capitals", "a voice", "many names", "a long word", "cut words", "separators", "empty lines"),
        *("spaces", "numbers", "lists"),
    ],
)
def test_odd_text_takes_no_longer_than_other_text_of_its_length(read):
    began = time.process_time()
    read()
    assert time.process_time() - began < 3
