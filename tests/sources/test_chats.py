"""Exports of chats: each message once, as a line with its writer's name."""

import json
import zipfile

import pytest
from documents import read
from reading import read_with

from groundup.errors import DataError
from groundup.sources.corpus import Position, open_sources
from groundup.sources.documents import CHANNELS
from groundup.sources.documents.chats import NOTICES, WITHOUT_TEXT, looks_like_whatsapp, read_whatsapp
from groundup.sources.documents.json_documents import read_json
from groundup.sources.documents.slack import export_root

TELEGRAM = [
    {"id": 1, "type": "service", "date": "2024-01-01T00:00:00", "actor": "Ann", "action": "create_group", "text": ""},
    {"id": 2, "type": "message", "date": "2024-01-01T00:00:01", "from": "Ann B", "from_id": "user1",
     "text": ["a ", {"type": "bold", "text": "QVAR1"}, "."], "text_entities": [{"type": "plain", "text": "a "}]},
    {"id": 3, "type": "message", "date": "2024-01-01T00:00:02", "from": None, "from_id": "user2", "text": "two\nlines"},
    {"id": 4, "type": "message", "date": "2024-01-01T00:00:03", "from": "Ann B", "photo": "a.jpg", "text": ""},
]  # fmt: skip
TELEGRAM_SAID = "Ann B: a QVAR1.\nDeleted Account: two\nlines\n"


@pytest.mark.parametrize("indent", [None, 1])
def test_telegram_exports_of_a_chat_and_of_an_account_are_read(indent):
    chat = {"name": "Friends", "type": "private_group", "id": 9, "messages": TELEGRAM}
    found = {NOTICES: 1, WITHOUT_TEXT: 1}
    assert read_with(read_json, json.dumps(chat, indent=indent).encode()) == ([TELEGRAM_SAID], found)
    account = {
        "about": "Here is the data",
        "personal_information": {"user_id": 1, "first_name": "NOSEE"},
        "contacts": {"about": "x", "list": [{"first_name": "NOSEE", "date": "2024"}]},
        "chats": {"about": "x", "list": [chat, {"name": "b", "id": 2, "type": "x", "messages": []}, chat]},
        "left_chats": {"about": "x", "list": [chat]},
    }
    texts, found = read_with(read_json, json.dumps(account, indent=indent).encode())
    assert texts == [TELEGRAM_SAID] * 3
    assert found == {NOTICES: 3, WITHOUT_TEXT: 3}


def test_discord_exports_are_read():
    def one(content, kind="Default", nickname=None, embeds=(), **more):
        author = {"id": "1", "name": "ann", "nickname": nickname, "isBot": False}
        return {"id": "1", "type": kind, "content": content, "author": author, "embeds": list(embeds)} | more

    embed = {"title": "QVAR2", "description": "shown", "fields": [{"name": "n", "value": "v", "isInline": True}]}
    channel = {
        "guild": {"id": "1", "name": "g"},
        "channel": {"id": "2", "type": "GuildTextChat", "name": "general", "topic": None},
        "dateRange": {"after": None, "before": None},
        "messages": [
            one("Joined the server.", "GuildMemberJoin"),
            one("Hi QVAR1", nickname="Ann"),
            one("", embeds=[embed]),
            one("look: https://example.org", "Reply", embeds=[embed]),
            one("", attachments=[{"url": "a.png"}]),
        ],
        "messageCount": 5,
    }
    said = "Ann: Hi QVAR1\nann: QVAR2\nshown\nn\nv\nann: look: https://example.org\n"
    counted = {NOTICES: 1, WITHOUT_TEXT: 1, "embeds of messages with a text of their own are left out": 1}
    assert read_with(read_json, json.dumps(channel, indent=2).encode()) == ([said], counted)


def rich(text):
    return [{"type": "rich_text", "block_id": "x", "elements": [{"type": "rich_text_section", "elements": text}]}]


def slack(ts, user, text, **more):
    return {"type": "message", "ts": ts, "user": user, "text": text} | more


