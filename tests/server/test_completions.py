"""Answers of the server through the official client: texts, stops, counts and log-probabilities, streamed and not."""

import codecs
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest
import torch
from liveserver import CONTEXT, lone, lone_text, random_model, serving

from groundup.generation.engine import Request
from groundup.generation.sampling import Sampling
from groundup.server.app import merged
from groundup.server.schemas import Choice, Logprobs
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer

KOREAN = "나는 오늘 바다를 보았다 🌊 그리고 웃었다 😀.\n"  # 65 bytes: by so many the window moves when its 128 are full
TEXT = "the quick brown fox jumps over the lazy dog; Zwölf Boxkämpfer jagen Viktor 😀 über den großen Sylter Deich.\n"


@pytest.fixture(scope="module")
def korean():
    """Byte model that writes KOREAN again and again: the next byte depends on the position alone."""
    line = KOREAN.encode()
    loaded = random_model(ByteTokenizer(), n_layer=1, n_embd=272, block_size=128)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.zero_()
        loaded.model.ln_f.weight.fill_(1.0)
        loaded.model.lm_head.weight.copy_(torch.eye(*loaded.model.lm_head.weight.shape))
        for position in range(128):
            loaded.model.wpe.weight[position, line[(position + 1) % len(line)]] = 1.0
    return loaded


@pytest.fixture(scope="module")
def models(korean):
    """One model of each kind of tokenizer."""
    bpe = [BPETokenizer.train([TEXT * 3], size) for size in (258, 320)]
    tokenizers = {"char": CharTokenizer.train([TEXT]), "bpe258": bpe[0], "bpe320": bpe[1], "gpt2": GPT2Tokenizer()}
    return {"korean": korean} | {name: random_model(tokenizer) for name, tokenizer in tokenizers.items()}


@pytest.fixture(scope="module")
def server(models):
    with serving(models) as live:
        yield live


@pytest.fixture(scope="module")
def client(server):
    return server.client


def joined(stream) -> tuple[dict[int, str], dict[int, list[str]], dict[int, str]]:
    """Of a stream: the text, the texts after each chunk, and the reason for the end of each choice."""
    texts, steps, ends = {}, {}, {}
    for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            steps.setdefault(choice.index, []).append(texts[choice.index])
            if choice.finish_reason:
                assert choice.index not in ends
                ends[choice.index] = choice.finish_reason
    return texts, steps, ends


def events(answer: httpx.Response) -> list[dict]:
    """The chunks of a stream; each line must be JSON in UTF-8 by itself."""
    *lines, last = [line.decode() for line in answer.content.split(b"\n\n") if line]
    assert last == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def both_ways(server, bodies: list[dict]) -> list[tuple[dict, list[dict]]]:
    """For each request, all of them at the same time: the whole answer, and the choices of a stream."""
    with ThreadPoolExecutor(16) as pool:
        whole = pool.map(server.post, bodies)
        streamed = pool.map(lambda body: events(server.post(body | {"stream": True})), bodies)
        return [
            (answer.json()["choices"][0], [chunk["choices"][0] for chunk in chunks])
            for answer, chunks in zip(whole, streamed, strict=True)
        ]


@pytest.mark.parametrize("name", ["korean", "char", "bpe258", "bpe320", "gpt2"])
def test_a_stop_string_ends_the_text_before_it_wherever_tokens_begin(name, server, models):
    options = {"model": name, "prompt": "나는" if name == "korean" else "the", "max_tokens": 60, "temperature": 0}
    text = lone_text(models[name], options["prompt"], 60)
    assert len(set(text)) > 5
    stops = [text[border - 2 : border + 2] for border in range(2, min(len(text), 62))]
    bodies = []
    for i, stop in enumerate(stops):  # in every third request, with others that begin like it
        bodies.append(options | {"stop": stop if i % 3 else [stop + "\0", stop[:-1] + "\0", stop]})
    for stop, (whole, parts) in zip(stops, both_ways(server, bodies), strict=True):
        expected, sent = text[: text.find(stop)], ""
        assert (whole["text"], whole["finish_reason"]) == (expected, "stop")
        for part in parts:
            sent += part["text"]
            assert expected.startswith(sent), "nothing is sent that belongs to the stop"
        assert (sent, [part["finish_reason"] for part in parts if part["finish_reason"]]) == (expected, ["stop"])
    one_begins_the_other = [text[4:7], text[4:6]]  # the shorter one is complete first
    answer = server.post(options | {"stop": one_begins_the_other}).json()
    assert answer["choices"][0]["text"] == text[: text.find(text[4:6])]


