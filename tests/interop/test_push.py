"""A push is one complete commit; failures are one sentence. The hub is a local server on 127.0.0.1."""

import errno
import socket
import sys

import pytest
import torch
from pushserver import TOKEN, PushHub

import groundup
from groundup.errors import UsageError
from groundup.interop import hf
from groundup.interop.output import HF_FILES
from groundup.interop.parity import batch, relative
from groundup.interop.push import push

hub_library = pytest.importorskip("huggingface_hub", reason="needs the extra `hf`")
transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    server = PushHub()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(hub_library.constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(hub_library.constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "no-tokens"))
    monkeypatch.setattr(hub_library.constants, "ENDPOINT", server.url)
    monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_library.constants, "HF_HUB_DISABLE_XET", True)  # which has no server here
    yield server
    server.close()


def test_the_pushed_model_computes_the_same(hub, gpt2_checkpoint, tmp_path):
    done = push(gpt2_checkpoint, "me/book", private=True, license="mit")
    assert (done.url, done.export.difference <= hf.BOUND) == (f"{hub.url}/me/book", True)
    assert [repo["visibility"] for repo in hub.created] == ["private"]
    assert hub.messages == ["step-00000010, exported by groundup"]  # one commit
    arrived = hub.repos["me/book"]["main"]
    assert arrived.keys() == HF_FILES
    for name, content in arrived.items():
        (tmp_path / name).write_bytes(content)
    ours = groundup.load(gpt2_checkpoint).model
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    ids = batch(ours.config)
    with torch.no_grad():
        assert relative(ours(ids), theirs(ids).logits) <= hf.BOUND
    assert b'folder = "me/book"' in arrived[hf.CARD]


def test_a_second_push_goes_to_the_same_repository_and_to_a_branch(hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    push(gpt2_checkpoint, "me/book")
    push(gpt2_checkpoint, "me/book", revision="v2", message="again")
    assert len(hub.created) == 1
    assert "visibility" not in hub.created[0]
    assert hub.repos["me/book"].keys() == {"main", "v2"}
    assert hub.messages[1:] == ["again"]


def test_other_weight_files_are_deleted_in_the_same_commit(hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    stale = {"pytorch_model.bin": b"old", "model-00001-of-00002.safetensors": b"old", "notes.txt": b"mine"}
    hub.repos["me/book"] = {"main": dict(stale)}
    push(gpt2_checkpoint, "me/book")
    assert hub.repos["me/book"]["main"].keys() == HF_FILES | {"notes.txt"}
    assert len(hub.messages) == 1


def test_private_weights_do_not_go_to_a_public_repository(hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    push(gpt2_checkpoint, "me/book")
    with pytest.raises(UsageError, match="exists already and is public"):
        push(gpt2_checkpoint, "me/book", private=True)
    assert len(hub.messages) == 1


def test_without_disk_space_for_the_export_tmpdir_is_suggested(hub, gpt2_checkpoint, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with pytest.raises(UsageError, match=r"no temporary folder .* set TMPDIR"):
        push(gpt2_checkpoint, "me/book")
    assert hub.log == []
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hf, "save_file", full)
    with pytest.raises(UsageError, match=r"No space left on device.*TMPDIR") as caught:
        push(gpt2_checkpoint, "me/book")
    assert "--out" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["book", "me/", "/book", "me/book/x", "me/..", "me/a--b", "https://x.y/z", "me/bo ok", "me/book.", "me/book.git"],
)
def test_an_invalid_name_is_refused_before_any_request(name, hub, gpt2_checkpoint):
    with pytest.raises(UsageError, match="give owner/name"):
        push(gpt2_checkpoint, name)
    assert hub.log == []


def test_an_invalid_branch_is_refused(hub, gpt2_checkpoint):
    with pytest.raises(UsageError, match="no name of a branch"):
        push(gpt2_checkpoint, "me/book", revision="../main")


def test_without_a_token_no_request_is_made(hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(UsageError, match="must know who you are"):
        push(gpt2_checkpoint, "me/book")
    assert hub.log == []


def test_offline_mode_makes_no_request(hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.setattr(hub_library.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        push(gpt2_checkpoint, "me/book")


def test_a_wrong_token_is_reported_before_the_export(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone_else")
    with pytest.raises(UsageError, match="does not know the token") as caught:
        push(tmp_path / "nowhere", "me/book")
    assert "hf_of_someone_else" not in str(caught.value)
    # The library may send a request of its own first, once per process.
    assert hub.log[-1] == "GET /api/whoami-v2"
    assert all(line.startswith("GET ") for line in hub.log), "nothing was made or sent"


@pytest.mark.parametrize(
    ("where", "status", "sentence"),
    [
        ("repos/create", 403, "may not write there"),
        ("repos/create", 404, "no such owner"),
        ("/commit/", 429, "too many requests"),
        ("/commit/", 400, "refused by the test"),
        ("PUT /large", 413, "no files so large"),
    ],
)
def test_a_refusal_is_one_sentence(where, status, sentence, hub, gpt2_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    hub.refused[where] = status
    with pytest.raises(UsageError, match=sentence) as caught:
        push(gpt2_checkpoint, "me/book")
    assert f"HTTP {status}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_network_is_one_sentence(hub, gpt2_checkpoint, monkeypatch):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(hub_library.constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(UsageError, match=r"the connection to http://127\.0\.0\.1:\d+ failed"):
            push(gpt2_checkpoint, "me/book")


def test_without_the_library_the_extra_is_named(gpt2_checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install .*\[hf\]'"):
        push(gpt2_checkpoint, "me/book")
