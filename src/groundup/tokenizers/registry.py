"""Tokenizers by name, by path, and from the folder they were saved to."""

from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, TOKENIZER_FILE, Tokenizer, TokenizerTrainer
from groundup.tokenizers.bpe import MIN_BPE_VOCAB, BPETokenizer, check_special_tokens
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.tokenizers.hf_json import FILE_NAME, MAX_FILE_BYTES, FileTokenizer, read_tokenizer_file
from groundup.utils.reading import read_json, read_text

CHOICES = ("byte", "char", "gpt1", "gpt1:FOLDER", "gpt2", "bpe:SIZE", "bpe:SIZE:pad")
PAD = "<|pad|>"
PAD_TOKENS = (PAD, END_OF_TEXT)  # ids 0 and 1 of bpe:SIZE:pad
MAX_BPE_VOCAB = 1_000_000  # beyond any published vocabulary, so a typing error


def choose_tokenizer(spec: str) -> Tokenizer | TokenizerTrainer:
    """The tokenizer that `spec` names, or the trainer of one that must be trained on text first.

        byte  gpt2                  built in
        gpt1  gpt1:FOLDER           GPT-1's own, from the hub or from a folder
        char  bpe:SIZE              trained on the text
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
            return TokenizerTrainer(CharTokenizer.train, needs_all_text=True)
        case ["bpe", size]:
            bare = size.removesuffix(":pad")
            return bpe_trainer(bare, special_tokens=PAD_TOKENS if bare != size else ())
    path, end_token = _path_and_token(spec)
    if path.exists() or path.suffix == ".json" or len(path.parts) > 1:
        return open_path(path, end_token)
    kinds = {choice.partition(":")[0]: choice for choice in reversed(CHOICES)}  # the shortest choice of each
    near = get_close_matches(spec.lower(), kinds, n=1)
    hint = f"did you mean {kinds[near[0]]}? " if near else ""
    choices = f"{', '.join(CHOICES)}, or the path of a {FILE_NAME}"
    raise TokenizerError(f"unknown tokenizer {spec!r}; {hint}choose one of {choices}")


def bpe_trainer(size: str | int, *, min_frequency: int = 1, special_tokens: Sequence[str] = ()) -> TokenizerTrainer:
    """The trainer of a BPE of `size` ids; see `BPETokenizer.train`. Raises TokenizerError for values out of range."""
    check_special_tokens(special_tokens)
    if min_frequency < 1:
        raise TokenizerError(f"min_frequency {min_frequency}: must be 1 or more; 2 is usual")
    smallest = MIN_BPE_VOCAB + len({*special_tokens} - {END_OF_TEXT})
    n_vocab = int(size) if str(size).isdecimal() and len(str(size)) < 20 else 0
    if not smallest <= n_vocab <= MAX_BPE_VOCAB:
        raise TokenizerError(
            f"bpe:{size}: the size must be a whole number of ids from {smallest} to {MAX_BPE_VOCAB}, as in bpe:8192"
        )
    train = partial(BPETokenizer.train, n_vocab=n_vocab, min_frequency=min_frequency, special_tokens=special_tokens)
    return TokenizerTrainer(train, needs_all_text=False)


def open_path(path: Path, end_token: str | None = None) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`, or of a folder: one with that file, or any that groundup wrote.

    These are tokenizers, prepared data, checkpoints, and runs (the tokenizer of the latest checkpoint). `end_token`
    ends documents, for another program's file. Raises TokenizerError when there is none, or it is damaged.
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
        saved = read_json(path)
        if not isinstance(saved, dict) or not all(isinstance(value, str) for value in saved.values()):
            raise TypeError("not an object of texts")
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
            return FileTokenizer(read_text(folder / FILE_NAME, limit=MAX_FILE_BYTES), saved["end_token"])
        case "bpe":
            return BPETokenizer(read_text(folder / FILE_NAME, limit=MAX_FILE_BYTES))
        case kind:
            raise TokenizerError(f"unknown kind {kind!r}, perhaps written by a newer groundup")


def _path_and_token(spec: str) -> tuple[Path, str | None]:
    """A path, and the token behind its `#`, unless a file of the complete name exists."""
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