def test_a_stop_string_in_an_echoed_prompt_counts_for_nothing(client, models):
    text = lone_text(models["char"], "the fox", 20)
    answer = client.completions.create(
        model="char", prompt="the fox", max_tokens=20, temperature=0, echo=True, stop=["fox", "e f", text[5:8]]
    )
    assert answer.choices[0].text == "the fox" + text[: text.find(text[5:8])]


@pytest.mark.parametrize("name", ["korean", "bytes"])
def test_a_budget_that_ends_within_a_character_shows_no_half_of_it(name, server, live, models, byte_model):
    loaded, where, prompt = (models | {"bytes": byte_model})[name], server if name == "korean" else live, "나".encode()
    bodies, expected = [], []
    for k in range(1, 61):
        options = {"temperature": 1.0, "seed": k % 10}
        pieces = lone(loaded, Request(tuple(prompt), k, Sampling(**options)))
        data = b"".join(loaded.tokenizer.pieces[piece.tokens[0]] for piece in pieces if piece.tokens != [256])
        expected.append(codecs.getincrementaldecoder("utf-8")("replace").decode(data))
        bodies.append({"model": name, "prompt": list(prompt), "max_tokens": k, **options})
    for text, (whole, parts) in zip(expected, both_ways(where, bodies), strict=True):
        assert whole["text"] == "".join(part["text"] for part in parts) == text
    assert any("\ufffd" in text for text in expected) == (name == "bytes"), "where bytes are invalid, and nowhere else"


def test_each_event_of_a_stream_is_sent_while_text_is_generated(server):
    body = {"model": "korean", "prompt": "나는", "max_tokens": 60, "temperature": 0, "stream": True}
    answer = server.post(body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = events(answer)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == lone_text(server.loaded["korean"], "나는", 60)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert not any("usage" in chunk for chunk in chunks)
    assert len(chunks) > 10


@pytest.mark.slow
def test_10000_tokens_of_korean_and_emoji_have_no_replacement_character(server):
    body = {"model": "korean", "prompt": "나는", "max_tokens": 10_000, "temperature": 0}
    [(whole, parts)] = both_ways(server, [body])
    text = "".join(part["text"] for part in parts)
    assert whole["text"] == text == (KOREAN.removeprefix("나는") + KOREAN * 160)[: len(text)]
    assert len(text.encode()) > 9_996, "all but the bytes of an unfinished character"
    assert "\ufffd" not in text


def oracle(loaded, ids: list[int]) -> list[float]:
    """Log-probability of each id but the first, by one forward pass."""
    with torch.inference_mode():
        scores = loaded.model(torch.tensor([ids])).float()[0, :, : loaded.tokenizer.n_vocab].log_softmax(-1)
    return [scores[i, token].item() for i, token in enumerate(ids[1:])]


@pytest.mark.parametrize("length", [1, 5, CONTEXT])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_the_tokens_of_a_prompt_are_scored(length, max_tokens, live, byte_model):
    ids = [(7 * i * i + 3 * i) % 256 for i in range(length)]
    client = live.client
    with ThreadPoolExecutor(8) as pool:
        others = [pool.submit(client.completions.create, model="bytes", prompt=f"x{i}", max_tokens=8) for i in range(7)]
        answer = client.completions.create(
            model="bytes", prompt=[ids, [9, 8]], echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
        )
        [other.result() for other in others]
    choice = answer.choices[0]
    logprobs = choice.logprobs
    assert answer.usage.completion_tokens == 2 * max_tokens
    assert answer.usage.prompt_tokens == length + 2
    assert [choice.finish_reason for choice in answer.choices] == ["length", "length"]
    assert len(logprobs.tokens) == len(logprobs.token_logprobs) == len(logprobs.text_offset) == length + max_tokens
    assert logprobs.token_logprobs[0] is logprobs.top_logprobs[0] is None
    assert logprobs.token_logprobs[1:length] == pytest.approx(oracle(byte_model, ids), abs=1e-4)
    assert answer.choices[1].logprobs.token_logprobs[1] == pytest.approx(oracle(byte_model, [9, 8])[0], abs=1e-4)
    for token, value, top in list(zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True))[
        1:
    ]:
        assert top[token] == value <= max(top.values()) <= 0
        assert 1 <= len(top) <= 2
    if max_tokens:
        assert logprobs.token_logprobs[-1] == max(logprobs.top_logprobs[-1].values()), "greedy takes the most likely"


