"""What all tokenizers share: a table of the bytes that each id stands for."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from groundup.errors import TokenizerError

END_OF_TEXT = "<|endoftext|>"
TOKENIZER_FILE = "groundup-tokenizer.json"

Ids: TypeAlias = npt.NDArray[np.uint32]


class PieceTokenizer(ABC):
    """A tokenizer without its `encode`: a table says which bytes each id stands for.

    A subclass adds `encode`, and `definition`: the few JSON values that decide every id.
    """

    name: str
    unknown: int | None = None  # the id of what the tokenizer does not know, if it has one

    def __init__(self, pieces: Sequence[bytes], end_of_text: int) -> None:
        self.pieces = pieces
        self.end_of_text = end_of_text

    @abstractmethod
    def encode(self, text: str) -> Ids:
        """See `tokenizer.Tokenizer.encode`."""

    @abstractmethod
    def definition(self) -> Mapping[str, str]:
        """Everything, besides the kind, that decides which ids a text gets."""

    @property
    def n_vocab(self) -> int:
        """See `tokenizer.Tokenizer.n_vocab`."""
        return len(self.pieces)

    @property
    def fingerprint(self) -> str:
        """See `tokenizer.Tokenizer.fingerprint`."""
        canonical = json.dumps([self.name, self.definition()], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @property
    def lossy(self) -> str | None:
        """See `tokenizer.Tokenizer.lossy`."""
        return None

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """See `tokenizer.Tokenizer.decode_bytes`. Raises TokenizerError for an id that does not exist."""
        numbers = np.fromiter(ids, dtype=np.int64)
        outside = numbers[(numbers < 0) | (numbers >= self.n_vocab)]
        if outside.size:
            raise TokenizerError(
                f"id {outside[0]} is not among the {self.n_vocab} ids of the tokenizer {self.name!r}; "
                "use the tokenizer that these tokens, or this model, were made with"
            )
        return b"".join([self.pieces[number] for number in numbers.tolist()])

    def decode(self, ids: Iterable[int]) -> str:
        """See `tokenizer.Tokenizer.decode`."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def save(self, folder: Path) -> None:
        """See `tokenizer.Tokenizer.save`."""
        folder.mkdir(parents=True, exist_ok=True)
        contents = {"kind": self.name, **self.definition(), "fingerprint": self.fingerprint}
        (folder / TOKENIZER_FILE).write_text(json.dumps(contents, indent=2) + "\n", encoding="ascii")


def refuse_surrogate(error: UnicodeEncodeError) -> NoReturn:
    """Raise the TokenizerError for text that is not Unicode: half of a surrogate pair without the other half."""
    raise TokenizerError(
        f"character {error.start} of the text is U+{ord(error.object[error.start]):04X}, half of a surrogate pair, "
        "which no encoding can express; decode the text again, replacing what is not valid"
    ) from None
