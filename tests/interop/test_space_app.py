"""Code behind the page of a Space, with a fake Gradio and the checkout instead of the wheel."""

import asyncio
import runpy
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from html import escape, unescape
from itertools import pairwise, zip_longest
from types import ModuleType, SimpleNamespace

import pytest

import groundup
from groundup.interop.export import export
from groundup.tokenizers.byte_char import CharTokenizer
from groundup.tokenizers.hf_json import FileTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

FULL = {"length": 20, "samples": 1, "temperature": 0.8, "top-k": 0, "top-p": 1.0, "seed": 7}


class RefusedError(Exception):
    """Replaces gradio.Error."""

    def __init__(self, message, **_):
        super().__init__(message)


def words():
    """Tokenizer of known words; an unknown one is decoded to a text that it reads as three."""
    vocabulary = {word: i for i, word in enumerate(["a", "word", "two", "<unk>", "<|endoftext|>"])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    return FileTokenizer(engine.to_str(), "<|endoftext|>")


@pytest.fixture(scope="module")
def spaces(checkpoint, tmp_path_factory):
    """Make the Space of a tiny model, once for each tokenizer."""
    made = {}

    def make(name):
        if name not in made:
            learn = {"char": lambda: CharTokenizer.train(["\n abcdefghijklmnopqrstuvwxyz"]), "words": words}
            tokenizer = learn.get(name, lambda: None)()
            model = checkpoint("modern" if name == "ngram" else "gpt2", tokenizer, ngram=3 if name == "ngram" else 1)
            made[name] = tmp_path_factory.mktemp(name) / "page"
            export(model, made[name], to="space", name=f"me/{name}")
        return made[name]

    return make


@pytest.fixture
def opened(spaces, monkeypatch):
    """Globals of an app.py, with its writer."""
    gradio = ModuleType("gradio")
    gradio.Error = RefusedError
    monkeypatch.setitem(sys.modules, "gradio", gradio)
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")

    def open_(name="char"):
        monkeypatch.setattr(sys, "path", list(sys.path))
        names = runpy.run_path(str(spaces(name) / "app.py"))
        return SimpleNamespace(**names, writer=names["Writer"](spaces(name) / "model"), folder=spaces(name))

    return open_


def write(app, prompt, fresh=False, **changes):
    return list(app.writer.write(prompt, *(FULL | changes).values(), fresh))


def texts(picture):
    parts = picture.partition("<div")[2].split("</div>")
    return [
        unescape(part.partition(">")[2].replace('<span class="prompt">', "").replace("</span>", "")) for part in parts
    ]


@pytest.mark.parametrize("name", ["char", "byte", "ngram"])
def test_it_generates_the_same_text_as_groundup_generate(name, opened):
    app = opened(name)
    picture, seed = write(app, "a word", samples=3)[-1]
    assert texts(picture)[:3] == groundup.generate(app.folder / "model", "a word", num_samples=3, max_tokens=20, seed=7)
    assert seed == 7


def test_unknown_text_of_a_lossy_tokenizer_is_shown_as_the_model_reads_it(opened):
    app, prompt = opened("words"), "a word nobody two"
    ids = app.writer.model.tokenizer.encode(prompt).tolist()
    seen = app.writer.model.tokenizer.decode(ids)
    assert app.writer.model.tokenizer.encode(seen).tolist() != ids
    expected = groundup.generate(app.folder / "model", prompt, num_samples=3, max_tokens=20, seed=7)
    assert texts(write(app, prompt, samples=3)[-1][0])[:3] == expected
    assert expected[0].startswith(seen)
    picture = write(app, "nobody " * 30)[-1][0]
    assert "the last 85 of 210 characters" in picture  # twelve words and the space before


def test_a_new_seed_is_returned_and_reproduces_the_text(opened):
    app = opened()
    (first, seed), (second, other) = write(app, "a", fresh=True)[-1], write(app, "a", fresh=True)[-1]
    assert seed != other
    assert write(app, "a", seed=seed)[-1] == (first, seed)
    assert first != second
    assert write(app, "a", fresh=True, seed=None)  # an empty field, which is not used


@pytest.mark.parametrize("name", ["char", "ngram"])
def test_concurrent_visitors_get_their_own_texts(name, opened):
    app = opened(name)
    settings = [{"prompt": "abc"[:n], "seed": n, "samples": n, "length": 30} for n in (1, 2, 3)]
    alone = [write(app, **setting)[-1] for setting in settings]
    # In turns, and in threads as in Gradio.
    writing = [
        app.writer.write(w["prompt"], *(FULL | {k: w[k] for k in w if k != "prompt"}).values(), False) for w in settings
    ]
    assert [next(filter(None, reversed(column))) for column in zip(*zip_longest(*writing), strict=True)] == alone
    with ThreadPoolExecutor(3) as pool:
        assert [pictures[-1] for pictures in pool.map(lambda setting: write(app, **setting), settings * 3)] == alone * 3


def test_text_is_streamed_and_html_in_it_is_escaped(opened, monkeypatch):
    app = opened("byte")
    app.writer.write.__globals__["REFRESH_SECONDS"] = 0
    pictures = [picture for picture, _ in write(app, "<b>&", length=12)]
    grown = [texts(picture)[0] for picture in pictures]
    assert len(grown) == 13
    assert all(after.startswith(before) for before, after in pairwise(grown))
    assert escape("<b>&") in pictures[-1]
    assert "<b>" not in pictures[-1]
    assert "&lt;script&gt;" in app.writer.to_html("", ["<script>"], "")


@pytest.mark.parametrize(("name", "text"), [("char", "a"), ("byte", "é"), ("ngram", "\N{SNOWMAN}")])
def test_only_the_end_of_a_long_prompt_is_encoded_and_read(name, text, opened, monkeypatch):
    app = opened(name)
    tokenizer, lengths = app.writer.model.tokenizer, []
    true = type(tokenizer).encode
    monkeypatch.setattr(type(tokenizer), "encode", lambda self, text: lengths.append(len(text)) or true(self, text))
    prompt = text * 100_000
    picture, _ = write(app, prompt)[-1]
    assert max(lengths) <= 2 * app.writer.context
    kept = app.writer.context // len(text.encode())
    assert f"the last {kept} of 100,000 characters" in picture
    assert texts(picture)[0].startswith(text * kept)
    assert write(app, text * 3)[-1][0].startswith("<div")  # no note


def test_characters_that_the_tokenizer_lacks_are_named(opened):
    app = opened()
    with pytest.raises(RefusedError, match=r"'\N{SNOWMAN}' \(U\+2603 SNOWMAN\) is not among"):
        write(app, "a \N{SNOWMAN}")
    with pytest.raises(RefusedError, match="surrogate"):
        write(app, "a \ud800")


def test_values_sent_around_the_page_are_refused(opened):
    app = opened()
    for name in FULL:
        for value in (-1, 10**10, float("nan"), float("inf"), "5", None, [1], {"a": 1}):
            with pytest.raises(RefusedError, match=f"{name} .*: must be a number from"):
                write(app, "a", **{name: value})


def test_a_request_has_a_largest_number_of_tokens(opened):
    app = opened()
    assert write(app, "a", samples=4, length=250)
    with pytest.raises(RefusedError, match="4 samples of 251 tokens: ask for at most 1,000 tokens in all"):
        write(app, "a", samples=4, length=251)


def test_a_text_to_which_nobody_listens_is_given_up(opened):
    app = opened()
    constants = app.writer.write.__globals__
    constants["REFRESH_SECONDS"] = 0
    visitor = SimpleNamespace(session_hash="mine")

    def pictures():
        return list(app.writer.write("a word", *(FULL | {"temperature": 0}).values(), False, visitor))

    complete = pictures()  # nobody has listened so far, which may still come
    assert len(complete) > 2
    constants["UNHEARD_SECONDS"] = -1
    assert pictures() == []
    app.writer.listening["mine"] += 1
    assert pictures() == complete


async def answer(gate, method, path, headers=(), query=b""):
    """Status of a request that the gate refuses; 0 where it passes it on."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
    await gate(scope, None, send)
    return sent[0]["status"] if sent else 0


def test_only_requests_of_the_page_are_let_through(opened):
    seen = []

    async def inner(scope, *_):
        seen.append(dict(listening))

    listening = Counter()
    gate = opened().Gate(inner, listening)
    length = (b"content-length", b"100")
    for method, path, headers, status in [
        ("POST", "/gradio_api/queue/join", [length], 0),
        ("POST", "/gradio_api/call/write/", [length], 0),
        ("GET", "/config", [], 0),
        ("POST", "/gradio_api/upload", [length], 404),
        ("POST", "/upload", [length], 404),
        ("POST", "/gradio_api/run/write", [length], 404),
        ("PUT", "/gradio_api/queue/join", [length], 404),
        ("POST", "/gradio_api/queue/join", [], 413),  # in chunks, of any number
        ("POST", "/gradio_api/queue/join", [(b"content-length", b"1048577")], 413),
        ("POST", "/gradio_api/queue/join", [(b"content-length", b"9" * 5000)], 413),
    ]:
        assert asyncio.run(answer(gate, method, path, headers)) == status, path
    asyncio.run(answer(gate, "GET", "/gradio_api/queue/data", query=b"session_hash=mine"))
    asyncio.run(answer(gate, "GET", "/gradio_api/call/write/job"))
    assert seen[-2:] == [{"mine": 1}, {"job": 1}]
    assert not listening


@pytest.mark.parametrize("prompt", [None, 5, ["a"], ""])
def test_any_prompt_is_accepted(prompt, opened):
    assert write(opened("byte"), prompt)[-1][0].startswith("<div")


def test_the_page_shows_the_text_of_the_readme(opened):
    title, first, facts, more = opened().about()
    assert (title, first) == ("char", "It continues your text.")
    assert facts.startswith("A language model of")
    assert more.startswith("### Data")
    assert "```python" not in more


@pytest.mark.parametrize("readme", ["", "---\n---\n", "# mine", "---\ntitle: x\n---\n\n# mine\n\nHello.\n"])
def test_a_custom_readme_is_accepted(readme, opened):
    app = opened()
    path = app.folder / "README.md"
    kept = path.read_text(encoding="utf-8")
    try:
        path.write_text(readme, encoding="utf-8")
        title, *_, more = app.about()
        assert title in ("mine", "page")
        assert more == ""
    finally:
        path.write_text(kept, encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (lambda folder: next(folder.glob("*.whl")).unlink(), "the wheel groundup-….whl is missing"),
        (
            lambda folder: shutil.copy(next(folder.glob("*.whl")), folder / "groundup-0.0.9-py3-none-any.whl"),
            "holds groundup-0.0.9-py3-none-any.whl, groundup-",
        ),
        (lambda folder: (folder / "model/SHA256SUMS").unlink(), "model: is neither a run nor a checkpoint"),
        (lambda folder: (folder / "model").rename(folder / "elsewhere"), "model: is neither a run nor a checkpoint"),
        (lambda folder: (folder / "model/model.safetensors").write_bytes(b"x"), "model.safetensors: damaged"),
        (lambda folder: next(folder.glob("*.whl")).write_bytes(b"PK"), "requirements.txt"),
    ],
)
def test_an_incomplete_folder_gets_one_sentence(harm, sentence, spaces, forks, tmp_path):
    folder = shutil.copytree(spaces("byte"), tmp_path / "page")
    harm(folder)
    # Without installed packages: only the wheel has groundup.
    code = (
        "import runpy, sys, types; sys.modules['gradio'] = types.ModuleType('gradio')\n"
        "sys.path[:] = [p for p in sys.path if not p.endswith('src')]\n"
        f"runpy.run_path({str(folder / 'app.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([*forks.words, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.startswith("app.py: ")
    assert len(done.stderr.splitlines()) == 1
