"""groundup: any text in, a GPT of your own out.

The names below are the whole public Python API. They are loaded when first used: importing groundup imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from groundup.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    GroundupError,
    TokenizerError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from groundup.api import evaluate, generate, load, prepare, resume, train

__version__ = version("groundup")

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "GroundupError",
    "TokenizerError",
    "TrainingError",
    "UsageError",
    "__version__",
    "evaluate",
    "generate",
    "load",
    "prepare",
    "resume",
    "train",
]

_LAZY = ("evaluate", "generate", "load", "prepare", "resume", "train")


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module("groundup.api"), name)
    raise AttributeError(f"module 'groundup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
