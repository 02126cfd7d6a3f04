"""A tokenizer's vocabulary as GGUF holds it, for llama.cpp's byte-level BPE, which it calls "gpt2".

Source: llama.cpp's `llama-vocab.cpp`, and `unicode.cpp` for how it cuts a text into words before it merges.

Special tokens, the end of a text among them, are of the type "unused" and their names end with a space. llama.cpp
finds tokens of the types "control" and "user defined", and any of a dozen names that it knows, in what a user types;
here the name of a token is plain text, as in groundup.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from groundup.errors import UsageError
from groundup.interop import hf_tokenizer
from groundup.tokenizers.base import Tokenizer
from groundup.tokenizers.byte_char import CharTokenizer
from groundup.tokenizers.gpt2 import byte_characters

MODEL = "gpt2"
NORMAL, USER_DEFINED, UNUSED = 1, 4, 5  # of gguf.TokenType

GPT2_WORDS = "trillion"
SINGLE_DIGITS = "smollm"  # each digit alone, the rest as GPT-2
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
# Pattern of a `Split` -> llama.cpp's name for it, without and with `ignore_merges`.
PATTERNS = {
    _WORDS.replace("{digits}", "{1,3}"): ("dbrx", "llama-bpe"),
    _WORDS.replace("{digits}", ""): ("qwen2", None),
}

# llama.cpp does not load a vocabulary without merges. This one never applies: no text is spelt with its character.
NO_MERGE = "\N{LOWER ONE EIGHTH BLOCK} \N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True)
class Vocabulary:
    """What llama.cpp needs to turn a text into ids and back."""

    tokens: list[str]  # by id: bytes in GPT-2's visible characters, or names
    types: list[int]
    merges: list[str]  # "left right", best first
    words: str  # llama.cpp's name for how a text is cut into words


def vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The vocabulary of `tokenizer`; UsageError where llama.cpp would give a text other ids."""
    if isinstance(tokenizer, CharTokenizer):
        return _characters(tokenizer.characters, hf_tokenizer.end_token(tokenizer))
    contents = hf_tokenizer.contents(tokenizer)
    if reason := _unlike_llama_cpp(contents):
        raise UsageError(
            f"tokenizer {tokenizer.name}: llama.cpp has none that {reason}; a gguf needs a byte-level BPE such as "
            "byte, char, gpt2 or bpe:SIZE, so export it with --to hf"
        )
    model, added = contents["model"], contents["added_tokens"]
    names = {id_: piece for piece, id_ in model["vocab"].items()}
    types = dict.fromkeys(names, NORMAL)
    for token in added:
        names[token["id"]] = _special(token["content"]) if token["special"] else token["content"]
        types[token["id"]] = UNUSED if token["special"] else USER_DEFINED
    ids = range(tokenizer.n_vocab)
    tokens = [names.get(id_) or _special(f"unused {id_}") for id_ in ids]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    return Vocabulary(tokens, [types.get(id_, UNUSED) for id_ in ids], merges or [NO_MERGE], _words(contents) or "")


def _special(name: str) -> str:
    """A name that no piece of text has and llama.cpp does not know: with a space, as no piece is spelt with one."""
    return f"{name} "


def _characters(characters: str, end: str) -> Vocabulary:
    """One token for each character, which its bytes are merged to, first to last. Others get no id in llama.cpp."""
    char_of = {byte: char for char, byte in byte_characters().items()}
    spelt = ["".join(char_of[byte] for byte in char.encode()) for char in characters]
    # Ids for the pieces on the way are not needed: only what is left at the end is looked up.
    merges = dict.fromkeys(f"{piece[:n]} {piece[n]}" for piece in spelt for n in range(1, len(piece)))
    types = [NORMAL] * len(spelt) + [UNUSED]
    return Vocabulary([*spelt, _special(end)], types, list(merges) or [NO_MERGE], GPT2_WORDS)


def _words(contents: dict[str, Any]) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a `tokenizer.json`; None where it has none that cuts alike."""
    model = contents["model"]
    first, last = _pre_tokenizers(contents["pre_tokenizer"])
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space", True):
        return None
    by_gpt2 = last.get("use_regex", True)
    ignore_merges = bool(model.get("ignore_merges"))
    if first is None:
        return GPT2_WORDS if (by_gpt2 and not ignore_merges) or not model["merges"] else None
    if first == {"type": "Digits", "individual_digits": True} and by_gpt2 and not ignore_merges:
        return SINGLE_DIGITS
    isolated = (first.get("type"), first.get("behavior"), first.get("invert")) == ("Split", "Isolated", False)
    if not isolated or by_gpt2:
        return None
    return PATTERNS.get(first["pattern"].get("Regex"), (None, None))[ignore_merges]


def _pre_tokenizers(part: dict[str, Any] | None) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The first of two pre-tokenizers, if there is one, and the last; both unknown where there are more."""
    parts: Sequence[dict[str, Any]] = (part or {}).get("pretokenizers") or [part or {}]
    if len(parts) > 2:
        return {}, {}
    return (parts[0] if len(parts) == 2 else None), parts[-1]


def _unlike_llama_cpp(contents: dict[str, Any]) -> str | None:
    """What the tokenizer does and llama.cpp's byte-level BPE does not, to complete "that ..."; None if nothing."""
    return next(_differences(contents), None)


def _differences(contents: dict[str, Any]) -> Iterator[str]:
    model = contents["model"]
    if model["type"] != "BPE" or model.get("byte_fallback"):
        yield "works this way"
        return
    if contents["normalizer"] is not None:
        yield "changes a text first (its normalizer)"
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        yield "marks the ends of words"
    if _words(contents) is None:
        yield "cuts a text into words as its pre-tokenizer does"
    if model.get("unk_token") and not byte_characters().keys() <= model["vocab"].keys():
        yield "has an id for unknown text"
    plain = [token for token in contents["added_tokens"] if not token["special"]]
    if any(token.get(flag) for token in plain for flag in ("lstrip", "rstrip", "single_word")):
        yield "matches added tokens together with the space around them"
