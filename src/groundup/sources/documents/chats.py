"""Chats as Telegram, Discord, WhatsApp, ChatGPT and Claude export them (slack.py: Slack): each is one document.

Each message is a line `Name: text`. Those without text (pictures, calls, who came and went) are left out and counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, BinaryIO

from groundup.sources.documents.json_stream import JsonStream
from groundup.sources.documents.options import ReadOptions, count, decode_pieces, join, split_lines
from groundup.sources.rows import speech

WITHOUT_TEXT = "messages without text are left out"
NOTICES = "notices that are not messages are left out"

# Types of Discord messages that somebody wrote; the others are notices, such as `GuildMemberJoin`.
_DISCORD_TYPES = frozenset({"Default", "Reply", "ThreadStarterMessage", "ChatInputCommand", "ContextMenuCommand"})

# The beginning of a message in a file of WhatsApp's: `[31.12.23, 23:59:58] ` on an iPhone, `31/12/23, 23:59 - ` on
# Android, with dates and times as the telephone writes them. U+200E stands before what is not typed.
_DATE, _AM = r"\d{1,4}[./-]\d{1,2}[./-]\d{1,4}", r"(?:\s?[ap]\.?\s?m\.?)?"
_WHATSAPP_HEAD = (
    rf"[\u200e\u200f]?(?:\[{_DATE}, \d{{1,2}}[:.]\d\d[:.]\d\d{_AM}\] |{_DATE}(?:,| à)? \d{{1,2}}[:.]\d\d{_AM} - )"
)
_WHATSAPP_LINE = re.compile(rf"{_WHATSAPP_HEAD}(?:([^:\n]{{1,100}}): )?(.*)", re.IGNORECASE | re.DOTALL)
_WHATSAPP_LINES = re.compile(rf"(?:{_WHATSAPP_HEAD}[^\n]*\n){{3}}", re.IGNORECASE)
_WHATSAPP_NOTE = re.compile(r"\u200e.*|<[^<>]*>|null|[\w-]+\.\w{2,4} \([^()]*\)", re.DOTALL)
_WHATSAPP_EDITED = re.compile(r"(?:\u200e<[^<>]*>|<This message was edited>)$")

_Said = tuple[str, str] | None  # who, and what; None for a notice


def read_telegram(stream: JsonStream, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """Each chat of a Telegram export in JSON, of one chat or of a whole account."""
    for name in stream.members():
        if name == "messages" and stream.peek() == "[":
            yield join(_lines(stream, _telegram_message, found), stream.name, options)
        elif name in ("chats", "left_chats") and stream.peek() == "{":
            for inner in stream.members():
                if inner != "list" or stream.peek() != "[":
                    stream.skip()
                    continue
                for _ in stream.items():
                    if stream.peek() == "{":
                        yield from read_telegram(stream, options, found)
                    else:
                        stream.skip()
        else:
            stream.skip()


def read_discord(stream: JsonStream, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The channel, or thread, that a file of DiscordChatExporter holds."""
    for name in stream.members():
        if name == "messages" and stream.peek() == "[":
            read = partial(_discord_message, found=found)
            yield join(_lines(stream, read, found), stream.name, options)
        else:
            stream.skip()


