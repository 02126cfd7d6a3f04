"""Find the tokenizer of an imported model, and check that the two fit. No torch."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from groundup.errors import TokenizerError, UsageError
from groundup.tokenizers.base import END_OF_TEXT, Tokenizer, TokenizerTrainer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer, byte_characters, gpt2_merges, gpt2_pieces
from groundup.tokenizers.hf_format import FILE_NAME, model_ids, parse
from groundup.tokenizers.hf_json import read_tokenizer_file
from groundup.tokenizers.registry import choose_tokenizer

GPT2_ROWS = (50_257, 50_304)  # GPT-2's ids, and the same padded as in nanoGPT and llm.c
MAX_PADDING_ROWS = 127  # of an embedding, beyond the vocabulary
NAME_ONE = "name its tokenizer with --tokenizer: a tokenizer.json, or a folder that holds one or was prepared with it"


def find_tokenizer(spec: str | None, folder: Path | None, rows: int, source: str) -> Tokenizer:
    """The tokenizer that `spec` names; without one, that of the model's folder, or GPT-2's for a file of its size.

    UsageError where there is none, TokenizerError where it is damaged.
    """
    if spec is not None:
        choice = choose_tokenizer(spec)
        if isinstance(choice, TokenizerTrainer):
            raise UsageError(f"--tokenizer {spec}: is learnt from a text, and the model has one already; {NAME_ONE}")
        return choice
    of_size = GPT2Tokenizer() if rows in GPT2_ROWS else None
    found = _of_folder(folder) if folder is not None else of_size
    if found is None:
        raise UsageError(f"{source}: brings no tokenizer along for its {rows:,} ids; {NAME_ONE}")
    return found


def match_vocabulary(tokenizer: Tokenizer, rows: int, source: str) -> tuple[int, str | None]:
    """Vocabulary size of the imported model, and a note about it; UsageError where tokenizer and model do not fit."""
    ids = tokenizer.n_vocab
    if ids == rows:
        return ids, None
    if ids == rows + 1 and tokenizer.name == "char":
        return ids, (
            f"a row of zeros was added for the end of a text, id {rows}, which the model never learnt: its logit is "
            "always 0, so that a text may end by chance"
        )
    if ids < rows and rows % 64 == 0 and rows - ids <= MAX_PADDING_ROWS:
        return ids, f"{rows - ids} of its {rows:,} rows only pad the vocabulary"
    raise UsageError(f"{source}: the model has {rows:,} ids, and the tokenizer ({tokenizer.name}) {ids:,}; {NAME_ONE}")


def _of_folder(folder: Path) -> Tokenizer | None:
    """groundup's GPT-2 or GPT-1 tokenizer if the files equal it, otherwise the folder's tokenizer.json, if any."""
    file = folder / FILE_NAME
    if _ids(folder) == _gpt2_ids() and (not file.is_file() or _cuts_as_gpt2(file)):
        return GPT2Tokenizer()
    with suppress(TokenizerError):
        return GPT1Tokenizer.read(folder)
    return read_tokenizer_file(file) if file.is_file() else None


def _cuts_as_gpt2(file: Path) -> bool:
    """Whether a tokenizer.json with GPT-2's ids also gives a text the ids that GPT-2 gives it."""
    contents = parse(file.read_text(encoding="utf-8"))
    cut, model = contents.get("pre_tokenizer"), contents["model"]
    if contents.get("normalizer") is not None or not isinstance(cut, dict) or not isinstance(model.get("merges"), list):
        return False
    plain = (cut.get("type"), cut.get("add_prefix_space"), cut.get("use_regex", True)) == ("ByteLevel", False, True)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return plain and merges == [list(merge) for merge in gpt2_merges()]


def _ids(folder: Path) -> dict[str, int]:
    """Every piece and its id, from tokenizer.json or vocab.json; empty where neither can be read."""
    with suppress(OSError, ValueError, TokenizerError, KeyError, TypeError, AttributeError, RecursionError):
        if (folder / FILE_NAME).is_file():
            contents = parse((folder / FILE_NAME).read_text(encoding="utf-8"))
            return model_ids(contents) | {token["content"]: token["id"] for token in contents["added_tokens"]}
        more = folder / "added_tokens.json"
        files = [folder / "vocab.json", *([more] if more.is_file() else [])]
        return {piece: id_ for file in files for piece, id_ in json.loads(file.read_text(encoding="utf-8")).items()}
    return {}


def _gpt2_ids() -> dict[str, int]:
    spelling = {byte: character for character, byte in byte_characters().items()}
    pieces = ["".join(spelling[byte] for byte in piece) for piece in gpt2_pieces()]
    return {piece: id_ for id_, piece in enumerate([*pieces, END_OF_TEXT])}
