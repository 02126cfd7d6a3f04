"""Which bytes each id of a `tokenizer.json` stands for, so that ids can be decoded one by one."""

import re
from typing import Any

import tokenizers
from groundup.tokenizers.gpt2 import byte_characters

_BYTE = re.compile("<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte that is no known character


def spell_out(engine: tokenizers.Tokenizer, contents: dict[str, Any], end_of_text: int, end_token: str) -> list[bytes]:
    """The bytes of each id of `engine`, made from a file with these `contents`; none for an id that is not used.

    Pieces that are bytes are themselves. Others are what the file's decoder makes of them in the middle of a text:
    what it does only at the very beginning or end, such as to drop a space there, cannot be told from one piece. Added
    tokens that are not special are what a text held.
    """
    vocabulary: dict[str, int] = engine.get_vocab(with_added_tokens=True)
    as_text = {token["content"] for token in contents["added_tokens"] if not token["special"]}
    kinds = _kinds(contents.get("decoder"))
    byte_of = byte_characters()
    pieces = [b""] * (max(*vocabulary.values(), end_of_text) + 1)
    for text, id_ in vocabulary.items():
        if text in as_text:
            pieces[id_] = text.encode()
        elif "ByteLevel" in kinds:
            pieces[id_] = bytes(byte_of[c] for c in text) if byte_of.keys() >= set(text) else text.encode()
        elif "ByteFallback" in kinds and (byte := _BYTE.fullmatch(text)):
            pieces[id_] = bytes([int(byte[1], 16)])
        else:
            pieces[id_] = _amid(engine.decoder, text).encode()
    pieces[end_of_text] = end_token.encode()
    return pieces


def _amid(decoder: Any, piece: str) -> str:
    """What `decoder` makes of a piece between two others."""
    if decoder is None:
        return f" {piece}"  # without one, the library puts spaces between pieces
    after = decoder.decode(["a", "a"]).removeprefix("a")
    return decoder.decode(["a", piece, "a"]).removeprefix("a").removesuffix(after)


def _kinds(decoder: Any) -> set[str]:
    """The types of a decoder, and of those that it is a sequence of."""
    if not isinstance(decoder, dict):
        return set()
    return {decoder.get("type", "")}.union(*map(_kinds, decoder.get("decoders") or []))
