"""JSON that is one value: arrays, objects with a list inside, and lines that are not all good."""

import gzip
import io
import json
from collections import Counter
from itertools import chain

import orjson
import pytest
from documents import read
from reading import read_with

from groundup.errors import DataError
from groundup.sources import formats, text
from groundup.sources.corpus import open_sources
from groundup.sources.documents import json_stream, options
from groundup.sources.documents.json_documents import read_json
from groundup.sources.documents.json_stream import JsonStream
from groundup.sources.documents.options import MissingColumnError
from groundup.sources.rows import read_jsonl

ODD = "a \u2028 b \u2029 c \x85 d QVAR1"


@pytest.fixture(params=[1, 3, 1 << 20])
def pieces(request, monkeypatch):
    """Sizes of the blocks that files are read in."""
    monkeypatch.setattr(options, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize("write", [orjson.dumps, lambda value: json.dumps(value, indent=4).encode()])
def test_rows_of_an_array_are_documents(write):
    rows = [
        {"text": ODD, "tags": [1.5e3, {"a": None}]},
        {"text": 'two "2" [,] {', "n": 12},
        {"text": ""},
        {"text": None},
    ]
    assert read_with(read_json, write(rows)) == ([ODD, 'two "2" [,] {'], {})
    assert read_with(read_json, b"\xef\xbb\xbf " + write([ODD, "b QVAR2"])) == ([ODD, "b QVAR2"], {})
    assert read_with(read_json, write([])) == ([], {})


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    "document",
    [
        {"data": [{"body": "QVAR3"}, {"body": "QVAR4"}]},
        {
            "version": 2,
            "meta": {"n": [1, 2]},
            "response": {"docs": [{"body": "QVAR3", "x": []}, {"body": "QVAR4"}]},
            "z": {},
        },
        {"columns": ["id", "body"], "rows": [{"id": 1, "body": "QVAR3"}, {"id": 2, "body": "QVAR4"}]},
        {"users": [{"id": 1}], "posts": [{"body": "QVAR3"}, {"body": "QVAR4"}]},
        {"body": ["QVAR3", "QVAR4"], "other": ["x"]},
        {"data": ["QVAR3", "QVAR4"]},
    ],
)
def test_the_list_of_rows_is_found_inside_an_object(document):
    texts, found = read_with(read_json, json.dumps(document, indent=1).encode(), column="body")
    assert texts == ["QVAR3", "QVAR4"]
    assert found == ({} if len(document) == 1 else {"lists other than the rows are left out": 1})


def test_an_object_with_the_field_is_a_row_itself():
    assert read_with(read_json, b'{\n "text": "one",\n "comments": [{"text": "two"}]\n}') == (["one"], {})


def test_a_field_that_is_missing_is_answered_with_those_there_are():
    with pytest.raises(
        MissingColumnError, match=r"x, line 3: no field 'text'; fields are 'content', 'id': choose one with --col"
    ):
        read_with(read_json, json.dumps({"data": [{"content": "a", "id": 1}] * 3}, indent=0).encode())
    many = json.dumps([{f"{i}" + "long" * 50: 1 for i in range(100)}] * 20).encode()
    with pytest.raises(MissingColumnError) as caught:
        read_with(read_json, many)
    assert "… and 80 more: choose one with --column" in str(caught.value).replace("'", "")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"name": "a", "files": ["dist"], "scripts": {"test": "x"}},
            "no list holds rows, with the fields 'name', 'files', 'scripts', and neither",
        ),
        ({"a": {"b": {"c": {"d": [{"text": "deep"}]}}}}, "JSON in which no list holds rows"),
        (
            {"a": [{"text": "x"}], "b c": [{"text": "y"}]},
            r"several lists, '.a', '.\"b c\"', could be its rows; .* jq -c '.a\[\]'",
        ),
        (17, "JSON in which no list holds rows"),
        ([[1, 2], [3, 4]], "a JSON list; write an object"),
        ([1, 2], "a JSON int; write an object"),
    ],
)
def test_json_without_rows_is_refused(document, message):
    with pytest.raises(DataError, match=message):
        read_with(read_json, json.dumps(document, indent=1).encode())