def test_log_probabilities_are_the_same_in_a_stream_and_offsets_point_into_the_text(client, models):
    options = {
        "model": "korean",
        "prompt": "나는",
        "max_tokens": 30,
        "temperature": 0.5,
        "seed": 3,
        "logprobs": 2,
        "echo": True,
    }
    whole = client.completions.create(**options).choices[0]
    parts = [chunk.choices[0] for chunk in client.completions.create(**options, stream=True)]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert getattr(whole.logprobs, name) == [value for part in parts for value in getattr(part.logprobs, name)]
    assert "".join(part.text for part in parts) == whole.text
    assert whole.logprobs.text_offset[:8] == [0, 0, 0, 1, 1, 1, 2, 3]
    assert whole.logprobs.tokens[:2] == ["bytes:\\xeb", "bytes:\\x82"]
    letters = [i for i, token in enumerate(whole.logprobs.tokens) if not token.startswith("bytes:")]
    assert letters
    for i in letters:
        assert whole.text[whole.logprobs.text_offset[i]] == whole.logprobs.tokens[i]
    plain = client.completions.create(**options | {"echo": False}).choices[0]
    assert plain.logprobs.token_logprobs == whole.logprobs.token_logprobs[6:]
    assert plain.logprobs.text_offset == [offset - 2 for offset in whole.logprobs.text_offset[6:]]


