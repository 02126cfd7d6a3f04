"""Runs that earlier versions left behind go on, and speak. `tests/fixtures/make.py` writes such a folder."""

import json
import shutil
from pathlib import Path

import pytest

import groundup
from groundup.checkpoint.log import read_log
from groundup.diagnostics.run_checks import check_run

FIXTURES = sorted((Path(__file__).parents[1] / "fixtures").glob("format-*"))


@pytest.fixture(params=FIXTURES, ids=lambda path: path.name)
def old(request, tmp_path, monkeypatch):
    place = tmp_path / "old"
    shutil.copytree(request.param, place, symlinks=True)
    monkeypatch.chdir(place)
    return place


def test_it_goes_on_with_the_losses_of_its_time(old):
    assert groundup.resume("run", overrides={"train": {"max_steps": 20}}).step == 20
    found = [record["loss"] for record in read_log(old / "run" / "log.jsonl") if record["event"] == "step"]
    assert found == pytest.approx(json.loads((old / "losses.json").read_text()), abs=1e-4)  # on whatever CPU


def test_it_speaks_and_is_evaluated(old):
    assert groundup.generate("run", "The", max_tokens=5)[0].startswith("The")
    assert 0 < groundup.evaluate("run").loss < 5


def test_nothing_in_it_passes_for_damage(old):
    findings = check_run(old / "run")
    assert all("environment" in str(problem) for problem in findings.problems)
