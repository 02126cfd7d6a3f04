"""groundup: any text in, a GPT of your own out.

The names below are the whole public Python API. They are loaded when first used: importing groundup imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from types import FunctionType
from typing import TYPE_CHECKING, Any

from groundup.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    GroundupError,
    TokenizerError,
    TrainingError,
    UsageError,
)

if TYPE_CHECKING:
    from groundup import data
    from groundup.api import (
        evaluate,
        evaluate_tasks,
        generate,
        generate_stream,
        load,
        load_tokenizer,
        plan,
        prepare,
        quickstart,
        resume,
        train,
    )
    from groundup.comparison.table import compare
    from groundup.config.model import ModelConfig
    from groundup.generation.sampler import Sampler
    from groundup.interop.export import export
    from groundup.interop.import_model import import_model
    from groundup.interop.push import push
    from groundup.model import build_model
    from groundup.model.gpt import GPT

__version__: str

__all__ = [
    "GPT", "CheckpointError", "ConfigError", "DataError", "ExportError", "GroundupError", "ModelConfig", "Sampler",
    "TokenizerError", "TrainingError", "UsageError", "__version__", "build_model", "compare", "data", "evaluate",
    "evaluate_tasks", "export", "generate", "generate_stream", "import_model", "load", "load_tokenizer", "plan",
    "prepare", "push", "quickstart", "resume", "train",
]  # fmt: skip

_HOMES = {
    "GPT": "groundup.model.gpt",
    "build_model": "groundup.model",
    "ModelConfig": "groundup.config.schema",
    "compare": "groundup.comparison.table",
    "Sampler": "groundup.generation.sampler",
    **dict.fromkeys(
        (
            "evaluate",
            "evaluate_tasks",
            "generate",
            "generate_stream",
            "load",
            "load_tokenizer",
            "plan",
            "prepare",
            "quickstart",
            "resume",
            "train",
        ),
        "groundup.api",
    ),
    "export": "groundup.interop.export",
    "push": "groundup.interop.push",
    "import_model": "groundup.interop.import_model",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
        if not isinstance(value, FunctionType):
            return value
        function = import_module("groundup.utils.wording").raises_for_python(value)
        function.__module__ = __name__  # where pickle looks for it
        return globals().setdefault(name, function)
    if name == "__version__":
        return import_module("groundup.utils.system").own_version()
    if name == "data":
        return import_module("groundup.data")
    raise AttributeError(f"module 'groundup' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
