"""Record of a preparation's options and inputs, to detect later whether another call asks for the same."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from groundup.errors import DataError
from groundup.sources.corpus import Corpus
from groundup.utils.files import replace_text

REQUEST = "request.json"
FORMAT: Final = 1

Setting = str | int | float | None
Record = TypeVar("Record", bound=BaseModel)


class InputFile(BaseModel):
    """One input: its name in the manifest, its size in bytes, and what changes when its text does."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: str
    size: int | None
    version: str


class Request(BaseModel):
    """Settings and inputs: the contents of `request.json`."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    format: Literal[1] = FORMAT
    settings: dict[str, Setting]
    inputs: tuple[InputFile, ...]

    @classmethod
    def of(cls, corpus: Corpus, settings: dict[str, Setting]) -> Request:
        """The request to prepare `corpus` in this way."""
        inputs = (InputFile(name=each.name, size=each.size, version=each.version) for each in corpus.inputs)
        return cls(settings=settings, inputs=tuple(inputs))

    @classmethod
    def load(cls, folder: Path) -> Request | None:
        """The request that `folder` was made for, or None where it has none. Raises DataError for a damaged one."""
        return read_record(cls, folder / REQUEST, "replace the folder with --overwrite")

    def save(self, folder: Path) -> None:
        """Write the request into `folder`."""
        replace_text(folder / REQUEST, self.model_dump_json(indent=1) + "\n")

    def difference(self, now: Request, inputs: int | None = None) -> str | None:
        """The first difference to the request `now`, or None. With `inputs`, only that many inputs are compared."""
        if self == now:
            return None
        for key in {**self.settings, **now.settings}:
            previous, current = self.settings.get(key), now.settings.get(key)
            if previous != current:
                return f"{key} was {_shown(previous)} and is {_shown(current)}"
        names = {each.name for each in now.inputs}
        for i in range(max(len(self.inputs), len(now.inputs)) if inputs is None else inputs):
            if i >= len(now.inputs):
                return f"{self.inputs[i].name} is no longer among the sources"
            if i >= len(self.inputs) or self.inputs[i].name not in names:
                name = now.inputs[i].name if i >= len(self.inputs) else self.inputs[i].name
                return f"{name} is {'new' if i >= len(self.inputs) else 'no longer'} among the sources"
            if self.inputs[i].name != now.inputs[i].name:
                return f"the sources come in another order, from {now.inputs[i].name} on"
            if self.inputs[i] != now.inputs[i]:
                return f"{self.inputs[i].name} has changed"
        return None


def read_record(kind: type[Record], path: Path, remedy: str) -> Record | None:
    """The record in a JSON file of a prepared folder; None where there is no file, DataError where it is damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: not a {path.stem} of groundup ({field}: {first['msg']}); {remedy}") from None


def _shown(value: Setting) -> str:
    return "not given" if value is None else repr(value)
