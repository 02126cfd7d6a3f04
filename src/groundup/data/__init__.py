"""Prepared token ids: shards and their manifest, documents, shuffled training windows, a PyTorch dataset."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.data.torch_dataset import dataset

__all__ = ["dataset"]


def __getattr__(name: str) -> Any:
    if name == "dataset":  # imported on first use, so that preparing text needs no torch
        from groundup.data.torch_dataset import dataset

        return dataset
    raise AttributeError(f"module 'groundup.data' has no attribute {name!r}")
