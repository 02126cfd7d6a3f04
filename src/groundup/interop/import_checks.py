"""Checks of an import: its arguments, before anything is read; and that the model and its tokenizer fit. No torch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from groundup.checkpoint.files import read_config, verify
from groundup.errors import CheckpointError, NewerFormatError, TokenizerError, UsageError
from groundup.sources.hub import PREFIX
from groundup.tokenizers.base import END_OF_TEXT, Tokenizer, TokenizerTrainer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer, byte_characters, gpt2_merges, gpt2_pieces
from groundup.tokenizers.hf_json import FILE_NAME, MAX_FILE_BYTES, model_ids, parse, read_tokenizer_file
from groundup.tokenizers.registry import choose_tokenizer
from groundup.utils.files import DELETED, SUMS, checksums, hidden, resolved, restore_previous
from groundup.utils.reading import read_json, read_text

SOURCES = (
    f"{PREFIX}OWNER/NAME, a folder of transformers (with its config.json), a ckpt.pt of nanoGPT or build-nanogpt, "
    "or a .bin of llm.c"
)
GPT2_ROWS = (50_257, 50_304)  # GPT-2's ids, and the same padded as in nanoGPT and llm.c
MAX_PADDING_ROWS = 127  # of an embedding, beyond the vocabulary
NAME_ONE = "name its tokenizer with --tokenizer: a tokenizer.json, or a folder that holds one or was prepared with it"


def check(source: str, out: Path, *, revision: str | None, overwrite: bool) -> None:
    """UsageError where there is nothing to import, or `out` may not be written."""
    check_output(out, overwrite=overwrite)
    if source.startswith(PREFIX):
        return
    if revision is not None:
        raise UsageError(f"--revision {revision}: is for models of the hub; leave it out for {source}")
    with _readable(source, f"give {SOURCES}"):
        path = resolved(Path(source))
        if not path.exists():
            raise UsageError(f"{source}: there is no such file or folder; give {SOURCES}")
        # Other programs' folders may hold a config.yaml or checksums of their own.
        if (path / "config.yaml").is_file() and (path / "checkpoints").exists():
            raise UsageError(f"{source}: already a groundup run; use it as it is")
        if (path / SUMS).is_file() and _is_ours(path):
            raise UsageError(f"{source}: already a groundup checkpoint; use it as it is")


def check_output(out: Path, *, overwrite: bool) -> None:
    """UsageError where `out` holds something that an import may not replace.

    An import replaces a checkpoint and nothing else: a file that the checkpoint's checksums do not list is the user's.
    """
    with _readable(str(out), "choose another folder with --out"):
        target = resolved(out)
        restore_previous(target)
        _restore_deleted(target)
        if target.is_file():
            raise UsageError(f"{out}: is a file; choose another folder with --out")
        if not target.is_dir() or not any(target.iterdir()):
            return
        listed = checksums(target)
        if listed is None or not _is_ours(target):
            raise UsageError(f"{out}: already holds files, and no checkpoint; choose another folder with --out")
        paths = [path for path in target.rglob("*") if path.is_symlink() or not path.is_dir()]
        files = {path.relative_to(target).as_posix() for path in paths}
        if foreign := sorted(files - listed.keys() - {SUMS}):
            raise UsageError(
                f"{out}: holds {foreign[0][:80]!r}, which is of no checkpoint; choose another folder with --out"
            )
        if not overwrite:
            raise UsageError(f"{out}: holds a checkpoint already; choose another --out, or replace it with --overwrite")


def _restore_deleted(target: Path) -> None:
    """Put back what an import of an earlier version was about to delete, if it is complete."""
    deleted = hidden(target, DELETED)
    if deleted.is_dir() and not deleted.is_symlink() and not target.exists():
        with suppress(CheckpointError):
            verify(deleted)
            deleted.rename(target)


@contextmanager
def _readable(path: str, remedy: str) -> Iterator[None]:
    """UsageError where the system cannot look up `path`: too long a name, a zero byte, a circle of links."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path[:80]!r}: cannot be looked at ({reason}); {remedy}") from None


def _is_ours(folder: Path) -> bool:
    try:
        read_config(folder)
    except CheckpointError as error:
        return isinstance(error, NewerFormatError)
    return True


def find_tokenizer(spec: str | None, folder: Path | None, rows: int, source: str) -> Tokenizer:
    """The tokenizer that `spec` names; without one, that of the model's folder, or GPT-2's for a file of its size.

    UsageError where there is none, TokenizerError where it is damaged.
    """
    if spec is not None:
        choice = choose_tokenizer(spec)
        if isinstance(choice, TokenizerTrainer):
            raise UsageError(f"--tokenizer {spec}: is learnt from a text, and the model has one already; {NAME_ONE}")
        return choice
    found = _of_folder(folder) if folder is not None else GPT2Tokenizer() if rows in GPT2_ROWS else None
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
    contents = parse(read_text(file, limit=MAX_FILE_BYTES))
    cut, model = contents.get("pre_tokenizer"), contents["model"]
    if contents.get("normalizer") is not None or not isinstance(cut, dict) or not isinstance(model.get("merges"), list):
        return False
    plain = (cut.get("type"), cut.get("add_prefix_space"), cut.get("use_regex", True)) == ("ByteLevel", False, True)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    return plain and merges == [list(merge) for merge in gpt2_merges()]


def _ids(folder: Path) -> dict[str, int]:
    """Every piece and its id, from tokenizer.json or vocab.json; empty where neither can be read."""
    with suppress(OSError, ValueError, TokenizerError, KeyError, TypeError, AttributeError):
        if (folder / FILE_NAME).is_file():
            contents = parse(read_text(folder / FILE_NAME, limit=MAX_FILE_BYTES))
            return model_ids(contents) | {token["content"]: token["id"] for token in contents["added_tokens"]}
        more = folder / "added_tokens.json"
        files = [folder / "vocab.json", *([more] if more.is_file() else [])]
        return {piece: id_ for file in files for piece, id_ in read_json(file).items()}
    return {}


def _gpt2_ids() -> dict[str, int]:
    spelling = {byte: character for character, byte in byte_characters().items()}
    pieces = ["".join(spelling[byte] for byte in piece) for piece in gpt2_pieces()]
    return {piece: id_ for id_, piece in enumerate([*pieces, END_OF_TEXT])}
