"""Where text comes from, and where its tokens are kept.

sources, files      files, folders, patterns and standard input, as a stream of documents
reading, parquet    bytes to text; `packed` unpacks them, `cleaning` makes the text plainer
pythondocs          the corpus that every Python brings along
download, hub       corpora known by name
shards, writer      token ids on disk, and their manifest
batches             which tokens stand in which training step
torch_dataset       the same windows for a PyTorch training loop: `groundup.data.dataset`
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.data.torch_dataset import dataset

__all__ = ["dataset"]


def __getattr__(name: str) -> Any:
    if name == "dataset":  # when first used, so that preparing text needs no torch
        from groundup.data.torch_dataset import dataset

        return dataset
    raise AttributeError(f"module 'groundup.data' has no attribute {name!r}")
