"""Corpora of the hub, read from a local server on 127.0.0.1: exact, resumable, one sentence for every failure.

The libraries read HF_ENDPOINT when they are imported, so they run in a separate process.
"""

import io
import itertools
import json
import os
import random
import socket
import subprocess
import sys

import pytest
from hubserver import Hub

from groundup.errors import DataError
from groundup.sources.hub import is_hub_name, parse_spec

pa = pytest.importorskip("pyarrow", reason="needs the extra `data`")
pytest.importorskip("datasets", reason="needs the extra `data`")

WORKER = """
import json, logging, os, socket, sys, time
from types import SimpleNamespace
from groundup.sources import hub
from groundup.errors import GroundupError

hosts, slept, logged, found = set(), [], [], socket.getaddrinfo
class Recorder(logging.Handler):
    def emit(self, record):
        logged.append(record.getMessage())
logging.getLogger("groundup").addHandler(Recorder())
def remember(host, *more, **options):
    hosts.add(host if isinstance(host, str) else host.decode())
    return found(host, *more, **options)
socket.getaddrinfo = remember
hub.time = SimpleNamespace(sleep=slept.append)
time.sleep = lambda seconds: None  # the libraries' own retries

for line in sys.stdin:
    ask = json.loads(line)
    for name in ("MIN_READ_BYTES", "MAX_READ_BYTES", "FOOTER_BYTES"):
        setattr(hub, name, ask.get("bytes", 1 << 16))
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(ask.get("env", {}))
    slept.clear()
    logged.clear()
    answer = {}
    try:
        if "identity" in ask:
            answer["identity"] = hub.hub_identity(ask["source"])
        answer["documents"] = [
            [("".join(d.chunks()) if list(d.chunks()) else None, d.source, d.offset)
             for d in hub.hub_documents(ask["source"], ask.get("column", "text"), skip)]
            for skip in ask.get("skips", [0])
        ]
    except GroundupError as error:
        answer["error"] = str(error)
    print(json.dumps({**answer, "slept": slept, "logged": logged, "hosts": sorted(hosts)}), flush=True)
"""


class Reader:
    """A process that reads from the hub."""

    def __init__(self, url: str, home, **env: str):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error::UserWarning", "-c", WORKER],
            env={**kept, "HF_ENDPOINT": url, "HF_HOME": str(home), **env},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, source: str, **ask) -> dict:
        self._process.stdin.write(json.dumps({"source": source, **ask}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._process.stderr.read()
        return json.loads(line)

    def close(self) -> str:
        """End the process; returns its standard error."""
        _, stderr = self._process.communicate()
        return stderr


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    server = Hub()
    reader = Reader(server.url, tmp_path_factory.mktemp("hf"))
    yield server, reader
    stderr = reader.close()
    server.close()
    assert stderr == ""  # no bar, warning or log line of the libraries in any of these tests


@pytest.fixture
def hub(process):
    server, _ = process
    server.faults.clear()
    server.log.clear()
    server.sent.clear()
    server.tokens.clear()
    server.tokens_elsewhere.clear()
    server.token, server.elsewhere = None, False
    return server


@pytest.fixture
def read(process):
    return process[1]


NUMBERS = itertools.count()


@pytest.fixture
def repo() -> str:
    """A new data set name for each test, as results are cached."""
    return f"owner/set-{next(NUMBERS)}"


def parquet(texts, rows=4, **columns) -> bytes:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"id": list(range(len(texts))), "text": texts, **columns}), file, row_group_size=rows)
    return file.getvalue()


TEXTS = [f"document {i}" + " word" * i + "\nä🙂" for i in range(23)]
TEXTS[3], TEXTS[13], TEXTS[14] = None, "", None


def put_two_shards(hub, repo):
    first, second = "data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"
    hub.put(repo, {first: parquet(TEXTS[:14]), second: parquet(TEXTS[14:])})
    return [(text or None, f"{repo}/{path}", i) for path, part in [(first, TEXTS[:14]), (second, TEXTS[14:])]
            for i, text in enumerate(part)]  # fmt: skip


def tuples(documents):
    return [tuple(document) for document in documents]


