"""What a tokenizer is, and the ways to get one: by name, by learning from text, from a folder."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Protocol

from groundup.errors import TokenizerError
from groundup.text.bpe import BPE_FILE_NAME, SMALLEST_BPE, BPETokenizer
from groundup.text.gpt2 import GPT2Tokenizer
from groundup.text.pieces import TOKENIZER_FILE, Ids
from groundup.text.simple import ByteTokenizer, CharTokenizer

CHOICES = ("byte", "char", "gpt2", "bpe:SIZE")
LARGEST_BPE = 1_000_000  # ids; beyond any published vocabulary, so surely a slip


class Tokenizer(Protocol):
    """What the rest of groundup may ask of a tokenizer.

    Ids run from 0 to `n_vocab - 1`. One of them, `end_of_text`, stands after every document; no text encodes to it,
    not even the text `<|endoftext|>`.
    """

    @property
    def name(self) -> str:
        """The kind: "byte", "char", "gpt2" or "bpe"."""
        ...

    @property
    def n_vocab(self) -> int:
        """How many ids there are, `end_of_text` among them."""
        ...

    @property
    def end_of_text(self) -> int:
        """The id that ends a document."""
        ...

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text gets, in hexadecimal."""
        ...

    def encode(self, text: str) -> Ids:
        """The ids of `text`, shape (T,). Raises TokenizerError where the text cannot be expressed."""
        ...

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that `ids` stand for; they may end in the middle of a character."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """The text that `ids` stand for, with U+FFFD where their bytes are not UTF-8."""
        ...

    def save(self, folder: Path) -> None:
        """Write the tokenizer to `folder` (made if missing), for `load_tokenizer` to read."""
        ...


@dataclass(frozen=True)
class Learner:
    """A tokenizer that must first see text.

    `needs_all_text` says that it cannot encode what it has not seen, so it must see the validation text as well;
    otherwise it should be kept from seeing it.
    """

    learn: Callable[[Iterable[str]], Tokenizer]
    needs_all_text: bool


def choose_tokenizer(spec: str) -> Tokenizer | Learner:
    """The tokenizer called `byte` or `gpt2`, or the learner of `char` or `bpe:SIZE`.

    Raises TokenizerError for any other name.
    """
    match spec.split(":", 1):
        case ["byte"]:
            return ByteTokenizer()
        case ["gpt2"]:
            return GPT2Tokenizer()
        case ["char"]:
            return Learner(CharTokenizer.learn, needs_all_text=True)
        case ["bpe", size]:
            return Learner(partial(BPETokenizer.learn, n_vocab=_bpe_size(size)), needs_all_text=False)
    kinds = {choice.partition(":")[0]: choice for choice in CHOICES}
    near = get_close_matches(spec.lower(), kinds, n=1)
    hint = f"did you mean {kinds[near[0]]}? " if near else ""
    raise TokenizerError(f"unknown tokenizer {spec!r}; {hint}choose one of {', '.join(CHOICES)}")


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote to `folder`.

    Raises TokenizerError when there is none, it is damaged, or its ids would no longer be the same.
    """
    path = folder / TOKENIZER_FILE
    try:
        saved = json.loads(path.read_text(encoding="ascii"))
        tokenizer = _rebuild(saved, folder)
        intact = tokenizer.fingerprint == saved["fingerprint"]
    except FileNotFoundError as error:
        raise TokenizerError(
            f"{folder}: no tokenizer here ({error.filename} is missing); give a folder that groundup wrote"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, TokenizerError) as error:
        raise TokenizerError(
            f"{path}: cannot be read as a tokenizer ({error}); copy the folder again, or prepare again"
        ) from None
    if not intact:
        raise TokenizerError(
            f"{path}: the fingerprint does not match, so the folder was changed; copy it again, or prepare again"
        )
    return tokenizer


def _rebuild(saved: dict[str, str], folder: Path) -> Tokenizer:
    match saved["kind"]:
        case "byte":
            return ByteTokenizer()
        case "char":
            return CharTokenizer(saved["characters"])
        case "gpt2":
            return GPT2Tokenizer()
        case "bpe":
            return BPETokenizer((folder / BPE_FILE_NAME).read_text(encoding="utf-8"))
        case kind:
            raise TokenizerError(f"unknown kind {kind!r}, perhaps of a newer groundup")


def _bpe_size(size: str) -> int:
    if not (size.isdecimal() and len(size) <= len(str(LARGEST_BPE)) and SMALLEST_BPE <= int(size) <= LARGEST_BPE):
        raise TokenizerError(
            f"bpe:{size}: the size must be a whole number of ids from {SMALLEST_BPE} to {LARGEST_BPE}, as in bpe:8192"
        )
    return int(size)