@pytest.mark.parametrize("cut", [1, 5, 20, 40])
def test_json_that_is_cut_short_is_refused(cut):
    whole = json.dumps({"data": [{"text": "first"}, {"text": "second"}]}, indent=1).encode()
    with pytest.raises(DataError, match=r"x, line \d+: not valid JSON"):
        read_with(read_json, whole[:-cut])


@pytest.mark.usefixtures("pieces")
def test_an_error_is_named_with_its_line():
    for bad, line in ((b'[{"text": "a"},\n{"text": b}]', 2), (b'[\n"a"\n"b"]', 3), (b'["a",]', 1)):
        with pytest.raises(DataError, match=rf"x, line {line}: not valid JSON"):
            read_with(read_json, bad)
    with pytest.raises(DataError, match=r"x, line 1: not valid JSON \(nested more than 1,000 deep\)"):
        read_with(read_json, b"[" * 100_000)


@pytest.mark.usefixtures("pieces")
@pytest.mark.parametrize(
    "value", [[], {}, "a", 1.5, None, ["]", '"', "\\", '\\"', [[1, {"}": []}]]], {"[": {"a": "\\\\"}}]
)
def test_values_that_are_not_rows_are_skipped_whatever_is_in_them(value):
    document = json.dumps({"before": value, "list": [value] * 3, "data": [{"text": "one", "more": value}]}).encode()
    assert read_with(read_json, document)[0] == ["one"]
    for bad in (b'{"a": [1}, "data": ["b"]}', b'{"a": [{"b": 1], "data": ["b"]}', b'{"a": ["b], "data": [1]}'):
        with pytest.raises(DataError, match=r"x, line 1: not valid JSON \((Unexpected|Expecting) '.'\)"):
            read_with(read_json, bad)


def test_memory_holds_one_row_and_not_the_file(monkeypatch):
    read, row = [0], json.dumps({"text": "word " * 100})

    class Endless(io.RawIOBase):
        def read(self, n=-1):
            read[0] += n
            return ("[" if read[0] == n else ",").encode() + row.encode()

    stream = JsonStream((Endless().read(9).decode() for _ in range(10**9)), "x")
    for n, _ in enumerate(stream.items()):
        assert stream.value() == json.loads(row)
        if n == 100:
            break
    assert read[0] < 2000
    monkeypatch.setattr(json_stream, "MAX_ROW_BYTES", 1000)
    with pytest.raises(DataError, match=r"x, line 1: a value of more than 1,000 characters; split it"):
        JsonStream(iter(['["' + "a" * 600, "b" * 600, "c" * 600]), "x").value()


def test_a_value_has_a_largest_number_of_values(monkeypatch):
    monkeypatch.setattr(text, "MAX_ROW_VALUES", 100)
    assert JsonStream(iter(["[", "[]," * 40, "[]]"]), "x").value() == [[]] * 41
    rest = iter(["[]]"])
    with pytest.raises(DataError, match=r"^x, line 1: more than 4,000,000 values in a row; split it, or leave out"):
        JsonStream(chain(["[", *["[]," * 30] * 4], rest), "x").value()
    assert next(rest)  # it was refused before its end


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a", "a.json.gz"])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_documents_are_known_by_their_content(tmp_path, name, indent, monkeypatch):
    pack = gzip.compress if name.endswith(".gz") else bytes
    for rows in ([{"text": "one"}, {"text": "two"}], {"data": [{"text": "one"}, {"text": "two"}]}):
        (tmp_path / name).write_bytes(pack(json.dumps(rows, indent=indent).encode()))
        assert [(offset, text) for _, offset, text in read(tmp_path / name)] == [(0, "one"), (1, "two")]
        monkeypatch.setattr(formats, "ROWS_BYTES", 10)
        assert len(read(tmp_path / name)) == 2
        monkeypatch.undo()


def test_json_that_holds_no_rows_is_left_out_of_folders(tmp_path):
    (tmp_path / "package.json").write_text(json.dumps({"name": "a", "files": ["dist"]}, indent=1))
    (tmp_path / "settings.json").write_text('{\n // a comment\n "a": 1\n}')
    (tmp_path / "table.csv").write_text("a,b\n1,2\n")
    (tmp_path / "rows.json").write_text('["one", "two"]')
    with open_sources([tmp_path]) as corpus:
        assert ["".join(document.chunks()) for document in corpus] == ["one", "two"]
        (finding,) = corpus.findings()
    left_out = [f"1 in {tmp_path.name}/{name}" for name in ("package.json", "settings.json", "table.csv")]
    assert finding == f"holds no text in a column or field 'text' and is left out: {', '.join(left_out)}"


