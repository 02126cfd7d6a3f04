"""Contents of a `tokenizer.json`: checked, and reduced to what is used here.

`model.vocab` maps pieces to ids (or lists pieces with scores). `added_tokens` are matched in a text before the model
sees it, unless they are special, which here means that no text can spell them.
"""

import json
from pathlib import Path
from typing import Any, TypeAlias

from groundup.errors import TokenizerError
from groundup.tokenizers.base import END_OF_TEXT

FILE_NAME = "tokenizer.json"
MAX_VOCABULARY = 1 << 24  # ids; many times any published one

# Tokens that end a text in published tokenizers, the most certain first.
ENDS = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "<|eos|>", "<|eot_id|>", "<|im_end|>", "[SEP]")
USE_ANOTHER_TOKEN = f"name another token behind the path: {FILE_NAME}#{END_OF_TEXT}"

Contents: TypeAlias = dict[str, Any]


def parse(text: str) -> Contents:
    """The contents of a file, with `added_tokens` complete. Raises TokenizerError where it is no tokenizer."""
    try:
        contents = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"not JSON, or truncated ({error}); get the {FILE_NAME} again") from None
    model = contents.get("model") if isinstance(contents, dict) else None
    if not (isinstance(model, dict) and model.get("vocab")):
        raise TokenizerError(f"JSON, but not a tokenizer: it has no model with a vocab; give a {FILE_NAME}")
    added = contents.get("added_tokens") or []
    if not all(isinstance(token, dict) and isinstance(token.get("content"), str) for token in added):
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


def unknown_id(contents: Contents, vocabulary: dict[str, int]) -> int | None:
    """The id of unknown text; the model names either that or its piece. None where there is none."""
    unk_id, token = (contents["model"].get(key) for key in ("unk_id", "unk_token"))
    return unk_id if isinstance(unk_id, int) else vocabulary.get(token) if token else None


def has_token(contents: Contents, token: str) -> bool:
    """Whether `token` is in the vocabulary or among the added tokens."""
    return token in model_ids(contents) or any(token == added["content"] for added in contents["added_tokens"])


def find_end(contents: Contents, config: Path) -> str:
    """The token that ends a text: the `eos_token` of a `tokenizer_config.json`, if there is one, or a usual one.

    Raises TokenizerError where the vocabulary has none.
    """
    try:
        named = json.loads(config.read_text(encoding="utf-8"))["eos_token"]
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
    model = {**contents["model"]}
    if model.get("dropout") is not None:
        model["dropout"] = None
    added = [
        {**token, "special": True} if token["content"] == end_token else token for token in contents["added_tokens"]
    ]
    if end_token in model_ids(contents):
        _check_unspellable(model, end_token)
        # An empty piece matches no text, whatever the model; all ids stay as they are.
        model["vocab"] = _renamed(model["vocab"], end_token, "")
        added = [token for token in added if token["content"] != end_token]
    nothing = dict.fromkeys(("truncation", "padding", "post_processor"))
    return {**contents, **nothing, "added_tokens": added, "model": model}


def without_prefix(contents: Contents) -> Contents:
    """The contents without the parts that add a space before a text."""
    return {**contents, **{part: _unprefixed(contents.get(part)) for part in ("normalizer", "pre_tokenizer")}}


def _renamed(vocab: Any, old: str, new: str) -> Any:
    if isinstance(vocab, dict):
        return {new if piece == old else piece: id_ for piece, id_ in vocab.items()}
    return [[new if piece == old else piece, score] for piece, score in vocab]


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
