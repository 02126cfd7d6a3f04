"""The file in which the prompt line keeps what was typed: private, bounded, and never in the way."""

import os
import stat
from pathlib import Path

import pytest

from groundup.cli import prompt_history
from groundup.cli.prompt_history import PromptHistory, history_path

TEXTS = ["It was", "two\nlines", "/top-k 3", 'quotes " and \\', "한국어 😀", "\x1b[31m", "half a pair \ud83d", ""]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "groundup" / "prompt-history.jsonl"


def kept(path) -> list[str]:
    return list(PromptHistory(path).load_history_strings())[::-1]


def test_texts_come_back_in_order_in_another_session(path):
    for text in TEXTS[:4]:
        PromptHistory(path).store_string(text)
    more = PromptHistory(path)
    for text in TEXTS[4:]:
        more.store_string(text)
    assert kept(path) == TEXTS


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_only_its_user_can_read_it(path, monkeypatch):
    def replace(self, target):
        assert stat.S_IMODE(self.stat().st_mode) == 0o600, "also while it is written"
        os.replace(self, target)  # noqa: PTH105

    before = os.umask(0)
    try:
        PromptHistory(path).store_string("secret")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        monkeypatch.setattr(prompt_history, "MAX_HISTORY_BYTES", 5)
        monkeypatch.setattr(Path, "replace", replace)
        assert kept(path) == []
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_it_is_bounded_and_keeps_the_newest(path, monkeypatch):
    monkeypatch.setattr(prompt_history, "MAX_HISTORY_BYTES", 1000)
    monkeypatch.setattr(prompt_history, "MAX_ENTRY_BYTES", 200)
    for number in range(200):
        PromptHistory(path).store_string(f"text {number}")
    PromptHistory(path).store_string("x" * 200)
    found = kept(path)
    assert path.stat().st_size <= 500
    assert found == [f"text {number}" for number in range(200 - len(found), 200)]
    assert 20 < len(found) == len(kept(path))


def test_lines_of_others_are_passed_over(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b'"good"\n{"a": 1}\n17\nnothing\n\xff\xfe\n' + b"[" * 5000 + b'\n"also"\n"cut')
    assert kept(path) == ["good", "also"]


def test_where_it_cannot_be_written_nothing_is_kept_and_nothing_said(path, tmp_path, capsys):
    path.parent.parent.write_text("a file where a folder belongs")
    PromptHistory(path).store_string("It was")
    assert kept(path) == []
    private = tmp_path / "private"
    private.write_text("mine\n")
    (tmp_path / "link").symlink_to(private)
    PromptHistory(tmp_path / "link").store_string("It was")
    assert private.read_text() == "mine\n"
    os.mkfifo(tmp_path / "pipe")
    PromptHistory(tmp_path / "pipe").store_string("It was")
    PromptHistory(None).store_string("It was")
    assert kept(tmp_path / "pipe") == kept(None) == kept(tmp_path) == []
    assert capsys.readouterr() == ("", "")


def test_where_it_is_and_how_it_is_switched_off(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_path() == tmp_path / "groundup" / "prompt-history.jsonl"
    monkeypatch.setenv("GROUNDUP_HISTORY", "none")
    assert history_path() is None
