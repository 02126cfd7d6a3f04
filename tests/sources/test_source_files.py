"""Files of folders and patterns, links, and what is left out."""

import os
from pathlib import Path

import pytest
import zstandard
from documents import read

from groundup.errors import DataError
from groundup.sources import corpus as corpus_module
from groundup.sources.corpus import open_sources
from groundup.sources.files import folder_files


def test_folders_that_are_not_entered_are_reported(tmp_path):
    (tmp_path / "corpus" / "sub").mkdir(parents=True)
    (tmp_path / "corpus" / "sub" / "a.txt").write_text("a")
    (tmp_path / "corpus" / "linked").symlink_to(tmp_path)
    messages = []
    with open_sources([tmp_path / "corpus"], say=messages.append) as corpus:
        assert [document.source for document in corpus] == ["corpus/sub/a.txt"]
    assert messages == [f"{tmp_path / 'corpus'}: reads 1 .txt; does not enter linked (a link)"]


def test_an_unreadable_folder_is_reported(tmp_path, monkeypatch):
    (tmp_path / "corpus" / "closed").mkdir(parents=True)
    (tmp_path / "corpus" / "a.txt").write_text("a")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    messages = []
    with open_sources([tmp_path / "corpus"], say=messages.append):
        assert messages == [f"{tmp_path / 'corpus'}: reads 1 .txt; does not enter closed (Permission denied)"]