def read_assistant(stream: JsonStream, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """Each conversation in the `conversations.json` of ChatGPT or Claude; of versions of an answer, the one shown."""
    for _ in stream.items():
        value = stream.value()
        talk = value if isinstance(value, dict) else {}
        messages = talk.get("chat_messages")
        said = map(_claude_message, messages) if isinstance(messages, list) else map(_chatgpt_message, _branch(talk))
        yield join(_speeches(said, found), stream.name, options)


def looks_like_whatsapp(head: bytes) -> bool:
    """Whether the first three lines of a file all begin as messages of a WhatsApp export do, and one names a person."""
    text = head.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    first = _WHATSAPP_LINES.match(text)
    return first is not None and any(person for person, _ in _whatsapp_messages(iter(first[0].split("\n"))))


def read_whatsapp(file: BinaryIO, name: str, options: ReadOptions, found: Counter[str]) -> Iterator[str]:
    """The chat in a text file that WhatsApp exported."""
    yield join(_whatsapp_lines(split_lines(decode_pieces(file, name, options, found), name), found), name, options)


def _whatsapp_lines(lines: Iterator[str], found: Counter[str]) -> Iterator[str]:
    for person, message in _whatsapp_messages(lines):
        text = _WHATSAPP_EDITED.sub("", message.rstrip())
        if not person:
            count(found, NOTICES, bool(text.strip()))
        elif not text.strip() or _WHATSAPP_NOTE.fullmatch(text):
            count(found, WITHOUT_TEXT)
        else:
            yield speech(person, text)


def _whatsapp_messages(lines: Iterator[str]) -> Iterator[tuple[str, str]]:
    """The author of each message, empty for a notice of the program, and its text, of one or more lines."""
    person, text = "", list[str]()
    for line in lines:
        if message := _WHATSAPP_LINE.fullmatch(line):
            yield person, "".join(text)
            person, text = message[1] or "", [message[2]]
        else:
            text.append(line)
    yield person, "".join(text)


def _lines(stream: JsonStream, read: Callable[[dict[str, Any]], _Said], found: Counter[str]) -> Iterator[str]:
    """The lines of a list of messages."""
    messages = (stream.value() for _ in stream.items())
    return _speeches((read(message) if isinstance(message, dict) else None for message in messages), found)


def _speeches(messages: Iterable[_Said], found: Counter[str]) -> Iterator[str]:
    """A line for each message with text."""
    for said in messages:
        if said is None:
            count(found, NOTICES)
        elif not said[1].strip():
            count(found, WITHOUT_TEXT)
        else:
            yield speech(*said)


def _telegram_message(message: dict[str, Any]) -> _Said:
    if message.get("type") != "message":
        return None
    text = message.get("text")
    parts = text if isinstance(text, list) else [text]  # runs of formatted text are objects
    runs = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return message.get("from") or "Deleted Account", "".join(run for run in runs if isinstance(run, str))


def _discord_message(message: dict[str, Any], found: Counter[str]) -> _Said:
    if message.get("type", "Default") not in _DISCORD_TYPES:
        return None
    author, embeds = message.get("author"), message.get("embeds")
    author = author if isinstance(author, dict) else {}
    embeds = [each for each in embeds if isinstance(each, dict)] if isinstance(embeds, list) else []
    text = message.get("content")
    if not isinstance(text, str) or not text.strip():
        text = "\n".join(map(_embed_text, embeds))
    else:
        count(found, "embeds of messages with a text of their own are left out", len(embeds))
    return author.get("nickname") or author.get("name") or "Unknown", text


def _embed_text(embed: dict[str, Any]) -> str:
    """Title, description and fields of what a message of Discord shows in a frame."""
    fields = embed.get("fields")
    rows = [row for row in fields if isinstance(row, dict)] if isinstance(fields, list) else []
    parts = [embed.get("title"), embed.get("description"), *(row.get(key) for row in rows for key in ("name", "value"))]
    return "\n".join(part for part in parts if isinstance(part, str) and part)


def _branch(talk: dict[str, Any]) -> list[Any]:
    """The messages of a conversation of ChatGPT from the first to the one shown last, among the versions of each."""
    nodes, at, branch = talk.get("mapping"), talk.get("current_node"), []
    seen = set[str]()
    while isinstance(nodes, dict) and isinstance(at, str) and at not in seen and isinstance(nodes.get(at), dict):
        seen.add(at)
        branch.append(nodes[at].get("message"))
        at = nodes[at].get("parent")
    return [message for message in reversed(branch) if message is not None]


def _chatgpt_message(message: Any) -> _Said:
    author, content = (message.get(key) for key in ("author", "content")) if isinstance(message, dict) else (None, None)
    if not isinstance(author, dict) or not isinstance(content, dict) or author.get("role") not in ("user", "assistant"):
        return None
    parts = content.get("parts")
    return author["role"], "\n".join(part for part in parts if isinstance(part, str)) if isinstance(parts, list) else ""


def _claude_message(message: Any) -> _Said:
    if not isinstance(message, dict):
        return None
    return message.get("sender") or "Unknown", text if isinstance(text := message.get("text"), str) else ""
