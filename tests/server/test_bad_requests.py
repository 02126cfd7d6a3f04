"""Requests that are wrong, in part or in whole: one sentence in OpenAI's form, and no other request is touched."""

import gc
import json
import threading
import tracemalloc
from copy import deepcopy
from dataclasses import replace
from urllib.parse import clear_cache

import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from liveserver import CONTEXT, lone_text, serving

from groundup.model.quantized import quantize
from groundup.server.limits import Limits

LARGEST_ID = 256


def strict(text: str):
    """JSON without NaN and infinities, which Python's reader would accept."""

    def refuse(word):
        raise AssertionError(word)

    return json.loads(text, parse_constant=refuse)


def refused(live, body, status: int = 400) -> dict:
    """The error that a body gets, which must be in OpenAI's form."""
    answer = live.post(body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    error = strict(answer.text)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert 10 < len(error["message"]) < 1100
    assert error["message"].isprintable()
    return error


@pytest.fixture
def neighbour(live, byte_model, capfd):
    """A long stream that runs beside the test; its text must be its own, and no traceback may appear."""
    expected = lone_text(byte_model, "neighbour", 60)
    stream = live.client.completions.create(
        model="bytes", prompt="neighbour", max_tokens=60, temperature=0, stream=True
    )
    first = next(iter(stream))
    yield
    assert first.choices[0].text + "".join(chunk.choices[0].text for chunk in stream) == expected
    assert live.get("/health").json() == {"status": "ok"}
    assert live.client.completions.create(model="bytes", prompt="x", max_tokens=1).usage.completion_tokens == 1
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("ids", [[-1], [LARGEST_ID + 1], [2**63], [10**100], [[3], [4, LARGEST_ID + 1]]])
def test_an_id_outside_of_the_vocabulary_is_named_with_the_largest_one(ids, live, neighbour):
    error = refused(live, {"prompt": ids, "max_tokens": 2})
    assert error["param"] == "prompt"
    assert f"ids are from 0 to {LARGEST_ID}" in error["message"]


@pytest.mark.parametrize(
    "prompt",
    [[1.5], [True], [], [[]], ["a", 3], ["ab", [3]], [["a"]], [[[1]]], [None], {"a": 1}, 3, True, [[1], []], 1e999],
)  # fmt: skip
def test_a_prompt_of_another_kind_is_refused(prompt, live, neighbour):
    body = json.dumps({"prompt": prompt}).encode()
    assert refused(live, body)["param"] == "prompt"


@pytest.mark.parametrize(
    "bias",
    [{"257": 1}, {"-1": 1}, {"1.5": 1}, {"the": 1}, {"5": None}, {"5": 1e9}, {"5": -100.5}, {"5": True}, {"05": 1},
     {"٣": 1}, {"9" * 5000: 1}, [5], "5", {str(i): 1 for i in range(2000)}],
)  # fmt: skip
def test_a_wrong_bias_is_refused(bias, live, neighbour):
    assert refused(live, {"prompt": "x", "logit_bias": bias})["param"] == "logit_bias"


VALUES = {
    "temperature": ["NaN", "Infinity", "-Infinity", "1e999", "-1", "-1e-9", '"1"', "true", "[]"],
    "top_p": ["NaN", "-0.1", "1.1", '"1"'],
    "top_k": ["0", "-1", "-5", "1.5", "true"],
    "min_p": ["-1", "2", "NaN"],
    "repetition_penalty": ["0", "-1", "NaN"],
    "presence_penalty": ["-3", "3", "NaN"],
    "frequency_penalty": ["2.5", "1e999"],
    "stop": ['""', '["", ".."]', "[1]", "1", '[["a"]]', json.dumps(["a"] * 17), json.dumps("a" * 1001)],
    "logprobs": ["true", "6", "-1", "1.0", '"1"'],
    "max_tokens": ["-1", "1.5", "1000000000", '"5"', "true", "9" * 5000],
    "n": ["0", "-1", "129", "1.5", "true"],
    "best_of": ["3", "0"],
    "seed": ["-1", "1.5", str(2**63)],
    "echo": ['"true"', "1"],
    "stream": ['"false"', "0"],
    "stream_options": ["{}", "true"],
    "suffix": ['"and so on"'],
    "model": ['"gpt-9"', "3"],
    "user": ["3"],
    "tempature": ["1"],
    "messages": ["[]"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in VALUES.items() for value in values])
def test_a_wrong_value_is_refused_with_the_name_of_its_field(field, value, live):
    for stream in ("", ', "stream": true') if field not in ("stream", "stream_options") else ("",):
        body = f'{{"prompt": "x", "{field}": {value}{stream}}}'.encode()
        error = refused(live, body, status=404 if value == '"gpt-9"' else 400)
        if len(value) < 5000:  # Python reads no number that long
            assert error["param"] == field
            assert field in error["message"]


@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "top_k", "max_tokens", "n", "stop", "logprobs", "seed", "stream"]
)
def test_null_is_a_fields_default(field, live):
    options = {"prompt": "x", "max_tokens": 3} | {field: None}
    assert live.post(options).json()["usage"]["completion_tokens"] == (16 if field == "max_tokens" else 3)