def test_lone_surrogates_are_refused_or_replaced():
    data = b'[{"text": "a\\ud800b"}]'
    with pytest.raises(DataError, match=r"x, line 1: the text holds U\+D800, half of a surrogate pair"):
        read_with(read_json, data)
    assert read_with(read_json, data, errors="replace") == (
        ["a\ufffdb"],
        {"characters that are not valid were replaced by U+FFFD": 1},
    )


def test_json_lines_with_other_line_ends_inside_are_read_under_any_name(tmp_path):
    texts = [ODD, "two", "three"]
    lines = b"\xef\xbb\xbf" + b"\r\n\r\n".join(orjson.dumps({"text": text}) for text in texts) + b"\r\n"
    (tmp_path / "chat.log").write_bytes(lines)
    assert [text for _, _, text in read(tmp_path / "chat.log")] == texts
    (tmp_path / "chat.log").write_bytes(lines + b"17\r\nnull\r\n")
    assert [text for _, _, text in read(tmp_path / "chat.log")] == texts


@pytest.mark.parametrize("first", [True, False])
def test_rows_that_are_no_objects_are_counted_where_most_are_good(tmp_path, first):
    good, bad = [json.dumps({"text": f"good {i}"}) for i in range(9)], ["17", "null"]
    rows = "\n".join(bad + good if first else good + bad)
    (tmp_path / "a.jsonl").write_text(rows)
    with open_sources([tmp_path / "a.jsonl"]) as corpus:
        assert len(list(corpus)) == 9
        assert corpus.findings() == ["rows are neither objects nor strings and are left out: 2 in a.jsonl"]
    array = f"[{','.join(rows.splitlines())}]".encode()
    texts, found = read_with(read_json, array)
    assert len(texts) == 9
    assert found == {"rows are neither objects nor strings and are left out": 2}


def test_rows_without_the_field_are_counted_where_most_have_it(tmp_path):
    rows = [{"text": "good"}] * 8 + [{"content": "other"}, {"text": 5}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert len(read(tmp_path / "a.jsonl")) == 8
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, [{"content": "a", "id": 1}] * 9)))
    with pytest.raises(
        DataError, match=r"b.jsonl, line 1: no field 'text'; .*fields are 'content', 'id': choose one with"
    ):
        read(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Hi", "n": 1}, {"role": "assistant", "content": " Hello\nyou "}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url"}]},
                      {"role": "assistant", "content": None}, {"role": "assistant", "content": "Hello\nyou"}]},
        {"id": 7, "conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello\nyou"}]},
        {"text": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello\nyou"}]},
    ],
)  # fmt: skip
def test_conversations_are_lines_with_names(tmp_path, row):
    said = "user: Hi\nassistant: Hello\nyou\n"
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row))
    assert [text for _, _, text in read(tmp_path / "a.jsonl")] == [said, said]
    counted = {"rows are conversations, read as lines `role: text`": 1}
    assert read_with(read_json, json.dumps([row]).encode()) == ([said], counted)
    assert read_with(read_json, json.dumps(row, indent=1).encode()) == ([said], counted)


def test_messages_that_are_no_conversation_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"messages": [{"speaker": "a", "line": "b"}]}')
    with pytest.raises(DataError, match=r"no field 'text'; fields are 'messages': choose one with --column"):
        read(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}')
    with pytest.raises(DataError, match=r"no field 'body'; fields are 'prompt', 'messages'"):
        read(tmp_path / "a.jsonl", column="body")


def test_a_resumed_reading_counts_and_does_not_judge(tmp_path):
    lines = [json.dumps({"text": "good"})] * 12 + ["1"] * 12
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    offset = len("\n".join(lines[:12])) + 1
    assert list(read_jsonl(tmp_path / "a.jsonl", "text", "strict", offset)) == []
    assert Counter(text for _, text in read_jsonl(tmp_path / "a.jsonl", "text", "strict")) == {"good": 12}
