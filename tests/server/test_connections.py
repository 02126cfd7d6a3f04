"""Keys, hosts, crowds, clients that leave or stop reading, failures and the end of the server."""

import json
import socket
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import openai
import pytest
from liveserver import CONTEXT, lone_text, serving

from groundup.errors import UsageError
from groundup.generation.engine import Engine
from groundup.server import limits as limits_module
from groundup.server import listen
from groundup.server import worker as worker_module
from groundup.server.limits import Limits

KEY = "correct-horse-battery"
LONG = {"prompt": "ab", "max_tokens": 3000, "temperature": 0, "stream": True}


def wait_until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


def in_progress(live) -> int:
    return sum(model.worker.requests() for model in live.server.models.values())


def connected(live) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(live.url.rpartition(":")[2])), timeout=20)


@contextmanager
def raw(live, body: dict, *, read_bytes: int = 0):
    """A connection that has sent a request and read some of the answer."""
    data = json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(data)}\r\n\r\n"
    with connected(live) as connection:
        connection.sendall(head.encode() + data)
        if read_bytes:
            connection.recv(read_bytes)
        yield connection


@pytest.fixture
def unhurried(monkeypatch):
    """Engines make no more than 250 steps per second, so that LONG takes seconds on any machine, with drafts too."""
    step = Engine.step

    def slow(self):
        time.sleep(0.004)
        return step(self)

    monkeypatch.setattr(Engine, "step", slow)


# Keys and hosts


@pytest.fixture(scope="module")
def locked(byte_model):
    with serving({"bytes": byte_model}, key=KEY, cors_origins=["https://example.org"]) as live:
        yield live


@pytest.mark.parametrize(
    "headers",
    [
        [], [("Authorization", f"Bearer {KEY[:-1]}")], [("Authorization", f"Bearer {KEY}x")], [("Authorization", "")],
        [("Authorization", "Bearer")], [("Authorization", f"Basic {KEY}")], [("Authorization", KEY)],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")], [("Authorization", b"Bearer \xe9")],
        [("X-Api-Key", KEY)],
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/models", "/v1/completions", "/metrics", "/", "/docs", "/openapi.json", "/nope"])
def test_without_the_key_every_route_but_health_is_closed(headers, path, locked):
    answer = locked.http.request("POST" if "completions" in path else "GET", path, headers=headers, content=b"{}")
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert KEY[:5] not in answer.text


def test_with_the_key_all_routes_are_open_and_it_stands_nowhere(locked, byte_model, capfd, caplog, monkeypatch):
    headers, half = {"Authorization": f"Bearer {KEY}"}, len(KEY) // 2
    assert locked.get("/health").status_code == 200
    seen = [locked.get(path, headers=headers) for path in ("/v1/models", "/metrics", "/", "/docs", "/openapi.json")]
    assert {answer.status_code for answer in seen} == {200}
    with openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY) as client:
        answer = client.completions.create(model="bytes", prompt="ab", max_tokens=5, temperature=0)
    assert answer.choices[0].text == lone_text(byte_model, "ab", 5)
    with pytest.raises(openai.AuthenticationError, match="the key is missing or wrong"):
        locked.client.models.list()
    monkeypatch.setattr(Engine, "add", lambda *_, **__: 1 / 0)
    seen.append(locked.post({"prompt": "ab"}, headers=headers))
    assert seen[-1].status_code == 500
    assert "ZeroDivisionError" in caplog.text
    for text in (*(answer.text for answer in seen), caplog.text, *capfd.readouterr()):
        assert not [part for part in (KEY[:half], KEY[half:]) if part in text]


def test_a_page_of_an_allowed_site_may_ask_before_it_has_the_key(locked, live):
    preflight = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST",
                 "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    answer = locked.http.options("/v1/completions", headers=preflight)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://example.org")
    assert "authorization" in answer.headers["access-control-allow-headers"]
    foreign = locked.http.options("/v1/completions", headers=preflight | {"Origin": "https://example.com"})
    assert "access-control-allow-origin" not in foreign.headers
    denied = locked.get("/v1/models", headers={"Origin": "https://example.org"})
    assert (denied.status_code, denied.headers["access-control-allow-origin"]) == (401, "https://example.org")
    off = live.http.options("/v1/completions", headers=preflight)
    assert off.status_code == 405
    assert not [name for name in off.headers if name.startswith("access-control")]