@pytest.mark.parametrize("value", [0, 1e-9, 1e-5, 1e-300])
def test_a_tiny_temperature_or_top_p_is_greedy(value, live, byte_model):
    expected = lone_text(byte_model, "ab", 8)
    for options in ({"temperature": value}, {"temperature": 1, "top_p": value}, {"temperature": 1, "top_k": 1}):
        assert live.post({"prompt": "ab", "max_tokens": 8, **options}).json()["choices"][0]["text"] == expected


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_a_tiny_temperature_is_greedy_with_packed_weights(kind, byte_model):
    packed = replace(byte_model, model=quantize(deepcopy(byte_model.model), kind), quantize=kind)
    expected = lone_text(packed, "ab", 8)
    with serving({"packed": packed}) as live:
        for value in (1e-4, 1e-9, 1e-300):
            answer = live.post({"prompt": "ab", "max_tokens": 8, "temperature": value}).json()
            assert answer["choices"][0]["text"] == expected


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"logit_bias": {"5": -100}}, {"logit_bias": {"5": 100}}, {"top_p": 1e-9}]
)
def test_log_probabilities_are_numbers_whatever_is_excluded(options, live):
    for stream in (False, True):
        answer = live.post({"prompt": "ab", "max_tokens": 3, "logprobs": 5, "echo": True, "stream": stream, **options})
        assert answer.status_code == 200
        for line in answer.text.splitlines() if stream else [answer.text]:
            if line and "[DONE]" not in line:
                strict(line.removeprefix("data: "))


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'"x"', b"{} {}", b"\xff\xfe", b'{"prompt": "\xff"}', b"[" * 100_000,
     b'{"a":' * 50_000, b'{"prompt": "\\ud800"}', b'{"model": "\\ud800"}', b'{"\\ud800": 1}', b'{"x\\u001b[31m": 1}'],
)  # fmt: skip
def test_a_body_that_is_no_request_is_refused(body, live):
    refused(live, body, status=404 if b"model" in body else 400)


def test_a_body_that_is_not_declared_as_json_is_refused(live):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = live.post(b'{"prompt": "x"}', headers={"Content-Type": kind})
        assert answer.status_code == 400
        assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_a_message_names_a_value_without_what_a_terminal_obeys_and_not_at_any_length(live):
    message = refused(live, {"model": "\x1b[31m" + "x" * 10**5}, status=404)["message"]
    assert "\\x1b[31mxxx" in message
    assert "served are bytes" in message


def test_a_body_beyond_the_limit_is_refused_without_being_kept(live):
    body = b'{"prompt": "' + b"x" * (Limits().body_bytes + 1)
    for options in ({}, {"headers": {"Content-Type": "application/json", "Content-Length": "99999999999"}}):
        answer = live.post(body, **options) if not options else None
        if answer is not None:
            assert answer.status_code == 413
            assert "at most 2,097,152 bytes" in answer.json()["error"]["message"]

    def parts():
        for _ in range(100):
            yield b"x" * (1 << 16)

    assert live.http.post("/v1/completions", content=parts()).status_code == 413, "without a length, too"


