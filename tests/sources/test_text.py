"""Decoding of text, and messages about bytes that are not text, wherever the blocks end."""

import gzip
import json
import random
from itertools import pairwise

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import DataError
from groundup.sources import text as text_module
from groundup.sources.compression import ReadProgress, open_decompressed
from groundup.sources.rows import read_jsonl
from groundup.sources.text import MARKS, MAX_UNCUT_CHARS, REPLACED, chunk_text, decode_file, rechunk
from groundup.tokenizers.gpt2 import GPT2Tokenizer

BLOCKS = [1, 2, 3, 7, 1 << 20]


@pytest.fixture
def write(tmp_path):
    def write(contents, name="a.txt"):
        (tmp_path / name).write_bytes(contents)
        return tmp_path / name

    return write


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_text_is_read_unchanged(write, chunk_bytes):
    text = "\nnaïve\r\n\r\n日本 \t🙂\n \n\ufeffend"
    assert "".join(decode_file(write(text.encode()), "strict", chunk_bytes)) == text


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_a_byte_order_mark_is_dropped(write, chunk_bytes):
    assert "".join(decode_file(write(b"\xef\xbb\xbfab"), "strict", chunk_bytes)) == "ab"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_an_invalid_byte_is_located(write, chunk_bytes, mark):
    path = write(mark + "é\r\né ".encode() + b"\xc3(")
    with pytest.raises(DataError, match=rf"a\.txt: byte {7 + len(mark)} \(line 2\) is 0xC3, which is not UTF-8"):
        list(decode_file(path, "strict", chunk_bytes))


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_an_invalid_byte_can_be_replaced(write, chunk_bytes):
    assert "".join(decode_file(write(b"a\xffb\xe2\x82"), "replace", chunk_bytes)) == "a\ufffdb\ufffd"


@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_a_binary_file_is_refused(write, errors):
    with pytest.raises(DataError, match="byte 5 is NUL, so this is no text file"):
        list(decode_file(write(b"ELF\n\n\0\0"), errors))


@pytest.mark.parametrize("codec", ["utf-16", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_recognised(write, codec):
    with pytest.raises(DataError, match=f"not UTF-8; this looks like {codec[:6]}: add --encoding {codec[:6]}$"):
        list(decode_file(write("\ufeffabc".encode(codec)), "strict"))


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_recognised(write, codec):
    with pytest.raises(DataError, match=f"is NUL, which text .*; this looks like {codec}: add --encoding {codec}"):
        list(decode_file(write("Some naïve text — and more.\n".encode(codec) * 9), "replace"))


def test_a_stray_nul_can_be_removed(write):
    with pytest.raises(DataError, match=r"byte 11 is NUL, so .*; give text, or remove the NULs .*: tr -d '\\000'"):
        list(decode_file(write(b"hello world\0 and more"), "replace"))


@pytest.mark.parametrize("chunk_bytes", BLOCKS)
def test_what_is_replaced_is_counted_once_for_each_file(write, chunk_bytes):
    progress = ReadProgress()
    path = write("é\ufffd\ufeff".encode() + b"caf\xe9 \xe2\x82 \xff" + "\ufffd\ufeff".encode() + b"\xe2\x82")
    for _ in range(2):
        list(decode_file(path, "replace", chunk_bytes, progress))
    assert progress.found == {path: {REPLACED: 4, MARKS: 2}}


def test_what_is_replaced_in_rows_is_counted(write):
    progress = ReadProgress()
    path = write(b'{"text": "a\xffb\xef\xbb\xbf"}\n{"text": "a\\udc00b"}\n{"text": "\\ufffd"}', "a.jsonl")
    assert len(jsonl(path, errors="replace", progress=progress)) == 3
    assert progress.found == {path: {REPLACED: 2, MARKS: 1}}


PACKERS = {".gz": gzip.compress, ".zst": zstandard.compress}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a"])
def test_packed_files_are_known_by_their_first_bytes(write, suffix, name):
    assert "".join(decode_file(write(PACKERS[suffix](b"packed"), name), "strict")) == "packed"


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_plain_file_with_the_suffix_of_a_packed_one_is_named_so(write, suffix):
    with pytest.raises(DataError, match=rf"not packed with .*; if it is plain text, take \{suffix} off its name"):
        list(decode_file(write(b"plain", f"a.txt{suffix}"), "strict"))


@pytest.mark.parametrize("suffix", PACKERS)
def test_compressed_files_of_several_frames_are_decompressed(write, suffix):
    pack = PACKERS[suffix]
    path = write(pack(b"packed ") + pack(b"") + pack("zweimal größer ".encode() * 100_000), f"a.txt{suffix}")
    assert "".join(decode_file(path, "strict")) == "packed " + "zweimal größer " * 100_000


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-9], lambda b: b[:3], lambda b: b"no" + b, lambda b: b[:9] + b"\xff" + b, lambda b: b + b[:5]],
    ids=["end", "begins", "before", "inside", "after"],
)
@pytest.mark.parametrize("suffix", PACKERS)
def test_a_damaged_compressed_file_is_refused(write, suffix, damage):
    packed = PACKERS[suffix](b"some text that is long enough to be cut\n" * 9)
    with pytest.raises(DataError, match=r"damaged or cut short as a (gzip|zstd) file|not packed with (gzip|zstd), or"):
        list(decode_file(write(damage(packed), f"a.txt{suffix}"), "strict"))