def test_no_alternatives_are_returned_for_logprobs_0(live):
    logprobs = live.client.completions.create(model="bytes", prompt="ab", max_tokens=3, logprobs=0).choices[0].logprobs
    assert [list(top.items()) for top in logprobs.top_logprobs] == [
        [pair] for pair in zip(logprobs.tokens, logprobs.token_logprobs, strict=True)
    ]
    assert live.client.completions.create(model="bytes", prompt="ab", max_tokens=3).choices[0].logprobs is None


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", ["ab"]), (["ab", "c"], ["ab", "c"]), ([3, 4], [[3, 4]]), ([[3, 4], [5]], [[3, 4], [5]]), ("", [""]),
        (["ab"], ["ab"]), (["", "x"], ["", "x"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_several_prompts_and_samples_have_each_its_own_choice(prompt, prompts, stream, live, byte_model):
    options = {"model": "bytes", "prompt": prompt, "n": 2, "max_tokens": 6, "temperature": 1, "seed": 4, "echo": True}
    answer = live.client.completions.create(**options, stream=stream)
    texts = joined(answer)[0] if stream else {choice.index: choice.text for choice in answer.choices}
    assert sorted(texts) == list(range(2 * len(prompts)))
    for index, text in texts.items():
        one = prompts[index // 2]
        echo = one if isinstance(one, str) else byte_model.tokenizer.decode(one)
        assert text == echo + lone_text(byte_model, one, 6, sample=index % 2, temperature=1.0, seed=4)
    if not stream:
        ids = sum(max(1, len(one)) for one in prompts)
        assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (ids, ids + 12 * len(prompts))
        assert [choice.index for choice in answer.choices] == sorted(texts)


def test_without_a_seed_answers_differ_and_with_one_they_do_not(live):
    def texts(**options):
        create = live.client.completions.create
        return {create(model="bytes", prompt=["a", "a"], max_tokens=12, **options).choices[i].text for i in (0, 1)}

    assert len(texts() | texts()) == 4
    assert len(texts(seed=1) | texts(seed=1)) == 1


def test_a_crowd_gets_what_each_would_get_alone(live, byte_model):
    def ask(seed):
        sampling = {"temperature": 0.9, "top_p": 0.9, "seed": seed, "frequency_penalty": 0.3}
        ids = list(range(1 + seed % 7, 9 + seed))
        answer = live.client.completions.create(model="bytes", prompt=ids, max_tokens=4 + seed, **sampling)
        return answer.choices[0].text, lone_text(byte_model, ids, 4 + seed, **sampling)

    with ThreadPoolExecutor(12) as pool:
        for served, alone in pool.map(ask, range(16)):
            assert served == alone


def test_text_goes_on_past_the_context_as_documented(live, byte_model):
    lengths = [(length, n) for length in (1, CONTEXT - 1, CONTEXT) for n in (1, 2, 10, CONTEXT, CONTEXT + 1, 160)]

    def ask(length, n):
        ids = [(5 * i) % 251 for i in range(length)]
        answer = live.client.completions.create(model="bytes", prompt=ids, max_tokens=n, temperature=0)
        return answer.choices[0].text, answer.usage.prompt_tokens, answer.usage.completion_tokens

    with ThreadPoolExecutor(len(lengths)) as pool:
        answers = list(pool.map(ask, *zip(*lengths, strict=True)))
    for (length, n), answer in zip(lengths, answers, strict=True):
        ids = [(5 * i) % 251 for i in range(length)]
        assert answer == (lone_text(byte_model, ids, n), length, n)


@pytest.mark.parametrize("prompt", [[1] * (CONTEXT + 1), [1] * 3 * CONTEXT, "a" * (CONTEXT + 1), "a" * 10**6])
@pytest.mark.parametrize("options", [{}, {"stream": True}, {"echo": True, "logprobs": 1, "max_tokens": 0}])
def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(prompt, options, live):
    with pytest.raises(openai.BadRequestError) as error:
        live.client.completions.create(model="bytes", prompt=prompt, **options)
    assert error.value.code == "context_length_exceeded"
    assert error.value.param == "prompt"
    tokens = f"{len(prompt):,}" if len(prompt) < 1000 else "at least 76,924"
    assert f"the prompt has {tokens} tokens, and the model reads at most {CONTEXT}" in error.value.message


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 4, 5])
def test_all_tokens_are_counted(max_tokens, live, byte_model):
    client = live.client
    options = {"model": "bytes", "prompt": "ab", "max_tokens": max_tokens, "temperature": 0, "logprobs": 0}
    answer = client.completions.create(**options)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.tokens) == max_tokens
    *chunks, last = client.completions.create(**options, n=2, stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 2 * max_tokens)
    assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_an_end_of_text_at_the_last_token_is_a_stop_and_not_shown(live, byte_model):
    options = {"model": "bytes", "prompt": "ab", "max_tokens": 3, "temperature": 0, "logprobs": 0}
    made = [piece.tokens[0] for piece in lone(byte_model, Request((97, 98), 2, Sampling(temperature=0.0)))]
    bias = {str(256): 90.0}  # the end of text wins unless another token is forced
    answer = live.client.completions.create(**options, logit_bias=bias)
    assert (answer.choices[0].finish_reason, answer.choices[0].text) == ("stop", "")
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.tokens) == 1
    at_the_last = live.client.completions.create(**options | {"max_tokens": 1}, logit_bias=bias)
    assert at_the_last.choices[0].finish_reason == "stop"
    assert 256 not in made