@pytest.mark.parametrize(
    "body",
    [{"prompt": [1] * 200_000}, {"prompt": ["a"] * 100_000 + [1]}, {"prompt": [[1]] * 100_000},
     {"stop": ["a"] * 100_000}, {f"a{i}": 1 for i in range(50_000)}, {"logit_bias": {f"a{i}": 0 for i in range(9999)}}],
    ids=["ids", "mixed", "prompts", "stops", "fields", "biases"],
)  # fmt: skip
def test_one_of_a_hundred_thousand_mistakes_is_reported(body, live):
    data = json.dumps(body, separators=(",", ":")).encode()
    tracemalloc.start()
    refused(live, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * len(data) + (8 << 20)


def test_too_many_choices_are_refused(live):
    assert refused(live, {"prompt": ["a"] * 100, "n": 2})["param"] == "prompt"
    assert "at most 128" in refused(live, {"prompt": ["a"] * 129})["message"]


def test_what_other_apis_have_is_refused_with_what_to_use(live):
    with pytest.raises(openai.NotFoundError, match="do not chat; send the text as `prompt` to /v1/completions"):
        live.client.chat.completions.create(model="bytes", messages=[{"role": "user", "content": "hi"}])
    with pytest.raises(openai.NotFoundError, match="no embeddings"):
        live.client.embeddings.create(model="bytes", input="hi")
    with pytest.raises(openai.BadRequestError, match="cannot fill a gap"):
        live.client.completions.create(model="bytes", prompt="a", suffix="b")


def test_other_routes_and_methods_are_errors_in_the_same_form(live):
    for method, path, status in (("GET", "/v2", 404), ("GET", "/v1/completions", 405), ("DELETE", "/v1/models", 405)):
        answer = live.http.request(method, path)
        assert (answer.status_code, set(answer.json()["error"])) == (status, {"message", "type", "param", "code"})
        assert (answer.headers.get("allow") is None) == (status == 404)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
SLOW_MACHINE = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
FIELDS = [*VALUES, "prompt", "logit_bias"]


@settings(max_examples=60, suppress_health_check=SLOW_MACHINE)
@given(body=st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
def test_no_value_makes_the_server_fail(body, live):
    answer = live.post(json.dumps(body | {"max_tokens": 1}).encode())
    assert answer.status_code in (200, 400, 404)
    if not answer.headers["content-type"].startswith("text/event-stream"):
        strict(answer.text)


@settings(max_examples=40, suppress_health_check=SLOW_MACHINE)
@given(
    prompt=st.text(max_size=8) | st.lists(st.integers(0, LARGEST_ID), min_size=1, max_size=CONTEXT),
    options=st.fixed_dictionaries(
        {"max_tokens": st.integers(0, 3), "seed": st.integers(0, 2**63 - 1)},
        optional={
            "temperature": st.floats(0, 1e300), "top_p": st.floats(0, 1), "top_k": st.integers(1, 2**40),
            "min_p": st.floats(0, 1), "repetition_penalty": st.floats(1e-300, 1e300),
            "presence_penalty": st.floats(-2, 2), "frequency_penalty": st.floats(-2, 2), "n": st.integers(1, 3),
            "logprobs": st.integers(0, 5), "echo": st.booleans(), "stop": st.text(min_size=1, max_size=3),
            "logit_bias": st.dictionaries(st.integers(0, LARGEST_ID).map(str), st.floats(-100, 100), max_size=3),
        },
    ),
)  # fmt: skip
def test_every_valid_request_is_answered_the_same_streamed_or_not(prompt, options, live):
    body = {"prompt": prompt, **options}
    answer = live.post(body)
    if isinstance(prompt, str) and len(prompt.encode()) > CONTEXT:
        return
    assert answer.status_code == 200, answer.text
    whole = strict(answer.text)
    streamed = live.post(body | {"stream": True, "stream_options": {"include_usage": True}})
    chunks = [strict(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert chunks[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [part for chunk in chunks for part in chunk["choices"] if part["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        assert parts[-1]["finish_reason"] == choice["finish_reason"] in ("stop", "length")
        if "logprobs" in options:
            values = [value for part in parts if part["logprobs"] for value in part["logprobs"]["token_logprobs"]]
            assert values == choice["logprobs"]["token_logprobs"]


def test_requests_leave_no_memory_behind(live):
    def send(first: int) -> None:
        for number in range(first, first + 30):
            text = f"{number} " * 5000  # no two are alike
            live.post({"prompt": text, "max_tokens": 1})  # longer than the context
            live.post({"prompt": "x", "max_tokens": 1, "stream": True, "user": text})
            live.post({"prompt": "x", "model": text})
            live.post({"prompt": "x", text: 1})
            live.post(text.encode())
            live.get(f"/{text[:8000]}")
        clear_cache()  # of the client's addresses
        gc.collect()

    send(0)  # what is made once
    tracemalloc.start()
    try:
        send(30)
        before = tracemalloc.get_traced_memory()[0]
        for first in (60, 90, 120):
            send(first)
        assert tracemalloc.get_traced_memory()[0] - before < 300_000  # 90 of the shortest: 720,000
    finally:
        tracemalloc.stop()


def test_nothing_is_left_of_all_these_requests(live):
    [model] = live.server.models.values()
    for _ in range(100):
        if not model.worker.requests():
            break
        threading.Event().wait(0.05)
    assert model.worker.requests() == 0
    assert model.worker._owners == {}
    assert model.worker._engine.idle
