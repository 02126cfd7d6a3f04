"""Parquet: only the needed column and row groups are read; one sentence for every failure."""

import random
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groundup.errors import DataError
from groundup.sources.compression import ReadProgress
from groundup.sources.parquet import read_parquet


@pytest.fixture
def write(tmp_path):
    def write(columns, **options):
        pq.write_table(pa.table(columns), tmp_path / "a.parquet", **options)
        return tmp_path / "a.parquet"

    return write


def read(path, column="text", errors="strict", since=0):
    return list(read_parquet(path, column, errors, since))


KINDS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("since", [0, 1, 4, 5, 6, 9, 10, 11])
def test_rows_come_with_their_numbers_from_any_row_on(write, kind, since):
    values = ["a", None, "", "naïve 🙂", "d", "e", "f", "g", "h", "i"]
    path = write({"id": range(10), "text": pa.array(values, kind)}, row_group_size=4)
    assert read(path, since=since) == [(i, text) for i, text in enumerate(values) if text and i >= since]


def test_row_groups_before_the_start_are_not_read(write):
    path = write({"text": ["a" * 5000] * 4, "id": range(4)}, row_group_size=1, compression="none", use_dictionary=False)
    contents = bytearray(path.read_bytes())
    contents[200:4000] = bytes(3800)  # inside of the first row's text
    contents[4:60] = b"\xff" * 56  # and its header
    path.write_bytes(contents)
    assert len(read(path, since=1)) == 3
    with pytest.raises(DataError, match="damaged or cut short as a parquet file"):
        read(path)


@pytest.mark.parametrize("left", [0, 3, 11, 100, -1, -9])
def test_a_file_that_was_cut_short_is_refused(write, left):
    path = write({"text": ["some text"] * 100})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        DataError, match=r"a\.parquet: damaged or cut short as a parquet file \(.*\); get a complete copy"
    ):
        read(path)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            "txt",
            r"no column 'txt'; did you mean 'text'\? columns are 'text' \(string\), 'id' \(int64\), 'raw' \(binary\)",
        ),
        ("id", r"column 'id' is not text; columns are 'text' \(string\), .*: choose one with --column"),
        ("raw", "column 'raw' is not text"),
    ],
)
def test_a_column_without_text_is_refused_with_the_list_of_columns(write, column, message):
    with pytest.raises(DataError, match=message):
        read(write({"text": ["a"], "id": [1], "raw": [b"b"]}), column)


def test_a_duplicate_column_is_refused(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["text", "text", "body"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: several columns are called 'text'; .* or choose another"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", "body") == [(0, "c")]


def test_progress_counts_a_row_when_it_is_yielded(write):
    path, progress = write({"text": ["a", "b", "c", "d"]}), ReadProgress()
    size = path.stat().st_size
    assert [progress.bytes_read for _ in read_parquet(path, "text", "strict", progress=progress)] == [
        size * n // 4 for n in (1, 2, 3, 4)
    ]


MEASURED = """
import sys
from pathlib import Path
import pyarrow
from groundup.sources.parquet import read_parquet
print(sum(len(text) for _, text in read_parquet(Path(sys.argv[1]), "text", "strict")))
print(pyarrow.default_memory_pool().max_memory())
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_row_groups(tmp_path):
    peak, rng = {}, random.Random(0)
    for rows in (2000, 8000):
        texts = [rng.randbytes(8000).hex() for _ in range(rows)]
        path = tmp_path / f"{rows}.parquet"
        pq.write_table(pa.table({"text": texts}), path, row_group_size=rows, compression="none", use_dictionary=False)
        done = subprocess.run([sys.executable, "-c", MEASURED, path], capture_output=True, text=True, check=True)
        n, peak[rows] = map(int, done.stdout.split())
        assert n == rows * 16_000
    assert peak[8000] < 1.2 * peak[2000], f"most bytes that Arrow held: {peak}"


def test_few_long_rows_are_held_at_a_time(write):
    """Of a small file too: its dictionary can hold one text that stands in every row."""
    before, row = pa.total_allocated_bytes(), 1 << 20
    path = write({"text": ["a" * row] * 64})
    held = [pa.total_allocated_bytes() - before for _ in read_parquet(path, "text", "strict")]
    assert len(held) == 64
    assert max(held) < 32 * row


def test_invalid_utf8_is_located_or_replaced(write):
    broken = pa.array([b"fine", b"caf\xe9"], pa.binary()).view(pa.string())
    path = write({"text": broken})
    with pytest.raises(DataError, match=r"a\.parquet: row 1: byte 3 of the text is 0xE9, which is not UTF-8 here"):
        read(path)
    assert read(path, errors="replace") == [(0, "fine"), (1, "caf\ufffd")]


def test_a_missing_file_is_not_called_damaged(tmp_path):
    with pytest.raises(DataError, match=r"gone\.parquet: cannot be read \(No such file or directory\)"):
        read(tmp_path / "gone.parquet")


def test_without_the_library_the_message_says_what_to_install(write, monkeypatch):
    path = write({"text": ["a"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"needs pyarrow, which is not installed; .* pip install .*\[data\]'"):
        read(path)
