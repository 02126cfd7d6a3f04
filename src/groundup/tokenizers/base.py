"""Base class of all tokenizers: text to token ids and back, with a table of the bytes that each id stands for."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from groundup.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "groundup-tokenizer.json"

Ids: TypeAlias = npt.NDArray[np.uint32]


class Tokenizer(ABC):
    """Text to token ids, from 0 to `n_vocab - 1`, and back.

    One id, `end_of_text`, ends every document; no text encodes to it, not even the text `<|endoftext|>`.
    """

    name: str  # the kind: "byte", "char", "gpt1", "gpt2", "bpe" or "json" (a tokenizer.json of another program)
    unknown: int | None = None  # the id of text that is not in the vocabulary, if there is one

    def __init__(self, pieces: Sequence[bytes], end_of_text: int) -> None:
        self.pieces, self.end_of_text = pieces, end_of_text  # pieces: the bytes of each id

    @override
    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name}, {self.n_vocab:,} ids)"

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """The ids of `text`, shape (T,). Raises TokenizerError where the text cannot be encoded."""

    @abstractmethod
    def definition(self) -> Mapping[str, str]:
        """The values that, with the kind, decide which ids a text gets; saved as JSON."""

    @property
    def n_vocab(self) -> int:
        """Number of ids, `end_of_text` included."""
        return len(self.pieces)

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of everything that decides which ids a text gets."""
        canonical = json.dumps([self.name, self.definition()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def lossy(self) -> str | None:
        """A sentence on what encoding and decoding lose, such as upper case and accents; None if nothing."""
        return None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`, which may end within a character. Raises TokenizerError for an id that does not exist."""
        numbers = np.fromiter(ids, dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self.n_vocab)]
        if outside.size:
            raise TokenizerError(
                f"id {outside[0]} is not among the {self.n_vocab} ids of the tokenizer {self.name!r}; "
                "use the tokenizer that these tokens, or this model, were made with"
            )
        return b"".join([self.pieces[number] for number in numbers.tolist()])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`, with U+FFFD where their bytes are not UTF-8."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """Write the tokenizer to `folder` (made if missing), for `load_tokenizer` to read."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"kind": self.name, **self.definition(), "fingerprint": self.fingerprint}
        (folder / TOKENIZER_FILE).write_text(json.dumps(contents, indent=2) + "\n", encoding="ascii")


@dataclass(frozen=True)
class TokenizerTrainer:
    """A tokenizer that is yet to be trained on text.

    `needs_all_text`: it cannot encode characters it was not trained on, so it is trained on the validation text too;
    other tokenizers should never see that.
    """

    train: Callable[[Iterable[str]], Tokenizer]
    needs_all_text: bool


def raise_surrogate_error(error: UnicodeEncodeError) -> NoReturn:
    """Raise the TokenizerError for text that is not Unicode: half of a surrogate pair without the other half."""
    raise TokenizerError(
        f"character {error.start} of the text is U+{ord(error.object[error.start]):04X}, half of a surrogate pair, "
        "which no encoding can express; decode the text again, replacing invalid bytes"
    ) from None
