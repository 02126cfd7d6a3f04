"""Decoding: what is said about bytes that are not text, wherever the blocks happen to end."""

import gzip
import random
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from groundup.data.packed import opened
from groundup.data.reading import CHUNK_BYTES, LONGEST_UNCUT, cut_unnoticed, read_jsonl, read_text
from groundup.errors import DataError

BLOCKS = [1, 2, 3, 7, 1 << 20]


@pytest.fixture
def write(tmp_path):
    def write(contents, name="a.txt"):
        (tmp_path / name).write_bytes(contents)
        return tmp_path / name

    return write


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_text_is_read_as_it_stands(write, chunk_bytes):
    text = "\nnaïve\r\n\r\n日本 \t🙂\n \n\ufeffend"
    assert "".join(read_text(write(text.encode()), "strict", chunk_bytes)) == text


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_a_byte_order_mark_is_dropped(write, chunk_bytes):
    assert "".join(read_text(write(b"\xef\xbb\xbfab"), "strict", chunk_bytes)) == "ab"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_an_invalid_byte_is_located(write, chunk_bytes, mark):
    path = write(mark + "é\r\né ".encode() + b"\xc3(")
    with pytest.raises(DataError, match=rf"a\.txt: byte {7 + len(mark)} \(line 2\) is 0xC3, which is not UTF-8"):
        list(read_text(path, "strict", chunk_bytes))


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_an_invalid_byte_can_be_replaced(write, chunk_bytes):
    assert "".join(read_text(write(b"a\xffb\xe2\x82"), "replace", chunk_bytes)) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_a_binary_file_is_refused(write, errors):
    with pytest.raises(DataError, match="byte 5 is NUL, so this is no text file"):
        list(read_text(write(b"ELF\n\n\0\0"), errors))


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be"])
def test_utf16_is_recognised(write, codec):
    with pytest.raises(DataError, match="this is UTF-16, not UTF-8; convert it with: iconv"):
        list(read_text(write("\ufeffabc".encode(codec)), "strict"))


PACKERS = {".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_packed_files_are_unpacked_also_of_several_parts(write, suffix):
    pack = PACKERS[suffix]
    path = write(pack(b"packed ") + pack(b"") + pack("zweimal größer ".encode() * 100_000), f"a.txt{suffix}")
    assert "".join(read_text(path, "strict")) == "packed " + "zweimal größer " * 100_000


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-9], lambda b: b[:3], lambda b: b"no" + b, lambda b: b[:9] + b"\xff" + b, lambda b: b + b[:5]],
)
@pytest.mark.parametrize("suffix", PACKERS)
def test_a_damaged_packed_file_is_refused(write, suffix, damage):
    packed = PACKERS[suffix](b"some text that is long enough to be cut\n" * 9)
    with pytest.raises(DataError, match=r"damaged or cut short as a (gzip|zstd) file"):
        list(read_text(write(damage(packed), f"a.txt{suffix}"), "strict"))


@pytest.mark.parametrize("missing", [1, 5, 1000, 20_000])
def test_a_packed_file_is_never_taken_for_whole_when_its_end_is_missing(write, missing):
    contents = random.Random(0).randbytes(300_000).hex().encode()
    for suffix, pack in PACKERS.items():
        with pytest.raises(DataError, match="cut short"):
            list(read_text(write(pack(contents)[:-missing], f"a.txt{suffix}"), "strict"))


def test_what_a_small_packed_file_holds_comes_in_small_pieces(write):
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1) * 0 + b"a b " * 20_000_000)  # 80 MB in a few kB
    with opened(write(bomb, "a.zst")) as file:
        pieces = [len(piece) for piece in iter(lambda: file.read1(), b"")]
    assert sum(pieces) == 80_000_000
    assert max(pieces) < 1 << 25


def test_a_stretch_without_a_place_to_cut_is_cut_at_last():
    length = LONGEST_UNCUT + 5 * CHUNK_BYTES
    chunks = list(cut_unnoticed("a" * CHUNK_BYTES for _ in range(length // CHUNK_BYTES)))
    assert sum(map(len, chunks)) == length
    assert max(map(len, chunks)) <= LONGEST_UNCUT + CHUNK_BYTES
    assert len(chunks) == 2


@given(st.lists(st.text("ab \n\r\t\u00a0\x1c", min_size=1)))
def test_cuts_fall_between_a_visible_character_and_the_space_after_it(pieces):
    chunks = list(cut_unnoticed(pieces))
    assert "".join(chunks) == "".join(pieces)
    for left, right in pairwise(chunks):
        assert not left[-1].isspace()
        assert right[0] in " \n\r"


def test_chunks_stay_short_where_there_is_a_place_to_cut():
    lines = " = title = \n \n some text \n" * 100  # every line ends in a space, as WikiText's do
    assert max(map(len, cut_unnoticed(lines[i : i + 50] for i in range(0, len(lines), 50)))) < 100


def jsonl(path, **options):
    return list(read_jsonl(path, **{"column": "text", "errors": "strict"} | options))


def test_each_line_is_a_document_at_its_offset(write):
    path = write(b'\xef\xbb\xbf{"text": "one"}\n\n{"text": ""}\r\n{"text": "tw\\u00f6\\ud83d\\ude42"}', "a.jsonl")
    assert jsonl(path) == [(0, "one"), (34, "twö🙂")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"text": ', r"a\.jsonl:2: not valid JSON \(Expecting value, column 9\)"),
        (b'["text"]', "2: a JSON list where an object is due"),
        (
            b'{"txt": "a", "id": 1}',
            "2: no field 'text'; did you mean 'txt'.* fields are 'txt', 'id': choose one with --col",
        ),
        (b'{"text": null}', "2: field 'text' is not text but null"),
        (b'{"text": 5}', "2: field 'text' is not text but int"),
        (b'{"text": "a\\udc00"}', r"2: the text holds U\+DC00, half of a surrogate pair"),
        (b'{"text": "\xff"}', "2: byte 10 of the line is 0xFF, which is not UTF-8"),
        (b"\xff\xfe{\0", "2: this is UTF-16"),
        (b'{"text": ' + b"[" * 100_000, "2: JSON that cannot be read"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "2: JSON that cannot be read"),
    ],
)
def test_a_line_that_is_no_document_is_refused(write, line, said):
    with pytest.raises(DataError, match=said):
        jsonl(write(b'{"text": "good"}\n' + line + b"\n", "a.jsonl"))


def test_lines_before_a_place_are_not_looked_at(write):
    path = write(b'no json\n{"text": "a"}\n{"text": "b"}', "a.jsonl")
    assert jsonl(path, since=8) == [(8, "a"), (22, "b")]
    assert jsonl(path, since=9) == [(22, "b")]


def test_what_is_not_valid_in_a_line_can_be_replaced(write):
    path = write(b'{"text": "a\xffb"}\n{"text": "a\\udc00b"}', "a.jsonl")
    assert [text for _, text in jsonl(path, errors="replace")] == ["a\ufffdb", "a\ufffdb"]
