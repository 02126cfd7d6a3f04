"""`--speculation`: drafts come from a run's training text, where that is there, and change no text."""

import shutil
from dataclasses import replace

import pytest
import torch

from groundup.checkpoint.state import load
from groundup.data.shards import Tokens
from groundup.generation.drafts import NoDrafts
from groundup.run.drafts import READ_PER_TOKEN, drafter_of


def test_the_training_text_is_read_as_far_as_it_pays(trained, prepared):
    loaded = load(trained, device="cpu")
    text = Tokens.open(prepared, "train").read(0, READ_PER_TOKEN + 50).tolist()
    assert drafter_of(loaded)(text[-7:-1]).propose(1, 0.0)
    assert drafter_of(loaded, tokens=1)(text[:6]).propose(1, 0.0)
    for none in (0, -1):  # the engine refuses a negative number later
        assert drafter_of(loaded, tokens=none)(text[:6]).propose(1, 0.0) == []
    assert drafter_of(loaded, "off") is NoDrafts
    assert drafter_of(replace(loaded, device=torch.device("cuda"))) is NoDrafts


def test_a_run_whose_training_text_is_gone_guesses_from_the_text_so_far(trained, prepared, tmp_path):
    moved = shutil.copytree(trained, tmp_path / "run", symlinks=True)
    loaded = load(moved, device="cpu")
    gone = replace(loaded, config=loaded.config.model_copy(update={"data": str(tmp_path / "gone")}))
    assert drafter_of(gone)([1, 2, 3, 1, 2]).propose(1, 0.0) == [3]


@pytest.mark.parametrize("options", [["--temperature", 0], ["--seed", 3], ["--repetition-penalty", 1.3]])
def test_texts_are_the_same_with_and_without(options, groundup, trained):
    words = ["generate", trained, "--prompt", "the ", "--num-samples", 2, "--max-tokens", 40, *options, "--json"]
    found = groundup(*words, "--speculation", "on")
    assert found.status == 0
    assert found.out == groundup(*words).out == groundup(*words, "--speculation", "off").out
