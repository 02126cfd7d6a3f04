"""Any `tokenizer.json`: the file in which the `tokenizers` library, and most published models, keep a tokenizer.

Ids are the library's own for the bare text: what the file says about truncation, padding, and ids put before or after
a text, holds for other uses and is left out here, as is a BPE's dropout. A text that begins with a space or a line end
gets no further space put before it, even by a file that asks for one: such a text goes on where another ended. (Long
documents are read in parts that begin so. A file that joins a space with a visible character before it, or a line end
with a letter or digit before it, which published ones do not, may give other ids where two parts meet; so may any where
a text goes on for 65,536 characters without such a place.)
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids
from groundup.tokenizers.hf_backend import LibraryTokenizer, encode_with, library_errors
from groundup.tokenizers.hf_format import (
    FILE_NAME,
    Contents,
    bare,
    find_end,
    holds,
    model_ids,
    parse,
    unknown_id,
    without_prefix,
)
from groundup.tokenizers.roundtrip import what_is_lost
from groundup.tokenizers.spelling import spell_out

CONFIG_NAME = "tokenizer_config.json"  # where `transformers` keeps the name of the token that ends a text
LARGEST_FILE = 1 << 28  # bytes; several times the largest published tokenizer


class FileTokenizer(LibraryTokenizer):
    """The tokenizer of a `tokenizer.json`, given as its text and the token that ends a document.

    A token that the file does not hold is added to it. Raises TokenizerError where the text is no such file, or where
    a text could encode to that token.
    """

    name = "json"

    def __init__(self, tokenizer_json: str, end_token: str) -> None:
        contents = parse(tokenizer_json)
        with library_errors("not a tokenizer that can be used"):
            contents = _with_token(contents, end_token)
            here = bare(contents, end_token)
            unprefixed = without_prefix(here)
            engine = _engine(here)
            self._inside = engine if unprefixed == here else _engine(unprefixed)
            vocabulary = engine.get_vocab() | model_ids(contents)
            end_of_text = vocabulary[end_token]
            _refuse_shared(vocabulary, end_token)
            self.unknown = unknown_id(contents, vocabulary)
            pieces = spell_out(engine, contents, end_of_text, end_token)
        super().__init__(engine, pieces, end_of_text)
        self.end_token = end_token
        self._json = json.dumps(contents, ensure_ascii=False, indent=2) + "\n"
        self._sha256 = hashlib.sha256(json.dumps(here, sort_keys=True).encode("ascii")).hexdigest()

    def encode(self, text: str) -> Ids:
        """The ids that `tokenizers` gives `text`; see the module for its beginning."""
        return encode_with(self._inside if text[:1] in (" ", "\r", "\n") else self._engine, text)

    @cached_property
    def lossy(self) -> str | None:
        """See `tokenizer.Tokenizer.lossy`."""
        return what_is_lost(self.encode, self.decode)

    def definition(self) -> Mapping[str, str]:
        """What the file says about ids, as a checksum, and which token ends a document."""
        return {"end_token": self.end_token, "tokenizer_sha256": self._sha256}

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json`, which other tools read as well, beside groundup's own small file."""
        super().save(folder)
        (folder / FILE_NAME).write_text(self._json, encoding="utf-8")


def read_tokenizer_file(path: Path, end_token: str | None = None) -> FileTokenizer:
    """The tokenizer of a `tokenizer.json`; a document ends with `end_token`, or with what the file has for that.

    Raises TokenizerError, naming `path`, when it is missing, damaged, no such file, or has nothing to end a document.
    """
    try:
        if not path.is_file():
            raise TokenizerError("there is no such file; check the path")
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise TokenizerError(f"{size:,} bytes are too many for a tokenizer; give a {FILE_NAME}")
        text = path.read_text(encoding="utf-8")
        return FileTokenizer(text, end_token or find_end(parse(text), path.with_name(CONFIG_NAME)))
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not a {FILE_NAME} (byte {error.start} is not UTF-8); give one") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def _with_token(contents: Contents, token: str) -> Contents:
    """The contents, with a special token added if they do not hold it."""
    if holds(contents, token):
        return contents
    new = {"id": _engine(contents).get_vocab_size(), "content": token, "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {**contents, "added_tokens": [*contents["added_tokens"], new | flags]}


def _refuse_shared(vocabulary: dict[str, int], end_token: str) -> None:
    """TokenizerError where another token has the id of `end_token`: a library's guess in a vocabulary with holes."""
    for token, id_ in vocabulary.items():
        if id_ == vocabulary[end_token] and token not in (end_token, ""):
            raise TokenizerError(
                f"{end_token} and {token!r} would share the id {id_}, as not all ids below its highest are in use; "
                f"name a token that it holds: {FILE_NAME}#TOKEN"
            )


def _engine(contents: Contents) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer.from_str(json.dumps(contents))
    engine.encode_special_tokens = True
    return engine
