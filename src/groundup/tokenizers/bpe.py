"""Byte-level BPE trained on the user's text: GPT-2's method with other merges.

The `tokenizers` library trains it, and the file is the usual `tokenizer.json`. tiktoken encodes, which gives the same
ids in half the time: it merges the two neighbours whose piece has the lowest rank, however that piece came about, while
the library merges only pairs that were merged in training. With trained merges the result is the same.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tiktoken
from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids
from groundup.tokenizers.gpt2 import PATTERN, byte_characters, encode_by_rank
from groundup.tokenizers.hf_backend import HFTokenizer
from groundup.tokenizers.hf_json import FILE_NAME, model_ids, parse
from groundup.tokenizers.hf_limits import check_limits
from tokenizers import decoders, models, pre_tokenizers, trainers

MIN_BPE_VOCAB = 257  # the 256 bytes and the end of a text, without any merge

_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# The library's training time grows with the square of a word's length, so longer runs are cut.
_LONG_RUN = re.compile(r"\S{4096}|\s{4096}")


class BPETokenizer(HFTokenizer):
    """A trained byte-level BPE, given as the text of a `tokenizer.json`. Encodes every text.

    `special_tokens`: tokens that no text encodes to, `<|endoftext|>` first. Raises TokenizerError where the JSON is no
    byte-level BPE with all 256 bytes and `<|endoftext|>`.
    """

    name = "bpe"

    def __init__(self, tokenizer_json: str) -> None:
        try:
            contents = parse(tokenizer_json)
            check_limits(contents, model_ids(contents))
            model = contents["model"]
            vocabulary: dict[str, int] = model["vocab"]
            self._merges: list[list[str]] = model["merges"]
            engine = tokenizers.Tokenizer.from_str(json.dumps(contents))  # what was checked
            end_of_text = vocabulary[END_OF_TEXT]
            self.special_tokens = [END_OF_TEXT] + [
                token["content"] for token in contents["added_tokens"] if token["content"] != END_OF_TEXT
            ]
            pieces = _pieces(vocabulary, self.special_tokens)
            trained_here = contents["normalizer"] is None and contents["pre_tokenizer"] == _PRE_TOKENIZER
            made = [vocabulary["".join(pair)] for pair in self._merges]
            # Each merge adds one piece, with the next id, so that ids are ranks.
            in_order = made == list(range(len(vocabulary) - len(made), len(vocabulary)))
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise TokenizerError(
                f"not a byte-level BPE with {END_OF_TEXT} ({error}); train one with bpe:SIZE"
            ) from None
        super().__init__(engine, pieces, end_of_text, {FILE_NAME: tokenizer_json})
        self._encoding: tiktoken.Encoding | None = None
        if trained_here and in_order:
            ranks = {piece: id_ for id_, piece in enumerate(pieces) if id_ >= len(self.special_tokens)}
            self._encoding = tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    @override
    def encode(self, text: str) -> Ids:
        return super().encode(text) if self._encoding is None else encode_by_rank(self._encoding, text)

    @classmethod
    def train(
        cls, texts: Iterable[str], n_vocab: int, *, min_frequency: int = 1, special_tokens: Sequence[str] = ()
    ) -> "BPETokenizer":
        """Train on `texts` up to `n_vocab` ids; a small corpus may have fewer merges than that.

        A pair of pieces is merged only if it occurs at least `min_frequency` times. `<|endoftext|>` and the
        `special_tokens` get the ids 0, 1, 2, …; if it is one of them, in their order.
        """
        first = [] if END_OF_TEXT in special_tokens else [END_OF_TEXT]
        engine = tokenizers.Tokenizer(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # applies GPT-2's pattern
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=n_vocab,
            min_frequency=min_frequency,
            special_tokens=[*first, *special_tokens],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        engine.train_from_iterator(_cut_long_runs(texts), trainer)
        return cls(engine.to_str())

    @override
    def definition(self) -> Mapping[str, str]:
        contents = json.dumps([[piece.hex() for piece in self.pieces], self._merges], separators=(",", ":"))
        return {"merges_sha256": hashlib.sha256(contents.encode("ascii")).hexdigest()}


def check_special_tokens(tokens: Sequence[str]) -> None:
    """TokenizerError for a special token that merges could form from text, that occurs twice, or is not printable.

    Merges never join what GPT-2's pattern separates, so a token that the pattern cuts is safe.
    """
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for i, token in enumerate(tokens):
        if token == END_OF_TEXT and token not in tokens[:i]:
            continue  # always included; listing it sets its position
        if token in tokens[:i]:
            raise TokenizerError(f"special token {token!r}: it is in the list already; leave it out")
        if not token.isprintable():  # also halves of surrogate pairs
            raise TokenizerError(f"special token {token!r}: not printable; use visible characters, as in <|pad|>")
        if len(pattern.pre_tokenize_str(token)) < 2:
            raise TokenizerError(
                f"special token {token!r}: ordinary text could be encoded as it; "
                "use both letters and punctuation marks, as in <|pad|>"
            )


def _cut_long_runs(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        start = 0
        for run in _LONG_RUN.finditer(text):
            yield text[start : run.end()]
            start = run.end()
        yield text[start:]


def _pieces(vocabulary: Mapping[str, int], special_tokens: Sequence[str]) -> list[bytes]:
    byte_of = byte_characters()
    spelling = {id_: text for text, id_ in vocabulary.items()}
    texts = [spelling[id_] for id_ in range(len(spelling))]
    return [t.encode() if t in special_tokens else bytes(byte_of[char] for char in t) for t in texts]