def test_rows_are_documents_in_order_and_skipping_is_exact_everywhere(hub, read, repo):
    expected = put_two_shards(hub, repo)
    answer = read(f"hf:{repo}", skips=list(range(len(expected) + 2)))
    for skip, documents in enumerate(answer["documents"]):
        assert tuples(documents) == expected[skip:]


def noise(n, seed):
    rng = random.Random(seed)
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=n))


def test_what_is_skipped_and_other_columns_are_not_downloaded(hub, read, repo):
    texts = [noise(2_000, i) for i in range(200)]
    other = [noise(8_000, 1_000 + i) for i in range(200)]
    file = parquet(texts, rows=20, other=other)
    path = "data/train-00000-of-00001.parquet"
    hub.put(repo, {path: file})
    answer = read(f"hf:{repo}#text", bytes=4096)
    assert [text for text, *_ in answer["documents"][0]] == texts
    assert hub.sent[path] < len(file) / 3  # the column is a fifth
    complete = hub.sent.pop(path)
    answer = read(f"hf:{repo}#text", bytes=4096, skips=[185])
    assert [text for text, *_ in answer["documents"][0]] == texts[185:]
    assert (
        hub.sent[path] < complete / 10 + (1 << 16) + 8192
    )  # one of ten row groups, and the footer as pyarrow reads it


def test_only_the_hub_is_asked(hub, read, repo):
    put_two_shards(hub, repo)
    assert read(f"hf:{repo}")["hosts"] == ["127.0.0.1"]


def test_a_revision_a_config_and_files_choose_what_is_read(hub, read, repo):
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/*.parquet\n"
        for name in ("small", "big")
    )
    hub.put(
        repo,
        {"README.md": (card + "---\n").encode(), "small/0.parquet": parquet(["s"]), "big/0.parquet": parquet(["b"])},
    )
    hub.put(repo, {"default/train/0000.parquet": parquet(["c"])}, "refs/convert/parquet")

    def texts(source):
        return [text for text, *_ in read(source)["documents"][0]]

    assert texts(f"hf:{repo}:big") == ["b"]
    assert texts(f"hf:{repo}@refs/convert/parquet") == ["c"]
    assert texts(f"hf:{repo}@{hub.commit(repo, 'refs/convert/parquet')}") == ["c"]
    assert texts(f"hf:{repo}/*/0.parquet") == ["b", "s"]
    assert texts(f"hf:{repo}/default/train/*@refs/convert/parquet#text") == ["c"]
    assert "choose one, as in hf:" in read(f"hf:{repo}")["error"]
    assert "no config 'bigg'; did you mean 'big'? it has small, big" in read(f"hf:{repo}:bigg")["error"]


def test_the_identity_names_the_commit_and_changes_with_it(hub, read, repo):
    put_two_shards(hub, repo)
    before = read(f"hf:{repo}#text", identity=True)["identity"]
    assert before == f"hf:{repo}@{hub.commit(repo)}#text"
    hub.put(repo, {"data/train-00000-of-00001.parquet": parquet(["new"])})
    again = read(f"hf:{repo}#text", identity=True)
    assert again["identity"] == before  # one process sees one revision …
    assert "error" in again  # … and reports when that revision is gone
    assert read(f"hf:{repo}@main#text", identity=True)["identity"] == f"hf:{repo}@{hub.commit(repo)}#text"


