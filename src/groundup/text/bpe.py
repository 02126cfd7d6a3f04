"""A byte-level BPE of one's own: GPT-2's method, with merges learnt from one's own text.

Training and encoding are the `tokenizers` library's; the file is the ecosystem's `tokenizer.json`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from groundup.errors import TokenizerError
from groundup.text.gpt2 import byte_characters
from groundup.text.pieces import END_OF_TEXT, Ids, PieceTokenizer, refuse_surrogate

BPE_FILE_NAME = "tokenizer.json"
SMALLEST_BPE = 257  # the 256 bytes and the end of a text: no merge at all


class BPETokenizer(PieceTokenizer):
    """A trained byte-level BPE, given as the text of a `tokenizer.json`. Every text can be expressed.

    Raises TokenizerError where the text is not a byte-level BPE with all 256 bytes and `<|endoftext|>`.
    """

    name = "bpe"

    def __init__(self, tokenizer_json: str) -> None:
        try:
            model = json.loads(tokenizer_json)["model"]
            vocabulary: dict[str, int] = model["vocab"]
            self._merges: list[list[str]] = model["merges"]
            self._engine = tokenizers.Tokenizer.from_str(tokenizer_json)
            end_of_text = vocabulary[END_OF_TEXT]
            pieces = _pieces(vocabulary)
        except Exception as error:  # the library raises bare Exception for a file that it cannot use
            raise TokenizerError(
                f"not a byte-level BPE with {END_OF_TEXT} ({error}); train one with bpe:SIZE"
            ) from None
        super().__init__(pieces, end_of_text)
        self._engine.encode_special_tokens = True  # text that spells out a special token is only text
        self._json = tokenizer_json

    @classmethod
    def learn(cls, texts: Iterable[str], n_vocab: int) -> "BPETokenizer":
        """Train on `texts` up to `n_vocab` ids; a small corpus may hold fewer merges than that."""
        engine = tokenizers.Tokenizer(models.BPE())
        engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # applies GPT-2's pattern
        engine.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=n_vocab,
            special_tokens=[END_OF_TEXT],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        engine.train_from_iterator(texts, trainer)
        return cls(engine.to_str())

    def encode(self, text: str) -> Ids:
        """The ids that `tokenizers` gives `text`."""
        try:
            text.encode("utf-8")  # only to refuse what is not Unicode: the library would speak of a type error
        except UnicodeEncodeError as error:
            refuse_surrogate(error)
        # The fast form of encoding, which keeps no offsets, exists for batches only.
        [encoded] = self._engine.encode_batch_fast([text], add_special_tokens=False)
        return np.array(encoded.ids, dtype=np.uint32)

    def definition(self) -> Mapping[str, str]:
        """The vocabulary and the merges, as a checksum: `tokenizer.json` holds them in full."""
        contents = json.dumps([[piece.hex() for piece in self.pieces], self._merges], separators=(",", ":"))
        return {"merges_sha256": hashlib.sha256(contents.encode("ascii")).hexdigest()}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which other tools read as well, beside groundup's own small file."""
        super().save(folder)
        (folder / BPE_FILE_NAME).write_text(self._json, encoding="utf-8")


def _pieces(vocabulary: Mapping[str, int]) -> list[bytes]:
    byte_of = byte_characters()
    spelling = {id_: text for text, id_ in vocabulary.items()}
    texts = [spelling[id_] for id_ in range(len(spelling))]
    return [t.encode() if t == END_OF_TEXT else bytes(byte_of[char] for char in t) for t in texts]