def test_a_frame_with_a_long_window_is_decompressed(write):
    text = random.Random(0).randbytes(1 << 10).hex().encode() * 9
    settings = zstandard.ZstdCompressionParameters.from_level(1, window_log=30, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=settings).compressobj()  # size not known beforehand
    assert "".join(decode_file(write(packer.compress(text) + packer.flush(), "a.txt.zst"), "strict")) == text.decode()


@pytest.mark.parametrize("zeros", [1, 100, 1 << 14, 1 << 19])
def test_zeros_after_gzip_are_skipped(write, zeros):
    path = write(gzip.compress(b"one ") + bytes(zeros) + gzip.compress(b"two") + bytes(zeros), "a.txt.gz")
    with open_decompressed(path) as file:
        assert file.read() == b"one two"


def test_endless_zeros_after_gzip_are_refused(write):
    path = write(gzip.compress(b"one "), "a.txt.gz")
    with path.open("ab") as file:
        file.truncate(6 << 30)
    with pytest.raises(
        DataError, match=r"a\.txt\.gz: damaged or .* gzip file \(more than 1,048,576 zeros follow its end"
    ):
        list(decode_file(path, "strict"))


def test_a_gzip_file_with_a_wrong_checksum_is_refused(write):
    packed = bytearray(gzip.compress(b"some text"))
    packed[-6] ^= 1
    with pytest.raises(DataError, match=r"damaged or cut short as a gzip file \(.*incorrect data check\)"):
        list(decode_file(write(bytes(packed), "a.txt.gz"), "strict"))


@pytest.mark.parametrize("missing", [1, 5, 1000, 20_000])
def test_a_truncated_compressed_file_is_never_taken_for_complete(write, missing):
    contents = random.Random(0).randbytes(300_000).hex().encode()
    for suffix, pack in PACKERS.items():
        with pytest.raises(DataError, match="cut short"):
            list(decode_file(write(pack(contents)[:-missing], f"a.txt{suffix}"), "strict"))


@pytest.mark.parametrize("pack", [zstandard.ZstdCompressor(level=1).compress, gzip.compress])
def test_a_compression_bomb_is_read_in_small_pieces(write, pack):
    bomb = pack(b"a b " * 20_000_000)  # 80 MB in a few kB
    with open_decompressed(write(bomb, "a.txt")) as file:
        pieces = [len(piece) for piece in iter(lambda: file.read1(), b"")]
    assert sum(pieces) == 80_000_000
    assert max(pieces) < 1 << 25


def test_a_long_stretch_without_a_safe_cut_is_cut_anyway():
    chunks = list(chunk_text("a" * (3 * MAX_UNCUT_CHARS), 1000))
    assert "".join(chunks) == "a" * (3 * MAX_UNCUT_CHARS)
    assert max(map(len, chunks)) <= MAX_UNCUT_CHARS + 1000
    assert len(chunks) == 3


@pytest.mark.parametrize(("stretch", "ends"), [("字字，」\n", "」"), ("字字字，", "字"), ("ab+/", "b")])
def test_forced_cuts_are_at_the_end_of_a_line_or_word(stretch, ends):
    text = stretch * 60_000
    chunks = list(chunk_text(text, 1000))
    assert "".join(chunks) == text
    assert len(chunks) > 2
    assert all(chunk.endswith(ends) for chunk in chunks[:-1])
    if "\n" in stretch:
        assert all(chunk.startswith("\n") for chunk in chunks[1:])


def test_forced_cuts_at_lines_and_words_change_no_id_of_gpt2():
    for stretch in ("字字，」\n", "naïve.it's/", "12-34"):
        text = stretch * 20_000
        parts = [GPT2Tokenizer().encode(chunk) for chunk in chunk_text(text, 1000)]
        assert len(parts) > 1
        assert np.array_equal(np.concatenate(parts), GPT2Tokenizer().encode(text))


