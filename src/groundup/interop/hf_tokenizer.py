"""Export tokenizers as the `tokenizer.json` of the `tokenizers` library, with the config that transformers needs.

Ids and decoded text are the same. The name of a special token in a text, such as `<|endoftext|>`, is plain text here
and in transformers, which obeys `split_special_tokens`. Programs that only read `tokenizer.json` take it for the token.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tokenizers
from groundup.errors import ExportError
from groundup.tokenizers.base import END_OF_TEXT, Tokenizer
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.gpt1 import ENCODER, LINE_BREAK, MERGES, UNKNOWN, WORD_END
from groundup.tokenizers.gpt2 import byte_characters, gpt2_merges, gpt2_pieces, merge_pairs
from groundup.tokenizers.hf_json import CONFIG_NAME, FILE_NAME, parse
from groundup.tokenizers.registry import PAD
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

Contents = dict[str, Any]

SAMPLES = (
    "Once upon a time, there was\n\na  girl's dog.\tIt cost 1,024 € — naïve?\r\n",
    "def f(x):\n    return x ** 2  # ünï",
    "日本語 \N{GRINNING FACE} \u00a0end ",
    f" {END_OF_TEXT}a{END_OF_TEXT}",
)


def contents(tokenizer: Tokenizer) -> Contents:
    """The contents of a `tokenizer.json` of this tokenizer."""
    made = KINDS[tokenizer.name](tokenizer)
    # Nothing is added to a text, truncated or sampled: the ids are those of the text alone.
    made |= dict.fromkeys(("truncation", "padding", "post_processor"))
    if made["model"].get("dropout") is not None:
        made["model"]["dropout"] = None
    return made


def end_token(tokenizer: Tokenizer) -> str:
    """The token that ends a text, as text."""
    return LINE_BREAK if tokenizer.name == "gpt1" else tokenizer.decode([tokenizer.end_of_text])


def pad_token(tokenizer: Tokenizer) -> tuple[str, int]:
    """The token that fills up short rows of a batch, and its id: `<|pad|>` of `bpe:SIZE:pad`, else the end of text."""
    if isinstance(tokenizer, BPETokenizer) and PAD in tokenizer.special_tokens:
        return PAD, tokenizer.pieces.index(PAD.encode())
    return end_token(tokenizer), tokenizer.end_of_text


def write(tokenizer: Tokenizer, folder: Path, block_size: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` opens, to `folder`."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # which uses a tokenizer.json unchanged
        **dict.fromkeys(("bos_token", "eos_token"), end_token(tokenizer)),
        "pad_token": pad_token(tokenizer)[0],  # in batches, padding is masked
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,  # no text spells a special token
        "model_max_length": block_size,
        "padding_side": "left",  # a model continues the end of each row
    }
    for name, values in ((FILE_NAME, contents(tokenizer)), (CONFIG_NAME, config)):
        (folder / name).write_text(json.dumps(values, ensure_ascii=False) + "\n", encoding="utf-8")


def check(tokenizer: Tokenizer, folder: Path) -> None:
    """ExportError where the tokenizer in `folder` encodes to other ids than `tokenizer`, or decodes to another text."""
    engine = tokenizers.Tokenizer.from_file(str(folder / FILE_NAME))
    engine.encode_special_tokens = True  # what transformers does for `split_special_tokens`
    for text in samples(tokenizer):
        ids = tokenizer.encode(text).tolist()
        if engine.encode(text, add_special_tokens=False).ids != ids:
            raise ExportError(f"{FILE_NAME}: gives {text!r} other ids than the tokenizer {tokenizer.name} of the model")
        # groundup decodes other programs' files piece by piece, which may differ by a space at the start or end.
        ids.append(tokenizer.end_of_text)
        if tokenizer.name != "json" and engine.decode(ids, skip_special_tokens=False) != tokenizer.decode(ids):
            raise ExportError(f"{FILE_NAME}: decodes {text!r} to another text than the tokenizer of the model")


def samples(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts whose ids another program must give as `tokenizer` does."""
    known = getattr(tokenizer, "characters", None)  # of a tokenizer of single characters, which has no others
    yield from ("".join(char for char in sample if known is None or char in known) for sample in SAMPLES)


def _saved(tokenizer: Tokenizer, name: str) -> str:
    """The contents of one of the files that the tokenizer saves."""
    with TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        return (Path(folder) / name).read_text(encoding="utf-8")


def _with_end_token(engine: tokenizers.Tokenizer, token: str) -> Contents:
    """The contents of `engine`, with `token` as its special token."""
    engine.add_special_tokens([AddedToken(token, special=True, normalized=False)])
    return json.loads(engine.to_str())


def _byte_level(vocabulary: Mapping[bytes, int], merges: list[tuple[str, str]], *, use_regex: bool = True) -> Contents:
    """A byte-level BPE as GPT-2's; `use_regex` splits a text into words first."""
    char_of = {byte: char for char, byte in byte_characters().items()}
    spelt = {"".join(char_of[byte] for byte in piece): id_ for piece, id_ in vocabulary.items()}
    engine = tokenizers.Tokenizer(models.BPE(vocab=spelt, merges=merges))
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    engine.decoder = decoders.ByteLevel()
    return _with_end_token(engine, END_OF_TEXT)


def _char(tokenizer: Tokenizer) -> Contents:
    characters = [tokenizer.decode([id_]) for id_ in range(tokenizer.end_of_text)]
    # A word for each character, not a BPE, which would skip unknown characters silently.
    vocabulary = {char: id_ for id_, char in enumerate(characters)}
    engine = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    engine.decoder = decoders.Fuse()
    return _with_end_token(engine, END_OF_TEXT)


def _gpt1(tokenizer: Tokenizer) -> Contents:
    vocabulary, merges = json.loads(_saved(tokenizer, ENCODER)), merge_pairs(_saved(tokenizer, MERGES))
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token=UNKNOWN, end_of_word_suffix=WORD_END)
    engine = tokenizers.Tokenizer(model)
    engine.normalizer = normalizers.BertNormalizer(lowercase=True)
    engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    spelt = [(LINE_BREAK, "\n"), (UNKNOWN, "\N{REPLACEMENT CHARACTER}"), (WORD_END, " ")]
    engine.decoder = decoders.Sequence([*(decoders.Replace(old, new) for old, new in spelt), decoders.Fuse()])
    return _with_end_token(engine, LINE_BREAK)


def _file(tokenizer: Tokenizer) -> Contents:
    made = parse(_saved(tokenizer, FILE_NAME))
    end = end_token(tokenizer)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": tokenizer.end_of_text, "content": end, "special": True, **flags}
    others = [added for added in made["added_tokens"] if added["content"] != end]
    return {**made, "added_tokens": sorted([*others, token], key=lambda added: added["id"])}


KINDS: dict[str, Callable[[Tokenizer], Contents]] = {
    "byte": lambda _: _byte_level({bytes([byte]): byte for byte in range(256)}, [], use_regex=False),
    "char": _char,
    "gpt1": _gpt1,
    "gpt2": lambda _: _byte_level({piece: id_ for id_, piece in enumerate(gpt2_pieces())}, list(gpt2_merges())),
    "bpe": _file,
    "json": _file,
}
"""Name of a tokenizer -> builder of its `tokenizer.json`."""
