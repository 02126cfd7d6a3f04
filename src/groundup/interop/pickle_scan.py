"""Globals, tensors and sizes named by a pickle of torch, read from its opcodes before anything is unpickled.

Only what files of weights need is allowed: plain values, OrderedDicts, tensors of storages in the file, and instances
of a class that calls itself `GPTConfig`, which `groundup.interop.torch_pickle` replaces.
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import torch

SETTINGS_CLASS = ".GPTConfig"
ORDERED_DICT = "collections.OrderedDict"
TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
STORAGES = {
    **dict.fromkeys(("torch.DoubleStorage", "torch.LongStorage"), 8),
    **dict.fromkeys(("torch.FloatStorage", "torch.IntStorage"), 4),
    **dict.fromkeys(("torch.HalfStorage", "torch.BFloat16Storage", "torch.ShortStorage"), 2),
    **dict.fromkeys(("torch.CharStorage", "torch.ByteStorage", "torch.BoolStorage"), 1),
}
"""Bytes per number, by the name of a storage."""
DTYPES = frozenset(str(value) for value in vars(torch).values() if isinstance(value, torch.dtype))

VALUES = frozenset("NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINSTRING".split())
CONTAINERS = frozenset(("EMPTY_LIST", "EMPTY_DICT"))
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MAX_EXPANDED = 1 << 16  # values in a tuple and the tuples in it, which hashing and printing visit each time they occur

_MARK = object()


class UnsupportedPickleError(Exception):
    """The pickle asks for more than files of weights need; the message says what."""


@dataclass
class PickleContents:
    """Globals and storages that one or more pickles name."""

    settings: set[str] = field(default_factory=set)  # names of classes that call themselves GPTConfig
    storages: dict[str, int] = field(default_factory=dict)  # key -> bytes


@dataclass(frozen=True)
class _Global:
    name: str

    def __post_init__(self) -> None:
        allowed = self.name == ORDERED_DICT or self.name in TENSORS or self.name in STORAGES or self.name in DTYPES
        if not allowed and not self.is_settings:
            raise UnsupportedPickleError(self.name)

    @property
    def is_settings(self) -> bool:
        return self.name.endswith(SETTINGS_CLASS)


@dataclass(frozen=True)
class _Instance:
    type: _Global


class _Tuple(tuple[Any, ...]):
    """A tuple that knows how many values it holds, those of the tuples in it included."""

    @property
    def expanded(self) -> int:
        return self._expanded

    def __init__(self, items: list[Any]) -> None:
        self._expanded = 1 + sum(item.expanded if isinstance(item, _Tuple) else 1 for item in items)
        if self._expanded > MAX_EXPANDED:
            raise UnsupportedPickleError(f"a tuple of more than {MAX_EXPANDED:,} values")


def scan_pickle(file: BinaryIO, contents: PickleContents) -> None:
    """Read one pickle from `file`, and add what it asks for to `contents`.

    UnsupportedPickleError where that is not allowed; ValueError, IndexError or KeyError where the pickle is damaged.
    """
    stack: list[Any] = []
    memo: dict[Any, Any] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in VALUES:
            _check_value(argument)
            stack.append(argument)
        elif name in CONTAINERS:
            stack.append(None)
        elif name in TUPLES:
            stack.append(_Tuple([stack.pop() for _ in range(TUPLES[name])][::-1]))
        elif name == "TUPLE":
            stack.append(_Tuple(_pop_to_mark(stack)))
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("APPENDS", "SETITEMS"):
            _pop_to_mark(stack)
        elif name in ("APPEND", "SETITEM"):
            del stack[-1 if name == "APPEND" else -2 :]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            found = _Global(str(argument).replace(" ", "."))
            contents.settings |= {found.name} if found.is_settings else set()
            stack.append(found)
        elif name == "BINPERSID":
            key, size = _storage(stack.pop())
            contents.storages[key] = max(size, contents.storages.get(key, 0))
            stack.append(None)
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(_instance(stack.pop(), stack.pop(), made_by_new=name == "NEWOBJ"))
        elif name == "BUILD":
            stack.pop()
            _check_state(stack[-1])
        elif name not in ("PROTO", "STOP"):
            raise UnsupportedPickleError(f"the pickle opcode {name}")


def _check_value(value: Any) -> None:
    # Larger whole numbers can be chosen so that a dict of them takes hours.
    if isinstance(value, int) and abs(value) >> 63 and value != torch.serialization.MAGIC_NUMBER:
        raise UnsupportedPickleError("a whole number of more than 64 bits")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _storage(reference: Any) -> tuple[str, int]:
    """Key and bytes of a storage that a pickle refers to."""
    match reference:
        case ("storage", _Global(name), str(key), str(), int(numel), *_) if name in STORAGES and numel >= 0:
            return key, numel * STORAGES[name]
    raise UnsupportedPickleError("an object that is no storage")


def _instance(arguments: Any, called: Any, *, made_by_new: bool) -> _Instance:
    if isinstance(called, _Global) and isinstance(arguments, _Tuple):
        is_function = called.name == ORDERED_DICT or called.name in TENSORS
        if called.is_settings or (is_function and not made_by_new):
            return _Instance(called)
    raise UnsupportedPickleError(f"a call of {called.name if isinstance(called, _Global) else 'a plain value'}")


def _check_state(built: Any) -> None:
    if not isinstance(built, _Instance) or built.type.name in TENSORS:
        raise UnsupportedPickleError("an object with a state of its own")
