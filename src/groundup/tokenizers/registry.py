"""What a tokenizer is, and the ways to get one: by name, by learning from text, from a folder."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Protocol

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, TOKENIZER_FILE, Ids
from groundup.tokenizers.bpe import SMALLEST_BPE, BPETokenizer, check_special_tokens
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.tokenizers.hf_format import FILE_NAME
from groundup.tokenizers.hf_json import FileTokenizer, read_tokenizer_file

CHOICES = ("byte", "char", "gpt1", "gpt1:FOLDER", "gpt2", "bpe:SIZE", "bpe:SIZE:pad")
PADDED = ("<|pad|>", END_OF_TEXT)  # ids 0 and 1 of bpe:SIZE:pad
LARGEST_BPE = 1_000_000  # ids; beyond any published vocabulary, so surely a slip


class Tokenizer(Protocol):
    """What the rest of groundup may ask of a tokenizer.

    Ids run from 0 to `n_vocab - 1`. One of them, `end_of_text`, stands after every document; no text encodes to it,
    not even the text `<|endoftext|>`.
    """

    @property
    def name(self) -> str:
        """The kind: "byte", "char", "gpt1", "gpt2", "bpe" or "json" (another program's file)."""
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

    @property
    def lossy(self) -> str | None:
        """`decoding does not give back upper case, accents`, or whatever it is; None where all comes back."""
        ...

    @property
    def unknown(self) -> int | None:
        """The id that stands for whatever is not known, if there is one."""
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
class TokenizerTrainer:
    """A tokenizer that must first see text.

    `needs_all_text` says that it cannot encode what it has not seen, so it must see the validation text as well;
    otherwise it should be kept from seeing it.
    """

    learn: Callable[[Iterable[str]], Tokenizer]
    needs_all_text: bool


def choose_tokenizer(spec: str) -> Tokenizer | TokenizerTrainer:
    """The tokenizer that `spec` names, or the learner of one that must first see text.

        byte  gpt2                  built in
        gpt1  gpt1:FOLDER           GPT-1's own, from the hub or from a folder
        char  bpe:SIZE              learnt from the text
        bpe:SIZE:pad                the same with <|pad|> as id 0, <|endoftext|> as id 1
        PATH                        a `tokenizer.json`, or a folder that holds a tokenizer; see `open_path`

    Raises TokenizerError for anything else, and for files that cannot be used.
    """
    match spec.split(":", 1):
        case ["byte"]:
            return ByteTokenizer()
        case ["gpt1"]:
            return GPT1Tokenizer.download()
        case ["gpt1", folder]:
            return GPT1Tokenizer.read(Path(folder))
        case ["gpt2"]:
            return GPT2Tokenizer()
        case ["char"]:
            return TokenizerTrainer(CharTokenizer.learn, needs_all_text=True)
        case ["bpe", size]:
            bare = size.removesuffix(":pad")
            return bpe_learner(bare, special_tokens=PADDED if bare != size else ())
    path, end_token = _path_and_token(spec)
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return open_path(path, end_token)
    kinds = {
        choice.partition(":")[0]: choice for choice in CHOICES if choice.count(":") < 2 and choice != "gpt1:FOLDER"
    }
    near = get_close_matches(spec.lower(), kinds, n=1)
    hint = f"did you mean {kinds[near[0]]}? " if near else ""
    choices = f"{', '.join(CHOICES)}, or the path of a {FILE_NAME}"
    raise TokenizerError(f"unknown tokenizer {spec!r}; {hint}choose one of {choices}")


def bpe_learner(size: str | int, *, min_frequency: int = 1, special_tokens: Sequence[str] = ()) -> TokenizerTrainer:
    """The learner of a BPE of `size` ids; see `BPETokenizer.learn`. Raises TokenizerError for values out of range."""
    check_special_tokens(special_tokens)
    if min_frequency < 1:
        raise TokenizerError(f"min_frequency {min_frequency}: must be 1 or more; 2 is usual")
    n_vocab = _bpe_size(str(size), SMALLEST_BPE + len({*special_tokens} - {END_OF_TEXT}))
    learn = partial(BPETokenizer.learn, n_vocab=n_vocab, min_frequency=min_frequency, special_tokens=special_tokens)
    return TokenizerTrainer(learn, needs_all_text=False)


def open_path(path: Path, end_token: str | None = None) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, or of a folder: one with that file, or any that groundup wrote.

    That is a tokenizer, prepared data, a checkpoint, or a run, whose tokenizer is its latest checkpoint's. `end_token`
    says how documents end, for another program's file. Raises TokenizerError when there is none, or it is damaged.
    """
    if not path.is_dir():
        return read_tokenizer_file(path, end_token)
    for folder in (path, path / "tokenizer", path / "latest" / "tokenizer"):
        if (folder / TOKENIZER_FILE).is_file() and end_token is None:
            return load_tokenizer(folder)
        if (folder / FILE_NAME).is_file():
            return read_tokenizer_file(folder / FILE_NAME, end_token)
    raise TokenizerError(f"{path}: no tokenizer in this folder; give one that groundup wrote, or a {FILE_NAME}")


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
        case "gpt1":
            return GPT1Tokenizer.read(folder)
        case "gpt2":
            return GPT2Tokenizer()
        case "json":
            return FileTokenizer((folder / FILE_NAME).read_text(encoding="utf-8"), saved["end_token"])
        case "bpe":
            return BPETokenizer((folder / FILE_NAME).read_text(encoding="utf-8"))
        case kind:
            raise TokenizerError(f"unknown kind {kind!r}, perhaps of a newer groundup")


def _path_and_token(spec: str) -> tuple[Path, str | None]:
    """A path, and what stands behind `#` where the path does not end with that itself."""
    try:
        front, hash_, token = spec.rpartition("#")
        if hash_ and front and token and not Path(spec).exists():
            return Path(front), token
        Path(spec).exists()
    except (OSError, ValueError) as error:  # too long for a name, or not one at all
        raise TokenizerError(
            f"tokenizer {spec[:50]!r}…: no path ({error.__class__.__name__}); give a shorter one"
        ) from None
    return Path(spec), None


def _bpe_size(size: str, smallest: int) -> int:
    if not (size.isdecimal() and len(size) <= len(str(LARGEST_BPE)) and smallest <= int(size) <= LARGEST_BPE):
        raise TokenizerError(
            f"bpe:{size}: the size must be a whole number of ids from {smallest} to {LARGEST_BPE}, as in bpe:8192"
        )
    return int(size)
