"""Slack exports: a folder for each channel, with a JSON file of messages for each day. A channel is one document.

The replies of a thread stand after the message that they answer, whatever the day.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import ZipFile

from groundup.errors import DataError
from groundup.sources.documents.chats import NOTICES, WITHOUT_TEXT
from groundup.sources.documents.json_stream import JsonStream
from groundup.sources.documents.options import ReadOptions, count, decode, join
from groundup.sources.documents.zips import open_zip, read_member
from groundup.sources.rows import speech
from groundup.utils.reading import read_bytes

_DAY_FILE = re.compile(r"(?:(.*)/)?([^/]+)/\d{4}-\d\d-\d\d\.json", re.DOTALL)
_LISTS = ("users.json", "channels.json", "groups.json", "dms.json", "mpims.json")

# Subtypes of messages that somebody wrote; the others are notices, such as `channel_join`.
_SUBTYPES = frozenset({None, "bot_message", "thread_broadcast", "me_message", "file_share", "file_comment"})

_REFERENCE = re.compile(r"<([^<>]*)>")  # to a person, channel, group or address
_ENTITY, _ENTITIES = re.compile(r"&(amp|lt|gt);"), {"amp": "&", "lt": "<", "gt": ">"}


class _Message(NamedTuple):
    thread: float  # time of the message that it answers, or its own
    time: float
    line: str


def export_root(names: Iterable[str]) -> str | None:
    """The folder of a Slack export among the paths of an archive or a folder, ending in `/`; None if there is none."""
    names = set(names)
    roots = {match[1] for name in names if (match := _DAY_FILE.fullmatch(name))}
    if len(roots) != 1:
        return None
    prefix = f"{root}/" if (root := roots.pop()) else ""
    return prefix if any(prefix + each in names for each in _LISTS) else None


def read_zip(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The channels of the zip file that Slack writes."""
    with open_zip(file, name) as archive:
        paths = [info.filename for info in archive.infolist() if not info.is_dir()]
        read = partial(_read_from_zip, archive, name=name, options=options)
        yield from _channels(paths, read, name, options, found)