SLACK = {
    "users.json": [
        {"id": "U1", "name": "ann", "profile": {"display_name": "Ann", "real_name": "Ann B"}},
        {"id": "U2", "name": "bob", "real_name": "Bob C", "profile": {"display_name": "", "real_name": "Bob C"}},
    ],
    "channels.json": [{"id": "C1", "name": "general"}],
    "general/2024-01-01.json": [
        slack("1704100000.000100", "U1", "<@U1> has joined the channel", subtype="channel_join"),
        slack("1704100001.000100", "U1", "&amp;lt; &lt;b&gt; QVAR1",
              blocks=rich([{"type": "text", "text": "&lt; <b> QVAR1"}])),
        slack("1704100002.000100", "U2", "question", thread_ts="1704100002.000100", reply_count=1),
        slack("1704100003.000100", "U9", "see <#C1|general>, <@U2>, <https://x.org|that> <!here> <https://y.org>",
              user_profile={"display_name": "", "real_name": "Guest"}),
        slack("1704100004.000100", "U1", "", files=[{"name": "a.png"}]),
    ],
    "general/2024-01-02.json": [
        slack("1704200000.000100", "U1", "answer QVAR2", thread_ts="1704100002.000100"),
        slack("1704200001.000100", "U2", "", blocks=rich([{"type": "text", "text": "a < QVAR3 "},
              {"type": "user", "user_id": "U1"}, {"type": "link", "url": "https://z.org"}])),
        {"type": "message", "subtype": "bot_message", "ts": "1704200002.000100", "username": "Robot", "text": "",
         "blocks": [{"type": "header", "text": {"type": "plain_text", "text": "Build"}},
                    {"type": "section", "fields": [{"type": "mrkdwn", "text": "a &amp; b"}]},
                    {"type": "divider"}], "attachments": [{"fallback": "QVAR4"}]},
    ],
    "random/2024-01-01.json": [slack("1704100000.000100", "U2", "alone")],
}  # fmt: skip
GENERAL = (
    "Ann: &lt; <b> QVAR1\nBob C: question\nAnn: answer QVAR2\n"
    "Guest: see #general, @Bob C, that @here https://y.org\n"
    "Bob C: a < QVAR3 @Annhttps://z.org\nRobot: Build\na & b\nQVAR4\n"
)


@pytest.mark.parametrize("root", ["", "export/"])
def test_a_channel_of_a_slack_export_is_one_document(tmp_path, root):
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for name, content in SLACK.items():
            archive.writestr(root + name, json.dumps(content, indent=4))
        archive.writestr(root + "canvases.json", "[]")
        archive.mkdir(root + "empty")
    archive = zipfile.ZipFile(tmp_path / "export.zip")
    archive.extractall(tmp_path / "unpacked")
    archive.close()
    for source, name in (("export.zip", "export.zip"), (f"unpacked/{root}", f"unpacked/{root}".split("/")[-2])):
        messages = []
        documents = read(tmp_path / source, say=messages.append)
        assert documents == [(name, 0, GENERAL), (name, 1, "Bob C: alone\n")]
        assert messages[0].endswith(": an export of Slack, so " + CHANNELS)
        with open_sources([tmp_path / source]) as corpus:
            assert [document.offset for _, document in corpus.documents_from(Position(0, 1, 1, 1))] == [1]
            assert set(corpus.findings()) >= {
                f"{NOTICES}: 1 in {name}",
                f"{WITHOUT_TEXT}: 1 in {name}",
                f"files that hold no messages are left out: 1 in {name}",
            }


def unpacked(folder):
    for name, content in SLACK.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("name", ["general/2024-01-02.json", "general/2024-01-03.json", "new/2024-01-01.json"])
def test_an_export_of_slack_that_changes_while_it_is_read_is_noticed(tmp_path, name):
    with open_sources([unpacked(tmp_path / "export")]) as corpus:
        corpus.check_unchanged()
        (tmp_path / "export" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "export" / name).write_text("[]")
        with pytest.raises(DataError, match=r"/export: changed while it was read, so the result is thrown away"):
            corpus.check_unchanged()


@pytest.mark.parametrize("field", [{"subtype": []}, {"ts": 10**400}])
def test_an_unpacked_export_of_slack_with_odd_fields_gets_a_sentence(tmp_path, field):
    folder = unpacked(tmp_path / "export")
    (folder / "general" / "2024-01-02.json").write_text(json.dumps([slack("1", "U1", "text") | field]))
    with pytest.raises(DataError, match=r"/export: damaged as an export of Slack \(.*\); get a complete copy of it"):
        read(folder)


@pytest.mark.parametrize(
    "names", [["a/2024-01-01.json"], ["users.json", "a/b.json"], ["users.json", "x/a/2024-01-01.json"], []]
)
def test_other_folders_are_no_slack_exports(names):
    assert export_root(names) is None


def test_a_day_of_a_slack_channel_is_read_alone():
    texts, found = read_with(read_json, json.dumps(SLACK["general/2024-01-01.json"], indent=4).encode())
    assert texts[0].startswith("U1: &lt; <b> QVAR1\nU2: question\nGuest: see #general, @U2, that")
    assert found == {NOTICES: 1, WITHOUT_TEXT: 1}


IPHONE = (
    "\u200e[31.12.23, 23:59:58] Family: \u200eMessages and calls are end-to-end encrypted.\r\n"
    "[31.12.23, 23:59:59] Ann B: Happy new year: 2024\r\n"
    "and more\r\n"
    "\u200e[01.01.24, 00:00:01] Bob: \u200eimage omitted\r\n"
    "[01.01.24, 00:00:02] Bob: changed \u200e<This message was edited>\r\n"
)
ANDROID = (
    "12/31/23, 11:59\u202fPM - Messages and calls are end-to-end encrypted. Tap to learn more.\n"
    "12/31/23, 11:59\u202fPM - Ann B: Happy new year: 2024\n"
    "1/1/24, 12:00\u202fAM - Bob: <Media omitted>\n"
    "1/1/24, 12:00\u202fAM - Bob: IMG-20240101-WA0001.jpg (file attached)\n"
    "1/1/24, 12:01\u202fAM - Ann B: two\n\nparagraphs - here\n"
)