def test_other_formats_are_streamed_and_skip_exactly(hub, read, repo):
    rows = [{"text": f"line {i}"} for i in range(150)]
    hub.put(repo, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    skips = [0, 1, 63, 64, 65, 149, 150]
    answer = read(f"hf:{repo}", skips=skips)
    for skip, documents in zip(skips, answer["documents"], strict=True):
        assert tuples(documents) == [(row["text"], repo, i) for i, row in enumerate(rows)][skip:]


def test_a_broken_stream_resumes_where_it_broke(hub, read, repo):
    rows = [{"text": noise(500, i)} for i in range(300)]
    hub.put(repo, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    hub.fault("GET .*jsonl", "cut", times=8, after=2)  # the library gives up after six
    answer = read(f"hf:{repo}", skips=[10])
    assert [text for text, *_ in answer["documents"][0]] == [row["text"] for row in rows][10:]
    assert hub.faults[0][1] == 0
    assert answer["slept"] == [1]


def test_the_first_rows_of_a_stream_determine_the_column(hub, read, repo):
    rows = [
        {"n": 1, "story": None},
        {"n": 2, "story": "s"},
        {"n": 3, "story": "t"},
    ]
    hub.put(repo, {"train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()})
    complete, rest = read(f"hf:{repo}", skips=[0, 1])["documents"]
    assert [text for text, *_ in complete] == [None, "s", "t"]
    assert rest == complete[1:]
    assert "no column 'n' of text; columns of text are 'story'" in read(f"hf:{repo}#n")["error"]


def test_declared_columns_take_precedence_over_the_first_rows(hub, read, repo):
    card = "---\ndataset_info:\n  features:\n  - name: n\n    dtype: int64\n  - name: story\n    dtype: string\n---\n"
    rows = [{"n": n, "story": "late" if n == 99 else None} for n in range(100)]
    hub.put(repo, {
        "README.md": card.encode(), "train.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode()
    })  # fmt: skip
    [documents] = read(f"hf:{repo}")["documents"]
    assert [text for text, *_ in documents] == [None] * 99 + ["late"]


def test_two_columns_of_the_same_name_are_refused(hub, read, repo):
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), file)
    hub.put(repo, {"train.parquet": file.getvalue()})
    assert f"hf:{repo}: several columns are called 'text'" in read(f"hf:{repo}")["error"]


def test_a_text_file_is_one_document_as_it_is_on_disk(hub, read, repo):
    hub.put(repo, {"train.txt": b"one\ntwo\n"})
    assert [text for text, *_ in read(f"hf:{repo}")["documents"][0]] == ["one\ntwo\n"]


def test_the_column_is_the_one_asked_for_or_the_only_one(hub, read, repo):
    hub.put(f"{repo}-1", {"train.parquet": parquet(["t"], story=["s"])})
    hub.put(f"{repo}-2", {"train.parquet": _only("story")})
    assert read(f"hf:{repo}-1#story")["documents"][0][0][0] == "s"
    assert read(f"hf:{repo}-1", column="story")["documents"][0][0][0] == "s"
    assert read(f"hf:{repo}-2")["documents"][0][0][0] == "s"
    assert "columns of text are 'story'" in read(f"hf:{repo}-2", column="id")["error"]
    assert "did you mean 'story'? columns of text are 'text', 'story'" in read(f"hf:{repo}-1#stori")["error"]
    assert "no column 'id' of text" in read(f"hf:{repo}-1#id")["error"]


def _only(name):
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"id": [1], name: pa.array(["s"]).dictionary_encode()}), file)
    return file.getvalue()


FILE = r"GET .*/resolve/.*\.parquet"