@given(st.lists(st.text("ab._ \n\r\t\u00a0\x1c", min_size=1)))
def test_cuts_fall_before_a_space_after_anything_visible_and_before_a_line_end_after_a_letter(pieces):
    chunks = list(rechunk(pieces))
    assert "".join(chunks) == "".join(pieces)
    for left, right in pairwise(chunks):
        assert (right[0] == " " and not left[-1].isspace()) or (right[0] in "\n\r" and left[-1] in "ab")


def test_chunks_stay_short_if_there_are_safe_cuts():
    lines = " = title = \n \n some text \n" * 100  # every line ends in a space, as WikiText's do
    assert max(map(len, rechunk(lines[i : i + 50] for i in range(0, len(lines), 50)))) < 100


def jsonl(path, **options):
    return list(read_jsonl(path, **{"column": "text", "errors": "strict"} | options))


def test_each_line_is_a_document_at_its_offset(write):
    path = write(b'\xef\xbb\xbf{"text": "one"}\n\n{"text": ""}\r\n{"text": "tw\\u00f6\\ud83d\\ude42"}', "a.jsonl")
    assert jsonl(path) == [(0, "one"), (34, "twö🙂")]


def test_a_line_whose_field_is_null_holds_no_text(write):
    path = write(b'{"text": null}\n{"text": "one"}\n{"text": null}', "a.jsonl")
    assert jsonl(path) == [(15, "one")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ', r"a\.jsonl, line 2: not valid JSON \(Expecting value, column 9\)"),
        (b'["text"]', "2: a JSON list; write an object"),
        (
            b'{"txt": "a", "id": 1}',
            "2: no field 'text'; did you mean 'txt'.* fields are 'txt', 'id': choose one with --col",
        ),
        (b'{"text": 5}', "2: field 'text' is not text but int"),
        (b'{"text": "a\\udc00"}', r"2: the text holds U\+DC00, half of a surrogate pair"),
        (b'{"text": "\xff"}', "2: byte 10 of the line is 0xFF, which is not UTF-8"),
        (b"\xff\xfe{\0", "2: not UTF-8; this looks like utf-16"),
        (b'{"text": ' + b"[" * 100_000, "2: JSON that cannot be read"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "2: JSON that cannot be read"),
    ],
)
def test_invalid_lines_are_refused(write, line, message):
    with pytest.raises(DataError, match=message):
        jsonl(write(b'{"text": "good"}\n' + line + b"\n", "a.jsonl"))


def test_line_ends_of_cr_alone_are_named(write):
    with pytest.raises(
        DataError, match=r"line 1: not valid JSON \(Extra data, .*LF and not in CR alone: .* tr '\\r' '\\n'"
    ):
        jsonl(write(b'{"text": "a"}\r{"text": "b"}\r', "a.jsonl"))


@pytest.mark.parametrize("pack", [bytes, *PACKERS.values()])
def test_a_row_has_a_largest_size(write, monkeypatch, pack):
    monkeypatch.setattr(text_module, "MAX_ROW_BYTES", 1000)
    longest = b'{"text": "' + b"a" * 987 + b'"}\n'
    assert len(longest) == 1000
    assert len(jsonl(write(pack(longest * 3), "a.jsonl"))) == 3
    bomb = pack(longest * 2 + b'{"text": "' + b"a" * 10_000_000)
    with pytest.raises(
        DataError, match=r"a\.jsonl, line 3: longer than 1,000 bytes, the most that a row may have; split"
    ):
        jsonl(write(bomb, "a.jsonl"))


def test_a_row_has_a_largest_number_of_values(write, monkeypatch):
    monkeypatch.setattr(text_module, "MAX_ROW_VALUES", 100)
    text = r"\"a\", [{}], \\" * 1000
    assert len(jsonl(write(json.dumps({"text": text, "ids": [*range(90)]}).encode(), "a.jsonl"))) == 1
    for values in ("[],", "[[]],", '{"":0},', '"a",', "1,"):
        row = f'{{"text": "a", "more": [{values * 100}1]}}'
        with pytest.raises(
            DataError, match=r"a\.jsonl, line 1: more than 100 values, the most that a row may have; sp"
        ):
            jsonl(write(row.encode(), "a.jsonl"))
    with pytest.raises(DataError, match="not valid JSON"):
        jsonl(write(b'{"text": "' + rb"\"" * 1_000_000, "a.jsonl"))


def test_lines_before_the_start_are_not_parsed(write):
    path = write(b'no json\n{"text": "a"}\n{"text": "b"}', "a.jsonl")
    assert jsonl(path, start=8) == [(8, "a"), (22, "b")]
    assert jsonl(path, start=9) == [(22, "b")]


def test_invalid_characters_of_a_line_can_be_replaced(write):
    path = write(b'{"text": "a\xffb"}\n{"text": "a\\udc00b"}', "a.jsonl")
    assert [text for _, text in jsonl(path, errors="replace")] == ["a\ufffdb", "a\ufffdb"]
