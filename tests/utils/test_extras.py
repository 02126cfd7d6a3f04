"""The command that installs an extra."""

import shlex
from importlib import metadata
from types import SimpleNamespace

import pytest

from groundup.utils import extras
from groundup.utils.extras import ROOT, install_command


def test_in_a_checkout_it_installs_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install_command("data") == "pip install --editable '.[data]'"
    monkeypatch.chdir(tmp_path)
    assert shlex.split(install_command("data")) == ["pip", "install", "--editable", f"{ROOT}[data]"]


@pytest.mark.parametrize(
    ("origin", "what"),
    [
        ('{"url": "file:///tmp/a b/groundup.whl"}', "groundup[hf] @ file:///tmp/a b/groundup.whl"),
        (None, "groundup[hf]"),
        ("{", "groundup[hf]"),
    ],
)  # fmt: skip
def test_elsewhere_it_names_where_the_package_came_from(origin, what, monkeypatch, tmp_path):
    monkeypatch.setattr(extras, "ROOT", tmp_path)
    monkeypatch.setattr(metadata, "distribution", lambda name: SimpleNamespace(read_text=lambda file: origin))
    assert shlex.split(install_command("hf")) == ["pip", "install", what]
