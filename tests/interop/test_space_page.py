"""Page of a Space in a browser: served from the exported folder, groundup from its wheel."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from http.client import HTTPConnection
from importlib.util import find_spec
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

import groundup
from groundup.interop.export import export
from groundup.tokenizers.byte_char import CharTokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not find_spec("gradio"), reason="needs the extra `space`")]


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    tokenizer = CharTokenizer.train(["\n abcdefghijklmnopqrstuvwxyz"])
    model = checkpoint(tokenizer=tokenizer)
    out = tmp_path_factory.mktemp("served") / "page"
    export(model, out, to="space", name="me/alphabet")
    return out


# Runs the app as it is, except that no text grows beyond the number of tokens in a file, and each token is shown.
SERVE = """
import pathlib, runpy, sys, time, gradio
sys.path[:] = [p for p in sys.path if not p.endswith("src")]
folder, limit = map(pathlib.Path, sys.argv[1:])
launch = gradio.Blocks.launch

def launch_held(blocks, **options):
    import groundup
    stream = groundup.generate_stream

    def held(*args, **kwargs):
        for done, pieces in enumerate(stream(*args, **kwargs)):
            while done >= int(limit.read_text()):
                time.sleep(0.005)
            yield pieces

    from groundup.generation import completion, drafts
    completion.engine_for.__defaults__ = (drafts.NoDrafts,)  # one token per step
    groundup.generate_stream = held
    sys.modules["__main__"].REFRESH_SECONDS = 0
    return launch(blocks, **options)

gradio.Blocks.launch = launch_held
runpy.run_path(str(folder / "app.py"), run_name="__main__")
"""


@pytest.fixture(scope="module")
def allow(tmp_path_factory):
    """Sets how many tokens the server may generate per text."""
    path, new = (tmp_path_factory.mktemp("limit") / name for name in ("tokens", "new"))

    def allow(tokens):
        new.write_text(str(tokens))
        new.replace(path)  # atomically: the server reads it at any time
        return path

    return allow


@pytest.fixture(scope="module")
def url(folder, allow, forks):
    """Address of the page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {k: v for k, v in os.environ.items() if k not in ("SPACE_ID", "GRADIO_SERVER_NAME")}
    env |= {"GRADIO_SERVER_PORT": str(port), "HF_HUB_OFFLINE": "1"}
    words = [*forks.words, "-c", SERVE, folder, allow(1000)]
    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL) as server:
        place = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 300
        while True:
            try:
                urlopen(place).close()
                break
            except URLError:
                assert server.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
        yield place
        forks.kill(server)


@pytest.fixture(scope="module")
def browser():
    playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM:
        pytest.skip("needs a chromium")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url):
    """Open the page for another visitor; any request to another host fails the test."""
    visits, urls = [], []

    def go():
        visits.append(browser.new_context())
        page = visits[-1].new_page()
        page.on("request", lambda request: urls.append(request.url))
        page.goto(url)
        page.get_by_role("button", name="Generate").wait_for()
        return page

    yield go
    for context in visits:
        context.close()
    assert urls
    assert [one for one in urls if not one.startswith((f"{url}/", "data:", "blob:"))] == []


def begin(page, prompt, **values):
    """Fill in the form and press the button."""
    fill(page, prompt, **values)
    page.get_by_role("button", name="Generate").click()


def fill(page, prompt, **values):
    """Fill in the form only."""
    page.get_by_label("Prompt").fill(prompt)
    if not page.get_by_label("A new seed").is_visible():
        page.get_by_text("Sampling").click()
    if "seed" in values:
        page.get_by_label("A new seed").uncheck()
        page.get_by_label("Seed", exact=True).fill(str(values.pop("seed")))
    for label, value in values.items():
        page.get_by_label(f"number input for {label}").fill(str(value))
        page.keyboard.press("Tab")


def written(page):
    return page.locator("#result .text").all_text_contents()


def wait_for(page, expected):
    """Wait until the page shows exactly these texts."""
    until = time.monotonic() + 300
    while (found := written(page)) != expected:
        assert time.monotonic() < until, found
        page.wait_for_timeout(20)


