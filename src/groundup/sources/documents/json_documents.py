"""JSON that is one value and not lines: a table, an exported chat, or a notebook, whatever the file is called."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO, NamedTuple

from groundup.errors import DataError
from groundup.sources.documents.chats import read_assistant, read_discord, read_telegram
from groundup.sources.documents.json_stream import JsonStream
from groundup.sources.documents.notebooks import read_notebook
from groundup.sources.documents.options import MissingColumnError, ReadOptions, count, decode_pieces
from groundup.sources.documents.slack import read_slack_day
from groundup.sources.rows import CONVERSATION_FIELDS, DEFAULT_COLUMN, TURNS, RowTexts, names_of

MAX_PATH = 3  # names that lead to a list
MAX_FIELDS = 10_000  # of an object, and lists in it, that are remembered

_SLACK, _TELEGRAM = {"type", "ts"}, {"id", "type", "date"}  # fields of their messages
_CHATGPT, _CLAUDE = {"mapping", "current_node"}, {"uuid", "chat_messages"}  # and of their conversations


class _Shape(NamedTuple):
    """Structure of a JSON document, as far as its format is recognised by it."""

    fields: dict[str, None]  # of an object
    lists: dict[
        tuple[str, ...], set[str] | str | None
    ]  # names that lead to a list -> fields, or type, of its first item


def read_json(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The text of each row of a list, or of each conversation of a chat, or of a notebook.

    Rows are objects with a field `options.column`, or strings; the list is the document, or somewhere inside it. Raises
    DataError for JSON that is none of these, and MissingColumnError where rows have other fields.
    """
    try:
        shape = _shape(_stream(file, name, options, Counter()))
    except DataError as error:  # as in settings with comments, which stand in folders of code
        raise MissingColumnError(str(error)) from None
    stream = _stream(file, name, options, found)
    whole, messages = shape.lists.get(()), shape.lists.get(("messages",))
    if {"cells", "nbformat"} <= shape.fields.keys() or {"worksheets", "nbformat"} <= shape.fields.keys():
        yield from read_notebook(stream, options, found)
    elif {"guild", "channel", "messages"} <= shape.fields.keys():
        yield from read_discord(stream, options, found)
    elif ("chats", "list") in shape.lists or (isinstance(messages, set) and messages >= _TELEGRAM):
        yield from read_telegram(stream, options, found)
    elif isinstance(whole, set) and (whole >= _CHATGPT or whole >= _CLAUDE):
        yield from read_assistant(stream, options, found)
    elif isinstance(whole, set) and whole >= _SLACK:
        yield from read_slack_day(stream, options, found)
    else:
        rows = RowTexts(options.column, options.errors, partial(count, found))
        for label, row in _rows(stream, shape, options.column, found):
            if text := rows.text(row, label):
                yield text
        rows.judge()


def _stream(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> JsonStream:
    file.seek(0)
    return JsonStream(decode_pieces(file, name, options, found), name)


def _shape(stream: JsonStream) -> _Shape:
    """The shape of a document. An object is read to its end, of a list only the first item."""
    shape = _Shape({}, {})
    if stream.peek() == "[":
        shape.lists[()] = next((_kind(stream) for _ in stream.items()), None)
    elif stream.peek() == "{":
        for name in stream.members():
            if len(shape.fields) < MAX_FIELDS:
                shape.fields[name] = None
            _find_lists(stream, (name,), shape.lists)
        stream.finish()
    else:
        stream.value()
    return shape


def _find_lists(stream: JsonStream, path: tuple[str, ...], lists: dict[tuple[str, ...], set[str] | str | None]) -> None:
    """Read over a value, and note the lists in it under the names that lead to them."""
    first = stream.peek()
    if first == "[":
        for _ in stream.items():
            if len(lists) < MAX_FIELDS:
                lists[path] = _kind(stream)
            stream.skip_items()
            break
    elif first == "{" and len(path) < MAX_PATH:
        for name in stream.members():
            _find_lists(stream, (*path, name), lists)
    else:
        stream.skip()


def _kind(stream: JsonStream) -> set[str] | str | None:
    """Read over a value: the names of an object's members; `text` for a string; None for anything else."""
    first = stream.peek()
    if first != "{":
        stream.skip()
        return "text" if first == '"' else None
    names = set[str]()
    for name in stream.members():
        if len(names) < MAX_FIELDS:
            names.add(name)
        stream.skip()
    return names


def _rows(stream: JsonStream, shape: _Shape, column: str, found: Counter[str]) -> Iterator[tuple[str, Any]]:
    """The rows of a document, each with its place: itself, if it has the field, or the items of a list in it."""
    names = (column, *CONVERSATION_FIELDS) if column == DEFAULT_COLUMN else (column,)
    talks = [shape.lists.get((name,)) for name in names]
    is_talk = any(isinstance(fields, set) and any(fields >= {*keys} for keys in TURNS) for fields in talks)
    if is_talk or (column in shape.fields and (column,) not in shape.lists):
        yield stream.label, stream.value()
        return
    path = _path_of_rows(shape, column, stream.name)
    _enter(stream, path)
    count(found, "lists other than the rows are left out", len(shape.lists) - 1)
    for _ in stream.items():
        stream.peek()
        yield stream.label, stream.value()
    if not path:
        stream.finish()


def _path_of_rows(shape: _Shape, column: str, name: str) -> tuple[str, ...]:
    """The names that lead to the list whose items are rows. Raises DataError if there is none, or several."""
    if () in shape.lists:
        return ()
    objects = {path: fields for path, fields in shape.lists.items() if isinstance(fields, set)}
    strings = [path for path, kind in shape.lists.items() if kind == "text"]
    for paths in (
        [path for path, fields in objects.items() if column in fields],
        [path for path in strings if path[-1] in (column, f"{column}s", "data")],
        [*objects],
    ):
        if len(paths) == 1:
            return paths[0]
        if paths:
            raise MissingColumnError(
                f"{name}: several lists, {names_of(map(_jq, paths))}, could be its rows; write one of them as JSON "
                f"lines with: jq -c '{_jq(paths[0])}[]'"
            )
    raise MissingColumnError(
        f"{name}: JSON in which no list holds rows, with the fields {names_of(shape.fields)}, and neither a chat nor a "
        "notebook; write one object per line, with its text in a field `text`; or add --as text, to read the JSON "
        "itself as a text"
    )


def _jq(path: tuple[str, ...]) -> str:
    return "".join(f".{name}" if name.isidentifier() else f".{json.dumps(name)}" for name in path)


def _enter(stream: JsonStream, path: tuple[str, ...]) -> None:
    """Move the cursor to the value that the names of `path` lead to."""
    for wanted in path:
        for name in stream.members():
            if name == wanted:
                break
            stream.skip()