def test_a_name_that_was_made_to_point_here_is_refused(byte_model):
    with serving({"bytes": byte_model}, hosts=("127.0.0.1", "localhost", "::1")) as live:
        for host, status in (
            ("localhost", 200), ("LOCALHOST:8000", 200), ("[::1]:80", 200), ("127.0.0.1", 200),
            ("evil.example", 403), ("127.0.0.1.evil.example", 403), ("", 403), ("localhost.evil:80", 403),
        ):  # fmt: skip
            answer = live.get("/v1/models", headers={"Host": host})
            assert answer.status_code == status, host


# Crowds


def test_of_200_requests_at_once_each_is_answered_or_told_when_to_come_again(byte_model):
    with serving({"bytes": byte_model}, limits=Limits(requests=8)) as live:
        barrier = threading.Barrier(200, timeout=60)
        bodies = [{"prompt": "ab", "max_tokens": 30, "temperature": 0, "stream": bool(i % 2)} for i in range(200)]

        def ask(body):
            barrier.wait()
            return live.post(body)

        with ThreadPoolExecutor(200) as pool:
            answers = list(pool.map(ask, bodies))
        expected = lone_text(byte_model, "ab", 30)
        statuses = [answer.status_code for answer in answers]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 8
        for body, answer in zip(bodies, answers, strict=True):
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["error"]["type"] == "rate_limit_error"
            elif body["stream"]:
                assert answer.text.endswith("data: [DONE]\n\n")
                lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
                assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == expected
            else:
                assert answer.json()["choices"][0]["text"] == expected
        assert wait_until(lambda: in_progress(live) == 0)


@pytest.mark.usefixtures("unhurried")
def test_a_request_that_asks_for_much_leaves_a_place_for_others(byte_model):
    with serving({"bytes": byte_model}, slots=3) as live, raw(live, LONG | {"prompt": ["a", "b"], "n": 8}):
        assert wait_until(lambda: in_progress(live) == 1)
        for i in range(3):
            body = {"prompt": "ab", "max_tokens": 5 + i, "temperature": 0}
            assert live.post(body).json()["choices"][0]["text"] == lone_text(byte_model, "ab", 5 + i)
        assert in_progress(live) == 1, "it is still in progress"


def test_bad_streams_are_refused_before_the_first_byte(live):
    for body in ({"prompt": "x", "n": 0}, {"model": "gpt-9", "prompt": "x"}, {"prompt": [-1]}):
        answer = live.post(body | {"stream": True})
        assert (answer.status_code, answer.headers["content-type"]) in (
            (400, "application/json"),
            (404, "application/json"),
        )


def test_health_is_answered_while_long_prompts_arrive(byte_model):
    with serving({"bytes": byte_model}) as live:
        stop = threading.Event()

        def look(rounds):
            """The longest time that an answer took."""
            slowest = 0.0
            with httpx.Client(base_url=live.url, timeout=120) as client:
                for _ in range(rounds):
                    for path in ("/health", "/metrics", "/v1/models"):
                        began = time.monotonic()
                        assert client.get(path).status_code == 200
                        slowest = max(slowest, time.monotonic() - began)
                    if stop.is_set():
                        break
            return slowest

        idle = look(10)  # where the tests share the machine, this takes long already
        with ThreadPoolExecutor(10) as pool:
            looking = pool.submit(look, 10**6)
            prompts = ["a" * 10**6, " " * 10**6, "é😀" * 2 * 10**5, list(range(256)) * 1000] * 2
            answers = list(pool.map(lambda prompt: live.post({"prompt": prompt}), prompts))
            stop.set()
            slowest = looking.result()
    assert {answer.status_code for answer in answers} <= {400, 413}
    assert slowest < 0.5 + 20 * idle


# Clients that leave


@pytest.mark.usefixtures("unhurried")
@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_that_has_left_asked_for_is_dropped(stream, live):
    with raw(live, LONG | {"stream": stream}, read_bytes=100 if stream else 0):
        assert wait_until(lambda: in_progress(live) == 1)
    assert wait_until(lambda: in_progress(live) == 0), "long before 3,000 tokens"
    assert wait_until(lambda: live.server.models["bytes"].worker._engine.idle)