def test_text_is_streamed_and_stops_on_request(visit, folder, allow):
    page, prompt = visit(), "a word"
    assert page.title() == "alphabet"
    text = groundup.generate(groundup.load(folder / "model"), prompt, max_tokens=100, temperature=0)[0]
    assert len(text) > 30  # it does not stop by itself before
    allow(10)
    begin(page, prompt, Tokens=1000, Temperature=0)
    wait_for(page, [text[: len(prompt) + 10]])
    allow(20)
    wait_for(page, [text[: len(prompt) + 20]])
    with page.expect_request(re.compile("/cancel$")) as cancelled:
        page.get_by_role("button", name="Stop").click()
    allow(1000)
    assert cancelled.value.response().ok
    page.wait_for_timeout(500)
    assert written(page) == [text[: len(prompt) + 20]]


def test_two_concurrent_visitors_get_the_texts_of_their_seeds(visit, folder, allow):
    pages, options = [visit(), visit()], {"num_samples": 2, "max_tokens": 40, "temperature": 0.1}
    model, inputs = groundup.load(folder / "model"), [("ab", 5), ("b", 8)]  # which do not stop by themselves
    expected = [groundup.generate(model, prompt, seed=seed, **options) for prompt, seed in inputs]
    allow(10)
    for page, (prompt, seed) in zip(pages, inputs, strict=True):
        fill(page, prompt, seed=seed, Tokens=40, Samples=2, Temperature=0.1)
        page.get_by_role("button", name="Generate").click()
    for page, texts, (prompt, _) in zip(pages, expected, inputs, strict=True):  # neither waits for the other's end
        wait_for(page, [text[: len(prompt) + 10] for text in texts])
    allow(1000)
    for page, texts in zip(pages, expected, strict=True):
        wait_for(page, texts)


def test_errors_are_shown_on_the_page(visit):
    page = visit()
    begin(page, "word \N{SNOWMAN}")
    page.get_by_text("'\N{SNOWMAN}' (U+2603 SNOWMAN) is not among the 28 characters").wait_for()
    begin(page, "word " * 20_000, Tokens=5)
    page.get_by_text("the last 12 of 100,000 characters").wait_for()


def post(url, values):
    """Send a request around the page; returns the response."""
    headers = {"Content-Type": "application/json"}
    request = Request(f"{url}/gradio_api/call/write", json.dumps({"data": values}).encode(), headers)
    with urlopen(request, timeout=300) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{url}/gradio_api/call/write/{event}", timeout=300) as answer:
        return answer.read().decode()


def test_values_sent_around_the_page_are_checked(url):
    good = ["a", 5, 1, 0.8, 0, 1.0, 3, False]
    assert "event: complete" in post(url, good)
    for place, bad in [(1, 10**6), (2, 0), (3, "hot"), (4, -1), (5, None), (6, 1.5e300)]:
        response = post(url, [*good[:place], bad, *good[place + 1 :]])
        assert re.search("event: error\ndata: .*must be a number from", response), response
    with pytest.raises(HTTPError):
        urlopen(f"{url}/gradio_api/file={__file__}")


@pytest.mark.parametrize(("path", "length", "status"), [("upload", 100, 404), ("call/write", (1 << 20) + 1, 413)])
def test_uploads_and_large_bodies_are_refused(path, length, status, url):
    connection = HTTPConnection(urlsplit(url).netloc, timeout=300)
    connection.putrequest("POST", f"/gradio_api/{path}")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(length))
    connection.endheaders()  # answered before a body is sent
    assert connection.getresponse().status == status
    connection.close()


def test_a_text_to_which_somebody_listens_is_completed(url, folder, allow):
    allow(0)
    request = Request(
        f"{url}/gradio_api/call/write",
        json.dumps({"data": ["a word", 20, 1, 0, 0, 1.0, 3, False]}).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=300) as answer:
        event = json.load(answer)["event_id"]
    with urlopen(f"{url}/gradio_api/call/write/{event}", timeout=300) as answer:
        allow(1000)
        events = answer.read().decode()
    text = groundup.generate(groundup.load(folder / "model"), "a word", max_tokens=20, temperature=0)[0]
    assert text.removeprefix("a word") in events.replace("\\n", "\n")
    assert "event: complete" in events
