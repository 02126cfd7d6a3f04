"""Folders of `transformers`: write and check one; read one, of the hub too.

Written are config.json, model.safetensors, a tokenizer and a model card. Weights are read from safetensors, or from
pickles of tensors alone; of a model of the hub only the needed files are downloaded.
"""

import json
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from groundup.config.model import ModelConfig
from groundup.errors import CheckpointError, ExportError, UsageError
from groundup.interop import hf_tokenizer
from groundup.interop.hf_architectures import FAMILIES
from groundup.interop.hf_mapping import BUFFERS, check_weights, config_json, model_config, to_groundup, to_hf, untied
from groundup.interop.imported import ImportedModel, check_tensors, printable
from groundup.interop.parity import Agreement, batch, check_logits, opened_by
from groundup.interop.torch_pickle import is_state_dict, unpickle
from groundup.model.gpt import GPT
from groundup.sources.hub import PREFIX
from groundup.tokenizers.base import Tokenizer
from groundup.ui.streams import unescaped
from groundup.utils.extras import install_command
from groundup.utils.hub_errors import HubRepo, explain_hub_error
from groundup.utils.reading import TensorInfo, read_json, read_safetensors_header

MODEL, CONFIG, GENERATION, CARD = "model.safetensors", "config.json", "generation_config.json", "README.md"
WEIGHTS = (MODEL, "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Files of weights, the preferred first; an index lists the files of a model in parts."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "added_tokens.json")
FLOATS = ("F", "BF", "torch.float", "torch.bfloat")  # dtypes, in a safetensors header and as text of torch
MAX_PARTS = 1000  # files of a model's weights, each of which is a download
BOUND = 1e-5  # of the largest logit: fp32 rounding of sums in another order


def write(folder: Path, config: ModelConfig, tensors: Mapping[str, Tensor], tokenizer: Tokenizer, card: str) -> None:
    """Write all files to the empty `folder`; OSError from the disk, UsageError for a model of no family."""
    generation = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.end_of_text)
    generation["pad_token_id"] = hf_tokenizer.pad_token(tokenizer)[1]
    for name, values in ((CONFIG, config_json(config, tokenizer.end_of_text)), (GENERATION, generation)):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    hf_tokenizer.write(tokenizer, folder, config.block_size)
    (folder / CARD).write_text(card, encoding="utf-8")
    try:
        save_file(to_hf(config, tensors), folder / MODEL, metadata={"format": "pt"})
        (folder / MODEL).chmod(stat.S_IMODE((folder / CARD).stat().st_mode))  # 0600 by safetensors, whatever the umask
    except SafetensorError as error:  # also raised for a full disk
        raise OSError(str(error)) from error


@torch.no_grad()
def check(folder: Path, model: GPT, tokenizer: Tokenizer) -> Agreement | None:
    """Open `folder` with transformers and compare its logits with the model's; None where it is not installed.

    The tokenizer's ids are compared in any case. ExportError where logits or ids differ.
    """
    hf_tokenizer.check(tokenizer, folder)
    try:
        transformers: Any = import_module("transformers")
    except ImportError:
        return None
    by = f"transformers {transformers.__version__}"
    with opened_by(by, f"{install_command('hf')} --upgrade"), _quiet():
        loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
        opened = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        ids = batch(model.config)
        logits = loaded.eval()(ids).logits
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if found[what]:
            raise ExportError(f"{by}: {what.replace('_', ' ')} in the export, {sorted(map(str, found[what]))[0]} first")
    if (len(opened), opened.eos_token_id) != (tokenizer.n_vocab, tokenizer.end_of_text):
        raise ExportError(f"{by}: reads a tokenizer of {len(opened)} ids that ends texts with {opened.eos_token_id}")
    return check_logits(by, model(ids.to(next(model.parameters()).device)).cpu(), logits, BOUND)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and advice of transformers; restore its settings afterwards."""
    logging: Any = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def download(source: str, revision: str | None = None) -> Path:
    """The cached folder of `hf:OWNER/NAME`, named after its commit; all files are of that commit.

    UsageError with the reason where it cannot be downloaded. `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` are obeyed.
    """
    repo = source.removeprefix(PREFIX)
    config = _download_file(repo, CONFIG, revision)
    if config is None:
        raise UsageError(f"{source}: holds no {CONFIG}, so it is no model of transformers; choose another")
    commit = config.parent.name
    for name in WEIGHTS:
        if (path := _download_file(repo, name, commit)) is not None:
            try:
                parts = _weight_files(path)
            except CheckpointError as error:
                raise CheckpointError(f"{source}: {error}") from None
            for part in parts:
                _download_file(repo, part.name, commit)  # a missing one is reported when the folder is read
            break
    for name in TOKENIZER_FILES:
        _download_file(repo, name, commit)
    return config.parent


def _download_file(repo: str, name: str, revision: str | None) -> Path | None:
    """A file's path in the cache; None where the repository has no such file."""
    try:
        from huggingface_hub import constants, errors, hf_hub_download
    except ImportError:
        raise UsageError(
            f"{PREFIX}{repo}: the hub needs huggingface_hub; install it with {install_command('data')}"
        ) from None
    try:
        with redirect_stderr(unescaped(sys.stderr)):  # its bars write control characters; `name` has none
            return Path(hf_hub_download(repo, name, revision=revision))
    except Exception as error:  # of the hub, its transport, or the disk: a dozen unrelated classes
        if isinstance(error, errors.EntryNotFoundError):
            not_cached = isinstance(error, errors.LocalEntryNotFoundError)
            if not not_cached or (constants.HF_HUB_OFFLINE and name != CONFIG):
                return None
        hub_repo = HubRepo(f"{PREFIX}{repo}", repo, revision, alternative="download it and give its folder")
        raise UsageError(f"{hub_repo.source}: {explain_hub_error(error, hub_repo)}") from None