def test_whatsapp_exports_are_read():
    assert looks_like_whatsapp(ANDROID.encode())
    assert read_with(read_whatsapp, ANDROID.encode()) == (
        ["Ann B: Happy new year: 2024\nAnn B: two\n\nparagraphs - here\n"],
        {NOTICES: 1, WITHOUT_TEXT: 2},
    )
    assert read_with(read_whatsapp, IPHONE.encode()) == (
        ["Ann B: Happy new year: 2024\nand more\nBob: changed\n"],
        {WITHOUT_TEXT: 2},
    )


@pytest.mark.parametrize(
    "lines",
    [
        "[31/12/2023, 23:59:58] Ann: a\n" * 3,
        "[12/31/23, 11:59:58 PM] Ann: a\n" * 3,
        "31/12/2023, 23:59 - Ann: a\n" * 3,
        "31.12.23, 23:59 - Ann: a\r\n" * 3,
        "2023-12-31, 11:59 p. m. - Ann: a\n" * 3,
        "31/12/2023 à 23:59 - Ann: a\n" * 3,
        "\ufeff31/12/2023 23:59 - Ann left\n" + "31/12/2023 23:59 - Ann: a\n" * 2,
    ],
)
def test_whatsapp_is_recognised_by_its_first_lines(lines):
    assert looks_like_whatsapp(lines.encode())
    assert read_with(read_whatsapp, lines.encode())[0][0].startswith("Ann: a\n")


@pytest.mark.parametrize(
    "lines",
    [
        "[31/12/2023, 23:59:58] Ann: a\n" * 2 + "prose\n",
        "[2023-12-31 23:59:58] INFO: started\n" * 3,
        "2023-12-31 23:59:58 - root: started\n" * 3,
        "31/12/2023, 23:59 - Ann left\n" * 3,
        "A list of dates: 31/12/2023, 23:59 - Ann: a\n" * 3,
        "",
    ],
)
def test_other_text_is_not_taken_for_whatsapp(lines):
    assert not looks_like_whatsapp(lines.encode())


def test_a_long_message_takes_no_quadratic_time():
    long = "31/12/2023, 23:59 - Ann: a\n" + "line\n" * 60_000
    assert len(read_with(read_whatsapp, long.encode())[0][0]) == len("Ann: a\n") + 5 * 60_000


def test_whatsapp_files_are_recognised_and_said(tmp_path):
    (tmp_path / "_chat.txt").write_text(ANDROID)
    messages = []
    assert read(tmp_path / "_chat.txt", say=messages.append)[0][2].startswith("Ann B: Happy new year: 2024\n")
    assert [message.partition(",")[0] for message in messages] == ["_chat.txt: exported from WhatsApp"]
    assert read(tmp_path / "_chat.txt", read_as="text")[0][2] == ANDROID


def test_conversations_with_assistants_are_read():
    def node(role, parts, parent, kind="text"):
        return {
            "message": {"author": {"role": role}, "content": {"content_type": kind, "parts": parts}},
            "parent": parent,
        }

    mapping = {
        "root": {"message": None, "parent": None},
        "a": node("system", [""], "root"),
        "b": node("user", ["Hi", {"asset_pointer": "x"}], "a"),
        "c": node("assistant", ["NOSEE, an earlier answer"], "b"),
        "d": node("assistant", ["QVAR1\nmore"], "b"),
        "e": {
            "message": {"author": {"role": "assistant"}, "content": {"content_type": "code", "text": "x"}},
            "parent": "d",
        },
    }
    talk = {"title": "t", "mapping": mapping, "current_node": "e"}
    loop = {"title": "t", "mapping": {"a": node("user", ["QVAR2"], "a")}, "current_node": "a"}
    counted = {NOTICES: 1, WITHOUT_TEXT: 1}
    said = ["user: Hi\nassistant: QVAR1\nmore\n", "user: QVAR2\n"]
    assert read_with(read_json, json.dumps([talk, loop]).encode()) == (said, counted)
    messages = [
        {"sender": "human", "text": "Hi"},
        {"sender": "assistant", "text": "QVAR1"},
        {"sender": "human", "text": ""},
    ]
    claude = [{"uuid": "1", "name": "n", "chat_messages": messages}, {"uuid": "2", "name": "", "chat_messages": []}]
    assert read_with(read_json, json.dumps(claude).encode()) == (["human: Hi\nassistant: QVAR1\n"], {WITHOUT_TEXT: 1})
