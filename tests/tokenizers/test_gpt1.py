"""GPT-1's tokenizer against that of transformers, and its download."""

import http.server
import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.errors import TokenizerError
from groundup.generation.text import TextStream
from groundup.tokenizers import gpt1
from groundup.tokenizers.gpt1 import ENCODER, HUB_ENCODER, HUB_MERGES, MERGES, GPT1Tokenizer
from groundup.tokenizers.registry import choose_tokenizer, load_tokenizer

LETTERS = "abcdefghijklmnopqrstuvwxyz.,'!"
PAIRS = [("l", "o"), ("lo", "w</w>"), ("lo", "w"), ("e", "r</w>"), ("low", "er</w>")]
PIECES = ["<unk>", *LETTERS, *(c + "</w>" for c in LETTERS), *(a + b for a, b in PAIRS), "\n</w>"]
SMALL_ENCODER = json.dumps({piece: id_ for id_, piece in enumerate(PIECES)})
SMALL_MERGES = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in PAIRS)
SMALL = GPT1Tokenizer(SMALL_ENCODER, SMALL_MERGES)

# Everything that the normalisation changes: case, accents, controls, Chinese, all kinds of space and of mark.
hard = st.text(
    st.sampled_from(list("aBéÅ\u0301 \n\r\t\0\x0b\x1c\x85\u00a0\u00ad\u200b\u2003\u3000\ufffd日!.,'-<>$ßﬁİσΣ🙂"))
)
texts = hard | st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="module")
def real(shared_data):
    return GPT1Tokenizer.read(shared_data / "gpt1-vocab")


@pytest.fixture(scope="module")
def theirs(shared_data):
    transformers = pytest.importorskip("transformers")
    folder = shared_data / "gpt1-vocab"
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")[1:]
    return transformers.OpenAIGPTTokenizer(
        vocab=json.loads((folder / ENCODER).read_text(encoding="utf-8")),
        merges=[tuple(line.split()) for line in lines if line],
    )


def test_words_are_lower_cased_split_and_merged():
    lower, low, unknown = PIECES.index("lower</w>"), PIECES.index("low</w>"), 0
    assert SMALL.encode("Lower, LÓW\n日").tolist() == [lower, PIECES.index(",</w>"), low, unknown]
    assert SMALL.decode(SMALL.encode("Lower, LÓW\n日")) == "lower , low \N{REPLACEMENT CHARACTER}"


def test_the_vocabulary_is_openais(real):
    assert (real.n_vocab, real.end_of_text) == (40_478, 40_477)
    assert real.definition() == {"vocabulary_sha256": gpt1.SHA256}


@given(text=texts)
def test_ids_are_those_of_transformers(real, theirs, text):
    expected = theirs(text.replace("<unk>", ""), add_special_tokens=False).input_ids
    assert real.encode(text.replace("<unk>", "")).tolist() == expected


def test_a_real_text_has_the_ids_of_transformers(real, theirs, shared_data):
    text = (shared_data / "wikitext2-raw" / "wiki.valid.raw").read_text(encoding="utf-8").replace("<unk>", "what")
    ids = real.encode(text)
    assert ids.tolist() == theirs(text, add_special_tokens=False).input_ids
    assert real.decode(ids).replace("\N{REPLACEMENT CHARACTER}", "<unk>") == theirs.decode(ids) + " "


@given(
    before=texts, visible=st.sampled_from("aBé\u0301\u200b\u00ad\0日!.'🙂"), space=st.sampled_from(" \r\n"), after=texts
)
def test_a_cut_before_a_space_changes_no_id(real, before, visible, space, after):
    complete = real.encode(before + visible + space + after)
    parts = real.encode(before + visible), real.encode(space + after)
    assert np.array_equal(complete, np.concatenate(parts))


@given(text=texts)
def test_decoding_gives_the_normalised_text(real, text):
    """Normalised again it is unchanged, except for unknown characters."""
    ids = real.encode(text)
    known = [id_ for id_ in ids.tolist() if id_ != 0]
    normal = real.decode(ids)
    assert normal == normal.lower()
    if len(known) == len(ids):
        assert real.encode(normal).tolist() == known


@given(text=texts)
def test_text_streamed_token_by_token_is_the_text(text):
    ids = SMALL.encode(text).tolist()
    stream = TextStream(SMALL.decode_bytes)
    assert "".join(map(stream.feed, ids)) == SMALL.decode(ids)


@given(text=texts | st.sampled_from(["\n", "\n</w>", "a \n\n b", "\r\n\x85\u2028\u2029"]))
def test_no_text_ends_a_document(text):
    assert SMALL.end_of_text not in SMALL.encode(text)


def test_the_spelled_out_unknown_token_is_plain_text():
    assert 0 in SMALL.encode("<")  # unknown here
    assert (
        GPT1Tokenizer(SMALL_ENCODER.replace('"z"', '"<"').replace('"y"', '">"'), SMALL_MERGES).encode("<unk>").size > 1
    )


