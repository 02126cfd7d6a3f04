"""Text that is not UTF-8 is never guessed silently: the place, and the encoding that all of the file looks like."""

import codecs
import gzip

import pytest
from documents import read

from groundup.errors import DataError, UsageError
from groundup.sources.encodings import parse_encoding

FRENCH = "Il était une fois un château très éloigné.\nÀ l'été “naïf” — déjà vu.\n"
POLISH = "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności.\n"
RUSSIAN = "Все люди рождаются свободными и равными в своем достоинстве и правах.\n"
JAPANESE = "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("a " * 600_000 + "café", "cp1252"),  # after more than any reader looks at
        ("It’s", "cp1252"),
        (FRENCH, "cp1252"),
        (POLISH, "cp1250"),
        (POLISH, "iso8859_2"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8_r"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        ("人人生而自由,在尊严和权利上一律平等。\n", "gb18030"),
        ("모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.\n", "euc_kr"),
        (FRENCH, "utf-16"),
        ("plain", "utf-32"),
        ("Some text\n" * 9, "utf-16-le"),
    ],
)
def test_another_encoding_is_offered_with_its_place_and_read_when_it_is_named(tmp_path, text, encoding, pack):
    data = text.encode(encoding)
    (tmp_path / "a.txt").write_bytes(pack(data))
    with pytest.raises(DataError) as refused:
        read(tmp_path / "a.txt")
    message = str(refused.value)
    assert f"this looks like {encoding}: add --encoding {encoding}" in message
    if encoding[:3] != "utf":
        at = next(i for i, byte in enumerate(data) if byte > 0x7F)
        line = data[:at].count(b"\n") + 1
        assert message.startswith(f"{tmp_path}/a.txt: byte {at} (line {line}) is 0x{data[at]:02X}, which is not UTF-8")
    assert read(tmp_path / "a.txt", encoding=encoding) == [("a.txt", 0, text)]


def test_text_that_is_utf8_late_in_a_file_is_read_without_a_word(tmp_path):
    (tmp_path / "a.txt").write_text("a " * 600_000 + "café")
    assert read(tmp_path / "a.txt", say=pytest.fail) == [("a.txt", 0, "a " * 600_000 + "café")]


def test_a_damaged_line_of_a_text_in_utf8_is_named_and_no_encoding_is_offered_for_all(tmp_path):
    start = (POLISH * 4).encode()
    (tmp_path / "a.txt").write_bytes(start + b"a \x93quote\x94 here\n" + (POLISH * 3).encode())
    with pytest.raises(
        DataError, match=rf"a\.txt: byte {len(start) + 2} \(line 5\) is 0x93, .*; this line could be cp12"
    ) as e:
        read(tmp_path / "a.txt")
    assert "but 7 others are UTF-8, which --encoding cp12" in str(e.value)
    assert str(e.value).endswith("would spoil: fix it, or replace what is not valid with --errors replace")
    assert "add --encoding" not in str(e.value)


def test_rows_are_read_in_the_encoding_that_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes('{"text": "café"}\n{"text": "naïve"}\n'.encode("cp1252"))
    with pytest.raises(DataError, match=r"a\.jsonl, line 1: byte 13 of the line is 0xE9.*add --encoding cp1252"):
        read(tmp_path / "a.jsonl")
    assert [text for *_, text in read(tmp_path / "a.jsonl", encoding="cp1252")] == ["café", "naïve"]
    (tmp_path / "b.txt").write_bytes('{"text": "café"}\n{"text": "naïve"}\n'.encode("utf-16"))
    assert [text for *_, text in read(tmp_path / "b.txt", encoding="utf-16")] == ["café", "naïve"]


@pytest.mark.parametrize("size", [1, 7, 70_000, 131_071])
def test_characters_that_blocks_cut_are_read(tmp_path, size):
    text = "x" * size + "字と😀\n" * 30_000
    (tmp_path / "a.txt").write_bytes(text.encode("utf-16"))
    assert read(tmp_path / "a.txt", encoding="utf-16") == [("a.txt", 0, text)]


def test_what_is_not_valid_in_the_encoding_is_placed_or_replaced(tmp_path):
    data = "字字\n字".encode("shift_jis") + b"\xff\n" + "字".encode("shift_jis") * 100_000
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.txt: byte 7 \(line 2\) is not valid in shift_jis .*right name with --enc"):
        read(tmp_path / "a.txt", encoding="Shift-JIS")
    assert read(tmp_path / "a.txt", encoding="shift_jis", errors="replace")[0][2][:6] == "字字\n字\ufffd\n"


def test_a_byte_order_mark_takes_precedence(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + "café".encode())
    assert read(tmp_path / "a.txt", encoding="cp1252") == [("a.txt", 0, "café")]
    (tmp_path / "a.txt").write_bytes("café".encode("utf-16"))
    with pytest.raises(DataError, match="not UTF-8; this looks like utf-16: add --encoding utf-16"):
        read(tmp_path / "a.txt", encoding="cp1252")


def test_names_of_encodings():
    assert [parse_encoding(name) for name in (None, "utf8", "UTF-8-SIG", "Latin-1", "windows-1252", "SJIS")] == [
        *(None, None, None, "iso8859-1", "cp1252", "shift_jis")
    ]
    for name in ("rot13", "hex", "idna", "unicode_escape", "no-such", "a\0b", ""):
        with pytest.raises(UsageError, match=r"is no encoding of text that is known here; cp1252, .* are some"):
            parse_encoding(name)
