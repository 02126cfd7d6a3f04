"""From the name of a data set on the hub to its files at one commit."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from groundup.errors import DataError
from groundup.sources.hub_client import FIRST_WAITS, HubSpec, with_retries


@dataclass(frozen=True)
class DataSet:
    """A data set at one commit: the files of one split, and the library's own way to read them."""

    spec: HubSpec
    commit: str
    split: str
    files: Sequence[str]  # beginning with `prefix`, or addresses elsewhere
    builder: Any  # a datasets.DatasetBuilder

    @property
    def prefix(self) -> str:
        """What the addresses of the data set's own files begin with."""
        return f"hf://datasets/{self.spec.repo}@{self.commit}/"


@lru_cache(maxsize=16)
def resolve(spec: HubSpec) -> DataSet:
    """Ask the hub for the commit, then let the library find the files. The answer holds while the process lives, so
    that going through a corpus twice gives the same documents. Raises DataError.
    """
    try:
        import datasets
        import huggingface_hub
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError(
            f"{spec.source}: reading from the hub needs more libraries; install them with: pip install 'groundup[data]'"
        ) from None

    def ask() -> str:
        timeout = huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT
        return str(huggingface_hub.HfApi().dataset_info(spec.repo, revision=spec.revision, timeout=timeout).sha)

    commit = with_retries(spec, ask, FIRST_WAITS)

    def build() -> Any:
        try:
            return datasets.load_dataset_builder(
                f"hf://datasets/{spec.repo}",  # never a folder of that name that happens to lie here
                name=spec.config,
                data_files={"train": spec.files} if spec.files else None,
                revision=commit,
            )
        except Exception as error:
            if refusal := _refusal(spec, error):
                raise refusal from None
            raise

    builder = with_retries(spec, build)
    files = {str(name): list(paths) for name, paths in (builder.config.data_files or {}).items()}
    if "train" not in files and len(files) != 1:
        names = ", ".join(files) or "none"
        raise DataError(f"{spec.source}: it has no split named train, but {names}; name files, as {spec.repo}/FOLDER/*")
    split = "train" if "train" in files else next(iter(files))
    return DataSet(spec, commit, split, files[split], builder)


def _refusal(spec: HubSpec, error: Exception) -> DataError | None:
    """A sentence for what the library has to say of the data set itself."""
    text = str(error)
    if "scripts are no longer supported" in text:
        return DataError(
            f"{spec.source}: this data set is a program, which is not run; "
            f"read the hub's own copy of its rows: hf:{spec.repo}@refs/convert/parquet"
        )
    if "Config name is missing" in text or "BuilderConfig" in text:
        listed = text[text.find("[") + 1 : text.find("]")].replace("'", "").split(", ")
        return _no_config(spec, listed)
    if type(error).__name__ in ("DataFilesNotFoundError", "EmptyDatasetError"):
        what = f"no file matches {spec.files}" if spec.files else "it has no data files that can be read"
        return DataError(f"{spec.source}: {what}; name files of it, as hf:{spec.repo}/FOLDER/*.parquet")
    return None


def _no_config(spec: HubSpec, configs: Sequence[str]) -> DataError:
    if spec.config is None:
        return DataError(f"{spec.source}: it has several configs; choose one, as in hf:{spec.repo}:{configs[0]}, "
                         f"of {', '.join(configs)}")  # fmt: skip
    near = get_close_matches(spec.config, configs, n=1)
    hint = f"did you mean :{near[0]}? " if near else ""
    return DataError(f"{spec.source}: there is no config {spec.config!r}; {hint}it has {', '.join(configs)}")
