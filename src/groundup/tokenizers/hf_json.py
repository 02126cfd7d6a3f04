"""Any `tokenizer.json`: the file in which the `tokenizers` library, and most published models, keep a tokenizer.

Ids are the library's for the bare text: truncation, padding, ids added before or after a text, and a BPE's dropout are
ignored. A text that begins with a space or a line end gets no further space before it, even if the file asks for one,
because it continues another text. (Long documents are read in parts that begin so. A file that joins a space with a
visible character before it, or a line end with a letter or digit before it, which published ones do not, may give other
ids where two parts meet; so may any file for a text of 65,536 characters without a space or line end.)

In the file, `model.vocab` maps pieces to ids (or lists pieces with scores). `added_tokens` are matched in a text before
the model sees it, unless they are special, which here means that no text can spell them.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT, Ids
from groundup.tokenizers.gpt2 import byte_characters
from groundup.tokenizers.hf_backend import HFTokenizer, encode_with, library_errors
from groundup.tokenizers.hf_limits import check_limits
from groundup.utils.reading import parse_json, read_json, read_text

FILE_NAME = "tokenizer.json"
CONFIG_NAME = "tokenizer_config.json"  # where `transformers` keeps the name of the token that ends a text
MAX_FILE_BYTES = 1 << 26  # twice the largest published tokenizer
MAX_COMMAS = 6_000_000  # about as many values: three times the most of a published tokenizer
MAX_VOCABULARY = 1 << 24  # ids; many times any published one

# Tokens that end a text in published tokenizers, the most certain first.
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>", "<|eot_id|>", "<|im_end|>", "[SEP]")
USE_ANOTHER_TOKEN = f"name another token behind the path: {FILE_NAME}#{END_OF_TEXT}"

_BYTE = re.compile("<0x([0-9A-F]{2})>")  # how SentencePiece writes a byte that is no known character

Contents: TypeAlias = dict[str, Any]


class FileTokenizer(HFTokenizer):
    """The tokenizer of a `tokenizer.json`, given as its text and the token that ends a document.

    That token is added if the file does not have it. Raises TokenizerError where the JSON is no tokenizer, or where a
    text could encode to that token.
    """

    name = "json"

    def __init__(self, tokenizer_json: str, end_token: str) -> None:
        contents = parse(tokenizer_json)
        with library_errors("not a tokenizer that can be used"):
            check_limits(contents, model_ids(contents))
            contents = _with_token(contents, end_token)
            used = bare(contents, end_token)
            unprefixed = used | {part: _unprefixed(used.get(part)) for part in ("normalizer", "pre_tokenizer")}
            engine = _engine(used)
            self._continuing = engine if unprefixed == used else _engine(unprefixed)
            vocabulary = engine.get_vocab() | model_ids(contents)
            end_of_text = vocabulary[end_token]
            _check_unshared(vocabulary, end_token)
            # The model names either the id of unknown text or its piece, if there is one.
            unk_id, unknown = (contents["model"].get(key) for key in ("unk_id", "unk_token"))
            self.unknown = unk_id if isinstance(unk_id, int) else vocabulary.get(unknown) if unknown else None
            pieces = _piece_bytes(engine, contents, end_of_text, end_token)
        saved = json.dumps(contents, ensure_ascii=False, indent=2) + "\n"
        super().__init__(engine, pieces, end_of_text, {FILE_NAME: saved})
        self.end_token = end_token
        self._sha256 = hashlib.sha256(json.dumps(used, sort_keys=True).encode("ascii")).hexdigest()

    @override
    def encode(self, text: str) -> Ids:
        return encode_with(self._continuing if text[:1] in (" ", "\r", "\n") else self._engine, text)

    @override
    def definition(self) -> Mapping[str, str]:
        return {"end_token": self.end_token, "tokenizer_sha256": self._sha256}


def read_tokenizer_file(path: Path, end_token: str | None = None) -> FileTokenizer:
    """The tokenizer of a `tokenizer.json`; a document ends with `end_token`, or with the file's own end token.

    Raises TokenizerError, naming `path`, when it is missing, damaged, no tokenizer, or has no token to end a document.
    """
    try:
        if not path.is_file():
            raise TokenizerError("there is no such file; check the path")
        text = read_text(path, limit=MAX_FILE_BYTES)
        return FileTokenizer(text, end_token or find_end(parse(text), path.with_name(CONFIG_NAME)))
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{path}: not a {FILE_NAME} (byte {error.start} is not UTF-8); give one") from None
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
    except ValueError as error:
        raise TokenizerError(f"{path}: cannot be read as a {FILE_NAME} ({error}); give one") from None
    except TokenizerError as error:
        raise TokenizerError(f"{path}: {error}") from None


def parse(text: str) -> Contents:
    """The contents of a file, with `added_tokens` complete. Raises TokenizerError where it is no tokenizer."""
    if text.count(",") > MAX_COMMAS:
        raise TokenizerError(f"it has more than {MAX_COMMAS:,} values, too many for a tokenizer; give a {FILE_NAME}")
    try:
        contents = parse_json(text)
    except ValueError as error:
        raise TokenizerError(f"not JSON, or truncated ({error}); get the {FILE_NAME} again") from None
    model = contents.get("model") if isinstance(contents, dict) else None
    if not (isinstance(model, dict) and model.get("vocab")):
        raise TokenizerError(f"JSON, but not a tokenizer: it has no model with a vocab; give a {FILE_NAME}")
    added = contents.get("added_tokens") or []
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise TokenizerError(f"its added_tokens are not tokens; get the {FILE_NAME} again")
    return {**contents, "added_tokens": [{"special": False, **token} for token in added]}


def model_ids(contents: Contents) -> dict[str, int]:
    """Piece -> id, without the added tokens. Raises TokenizerError where the vocabulary is damaged."""
    vocab = contents["model"]["vocab"]
    try:
        ids = vocab if isinstance(vocab, dict) else {piece: id_ for id_, (piece, _) in enumerate(vocab)}
        if not all(0 <= id_ < MAX_VOCABULARY for id_ in ids.values()):
            raise TokenizerError(f"its ids are not all between 0 and {MAX_VOCABULARY:,}; get the {FILE_NAME} again")
    except (TypeError, ValueError) as error:
        raise TokenizerError(f"its vocab is damaged ({error}); get the {FILE_NAME} again") from None
    return ids


def has_token(contents: Contents, token: str) -> bool:
    """Whether `token` is in the vocabulary or among the added tokens."""
    return token in model_ids(contents) or any(token == added["content"] for added in contents["added_tokens"])


def find_end(contents: Contents, config: Path) -> str:
    """The token that ends a text: the `eos_token` of a `tokenizer_config.json`, if there is one, or a usual one.

    Raises TokenizerError where the vocabulary has none.
    """
    try:
        named = read_json(config)["eos_token"]
        named = named["content"] if isinstance(named, dict) else named
    except (OSError, ValueError, KeyError, TypeError):
        named = None  # most files come without one
    for token in (named, *ENDS):
        if isinstance(token, str) and has_token(contents, token):
            return token
    raise TokenizerError(
        f"it has no token that ends a text (such as {', '.join(ENDS[:4])}); name one of its tokens, or one to add, "
        f"behind the path: {FILE_NAME}#{END_OF_TEXT}"
    )


def bare(contents: Contents, end_token: str) -> Contents:
    """The contents for encoding bare text: no ids added, no dropout, and no text that encodes to `end_token`.

    Raises TokenizerError where a text could encode to `end_token` nevertheless.
    """
    model = contents["model"] | ({"dropout": None} if "dropout" in contents["model"] else {})
    vocab = model["vocab"]
    added = [
        {**token, "special": True} if token["content"] == end_token else token for token in contents["added_tokens"]
    ]
    if end_token in model_ids(contents):
        _check_unspellable(model, end_token)
        # An empty piece matches no text, whatever the model; all ids stay as they are.
        if isinstance(vocab, dict):
            model["vocab"] = {"" if piece == end_token else piece: id_ for piece, id_ in vocab.items()}
        else:
            model["vocab"] = [["" if piece == end_token else piece, score] for piece, score in vocab]
        added = [token for token in added if token["content"] != end_token]
    nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**contents, **nothing, "added_tokens": added, "model": model}


def _check_unspellable(model: Contents, end_token: str) -> None:
    """TokenizerError where the model encodes some text, or unknown text, to `end_token`."""
    for merge in model.get("merges") or []:  # written "a b" or ["a", "b"]
        if end_token == (merge.replace(" ", "", 1) if isinstance(merge, str) else "".join(merge)):
            raise TokenizerError(f"a text can encode to its {end_token}, so that cannot end one; {USE_ANOTHER_TOKEN}")
    unk_id = model.get("unk_id")
    unknown = model["vocab"][unk_id][0] if isinstance(unk_id, int) else model.get("unk_token")
    if unknown == end_token and model.get("type") == "BPE":
        model["unk_token"] = None  # usually a byte-level BPE, which has no unknown text
    elif unknown == end_token:
        raise TokenizerError(f"its {end_token} also stands for unknown text, so it cannot end one; {USE_ANOTHER_TOKEN}")


def _unprefixed(part: Any) -> Any:
    """A normalizer or pre-tokenizer, or a sequence of them, without the parts that add a space before the text."""
    if isinstance(part, list):
        return [inner for inner in map(_unprefixed, part) if inner is not None]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    plain = {**part, **{key: _unprefixed(value) for key, value in part.items() if isinstance(value, list)}}
    without = {"add_prefix_space": False, "prepend_scheme": "never"}
    return plain | {key: value for key, value in without.items() if key in plain}


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
    decoded_bytes = 0
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
            decoded_bytes += len(pieces[id_])
            if decoded_bytes > MAX_FILE_BYTES:
                raise ValueError(f"its vocab decodes to more than {MAX_FILE_BYTES:,} bytes")
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
