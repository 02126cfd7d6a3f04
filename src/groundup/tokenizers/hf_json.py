"""Any `tokenizer.json`: the file in which the `tokenizers` library, and most published models, keep a tokenizer.

Ids are the library's for the bare text: truncation, padding, ids added before or after a text, and a BPE's dropout are
ignored. A text that begins with a space or a line end gets no further space before it, even if the file asks for one,
because it continues another text. (Long documents are read in parts that begin so. A file that joins a space with a
visible character before it, or a line end with a letter or digit before it, which published ones do not, may give other
ids where two parts meet; so may any file for a text of 65,536 characters without a space or line end.)
"""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids
from groundup.tokenizers.gpt2 import byte_characters
from groundup.tokenizers.hf_backend import HFTokenizer, encode_with, library_errors
from groundup.tokenizers.hf_format import (
    FILE_NAME,
    Contents,
    bare,
    find_end,
    has_token,
    model_ids,
    parse,
    unknown_id,
    without_prefix,
)
from groundup.tokenizers.roundtrip import describe_loss

CONFIG_NAME = "tokenizer_config.json"  # where `transformers` keeps the name of the token that ends a text
MAX_FILE_BYTES = 1 << 28  # several times the largest published tokenizer

_BYTE = re.compile("<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte that is no known character


class FileTokenizer(HFTokenizer):
    """The tokenizer of a `tokenizer.json`, given as its text and the token that ends a document.

    That token is added if the file does not have it. Raises TokenizerError where the JSON is no tokenizer, or where a
    text could encode to that token.
    """

    name = "json"

    def __init__(self, tokenizer_json: str, end_token: str) -> None:
        contents = parse(tokenizer_json)
        with library_errors("not a tokenizer that can be used"):
            contents = _with_token(contents, end_token)
            used = bare(contents, end_token)
            unprefixed = without_prefix(used)
            engine = _engine(used)
            self._continuing = engine if unprefixed == used else _engine(unprefixed)
            vocabulary = engine.get_vocab() | model_ids(contents)
            end_of_text = vocabulary[end_token]
            _check_unshared(vocabulary, end_token)
            self.unknown = unknown_id(contents, vocabulary)
            pieces = _piece_bytes(engine, contents, end_of_text, end_token)
        super().__init__(engine, pieces, end_of_text)
        self.end_token = end_token
        self._json = json.dumps(contents, ensure_ascii=False, indent=2) + "\n"
        self._sha256 = hashlib.sha256(json.dumps(used, sort_keys=True).encode("ascii")).hexdigest()

    @override
    def encode(self, text: str) -> Ids:
        return encode_with(self._continuing if text[:1] in (" ", "\r", "\n") else self._engine, text)

    @cached_property
    @override
    def lossy(self) -> str | None:
        return describe_loss(self.encode, self.decode)

    @override
    def definition(self) -> Mapping[str, str]:
        return {"end_token": self.end_token, "tokenizer_sha256": self._sha256}

    @override
    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / FILE_NAME).write_text(self._json, encoding="utf-8")


def read_tokenizer_file(path: Path, end_token: str | None = None) -> FileTokenizer:
    """The tokenizer of a `tokenizer.json`; a document ends with `end_token`, or with the file's own end token.

    Raises TokenizerError, naming `path`, when it is missing, damaged, no tokenizer, or has no token to end a document.
    """
    try:
        if not path.is_file():
            raise TokenizerError("there is no such file; check the path")
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
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
    """The contents, with `token` added as a special token if it is not there."""
    if has_token(contents, token):
        return contents
    new = {"id": _engine(contents).get_vocab_size(), "content": token, "special": True}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {**contents, "added_tokens": [*contents["added_tokens"], new | flags]}


def _check_unshared(vocabulary: dict[str, int], end_token: str) -> None:
    """TokenizerError where another token has the id of `end_token`, as the library may choose if ids are missing."""
    for token, id_ in vocabulary.items():
        if id_ == vocabulary[end_token] and token not in (end_token, ""):
            raise TokenizerError(
                f"{end_token} and {token!r} would share the id {id_}, as not all ids below its highest are in use; "
                f"name a token of its vocabulary: {FILE_NAME}#TOKEN"
            )


def _engine(contents: Contents) -> tokenizers.Tokenizer:
    engine = tokenizers.Tokenizer.from_str(json.dumps(contents))
    engine.encode_special_tokens = True
    return engine


def _piece_bytes(engine: tokenizers.Tokenizer, contents: Contents, end_of_text: int, end_token: str) -> list[bytes]:
    """The bytes of each id, so that ids can be decoded one by one; empty for ids that are not used.

    Pieces that are not bytes are decoded by the file's decoder as in the middle of a text: what it does only at the
    beginning or end, such as to drop a space, does not depend on one piece. Added tokens that are not special are text.
    """
    vocabulary: dict[str, int] = engine.get_vocab(with_added_tokens=True)
    as_text = {token["content"] for token in contents["added_tokens"] if not token["special"]}
    decoders = _decoder_types(contents.get("decoder"))
    byte_of = byte_characters()
    pieces = [b""] * (max(*vocabulary.values(), end_of_text) + 1)
    for text, id_ in vocabulary.items():
        if text in as_text:
            pieces[id_] = text.encode()
        elif "ByteLevel" in decoders:
            pieces[id_] = bytes(byte_of[c] for c in text) if byte_of.keys() >= set(text) else text.encode()
        elif "ByteFallback" in decoders and (byte := _BYTE.fullmatch(text)):
            pieces[id_] = bytes([int(byte[1], 16)])
        else:
            pieces[id_] = _decode_inside(engine.decoder, text).encode()
    pieces[end_of_text] = end_token.encode()
    return pieces


def _decode_inside(decoder: Any, piece: str) -> str:
    """The text of a piece between two others."""
    if decoder is None:
        return f" {piece}"  # without one, the library puts spaces between pieces
    after = decoder.decode(["a", "a"]).removeprefix("a")
    return decoder.decode(["a", piece, "a"]).removeprefix("a").removesuffix(after)


def _decoder_types(decoder: Any) -> set[str]:
    """The type of a decoder, and those of its parts if it is a sequence."""
    if not isinstance(decoder, dict):
        return set()
    return {decoder.get("type", "")}.union(*map(_decoder_types, decoder.get("decoders") or []))