@pytest.mark.usefixtures("unhurried")
def test_a_client_that_has_closed_its_side_only_does_not_hang_anything(live):
    with raw(live, LONG, read_bytes=100) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert wait_until(lambda: in_progress(live) == 0)


def test_a_client_that_stops_reading_is_dropped_and_its_answer_does_not_pile_up(byte_model, monkeypatch):
    monkeypatch.setattr(worker_module, "MAX_UNREAD_PIECES", 50)
    monkeypatch.setattr(limits_module, "STALL_SECONDS", 0.5)
    monkeypatch.setattr("groundup.server.app.STALL_SECONDS", 0.5)
    with serving({"bytes": byte_model}) as live, raw(live, LONG | {"logprobs": 5, "n": 8}) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        assert wait_until(lambda: in_progress(live) == 1)
        assert wait_until(lambda: in_progress(live) == 0, 300)
        assert live.post({"prompt": "x", "max_tokens": 1}).status_code == 200


def test_a_body_that_does_not_arrive_is_given_up(byte_model, monkeypatch):
    monkeypatch.setattr(limits_module, "BODY_SECONDS", 0.3)
    with serving({"bytes": byte_model}) as live, connected(live) as connection:
        connection.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 408")


# Failures
@pytest.mark.usefixtures("unhurried")
def test_an_answer_that_takes_too_long_ends_by_an_error(byte_model):
    with serving({"bytes": byte_model}, limits=Limits(seconds=0.3)) as live:
        answer = live.post(LONG | {"stream": False})
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "time_limit_exceeded")
        lines = live.post(LONG).text.splitlines()
        assert "[DONE]" not in lines[-2]
        assert json.loads(lines[-2][6:])["error"]["code"] == "time_limit_exceeded"
        assert all(json.loads(line[6:])["choices"][0]["finish_reason"] is None for line in lines[:-2] if line)
        assert wait_until(lambda: in_progress(live) == 0)
        with pytest.raises(openai.APIError, match="took longer"):
            list(live.client.completions.create(model="bytes", **LONG))


