"""CSV and TSV as spreadsheets, databases and Python's csv module write them."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reading import read_with

from groundup.errors import DataError
from groundup.sources.documents import csv_tables, options
from groundup.sources.documents.csv_tables import read_csv
from groundup.sources.documents.options import MissingColumnError

TEXTS = ['one, "two"; three', "line\nbreak | bar", "tab\there", "", "naïve 字 \u2028\x85 end", "x" * 300_000, "'last'"]


def written(rows, **dialect):
    file = io.StringIO(newline="")
    csv.writer(file, **dialect).writerows(rows)
    return file.getvalue()


def rows_of(texts):
    return [["id", "text", "n"], *([i, text, 2 * i] for i, text in enumerate(texts))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    "dialect",
    [
        {},
        {"quoting": csv.QUOTE_ALL},
        {"quoting": csv.QUOTE_NONNUMERIC},
        {"quoting": csv.QUOTE_ALL, "doublequote": False, "escapechar": "\\"},
    ],
    ids=["least", "all", "text", "backslash"],
)
def test_cells_are_read_whatever_separates_and_quotes_them(delimiter, end, dialect):
    table = written(rows_of(TEXTS), delimiter=delimiter, lineterminator="\n", **dialect).replace("\n", end)
    texts, found = read_with(read_csv, table.encode())
    assert texts == [text for text in TEXTS if text]
    assert found == {}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\0\ufeff"), min_size=1), min_size=1, max_size=5
    ),
    st.sampled_from(",;\t|"),
)
def test_any_text_comes_back(texts, delimiter):
    table = written(rows_of(texts), delimiter=delimiter)
    assert read_with(read_csv, table.encode()) == ([text for text in texts if text.strip()], {})


def test_the_column_is_chosen_and_a_missing_one_is_answered_with_those_there_are():
    table = b"\xef\xbb\xbfid;Body ; title\n1;first;a\n2;second;b\n"
    assert read_with(read_csv, table, column="Body") == (["first", "second"], {})
    assert read_with(read_csv, table, column="title") == (["a", "b"], {})
    with pytest.raises(
        MissingColumnError, match=r"no column 'body'; did you mean 'Body'\? .* 'id', 'Body', 'title': choose"
    ):
        read_with(read_csv, table, column="body")
    with pytest.raises(MissingColumnError, match="x: no column 'text', as the first line does not name columns; add"):
        read_with(read_csv, b"Some prose that is no table.\nAnd more.\n")
    with pytest.raises(MissingColumnError, match="its first line names 'body': choose"):
        read_with(read_csv, b"body\nAnd more.\n")
    with pytest.raises(DataError, match="x: several columns are called 'a'"):
        read_with(read_csv, b"a,a\n1,2\n", column="a")


def test_a_table_of_one_column_has_no_separators():
    prose = b"text\nOne, two; three | four\nA second line, with more\n\n'quoted' and \"said\"\n"
    assert read_with(read_csv, prose)[0] == prose.decode().replace("\n\n", "\n").split("\n")[1:-1]
    assert read_with(read_csv, b'text\n"a, ""b"""\n"c\n\nd"\n') == (['a, "b"', "c\n\nd"], {})


def test_quotes_are_text_in_a_tsv_that_quotes_nothing():
    table = 'id\ttext\n1\t"Open it," she said\n2\ta 5" pipe\n3\t"\n4\tlast\n'
    assert read_with(read_csv, table.encode(), "a.tsv") == (['"Open it," she said', 'a 5" pipe', '"', "last"], {})


def test_a_separator_that_a_spreadsheet_names_is_taken():
    assert read_with(read_csv, b"sep=;\r\ntext;n\r\na,b,c;1\r\n") == (["a,b,c"], {})


def test_spaces_after_separators_do_not_hide_quotes():
    assert read_with(read_csv, b'id, text\n1, "a, b"\n2, "c, d, e"\n') == (["a, b", "c, d, e"], {})


def test_bad_rows_are_counted_and_the_others_read():
    good = "".join(f'{i},"good {i}"\n' for i in range(20))
    table = f'id,text\n{good}only\n,,"too",long\n21,"broken" quote\n22,"last"\n'
    texts, found = read_with(read_csv, table.encode())
    assert texts == [*(f"good {i}" for i in range(20)), "last"]
    assert found == {
        "rows are too short to have the column and are left out": 1,
        "rows have more cells than the header, so that their text may be cut": 1,
        "lines whose quotes do not match are left out": 1,
    }


def test_a_quote_that_nothing_closes_loses_lines_that_are_counted():
    good = "".join(f'{i},"good {i}"\n' for i in range(2000))
    texts, found = read_with(read_csv, f'id,text\n{good}x,"open\n1,b\n2,c\n'.encode())
    assert len(texts) == 2000
    assert found == {"lines whose quotes do not match are left out": 3}


def test_a_table_of_bad_rows_is_refused():
    with pytest.raises(DataError, match=r"x, line 2: 1 cells, and column 'text' is number 2; fix the row"):
        read_with(read_csv, b"id,text\n1\n2\n3\n")


def test_a_row_without_end_is_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(csv_tables, "MAX_ROW_CHARS", 1000)
    monkeypatch.setattr(options, "MAX_ROW_BYTES", 1000)
    monkeypatch.setattr(csv_tables, "SAMPLE_CHARS", 10)
    with pytest.raises(
        DataError, match=r"x: a row of more than 1,000 characters, as after a quote that nothing closes"
    ):
        read_with(read_csv, b'id,text\n1,a\n2,"' + b"word\n" * 300)
    with pytest.raises(DataError, match=r"x, line 3: longer than 1,000 characters; split it"):
        read_with(read_csv, b"id,text\n1,a\n2," + b"word " * 300)


def test_other_encodings_are_read_as_told_and_refused_with_their_place():
    table = "text;n\nGrüße “q”;1\n"
    assert read_with(read_csv, table.encode("cp1252"), encoding="cp1252")[0] == ["Grüße “q”"]
    assert read_with(read_csv, table.encode("utf-16"), encoding="utf-16")[0] == ["Grüße “q”"]
    with pytest.raises(DataError, match=r"x: byte 9 \(line 2\) is 0xFC, which is not UTF-8"):
        read_with(read_csv, table.encode("cp1252"))
    with pytest.raises(DataError, match=r"x: byte 9 \(line 2\) is not valid in ascii .*; give the right name with"):
        read_with(read_csv, table.encode(), encoding="ascii")
    texts, found = read_with(read_csv, table.encode("cp1252"), errors="replace")
    assert texts == ["Gr\ufffd\ufffde \ufffdq\ufffd"]
    assert list(found.values()) == [4]
