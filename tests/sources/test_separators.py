"""Separators divide texts into documents; those that nobody asked to divide by are told."""

import gzip
import io

import pytest
from documents import read
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.errors import DataError
from groundup.sources import separators
from groundup.sources.corpus import Position, open_sources
from groundup.sources.separators import spans

END = "<|endoftext|>"


def test_a_separator_divides_a_text(tmp_path):
    (tmp_path / "a.txt").write_text(f"Once.\nTwo lines.\n{END}\n\nTwice é.\n{END}\n \n{END}{END}Last")
    assert read(tmp_path / "a.txt", separator=END) == [
        ("a.txt", 0, "Once.\nTwo lines."), ("a.txt", 32, "Twice é."), ("a.txt", 84, "Last")
    ]  # fmt: skip
    assert len(read(tmp_path / "a.txt")) == 1


@settings(max_examples=60)
@given(st.lists(st.text("ab\n \ré", max_size=30)), st.sampled_from([1, 3, 1000]), st.sampled_from([4, 10_000]))
def test_documents_are_those_of_split_wherever_blocks_end(texts, block, held):
    whole = "<>".join(texts)
    expected = [text.strip("\r\n") for text in texts if text.strip(" \n\r")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(separators, "BLOCK_BYTES", block)
        patch.setattr(separators, "MAX_HELD_BYTES", held)
        file = io.BytesIO(whole.encode())
        found = list(spans(file, b"<>"))
        texts = [
            b"".join(span.blocks(io.BytesIO(whole.encode()), 5)) if span.data is None else span.data for span in found
        ]
        assert [text.decode() for text in texts] == expected
        for span in found:
            assert span.line == whole.encode()[: span.start].count(b"\n") + 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_document_that_is_not_held_in_memory_is_read_from_the_file(tmp_path, monkeypatch, pack):
    monkeypatch.setattr(separators, "MAX_HELD_BYTES", 1000)
    monkeypatch.setattr(separators, "BLOCK_BYTES", 100)
    text = "short\n===\n" + "word é\n" * 1000 + "===\nlast"
    (tmp_path / "a.txt").write_bytes(pack(text.encode()))
    assert [text for *_, text in read(tmp_path / "a.txt", separator="===")] == [
        "short", ("word é\n" * 1000).rstrip("\n"), "last"
    ]  # fmt: skip


def test_reading_can_begin_at_any_document(tmp_path):
    (tmp_path / "a.txt").write_text("one==two==three")
    with open_sources([tmp_path / "a.txt"], separator="==") as corpus:
        everything = [(place, "".join(each.chunks())) for place, each in corpus.documents_from(Position())]
        for i, (place, _) in enumerate(everything):
            assert [(p, "".join(d.chunks())) for p, d in corpus.documents_from(place)] == everything[i:]
            after = Position(place.input, place.documents + 1, place.offset + 1, place.total + 1)
            assert [(p, "".join(d.chunks())) for p, d in corpus.documents_from(after)] == everything[i + 1 :]


def test_an_odd_byte_is_placed_in_the_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\n==\ntwo\nth\xffree")
    with pytest.raises(DataError, match=r"a\.txt: byte 13 \(line 4\) is 0xFF"):
        read(tmp_path / "a.txt", separator="==")


def test_a_separator_that_divides_nothing_is_told(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("a==b")
    with open_sources([tmp_path / "a.txt", tmp_path / "b.txt"], separator="==") as corpus:
        assert len(list(corpus)) == 3
        assert corpus.findings() == ["is one document, as '==' divides nothing: 1 in a.txt"]


def test_source_code_and_rows_are_not_divided(tmp_path):
    (tmp_path / "a.py").write_text("a == b")
    (tmp_path / "a.jsonl").write_text('{"text": "a==b"}')
    (tmp_path / "b.txt").write_text("1==2")
    assert [text for *_, text in read(tmp_path, separator="==")] == ["a==b", "a == b", "1", "2"]
    with pytest.raises(DataError, match="separator '==': none of the sources is plain text; leave --separator out"):
        read(tmp_path / "a.py", tmp_path / "a.jsonl", separator="==")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"Once.\n{END}\nTwice.\n{END}\n", END),
        ("Once.</s>Twice.</s>", "</s>"),
        ("a\n[SEP]\nb\n[SEP]\nc", "[SEP]"),
        (f"The token {END} ends a document.", None),
        ("a --- b\n---\n---\n", None),
    ],
)
def test_a_separator_that_a_text_spells_out_is_told(tmp_path, text, told):
    messages = []
    (tmp_path / "a.txt").write_text(text)
    with open_sources([tmp_path / "a.txt"], say=messages.append):
        pass
    expected = f"a.txt: spells out {told}, which is read as text; to divide it there add --separator '{told}'"
    assert messages == ([expected] if told else [])
    with open_sources([tmp_path / "a.txt"], separator="==", say=pytest.fail):
        pass


def test_a_separator_has_text(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    from groundup.errors import UsageError

    with pytest.raises(UsageError, match="separator: is empty"):
        read(tmp_path / "a.txt", separator="")