def read_folder(folder: Path) -> ImportedModel:
    """The model of a folder. CheckpointError where it is damaged, UsageError where groundup cannot compute it."""
    try:
        values = _read_json(folder / CONFIG)
        config = model_config(values)
        weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
        if weights is None:
            raise CheckpointError(f"there are no weights with its {CONFIG} (such as {WEIGHTS[0]}); get them as well")
        files = _weight_files(weights)
        headers = [_read_header(file) for file in files if file.suffix == ".safetensors"]
        infos = {name: info for header in headers for name, info in header.items()}
        _check_floating({name: info.dtype for name, info in infos.items()})
        if len(headers) == len(files):
            check_weights(config, {name: info.shape for name, info in infos.items()})
        tensors = {name: tensor for file in files for name, tensor in _read_weights(file).items()}
        _check_floating({name: str(tensor.dtype) for name, tensor in tensors.items()})
        config = untied(config, tensors)
        found = to_groundup(config, tensors)
    except (CheckpointError, UsageError) as error:
        raise type(error)(f"{folder}: {error}") from None
    kind = f"{FAMILIES[values['model_type']].architecture} of transformers"
    return ImportedModel(kind, config, check_tensors(folder, config, found), folder)


def _check_floating(dtypes: Mapping[str, str]) -> None:
    """CheckpointError unless all weights are floating-point numbers; `dtypes`: name -> dtype."""
    for name, dtype in dtypes.items():
        if not dtype.startswith(FLOATS) and not name.endswith(BUFFERS):
            raise CheckpointError(f"{printable(name)} holds {dtype}: quantised weights cannot be read; get plain ones")


def _weight_files(path: Path) -> list[Path]:
    """`path`, or the files that it lists where it is an index; CheckpointError unless each has a plain file name."""
    if path.suffix != ".json":
        return [path]
    names = _read_json(path).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{path.name}: lists no weights (it has no weight_map); get it again")
    for name in names.values():
        # A name in a foreign file must not become a path out of the folder.
        plain = isinstance(name, str) and Path(name).name == name and name.isprintable() and len(name) < 200
        if not plain or not name.endswith((".safetensors", ".bin")):
            raise CheckpointError(f"{path.name}: {str(name)[:80]!r} is no name of a file of weights; get it again")
    files = sorted(set(names.values()))
    if len(files) > MAX_PARTS:
        raise CheckpointError(
            f"{path.name}: lists {len(files):,} files, and a model has at most {MAX_PARTS}; get it again"
        )
    return [path.with_name(name) for name in files]


def _read_header(path: Path) -> dict[str, TensorInfo]:
    try:
        return read_safetensors_header(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path.name}: missing; get it as well") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: cut short or damaged ({printable(error, 200)}); get it again") from None


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                f"{path.name}: cut short or damaged ({printable(error, 200)}); get it again"
            ) from None
    if not path.is_file():
        raise CheckpointError(f"{path.name}: missing; get it as well")
    found = unpickle(path)
    if not is_state_dict(found):
        raise CheckpointError(f"{path.name}: holds no tensors by name; get it again")
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except FileNotFoundError:
        raise CheckpointError(f"there is no {path.name} here; give the folder of a model of transformers") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name}: damaged ({printable(error, 200)}); get it again") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path.name}: damaged (no JSON object); get it again")
    return values
