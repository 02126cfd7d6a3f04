"""Types of a checkpoint's metadata, checked wherever it is read."""

import json

import pytest

from groundup.checkpoint.files import PROGRESS
from groundup.checkpoint.metadata import TrainingMetadata, load_metadata, load_training_metadata
from groundup.errors import CheckpointError

METADATA = {"step": 12, "tokens": 768, "cursor": 48, "elapsed": 0.5, "dt": 1, "data": "8a", "skips": [[3, 5]]}


@pytest.fixture
def write(tmp_path):
    folder = tmp_path / "step-00000012"
    folder.mkdir()

    def make(text):
        (folder / PROGRESS).write_text(text if isinstance(text, str) else json.dumps(text))
        return folder

    return make


WRONG = {
    "step": [-1, "12", 12.0, True, None, [], 10**400, 11],
    "tokens": [-1, "a", None],
    "cursor": [-1, {}, 2**63],
    "elapsed": [-1, float("inf"), float("nan"), "1"],
    "dt": [float("nan"), []],
    "data": [None, 3, ["8a"]],
    "skips": [{}, [1], [[1]], [[1, 2, 3]], [[5, 3]], [["a", "b"]], "ab", [[0, 1]] * 100_001],
    "best": [[], 1, {"loss": "a"}, {"loss": float("nan")}, {"step": None}, {"strange": 1}],
    "guard": [
        *([], {"loss": 1}, {"loss": {"mean": "a"}}, {"grad_norm": {"strange": 1}}, {"first": [1]}, {"bad": "a"}),
        *({"loss": {"mean": -1e40}}, {"grad_norm": {"mean": 1e300}}, {"loss": {"variance": 1e80}}),
    ],
    "scaler": [1, {"scale": 1.0}, {"scale": "a"}],
    "averaged": [-1, "a", 1.5],
    "micro_batch_size": [1, {}, {"configured": 1, "used": 0}, {"configured": "1", "used": 1}],
    "processes": [0, "2", []],
    "parent": [[], {}, {"step": "a", "sha256": ""}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in WRONG.items() for value in values])
def test_metadata_of_another_type_is_refused_in_a_sentence_that_names_the_key(key, value, write):
    with pytest.raises(CheckpointError, match=rf"progress\.json: damaged \([\w.]*{key}|is of step 11") as caught:
        load_training_metadata(write(METADATA | {key: value}))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("key", ["step", "tokens", "cursor", "elapsed", "dt", "data"])
def test_a_run_does_not_continue_without_its_position(key, write):
    folder = write({name: value for name, value in METADATA.items() if name != key})
    with pytest.raises(CheckpointError, match=f"{key} is missing"):
        load_training_metadata(folder)


@pytest.mark.parametrize("text", ["[]", "{", "[" * 100_000, '{"a":' * 100_000, "9" * 5000, "", "\ud800"], ids=len)
def test_metadata_that_is_no_object_is_damaged(text, write):
    with pytest.raises(CheckpointError, match=r"progress\.json: damaged"):
        load_metadata(write(text if text != "\ud800" else '"\\ud800"'))


def test_an_imported_or_exported_model_has_less(write):
    values = {"step": 0, "tokens": 0, "origin": {"kind": "model"}, "of a later version": [1]}
    assert load_metadata(write(values)) == values


def test_every_key_of_a_run_has_a_type(prepared, tmp_path):
    import groundup

    overrides = {
        "model": {"n_layer": 1, "n_head": 1, "n_embd": 8, "block_size": 8},
        "train": {"max_steps": 1, "batch_tokens": 8, "threads": 1, "device": "cpu"},
        "evaluate": {"every_steps": 0, "tokens": 16, "sample_tokens": 0},
    }
    checkpoint = groundup.train(prepared, tmp_path / "run", overrides=overrides).checkpoint
    assert load_training_metadata(checkpoint).keys() <= TrainingMetadata.model_fields.keys()
