"""A byte-level BPE of one's own: GPT-2's method, with merges learnt from one's own text.

Training is the `tokenizers` library's, and the file is the ecosystem's `tokenizer.json`. Encoding is tiktoken's, which
gives the same ids in half the time: it joins the two neighbours whose piece is the oldest, wherever that piece came
from, while the library joins only pairs that were merged in training. Merges that were learnt leave no difference.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import tiktoken

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids
from groundup.tokenizers.gpt2 import PATTERN, byte_characters, encode_by_rank
from groundup.tokenizers.hf_backend import LibraryTokenizer
from groundup.tokenizers.hf_format import FILE_NAME
from tokenizers import decoders, models, pre_tokenizers, trainers

SMALLEST_BPE = 257  # the 256 bytes and the end of a text: no merge at all

_PRE_TOKENIZER = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}

# The library's learning takes a time that grows with the square of a word's length: longer runs are cut for it.
_LONG_RUN = re.compile(r"\S{4096}|\s{4096}")


class BPETokenizer(LibraryTokenizer):
    """A trained byte-level BPE, given as the text of a `tokenizer.json`. Every text can be expressed.

    `special_tokens` are those that no text encodes to, `<|endoftext|>` first. Raises TokenizerError where the text is
    not a byte-level BPE with all 256 bytes and `<|endoftext|>`.
    """

    name = "bpe"

    def __init__(self, tokenizer_json: str) -> None:
        try:
            contents = json.loads(tokenizer_json)
            model = contents["model"]
            vocabulary: dict[str, int] = model["vocab"]
            self._merges: list[list[str]] = model["merges"]
            engine = tokenizers.Tokenizer.from_str(tokenizer_json)
            end_of_text = vocabulary[END_OF_TEXT]
            self.special_tokens = [END_OF_TEXT] + [
                token["content"] for token in contents["added_tokens"] if token["content"] != END_OF_TEXT
            ]
            pieces = _pieces(vocabulary, self.special_tokens)
            learnt_here = contents["normalizer"] is None and contents["pre_tokenizer"] == _PRE_TOKENIZER
            in_order = _are_in_order(vocabulary, self._merges)
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise TokenizerError(
                f"not a byte-level BPE with {END_OF_TEXT} ({error}); train one with bpe:SIZE"
            ) from None
        super().__init__(engine, pieces, end_of_text)
        self._json = tokenizer_json
        self._encoding: tiktoken.Encoding | None = None
        if learnt_here and in_order:
            ranks = {piece: id_ for id_, piece in enumerate(pieces) if id_ >= len(self.special_tokens)}
            self._encoding = tiktoken.Encoding("bpe", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})

    def encode(self, text: str) -> Ids:
        """The ids of `text`, shape (T,). Raises TokenizerError where it is not Unicode."""
        return super().encode(text) if self._encoding is None else encode_by_rank(self._encoding, text)

    @classmethod
    def learn(
        cls, texts: Iterable[str], n_vocab: int, *, min_frequency: int = 1, special_tokens: Sequence[str] = ()
    ) -> "BPETokenizer":
        """Train on `texts` up to `n_vocab` ids; a small corpus may hold fewer merges than that.

        A pair of pieces is merged only if it occurs at least `min_frequency` times. The ids of `<|endoftext|>` and of
        the further `special_tokens` are 0, 1, 2, …; where it is among them, in their order.
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

    def definition(self) -> Mapping[str, str]:
        """The vocabulary and the merges, as a checksum: `tokenizer.json` holds them in full."""
        contents = json.dumps([[piece.hex() for piece in self.pieces], self._merges], separators=(",", ":"))
        return {"merges_sha256": hashlib.sha256(contents.encode("ascii")).hexdigest()}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which other tools read as well, beside groundup's own small file."""
        super().save(folder)
        (folder / FILE_NAME).write_text(self._json, encoding="utf-8")


def _are_in_order(vocabulary: Mapping[str, int], merges: Sequence[Sequence[str]]) -> bool:
    """Whether each merge makes a piece of its own, with the next id: then an id is a rank."""
    made = [vocabulary["".join(pair)] for pair in merges]
    return made == list(range(len(vocabulary) - len(merges), len(vocabulary)))


def check_special_tokens(tokens: Sequence[str]) -> None:
    """TokenizerError for a special token that a text could become by merges, that is there twice, or is no text.

    Merges never join what GPT-2's pattern cuts apart, so a token that the pattern cuts is safe.
    """
    pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
    for i, token in enumerate(tokens):
        if token == END_OF_TEXT and token not in tokens[:i]:
            continue  # which is there in any case; here it has its place among the others
        if token in tokens[:i]:
            raise TokenizerError(f"special token {token!r}: it is there already; leave it out")
        if not token.isprintable():  # also halves of surrogate pairs
            raise TokenizerError(f"special token {token!r}: not printable; write it in visible characters, as <|pad|>")
        if len(pattern.pre_tokenize_str(token)) < 2:
            raise TokenizerError(
                f"special token {token!r}: an ordinary text could become it; "
                "let it have both letters and punctuation marks, as <|pad|>"
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