def test_what_it_loses_is_reported():
    for word in ("upper case", "accents", "line ends", "punctuation", "runs of spaces"):
        assert word in SMALL.lossy


def test_a_saved_tokenizer_loads_unchanged(tmp_path):
    SMALL.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.name, loaded.fingerprint) == ("gpt1", SMALL.fingerprint)
    assert np.array_equal(loaded.encode("low lower"), SMALL.encode("low lower"))
    assert choose_tokenizer(str(tmp_path)).fingerprint == SMALL.fingerprint


def test_the_hubs_names_of_the_files_serve_as_well(tmp_path):
    (tmp_path / HUB_ENCODER).write_text(SMALL_ENCODER)
    (tmp_path / HUB_MERGES).write_text(SMALL_MERGES)
    assert choose_tokenizer(f"gpt1:{tmp_path}").fingerprint == SMALL.fingerprint


def test_a_changed_file_is_found(tmp_path):
    SMALL.save(tmp_path)
    path = tmp_path / MERGES
    path.write_text(path.read_text().replace("l o\n", "o l\n").replace("lo w</w>\nlo w\n", ""))
    with pytest.raises(TokenizerError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("encoder", "merges"),
    [
        ("", SMALL_MERGES),
        ("[]", SMALL_MERGES),
        ("{", SMALL_MERGES),
        ('{"a": 0}', ""),
        ('{"<unk>": 0, "\\n</w>": 2}', ""),  # no id 1
        (SMALL_ENCODER, SMALL_MERGES + "x y\n"),  # not in the vocabulary
        (SMALL_ENCODER, SMALL_MERGES + "xy\n"),
        (SMALL_ENCODER.replace("\\n</w>", "end"), SMALL_MERGES),
        ("\xff", SMALL_MERGES),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, encoder, merges):
    (tmp_path / ENCODER).write_text(encoder, encoding="latin-1")
    (tmp_path / MERGES).write_text(merges)
    with pytest.raises(TokenizerError, match="cannot be read as GPT-1's vocabulary") as error:
        choose_tokenizer(f"gpt1:{tmp_path}")
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_the_files_is_refused(tmp_path):
    with pytest.raises(TokenizerError, match=f"it must hold {ENCODER} and {MERGES}"):
        choose_tokenizer(f"gpt1:{tmp_path}")


@pytest.fixture
def hub(shared_data):
    """Local hub server: yields its address and its responses, which may be changed."""
    folder = shared_data / "gpt1-vocab"
    files = {HUB_ENCODER: (folder / ENCODER).read_bytes(), HUB_MERGES: (folder / MERGES).read_bytes()}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            name = self.path.rpartition("/")[2]
            if self.path != f"/openai-community/openai-gpt/resolve/main/{name}" or name not in files:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(200)
            for key, value in {
                "ETag": f'"{name}"',
                "X-Repo-Commit": "0" * 40,
                "Content-Length": len(files[name]),
            }.items():
                self.send_header(key, str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(files[name])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", files
        server.shutdown()
        thread.join()


def fetched(tmp_path, address, **more):
    """`groundup tokenizer show` of GPT-1 in a new process, as the hub's library reads its settings only once."""
    env = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", **more}
    command = [sys.executable, "-m", "groundup", "tokenizer", "show", "Hello", "--tokenizer", "gpt1", "--json"]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


@pytest.mark.slow
def test_it_is_downloaded_once_and_then_works_offline(hub, tmp_path, real):
    address, files = hub
    done = fetched(tmp_path, address)
    assert json.loads(done.stdout)["fingerprint"] == real.fingerprint
    files.clear()
    again = fetched(tmp_path, address, HF_HUB_OFFLINE="1")
    assert json.loads(again.stdout)["fingerprint"] == real.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["missing", "offline", "foreign"])
def test_a_file_that_the_hub_lacks_is_one_sentence(hub, tmp_path, fault):
    address, files = hub
    if fault == "missing":
        files.clear()
    if fault == "foreign":
        files |= {HUB_ENCODER: SMALL_ENCODER.encode(), HUB_MERGES: SMALL_MERGES.encode()}
    done = fetched(tmp_path, address, HF_HUB_OFFLINE=str(int(fault == "offline")))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "gpt1:FOLDER" in done.stderr
    assert done.stderr.startswith("groundup: gpt1: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("x\ny"), RuntimeError()])
def test_any_error_of_the_hubs_library_is_one_sentence(monkeypatch, error):
    hub = pytest.importorskip("huggingface_hub")

    def fail(*_):
        raise error

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    with pytest.raises(TokenizerError, match=r"cannot be downloaded \(\w[^\n]*$"):
        choose_tokenizer("gpt1")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(TokenizerError, match=r"pip install .*\[data\]'"):
        choose_tokenizer("gpt1")