def test_a_stop_string_complete_at_the_last_token_is_a_stop(client, models):
    text = lone_text(models["char"], "the", 6)
    answer = client.completions.create(model="char", prompt="the", max_tokens=6, temperature=0, stop=text[4:])
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text[:4], "stop")
    held = client.completions.create(model="char", prompt="the", max_tokens=6, temperature=0, stop=text[4:] + "\0")
    assert (held.choices[0].text, held.choices[0].finish_reason) == (text, "length"), "text that was held back is sent"
    options = {"stream": True, "stream_options": {"include_usage": True}, "stop": text[4:] + "\0"}
    *chunks, last = client.completions.create(model="char", prompt="the", max_tokens=6, temperature=0, **options)
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert last.usage.completion_tokens == 6


def test_a_stream_without_tokens_ends_like_others(live):
    options = {
        "model": "bytes",
        "prompt": "ab",
        "max_tokens": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, last = live.client.completions.create(**options)
    assert (first.choices[0].text, first.choices[0].finish_reason) == ("", "length")
    assert (last.usage.completion_tokens, last.usage.prompt_tokens) == (0, 2)


def test_models_are_listed_and_chosen_by_name(client, models):
    assert [model.id for model in client.models.list()] == list(models)
    assert client.models.retrieve("korean").owned_by == "groundup"
    for call in (client.models.retrieve, lambda name: client.completions.create(model=name, prompt="x")):
        with pytest.raises(openai.NotFoundError, match="served are korean, char") as error:
            call("gpt-9")
        assert error.value.code == "model_not_found"


def test_the_asynchronous_client_works_too(live, byte_model):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{live.url}/v1", api_key="none") as client:
            stream = await client.completions.create(
                model="bytes", prompt="ab", max_tokens=9, temperature=0, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(ask()) == lone_text(byte_model, "ab", 9)


def test_a_logit_bias_excludes_or_forces_a_token_at_any_temperature(live):
    for temperature in (0, 1):
        options = {"model": "bytes", "prompt": "ab", "max_tokens": 8, "temperature": temperature, "logprobs": 0}
        plain = live.client.completions.create(**options, seed=1).choices[0].logprobs.tokens
        forced = live.client.completions.create(**options, logit_bias={"65": 100}).choices[0]
        assert forced.text == "A" * 8
        ids = [ByteTokenizer().pieces.index(_bytes(token)) for token in plain]
        without = live.client.completions.create(**options, seed=1, logit_bias={str(ids[0]): -100}).choices[0]
        assert plain[0] not in without.logprobs.tokens


def _bytes(token: str) -> bytes:
    return bytes(int(part, 16) for part in token[6:].split("\\x")[1:]) if token.startswith("bytes:") else token.encode()


def test_parts_of_one_choice_that_wait_together_are_sent_as_one():
    def logprobs(name, value):
        return Logprobs(tokens=[name], token_logprobs=[value], top_logprobs=[None], text_offset=[0])

    parts = [
        Choice(text="a", index=0, logprobs=logprobs("a", -1.0)),
        Choice(text="x", index=1),
        Choice(text="b", index=0, logprobs=logprobs("b", -2.0), finish_reason="length"),
    ]
    first, second = merged(parts)
    assert (first.text, first.index, first.finish_reason) == ("ab", 0, "length")
    assert first.logprobs is not None
    assert (first.logprobs.tokens, first.logprobs.token_logprobs) == (["a", "b"], [-1.0, -2.0])
    assert (second.text, second.index, second.finish_reason) == ("x", 1, None)
