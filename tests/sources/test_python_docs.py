"""The built-in corpus."""

import json
import os
import subprocess
import sys

import pytest

from groundup.errors import DataError
from groundup.sources import python_docs

PRINT = """
import json, sys
from groundup.sources.python_docs import python_docs
json.dump(python_docs(), sys.stdout)
"""


def texts_of_a_process(seed):
    env = os.environ | {"PYTHONHASHSEED": seed}
    return json.loads(subprocess.run([sys.executable, "-c", PRINT], env=env, capture_output=True, check=True).stdout)


@pytest.fixture(scope="module")
def texts():
    return texts_of_a_process("1")


def test_it_is_a_corpus_of_some_megabytes_without_repetitions(texts):
    assert 1_500_000 < sum(len(text.encode()) for text in texts) < 4_000_000
    assert len(set(texts)) == len(texts) > 5_000
    assert all(text.strip() for text in texts)


def test_repeated_paragraphs_are_dropped_unless_short():
    long, other = "A paragraph of more than sixty characters, which several topics quote.", "Another one. " * 6
    texts = [f"{long}\n\nArguments:\n\nfirst", long, f"{long}\n \n{other}\n\nArguments:"]
    kept = [f"{long}\n\nArguments:\n\nfirst", f"{other}\n\nArguments:"]
    assert list(python_docs._without_repeats(texts)) == kept


def test_it_holds_topics_and_docstrings_from_python_and_from_c(texts):
    together = "\n".join(texts)
    for words in (
        'The "with" statement',  # a topic of help()
        "Serialize ``obj`` to a JSON formatted ``str``",  # json.dumps, in Python
        "Return the natural logarithm of 1+x",  # math.log1p, in C
    ):
        assert words in together


@pytest.mark.slow
def test_it_is_the_same_in_every_process(texts):
    assert texts_of_a_process("2") == texts


def test_a_python_without_sources_and_topics_still_has_its_c_modules(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path / "missing"))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert len(python_docs.python_docs.__wrapped__()) > 500


def test_a_python_without_any_documentation_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(python_docs.inspect, "getdoc", lambda _: None)  # as under `python -OO`
    with pytest.raises(DataError, match="python-docs: this Python has no documentation"):
        python_docs.python_docs.__wrapped__()