def test_an_engine_that_fails_is_replaced_and_only_its_requests_fail(byte_model, monkeypatch, caplog):
    step, fails = Engine.step, threading.Event()

    def failing(self):
        if fails.is_set():
            fails.clear()
            raise RuntimeError("out of memory, or a bug")
        return step(self)

    monkeypatch.setattr(Engine, "step", failing)
    with serving({"bytes": byte_model}) as live:
        with httpx.stream("POST", f"{live.url}/v1/completions", json=LONG, timeout=20) as answer:
            lines = answer.iter_lines()
            next(lines)
            fails.set()
            last = [line for line in lines if line][-1]
        assert json.loads(last[6:])["error"]["code"] == "engine_failed"
        fails.set()
        answer = live.post({"prompt": "x"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
        assert live.post({"prompt": "ab", "max_tokens": 5, "temperature": 0}).json()["choices"][0]["text"] == lone_text(
            byte_model, "ab", 5
        )
        assert live.get("/health").status_code == 200
    assert "out of memory, or a bug" in caplog.text


def test_a_server_whose_engine_cannot_be_replaced_says_so_and_answers_every_request(byte_model, monkeypatch):
    def failing(self):
        monkeypatch.setattr(Engine, "__init__", failing_start)
        raise RuntimeError("out of memory")

    def failing_start(self, *args, **options):
        freed.append(engine() is None)
        waiting.wait(10)
        raise RuntimeError("no memory either")

    monkeypatch.setattr(worker_module.logger, "propagate", False)  # pytest would keep the traceback, and so the engine
    freed, waiting = [], threading.Event()
    with serving({"bytes": byte_model}) as live:
        worker = live.server.models["bytes"].worker
        engine = weakref.ref(worker._engine)
        monkeypatch.setattr(Engine, "step", failing)
        assert live.post({"prompt": "x"}).status_code == 500
        with ThreadPoolExecutor() as pool:
            waits = pool.submit(live.post, {"prompt": "x"})
            assert wait_until(lambda: worker.requests() == 1)
            waiting.set()
            assert waits.result(20).json()["error"]["code"] == "engine_failed"
        assert live.post({"prompt": "x"}).status_code == 500
        assert (live.get("/health").status_code, live.get("/health").json()) == (503, {"status": "failing"})
    assert freed == [True], "before another one is made"


def test_an_unforeseen_error_is_an_error_in_the_same_form(live, monkeypatch, caplog):
    def failing(self, body):
        raise RuntimeError("a bug")

    monkeypatch.setattr(type(live.server.models["bytes"].planner), "plan", failing)
    answer = live.post({"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_failed")
    assert "a bug" not in answer.text
    assert "a bug" in caplog.text


@pytest.mark.parametrize(("seconds", "max_tokens"), [(120, 200), (0.5, 1_000_000)])
def test_a_stopping_server_lets_answers_finish_and_ends_longer_ones_by_an_error(
    seconds, max_tokens, byte_model, monkeypatch, unhurried
):
    monkeypatch.setattr(listen, "STOP_SECONDS", seconds)
    with serving({"bytes": byte_model}, limits=Limits(tokens=1_000_000)) as live:
        body = LONG | {"max_tokens": max_tokens}
        with httpx.stream("POST", f"{live.url}/v1/completions", json=body, timeout=120) as answer:
            lines = answer.iter_lines()
            events = [next(lines)]
            live.listener.handle_exit(15, None)
            events += [line for line in lines if line]
        if max_tokens == 200:
            assert events[-1] == "data: [DONE]"
        else:
            assert json.loads(events[-1][6:])["error"]["code"] == "server_stopping"
            assert all(json.loads(line[6:])["choices"][0]["finish_reason"] is None for line in events[:-1])
        live.thread.join(30)
        assert not live.thread.is_alive()
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{live.url}/health")


# Addresses, pages, counters


def test_an_address_that_cannot_be_used_gets_a_sentence():
    with listen.bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        bound.listen()
        with pytest.raises(UsageError, match=f"--port {port}: another program uses it"):
            listen.bind("127.0.0.1", port)
        assert listen.is_loopback(bound)
    for host, port, words in (("no.such.host.invalid", 0, "no address"), ("127.0.0.1", 70000, "must be from 0"),
                              ("192.0.2.1", 0, "cannot be used"), ("a" * 300, 0, "no address")):  # fmt: skip
        with pytest.raises(UsageError, match=words):
            listen.bind(host, port)


def test_answers_are_sent_without_delay(live):
    """Nagle's algorithm would hold the second packet of an answer back until the first one is acknowledged."""
    with raw(live, LONG, read_bytes=10):
        sockets = [each.transport.get_extra_info("socket") for each in live.listener.server_state.connections]
        assert sockets
        assert all(each.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in sockets)


def test_the_front_page_has_an_example_that_works_and_names_no_other_host(live):
    page = live.get("/")
    assert "<code>bytes</code>" in page.text
    assert f"{live.url}/v1/completions" in page.text
    for text in (page.text, live.get("/docs").text):
        assert "http" not in text.replace(live.url, "").replace("http-", "")
        assert "<script" not in text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    docs = live.get("/docs").text
    for field in ("repetition_penalty", "logit_bias", "top_logprobs", "GET /health"):
        assert field in docs
    hostile = live.get("/", headers={"Host": "x\"><img src=x onerror='alert(1)'>`rm`"})
    assert "<img" not in hostile.text


def test_counters_have_no_text_of_requests(live):
    live.post({"prompt": "ab", "max_tokens": 3})
    live.post({"model": "secret-name", "prompt": "x"})
    live.get("/secret-path")
    live.get("/v1/models/bytes")
    text = live.get("/metrics").text
    assert "secret" not in text
    assert 'groundup_http_responses_total{route="/v1/models/{model:path}",status="200"}' in text
    assert 'groundup_http_responses_total{route="other",status="404"}' in text
    assert 'groundup_generated_tokens_total{model="bytes"}' in text
    assert 'groundup_requests_in_progress{model="bytes"} 0.0' in text
    assert 'groundup_first_token_seconds_count{model="bytes"}' in text


def test_ids_for_the_whole_context_fit_into_a_body():
    assert CONTEXT < 1000
    assert len(json.dumps([[50_256] * 1024] * 128)) < Limits().body_bytes
