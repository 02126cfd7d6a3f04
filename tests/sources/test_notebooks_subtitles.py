"""Notebooks as nbformat writes them, and subtitles as programs and sites do."""

import json
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from reading import read_with

from groundup.sources.documents.chats import read_whatsapp
from groundup.sources.documents.json_documents import read_json
from groundup.sources.documents.subtitles import read_subtitles


def test_a_notebook_is_its_text_and_code_without_outputs():
    outputs = [new_output("stream", text="NOSEE\n"), new_output("display_data", {"image/png": "NOSEE" * 999})]
    cells = [
        new_markdown_cell("# QVAR1\n\ntext"),
        new_code_cell("x = 1\nprint('QVAR2')", outputs=outputs, execution_count=1),
        new_code_cell(""),
        new_code_cell("s = '''\n```\n'''"),
        new_raw_cell("NOSEE"),
    ]
    notebook = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    wanted = "# QVAR1\n\ntext\n\n```python\nx = 1\nprint('QVAR2')\n```\n\n````python\ns = '''\n```\n'''\n````"
    counted = {"outputs of cells are left out": 2, "raw cells are left out": 1}
    for indent in (None, 1):
        data = json.dumps(json.loads(nbformat.writes(notebook)), indent=indent).encode()
        assert read_with(read_json, data) == ([wanted], counted)
    old = nbformat.writes(nbformat.convert(notebook, 3), version=3)
    ((text,), _) = read_with(read_json, old.encode())
    assert "# QVAR1" in text
    assert "print('QVAR2')\n```" in text
    assert "NOSEE" not in text


SRT = """\ufeff1
00:00:01,000 --> 00:00:02,500
<i>It was a</i> {\\an8}long

2
00:00:02,600 --> 00:00:04,000 X1:1 X2:2
and <font color="#fff">dark</font> night.

3
00:00:04,100 --> 00:00:05,000
- No!
- No &amp; no!

4
00:00:09,000 --> 00:00:10,000
- No!
- No &amp; no!

5
00:00:20,000 --> 00:00:21,000
1984

6
00:00:30,000 --> 00:00:31,000
the end"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_srt_is_read_as_sentences(end):
    wanted = "It was a long and dark night.\n- No!\n- No & no!\n- No!\n- No & no!\n1984\nthe end"
    assert read_with(read_subtitles, SRT.replace("\n", end).encode()) == ([wanted], {})
    packed = SRT.replace("\n\n", "\n")
    assert read_with(read_subtitles, packed.encode()) == ([wanted], {})


def test_vtt_is_read_without_its_markup():
    vtt = """WEBVTT - NOSEE
Kind: captions

NOTE NOSEE
NOSEE

STYLE
::cue { color: NOSEE }

NOSEE-id
00:01.000 --> 00:02.000 align:start position:0%
<v.loud Ann B>Hello &lt;b&gt; <c.yellow>there</c>,</v>

id-2
00:00:02.000 --> 00:00:03.000
<v Ann B>how are</v>

00:03.000 --> 00:04.000
<v Bob>you <00:03.500>two?

NOTE NOSEE
"""
    assert read_with(read_subtitles, vtt.encode()) == (["Ann B: Hello <b> there, how are\nBob: you two?"], {})


def test_rolling_captions_are_read_once():
    lines = ["so today we", "are going to talk", "about no no", "about no no", "no and more"]
    cues, before = [], ""
    for n, line in enumerate(lines):
        marked = line.replace(" ", f"<00:00:{n:02}.500><c> ", 1) + "</c>"
        cues.append(f"00:00:{n:02}.000 --> 00:00:{n:02}.990 align:start\n{before or ' '}\n{marked}\n")
        cues.append(f"00:00:{n:02}.990 --> 00:00:{n + 1:02}.000\n{line}\n \n")
        before = line
    texts, found = read_with(read_subtitles, ("WEBVTT\n\n" + "\n".join(cues)).encode())
    assert texts == ["so today we are going to talk about no no about no no no and more"]
    assert list(found) == ["lines that rolling captions repeat are read once"]


def test_captions_that_grow_word_by_word_are_read_once():
    words = "so today we are going to talk".split()
    cues = [f"{n}\n00:00:{n:02},000 --> 00:00:{n + 1:02},000\n{' '.join(words[: n + 1])}\n" for n in range(len(words))]
    assert read_with(read_subtitles, "\n".join(cues).encode())[0] == [" ".join(words)]


def test_what_holds_no_cue_holds_no_text():
    assert read_with(read_subtitles, b"WEBVTT\n\nNOTE nothing\n") == ([], {})


def test_odd_files_take_no_quadratic_time():
    started = time.process_time()
    ticks = {"cells": [{"cell_type": "code", "source": "`" * 300_000}], "metadata": {}, "nbformat": 4}
    ((text,), _) = read_with(read_json, json.dumps(ticks).encode())
    assert len(text) == 3 * 300_000 + 4
    voices = "00:01.000 --> 00:02.000\n" + "<v." * 300_000 + "\n"
    assert len(read_with(read_subtitles, voices.encode())[0]) == 1
    spaces = "31/12/2023, 23:59 - Ann: a" + " " * 300_000 + "b\n"
    assert read_with(read_whatsapp, spaces.encode())[0] == [f"Ann: a{' ' * 300_000}b\n"]
    assert time.process_time() - started < 5
