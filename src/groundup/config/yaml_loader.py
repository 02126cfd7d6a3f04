"""YAML files of sections: of bounded size and depth, without anchors, tags and keys given twice."""

import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from typing_extensions import override
from yaml.error import Mark, MarkedYAMLError

from groundup.errors import ConfigError
from groundup.utils.reading import open_regular

MAX_FILE_BYTES = 1 << 20  # a config with all keys has 4,000
MAX_DEPTH = 10  # sections of a section `laptop` are 3 deep
MAX_NUMBER_CHARACTERS = 100  # more is text, which no key that wants a number accepts
TEXT_HERE = re.compile(r"[-+]?0[\d_]|.*:")  # YAML 1.1 reads 010 as 8 and 1:30 as 90; later versions and options do not
BOOL, INT, FLOAT, NULL = (f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "null"))


def read_yaml(path: Path, *, pipe: bool = False) -> dict[str, Any]:
    """The mapping in a YAML file; ConfigError when it cannot be read or is no mapping of sections.

    With `pipe`, the file may be a pipe, such as the shell's `<(…)`.
    """
    try:
        with path.open("rb") if pipe else open_regular(path) as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); give an existing YAML file") from error
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give an existing YAML file") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES:,} bytes, so it is no config; give another file")
    values = _parse(content, path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections such as `model:` and `train:`, found {type(values).__name__}")
    return values


def _parse(content: bytes, path: Path) -> Any:
    try:
        return yaml.load(content.decode(), _Loader)  # noqa: S506  # a SafeLoader
    except _RefusedError as error:
        raise ConfigError(f"{_place(path, error)}: {error.problem}") from None
    except Exception as error:  # PyYAML raises many kinds
        raise ConfigError(
            f"{_place(path, error)}: not YAML; write `section:` and indented `key: value` lines"
        ) from error


def _place(path: Path, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{path}, line {mark.line + 1}" if mark else str(path)


class _RefusedError(MarkedYAMLError):
    """YAML that this program does not accept."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses what no config needs, and whose only booleans are `true` and `false`, as in YAML 1.2."""

    _depth = 0

    @override
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:  # also that of an alias
            _refuse(f"{event.anchor}: anchors and aliases are not accepted; write the value out", event.start_mark)
        if event.tag not in (None, "!"):
            _refuse(f"{event.tag}: tags are not accepted; write the value alone", event.start_mark)
        if self._depth == MAX_DEPTH:
            _refuse(f"nested more than {MAX_DEPTH} deep; no key needs that", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    @override
    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> str:
        if kind is yaml.ScalarNode and (len(value) > MAX_NUMBER_CHARACTERS or TEXT_HERE.match(value)):
            implicit = (False, False)
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    @override
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key is a list or a section; write `key: value`", key.start_mark)
            name, line = key.value.replace("-", "_"), key.start_mark.line + 1
            if name in lines:
                _refuse(f"{key.value}: is also in line {lines[name]}; write it once", key.start_mark)
            lines[name] = line
        return super().construct_mapping(node, deep)


# `on` is a value of train.compile. Dates and `<<` stay text as well.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (INT, FLOAT, NULL)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(BOOL, re.compile("true|True|TRUE|false|False|FALSE"), [*"tTfF"])


def _refuse(problem: str, mark: Mark) -> NoReturn:
    raise _RefusedError(problem=problem, problem_mark=mark)
