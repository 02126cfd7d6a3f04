"""Text of tokens: never half a character, never anything of a stop string, the same however it is cut into tokens."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.generation.engine import Request
from groundup.generation.sampling import Sampling
from groundup.generation.text import TextStream
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.registry import choose_tokenizer

GREEDY = Sampling(temperature=0)


def cut(data: bytes, seed: int) -> list[bytes]:
    """Pieces of one to four bytes."""
    rng, pieces = random.Random(seed), []
    while data:
        n = rng.randrange(1, 5)
        pieces, data = [*pieces, data[:n]], data[n:]
    return pieces


def fed(pieces: list[bytes], stop=()) -> tuple[list[str], TextStream]:
    """What each piece released, to the stop."""
    stream, texts = TextStream(lambda ids: b"".join(pieces[i] for i in ids), stop), []
    for i in range(len(pieces)):
        texts.append(stream.feed(i))
        if stream.stopped:
            return texts, stream
    return [*texts, stream.finish()], stream


@given(st.binary(max_size=40), st.integers(0, 9))
def test_text_is_that_of_all_bytes_less_an_unfinished_end(data, seed):
    texts, _ = fed(cut(data, seed))
    whole = data.decode("utf-8", "replace")
    text = "".join(texts)
    assert whole.startswith(text)
    assert whole[len(text) :] in ("", "\ufffd")
    assert len(whole) == len(text) or any(is_valid(data + rest) for rest in REST)


REST = [bytes([first, 0x80, 0x80][:n]) for first in (0x80, 0x90, 0xA0) for n in (1, 2, 3)]


def is_valid(data: bytes) -> bool:
    """Whether the last character of `data` is complete."""
    return not data.decode("utf-8", "replace").endswith("\ufffd")


@given(st.text("abc", max_size=12), st.lists(st.text("abc", min_size=1, max_size=4), max_size=3), st.integers(0, 9))
def test_text_ends_before_the_stop_that_is_complete_first_however_it_is_cut(text, stops, seed):
    texts, stream = fed(cut(text.encode(), seed), stops)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    assert "".join(texts) == (text[: min(ends)[1]] if ends else text)
    assert stream.stopped == bool(ends)


@given(st.text("ab\u00e9\ud55c", max_size=12), st.text("ab\u00e9\ud55c", min_size=1, max_size=4), st.integers(0, 9))
def test_nothing_is_released_that_belongs_to_a_stop_or_could_have_been_released_before(text, stop, seed):
    pieces = cut(text.encode(), seed)
    texts, _ = fed(pieces, [stop])
    final, released = "".join(texts), ""
    for n, piece in enumerate(texts, 1):
        released += piece
        assert final.startswith(released)
        seen = b"".join(pieces[:n]).decode("utf-8", "ignore")
        if n <= len(pieces) and stop not in seen:
            held = next(
                k for k in range(min(len(seen), len(stop) - 1), -1, -1) if stop.startswith(seen[len(seen) - k :])
            )
            assert released == seen[: len(seen) - held]


SAMPLE = "The quick brown fox, 12 times: \u00e9t\u00e9 \ud55c\uad6d\uc5b4 \U0001f600 the lazy dog. " * 4
TOKENIZERS = {
    "byte": ByteTokenizer,
    "char": lambda: CharTokenizer.train([SAMPLE]),
    "bpe": lambda: BPETokenizer.train([SAMPLE], 300),
    "gpt2": lambda: choose_tokenizer("gpt2"),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_stop_may_lie_anywhere_across_tokens(name, model_of, run_engine):
    tokenizer = TOKENIZERS[name]()
    width = {"n_embd": 8, "n_inner": 8} if tokenizer.n_vocab > 1000 else {}
    model, prompt = model_of("gpt2", tokenizer.n_vocab, **width), tuple(tokenizer.encode("the quick").tolist())

    def pieces_of(**options):
        request = Request(prompt, 40, Sampling(0.9, seed=2), **options)
        return run_engine(model, [request], tokenizer=tokenizer)[0][0]

    whole = pieces_of()
    text, borders = "".join(piece.text for piece in whole), [0]
    for piece in whole:
        borders.append(borders[-1] + len(piece.text))
    for border in sorted(set(borders))[1:-1:4]:
        stop = text[max(0, border - 2) : border + 2]
        for echo, stops in ((False, (stop,)), (True, (stop + "x", stop, stop[:-1] + "\0"))):
            pieces = pieces_of(stop=stops, echo=echo)
            own = pieces[1:] if echo else pieces
            assert "".join(piece.text for piece in own) == text[: text.find(stop)]
            assert own[-1].finish == "stop"
            made = sum(len(piece.tokens) for piece in own)
            assert [t for piece in own for t in piece.tokens] == [t for piece in whole for t in piece.tokens][:made]


def test_a_stop_in_the_prompt_counts_for_nothing(model_of, run_engine):
    request = Request(tuple(b"stop here"), 5, GREEDY, echo=True, stop=("stop", "here"))
    ((pieces,),) = run_engine(model_of(), [request])
    assert pieces[0].text == "stop here"
    assert sum(len(piece.tokens) for piece in pieces[1:]) == 5


@pytest.mark.parametrize("seed", range(4))
def test_a_budget_within_a_character_makes_no_replacement_characters(seed, model_of, run_engine):
    """Random bytes, many of them invalid: the text of k tokens begins that of k + 1."""
    model, before = model_of(), ""
    for n in range(1, 30):
        ((pieces,),) = run_engine(model, [Request(tuple("한😀".encode()), n, Sampling(seed=seed))])
        data = bytes(token for piece in pieces for token in piece.tokens if token < 256)
        text, whole = "".join(piece.text for piece in pieces), data.decode("utf-8", "replace")
        assert text in (whole, whole[:-1])
        assert text.startswith(before)
        before = text


def test_a_character_that_the_prompt_begins_is_completed_by_the_text():
    begun, rest = "한".encode()[:1], "한".encode()[1:]
    stream = TextStream(bytes, prompt=list(b"a" + begun))
    assert (stream.prompt, [stream.feed(byte) for byte in rest]) == ("a", ["", "한"])