def read_folder(folder: Path, paths: Iterable[str], options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The channels of such a file that was unpacked; `paths` are those of its files, from the folder on."""

    def read(path: str) -> bytes:
        try:
            return read_bytes(folder / path, limit=options.max_bytes)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / path}: cannot be read ({error}); give a complete export") from None

    yield from _channels(paths, read, str(folder), options, found)


def folder_paths(folder: Path) -> list[str]:
    """The files of an export that was unpacked to `folder`, from there on; empty if it is none."""
    if not any((folder / each).is_file() for each in _LISTS):
        return []
    paths = [path.relative_to(folder).as_posix() for path in (*folder.glob("*.json"), *folder.glob("*/*.json"))]
    paths = [path for path in paths if not (folder / path).is_symlink() and not (folder / path).parent.is_symlink()]
    return sorted(paths) if export_root(paths) == "" else []


def _read_from_zip(archive: ZipFile, path: str, *, name: str, options: ReadOptions) -> bytes:
    return read_member(archive, path, name, options.max_bytes)


def _channels(
    paths: Iterable[str], read: Callable[[str], bytes], name: str, options: ReadOptions, found: Counter[str]
) -> Iterator[str]:
    """The channels of an export in the order of their names; `read` gives the content of one of its files."""
    names = set(paths)
    root = export_root(names) or ""

    def stream(path: str) -> JsonStream:
        label = f"{name}/{path}"
        return JsonStream([decode(read(path), label, options, found)], label)

    people = _people(stream(f"{root}users.json")) if f"{root}users.json" in names else {}
    channels: dict[str, list[str]] = {}
    for path in sorted(names):
        match = _DAY_FILE.fullmatch(path)
        if match and (match[1] or "") == root.rstrip("/"):
            channels.setdefault(match[2], []).append(path)
        else:
            count(found, "files that hold no messages are left out", path.removeprefix(root) not in _LISTS)
    for _, days in sorted(channels.items()):
        yield _conversation(map(stream, days), people, name, options, found)


def read_slack_day(stream: JsonStream, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The messages of one file of a Slack export."""
    yield _conversation([stream], {}, stream.name, options, found)


def _conversation(
    days: Iterable[JsonStream], people: Mapping[str, str], name: str, options: ReadOptions, found: Counter[str]
) -> str:
    """The messages of a channel, those of a thread together."""
    messages, length = list[_Message](), 0
    for day in days:
        for _ in day.items():
            value = day.value()
            message = _message(value, people, found) if isinstance(value, dict) else None
            if message:
                messages.append(message)
                length += len(message.line)
            if length > options.max_bytes:
                break  # to be refused below
    return join((message.line for message in sorted(messages, key=lambda each: each[:2])), name, options)


def _people(stream: JsonStream) -> dict[str, str]:
    """The name of each person that `users.json` lists."""
    people = {}
    for _ in stream.items():
        user = stream.value()
        if isinstance(user, dict) and (shown := _shown_name(user.get("profile")) or _shown_name(user)):
            people[str(user.get("id"))] = shown
    return people


def _shown_name(person: Any) -> str:
    """The name that Slack shows of a person, from a profile."""
    keys = ("display_name", "real_name", "name") if isinstance(person, dict) else ()
    return next((person[key] for key in keys if isinstance(person.get(key), str) and person[key].strip()), "")


def _message(message: dict[str, Any], people: Mapping[str, str], found: Counter[str]) -> _Message | None:
    """A message as a line; None, counted, for a notice and for one without text."""
    if message.get("type") != "message" or message.get("subtype") not in _SUBTYPES:
        count(found, NOTICES)
        return None
    text = message.get("text")
    if isinstance(text, str) and text.strip():
        text = _plain(text, people)
    else:
        blocks = [*_dicts(message.get("blocks")), *_dicts(message.get("attachments"))]
        text = "\n".join(filter(None, (_block_text(block, people) for block in blocks)))
    if not text.strip():
        count(found, WITHOUT_TEXT)
        return None
    user, bot = message.get("user"), message.get("bot_profile")
    who = _shown_name(message.get("user_profile")) or people.get(str(user)) or message.get("username")
    time = _seconds(message.get("ts"))
    thread = _seconds(message.get("thread_ts")) or time
    return _Message(thread, time, speech(who or _shown_name(bot) or user or "Unknown", text))


def _plain(text: str, people: Mapping[str, str]) -> str:
    """A text in Slack's markup with its references as they are shown, and its three entities decoded."""

    def shown(match: re.Match[str]) -> str:
        target, _, label = match[1].partition("|")
        if target.startswith("@"):
            return "@" + (label.removeprefix("@") or people.get(target[1:], target[1:]))
        if target.startswith("#"):
            return "#" + (label or target[1:])
        if target.startswith("!"):
            return label or "@" + target[1:]
        return label or target

    return _ENTITY.sub(lambda match: _ENTITIES[match[1]], _REFERENCE.sub(shown, text))


def _block_text(block: dict[str, Any], people: Mapping[str, str]) -> str:
    """The text of a block, of an attachment, or of an element in one."""
    kind, text = block.get("type"), block.get("text")
    if kind == "user":
        return "@" + people.get(str(block.get("user_id")), str(block.get("user_id")))
    if kind == "emoji":
        return f":{block.get('name')}:"
    if elements := _dicts(block.get("elements")):
        separator = "\n" if kind in ("rich_text", "rich_text_list", "context") else ""
        return separator.join(_block_text(element, people) for element in elements)
    if isinstance(text, dict):
        text = text.get("text")
    elif kind in ("text", "link"):  # inside of rich text, which is not escaped
        return str(text or block.get("url") or "")
    texts = [text, *(field.get("text") for field in _dicts(block.get("fields")))]
    shown = "\n".join(_plain(each, people) for each in texts if isinstance(each, str) and each)
    return shown or _plain(str(block.get("fallback") or ""), people)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _seconds(time: Any) -> float:
    try:
        return float(time)
    except (TypeError, ValueError):
        return 0.0