@pytest.mark.parametrize(
    ("pattern", "what", "waits"),
    [
        ("GET /api/datasets", (429, {"Retry-After": "7"}), [7]),
        (
            "GET /api/datasets",
            (429, {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed";"api";q=5;w=300'}),
            [55],
        ),
        ("GET /api/datasets", (503, {}), [1]),
        ("GET /api/datasets", "drop", [1]),
        ("HEAD .*README.md", (500, {}), None),
        ("GET .*/tree/", (502, {}), None),
        (FILE, (429, {"Retry-After": "2"}), [2]),
        (FILE, (500, {}), [1]),
        (FILE, "cut", [1]),
        (FILE, "drop", [1]),
    ],
)
def test_transient_failures_are_retried(pattern, what, waits, hub, read, repo):
    expected = put_two_shards(hub, repo)
    hub.fault(pattern, what, times=1)
    answer = read(f"hf:{repo}")
    assert tuples(answer["documents"][0]) == expected
    assert hub.faults[0][1] == 0  # the fault did occur
    if waits is not None:
        assert answer["slept"] == waits


def test_a_connection_that_breaks_repeatedly_in_a_file_loses_nothing(hub, read, repo):
    texts = [noise(3_000, i) for i in range(60)]
    hub.put(repo, {"train.parquet": parquet(texts, rows=10)})
    hub.fault(FILE, "cut", times=5)
    answer = read(f"hf:{repo}", bytes=4096)
    assert [text for text, *_ in answer["documents"][0]] == texts
    assert answer["slept"] == [1, 2, 4, 8, 15]


@pytest.mark.parametrize(
    ("pattern", "what", "sentence", "attempts"),
    [
        (
            "GET /api/datasets",
            (429, {"Retry-After": "9"}),
            "too many requests (HTTP 429), and asks for a wait of 9 s",
            4,
        ),
        ("GET /api/datasets", (429, {"Retry-After": "4000"}), "asks for a wait of 4000 s; try again later", 1),
        ("GET /api/datasets", (500, {}), "the hub answered HTTP 500; try again later", 4),
        ("GET /api/datasets", (400, {}), "the hub answered HTTP 400", 1),
        ("GET /api/datasets", (401, {"X-Error-Code": "RepoNotFound"}), "does not exist or is private (HTTP 401)", 1),
        ("GET /api/datasets", "drop", "check the network and try again, or get the data elsewhere", 4),
        (FILE, (403, {"X-Error-Code": "GatedRepo"}), "is gated (HTTP 403); accept its terms on http", 1),
        (FILE, (403, {}), "(HTTP 403)", 1),
        (FILE, (404, {"X-Error-Code": "EntryNotFound"}), "has no file", 1),
        (FILE, (429, {}), "too many requests (HTTP 429); try again later; with HF_TOKEN set", 8),
        (FILE, "cut", "give its files by path, as in: groundup prepare FOLDER/*.parquet", 8),
        (FILE, (200, {}), "cannot be read in parts", 1),
    ],
)
def test_permanent_failures_are_one_sentence(pattern, what, sentence, attempts, hub, read, repo):
    put_two_shards(hub, repo)
    hub.fault(pattern, what)
    answer = read(f"hf:{repo}")
    assert sentence in answer["error"]
    assert answer["error"].startswith(f"hf:{repo}: ")
    assert "\n" not in answer["error"]
    assert len(answer["slept"]) == attempts - 1


def test_missing_data_sets_files_and_configs_are_one_sentence(hub, read, repo):
    put_two_shards(hub, repo)
    hub.put(f"{repo}-2", {"2.py": b"", f"{repo.partition('/')[2]}-2.py": b""})
    hub.put(f"{repo}-3", {"data/validation.parquet": parquet(["v"]), "data/test.parquet": parquet(["t"])})
    hub.put(f"{repo}-4", {"train.parquet": b"PAR1 and then nothing that a reader could use, for a while PAR1"})
    hub.put(f"{repo}-5", {"picture.weights": b"x"})
    sentences = {
        "hf:owner/nowhere": "there is no data set owner/nowhere (HTTP 404)",
        f"hf:{repo}@v9": f"{repo} has no revision 'v9'",
        f"hf:{repo}:big": "there is no config 'big'; it has default",
        f"hf:{repo}/no/*.parquet": "no file matches no/*.parquet",
        f"hf:{repo}-2": "is a program, which is not run; read the hub's own copy",
        f"hf:{repo}-3": "no split named train, but validation, test; name files, as",
        f"hf:{repo}-4": "train.parquet is damaged",
        f"hf:{repo}-5": "it has no data files that can be read",
    }
    for source, sentence in sentences.items():
        error = read(source)["error"]
        assert sentence in error
        assert "\n" not in error
    assert read(f"hf:{repo}-3/data/test.parquet")["documents"][0][0][0] == "t"


def test_the_token_of_the_environment_opens_private_data_sets_and_is_never_shown(hub, read, repo):
    put_two_shards(hub, repo)
    hub.token = "hf_secret"
    refused = read(f"hf:{repo}")
    assert "log in with `hf auth login` or set HF_TOKEN" in refused["error"]
    wrong = read(f"hf:{repo}", env={"HF_TOKEN": "hf_wrong"})
    assert "HTTP 401" in wrong["error"]
    assert "hf_wrong" not in wrong["error"]
    answer = read(f"hf:{repo}", env={"HF_TOKEN": "hf_secret"})
    assert len(answer["documents"][0]) == len(TEXTS)
    assert hub.tokens == {None, "Bearer hf_wrong", "Bearer hf_secret"}


def test_files_on_another_host_are_followed_without_the_token(hub, read, repo):
    expected = put_two_shards(hub, repo)
    hub.token, hub.elsewhere = "hf_secret", True
    answer = read(f"hf:{repo}", env={"HF_TOKEN": "hf_secret"})
    assert tuples(answer["documents"][0]) == expected
    assert hub.tokens_elsewhere == {None}


@pytest.mark.slow
def test_without_a_network_the_message_names_an_alternative(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        unused_url = f"http://127.0.0.1:{free.getsockname()[1]}"
    reader = Reader(unused_url, tmp_path)
    answer = reader("hf:owner/name")
    assert f"the connection to {unused_url} failed" in answer["error"]
    assert "groundup prepare FOLDER/*.parquet" in answer["error"]
    assert answer["slept"] == [1, 2, 4]
    assert [line.rpartition("; ")[2] for line in answer["logged"]] == ["trying again in 2 s", "trying again in 4 s"]
    assert answer["logged"][0].startswith(f"hf:owner/name: the connection to {unused_url} failed")
    assert reader.close() == ""

    offline = Reader(unused_url, tmp_path, HF_HUB_OFFLINE="1")
    answer = offline("hf:owner/name")
    assert "HF_HUB_OFFLINE is set; unset it" in answer["error"]
    assert answer["slept"] == []
    assert offline.close() == ""


def test_the_only_split_is_read_with_a_message(hub, read, repo):
    hub.put(repo, {"data/test.parquet": parquet(["one", "two"])})
    assert read(f"hf:{repo}")["logged"] == [f"hf:{repo}: it has no split named train; reads its only one, test"]


def test_the_hub_is_not_asked_while_the_library_is_offline(monkeypatch):
    import datasets

    from groundup.sources.hub import hub_identity

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)  # as HF_DATASETS_OFFLINE sets it too
    with pytest.raises(DataError, match=r"unset it \(or HF_DATASETS_OFFLINE\), or give the files of its cache by path"):
        hub_identity("hf:owner/offline")


def test_a_missing_library_is_one_sentence(monkeypatch):
    from groundup.sources.hub import hub_documents

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"hf:a/b: .* install them with: pip install .*\[data\]'"):
        hub_documents("hf:a/b")


@pytest.mark.parametrize(
    "spec", ["hf:", "hf:name", "hf:a/b@", "hf:a/b:", "hf:a/b#", "hf:a b/c", "hf:http://x/y", "hf:a/b/"]
)
def test_an_invalid_name_shows_the_grammar(spec):
    with pytest.raises(DataError, match=r"write hf:OWNER/NAME\[/FILES\]\[:CONFIG\]\[@REVISION\]\[#COLUMN\]"):
        parse_spec(spec)


def test_a_name_is_parsed():
    spec = parse_spec("hf:a-b/c.d/e/f*.parquet@refs/convert/parquet#my text")
    assert (spec.repo, spec.files, spec.config, spec.revision, spec.column) == (
        "a-b/c.d", "e/f*.parquet", None, "refs/convert/parquet", "my text",
    )  # fmt: skip
    assert parse_spec("hf:a/b:c d@e").config == "c d"
    assert parse_spec("hf:a/b#c@d:e/f").column == "c@d:e/f"


def test_files_and_a_config_exclude_each_other():
    with pytest.raises(DataError, match="names both files and a config"):
        parse_spec("hf:a/b/c.parquet:d")


def test_names_are_distinguished_from_paths():
    assert is_hub_name("hf:a/b")
    assert is_hub_name("tinystories")
    assert not is_hub_name("python-docs")
    assert not is_hub_name("tinystories.txt")
    assert not is_hub_name("./tinystories")


def test_importing_needs_none_of_the_libraries():
    libraries = {"datasets", "huggingface_hub", "pyarrow", "torch"}
    code = f"import sys, groundup.sources.hub\nprint({libraries} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