def test_a_folder_is_read_in_order_of_names_without_hidden_or_unknown_files(tmp_path):
    folder, messages = tmp_path / "corpus", []
    names = ["b.txt", "a/z.md", "a/y.TXT", "a.jsonl", "c.py", ".hidden.txt", ".git/x.txt", "empty.txt", "d.xls.gz"]
    for name in [*names, "e.xls", "picture.png", "log.jsonl", "LICENSE"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("" if name == "empty.txt" else '{"text": "of a line"}')
    (folder / "f.rst.zst").write_bytes(zstandard.compress(b"packed"))
    with open_sources([folder], say=messages.append) as corpus:
        assert [document.source for document in corpus] == [
            *("corpus/a.jsonl", "corpus/a/y.TXT", "corpus/a/z.md", "corpus/b.txt", "corpus/c.py", "corpus/f.rst.zst")
        ]
    reads, leaves_out = messages[0].split("; leaves out ")
    assert reads == f"{folder}: reads 2 .txt, 1 .jsonl, 1 .md, 1 .py, 1 .rst.zst"
    assert leaves_out == (
        "1 without suffix, 1 .png, 1 .xls, 1 .xls.gz (not read), 1 .txt (empty), 1 hidden, 1 .jsonl (the log of a run)"
    )


def test_a_pattern_is_every_file_that_it_matches(tmp_path):
    for name in ["b/x.txt", "a.txt", "b/c/y.txt", "b/z.md"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [text for _, _, text in read(f"{tmp_path}/**/*.txt")] == ["a.txt", "b/c/y.txt", "b/x.txt"]
    assert [source for source, _, _ in read(f"{tmp_path}/b/**/*.txt")] == ["c/y.txt", "x.txt"]
    with pytest.raises(DataError, match=r"\*\.csv: no file matches this pattern"):
        read(f"{tmp_path}/*.csv")


def test_a_file_name_may_contain_wildcards(tmp_path):
    (tmp_path / "a[1].txt").write_text("text")
    assert read(tmp_path / "a[1].txt") == [("a[1].txt", 0, "text")]


def test_binary_files_called_like_code_are_left_out_of_folders(tmp_path):
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "m.ts").write_bytes(b"G@\0\x11")
    (tmp_path / "project" / "n.ts").write_text("let a = 1")
    messages = []
    assert [source for source, _, _ in read(tmp_path / "project", say=messages.append)] == ["project/n.ts"]
    assert messages[0] == f"{tmp_path / 'project'}: reads 1 .ts; leaves out 1 .ts (binary)"
    (tmp_path / "project" / "o.txt").write_bytes(b"prose\0")
    with pytest.raises(DataError, match=r"o\.txt: byte 5 is NUL"):
        read(tmp_path / "project")


def test_links_to_files_outside_of_a_folder_are_not_followed(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (tmp_path / "secret").write_text("secret")
    (folder / "a.txt").write_text("mine")
    (folder / "b.txt").symlink_to("a.txt")
    (folder / "notes.txt").symlink_to("../secret")
    (folder / "more.txt").symlink_to(tmp_path / "secret")
    (tmp_path / "corpus2").mkdir()
    (tmp_path / "corpus2" / "x.txt").write_text("a name that begins alike")
    (folder / "x.txt").symlink_to("../corpus2/x.txt")
    messages = []
    assert [text for _, _, text in read(folder, say=messages.append)] == ["mine"]
    assert messages[0] == (
        f"{folder}: reads 2 .txt; does not follow links out of the folder: more.txt, notes.txt, x.txt"
    )
    (folder / "self.txt").symlink_to("self.txt")
    (tmp_path / "link").symlink_to(folder)
    assert [text for _, _, text in read(tmp_path / "link")] == ["mine"]
    assert [text for _, _, text in read(folder / "notes.txt")] == ["secret"]
    assert [text for _, _, text in read(f"{folder}/n*.txt")] == ["secret"]


def test_a_snapshot_in_the_cache_of_the_hub_is_followed(tmp_path):
    snapshot = tmp_path / "datasets--o--n" / "snapshots" / "abc" / "data"
    (tmp_path / "datasets--o--n" / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (tmp_path / "datasets--o--n" / "blobs" / "1f").write_text("from the hub")
    (snapshot / "a.txt").symlink_to("../../../blobs/1f")
    assert [text for _, _, text in read(snapshot.parent)] == ["from the hub"]
    assert [text for _, _, text in read(snapshot)] == ["from the hub"]


def test_a_pattern_enters_no_loop_of_links(tmp_path):
    folder = tmp_path / "t"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "one").symlink_to(folder)
    (folder / "two").symlink_to(folder)
    messages = []
    assert [source for source, _, _ in read(f"{folder}/**/*.txt", say=messages.append)] == ["sub/a.txt"]
    assert messages[0] == f"{folder}/**/*.txt: does not enter one (a link), two (a link)"
    assert [source for source, _, _ in read(f"{folder}/o*/sub/*.txt")] == ["one/sub/a.txt"]


def test_two_stars_match_as_in_a_shell(tmp_path, monkeypatch):
    for name in ("a.txt", "d/b.txt", "d/e/c.txt", ".hidden/x.txt", "d/.y.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    for pattern, found in {
        "**": ["a.txt", "d/b.txt", "d/e/c.txt"],
        "**/*.txt": ["a.txt", "d/b.txt", "d/e/c.txt"],
        "**/e/**": ["d/e/c.txt"],
        "*/**/c*": ["d/e/c.txt"],
        "**/**/b.txt": ["d/b.txt"],
        "d/../*.txt": ["a.txt"],
        ".hidden/*": [".hidden/x.txt"],
    }.items():
        assert sorted(text for _, _, text in read(pattern)) == found, pattern


def test_a_bracket_in_a_name_is_explained(tmp_path):
    (tmp_path / "[data] v1").mkdir()
    (tmp_path / "[data] v1" / "a.txt").write_text("a")
    with pytest.raises(DataError, match=r"no file matches this pattern; .*; for a \[ in a name write \[\[\]"):
        read(f"{tmp_path}/[data] v1/*.txt")
    assert [text for _, _, text in read(f"{tmp_path}/[[]data] v1/*.txt")] == ["a"]


@pytest.mark.parametrize("target", ["nowhere.txt", "link.txt"])
def test_a_link_that_leads_nowhere_is_named(tmp_path, target):
    (tmp_path / "link.txt").symlink_to(target)
    with pytest.raises(DataError, match=rf"link\.txt: a link to {target}, which leads nowhere"):
        read(tmp_path / "link.txt")


def test_a_device_is_no_text():
    with pytest.raises(DataError, match="/dev/null: a device or socket, which is not read as text"):
        read(os.devnull)


def test_a_folder_that_cannot_be_listed_is_reported_as_such(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "nd").mkdir()
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"no text files .*; does not enter nd \(Permission denied\); it may"):
        folder_files(tmp_path / "nd")


def test_json_and_tables_of_a_folder_that_hold_no_such_column_are_left_out(tmp_path):
    (tmp_path / "in").mkdir()
    for name, text in {
        "a.txt": "prose", "package.json": '{"name": "b"}', "list.json": '[{"name": "b"}]', "t.csv": "a,b\n1,2\n",
        "u.csv": "id,text\n1,one\n",
    }.items():  # fmt: skip
        (tmp_path / "in" / name).write_text(text)
    with open_sources([tmp_path / "in"]) as corpus:
        assert ["".join(each.chunks()) for each in corpus] == ["prose", "one"]
        assert corpus.findings() == [
            "holds no text in a column or field 'text' and is left out: 1 in in/list.json, 1 in in/package.json, "
            "1 in in/t.csv"
        ]
    for name in ("package.json", "list.json", "t.csv"):
        with pytest.raises(DataError, match=r"choose (one|another)"):
            read(tmp_path / "in" / name)
    (tmp_path / "in" / "rows.jsonl").write_text('{"name": "b"}')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1: no field 'text'; .*fields are 'name'"):
        read(tmp_path / "in")


def test_a_text_of_a_folder_is_opened_to_identify_and_to_read_it_and_no_more(tmp_path, monkeypatch):
    (tmp_path / "texts").mkdir()
    for n in range(5):
        (tmp_path / "texts" / f"{n}.txt").write_text(f"text {n}")
    opened, plain_open = [], Path.open

    def count(path, *args, **options):
        opened.append(path.name)
        return plain_open(path, *args, **options)

    monkeypatch.setattr(Path, "open", count)
    monkeypatch.setattr(corpus_module, "MAX_SEARCHED_TEXTS", 2)  # for separators
    with open_sources([tmp_path / "texts"]) as corpus:
        assert len(["".join(document.chunks()) for document in corpus]) == 5
    assert [opened.count(f"{n}.txt") for n in range(5)] == [3, 3, 2, 2, 2]
