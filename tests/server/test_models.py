"""Imported models, and models of every tokenizer, through the server and the official client."""

import random

import numpy as np
import openai
import pytest
import torch
from liveserver import lone_text, random_model, serving

from groundup.checkpoint.state import load
from groundup.interop.import_model import import_model
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer

MARKER = "<|endoftext|>"
AWKWARD = (
    "x != y", "hello !", " 's", " leading", "trailing ", "\n\n\n", "\r\n\t", "na\u0308ive", "\u0085\u00a0", "한국어 😀",
    "".join(map(chr, range(256))), MARKER, f"a{MARKER}b", f"{MARKER} {MARKER}\n",
    *(" " * n + "." for n in range(1, 21)),
)  # fmt: skip


@pytest.fixture(scope="module")
def imported(tmp_path_factory, shared_data):
    """A server of two models that other programs trained: transformers' GPT-2, and nanoGPT's."""
    folder = tmp_path_factory.mktemp("imported")
    CharTokenizer("".join(chr(97 + i) for i in range(31))).save(folder / "char")
    nanogpt = shared_data / "nanogpt-checkpoint" / "ckpt.pt"
    import_model(nanogpt, folder / "nanogpt", tokenizer=str(folder / "char"))
    import_model(shared_data / "tiny-random-gpt2", folder / "gpt2")
    with serving({name: load(folder / name, device="cpu") for name in ("gpt2", "nanogpt")}) as live:
        yield live


def test_an_imported_gpt2_scores_tokens_as_transformers_does(imported, shared_data):
    golden = np.load(shared_data / "tiny-random-gpt2" / "golden_hf_logits.npz")
    answer = imported.client.completions.create(
        model="gpt2", prompt=golden["input_ids"].tolist(), max_tokens=0, echo=True, logprobs=5
    )
    for choice, ids, logits in zip(answer.choices, golden["input_ids"], golden["logits"], strict=True):
        scores = torch.from_numpy(logits).log_softmax(-1)[:-1]
        expected = scores.gather(1, torch.from_numpy(ids[1:, None].astype(np.int64)))[:, 0]
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected.tolist(), abs=1e-4)
        best = [max(top.values()) for top in choice.logprobs.top_logprobs[1:]]
        assert best == pytest.approx(scores.max(-1).values.tolist(), abs=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "nanogpt"])
def test_an_imported_model_continues_a_text_as_it_does_alone(name, imported):
    loaded = imported.loaded[name]
    with torch.inference_mode():
        ids = loaded.tokenizer.encode("abc").tolist()
        for _ in range(5):
            ids.append(int(loaded.model(torch.tensor([ids]))[0, -1, : loaded.tokenizer.n_vocab].argmax()))
    options = {"model": name, "prompt": "abc", "temperature": 0}
    text = imported.client.completions.create(**options, max_tokens=5).choices[0].text
    assert text == loaded.tokenizer.decode(ids).removeprefix("abc")
    tokens = 2 * loaded.config.model.block_size  # past the context
    stream = imported.client.completions.create(**options, max_tokens=tokens, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == lone_text(loaded, "abc", tokens)


@pytest.fixture(scope="module")
def tokenizers():
    """A server of a model of each tokenizer, with room for long texts."""
    found = {"byte": ByteTokenizer(), "char": CharTokenizer.train(AWKWARD), "gpt2": GPT2Tokenizer()}
    found |= {f"bpe{size}": BPETokenizer.train([*AWKWARD, "the cat sat on the mat"], size) for size in (257, 258, 300)}
    shape = {"n_layer": 1, "n_embd": 8, "block_size": 1024}
    with serving({name: random_model(tokenizer, **shape) for name, tokenizer in found.items()}) as live:
        yield live


@pytest.mark.parametrize("name", ["byte", "char", "gpt2", "bpe257", "bpe258", "bpe300"])
def test_a_prompt_is_read_as_it_is_and_a_typed_marker_is_text(name, tokenizers):
    rng, tokenizer = random.Random(0), tokenizers.loaded[name].tokenizer
    texts = [*AWKWARD, *("".join(rng.choices(AWKWARD, k=3)) for _ in range(60))]
    for begin in range(0, len(texts), 40):
        some = texts[begin : begin + 40]
        answer = tokenizers.client.completions.create(model=name, prompt=some, max_tokens=0, echo=True, logprobs=0)
        assert [choice.text for choice in answer.choices] == some
        own = [tokenizer.encode(text).tolist() for text in some]
        assert answer.usage.prompt_tokens == sum(map(len, own))
        assert [len(choice.logprobs.tokens) for choice in answer.choices] == [len(ids) for ids in own]
        assert not any(tokenizer.end_of_text in ids for ids in own)


def test_ids_of_rows_that_only_pad_the_vocabulary_do_not_exist(live, byte_model):
    """A table of 257 ids has 320 rows."""
    assert byte_model.config.model.padded_vocab > 257 + 1
    for options in ({"prompt": [257]}, {"prompt": "x", "logit_bias": {"257": 1}}):
        with pytest.raises(openai.BadRequestError, match="257 is not a token id of this model; ids are from 0 to 256"):
            live.client.completions.create(model="bytes", **options)
    answer = live.client.completions.create(model="bytes", prompt=["x"] * 100, max_tokens=9, temperature=50, logprobs=5)
    assert all(len(choice.logprobs.tokens) <= 9 for choice in answer.choices)
