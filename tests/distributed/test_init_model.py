"""Several processes start with the weights of a checkpoint that only rank 0 can read."""

import jobs
import pytest
import torch
import work
from safetensors.torch import load_file

SETTINGS = {
    "model": {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 16},
    "train": {"batch_tokens": 64, "max_steps": 3, "threads": 1, "device": "cpu", "precision": "fp32"},
    "checkpoint": {"every_steps": 3},
    "evaluate": {"every_steps": 0, "sample_every_steps": 0},
}


@pytest.mark.long
def test_two_processes_start_with_the_weights_of_one(tmp_path, prepared):
    work.train_all(prepared, tmp_path, {"first": SETTINGS})
    later = {name: values for name, values in SETTINGS.items() if name != "model"} | {
        "init_from": str(tmp_path / "first")
    }
    work.train_all(prepared, tmp_path, {"one": later})
    kinds = {kind: later | {"train": later["train"] | {"parallel": kind}} for kind in ("ddp", "fsdp")}
    jobs.run(2, work.train_all, str(prepared), str(tmp_path), kinds, "hide_init_from", place=tmp_path / "job")
    one = load_file(tmp_path / "one/checkpoints/step-00000003/model.safetensors")
    for kind in kinds:
        two = load_file(tmp_path / kind / "checkpoints/step-00000003/model.safetensors")
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0, msg=f"{kind} {name}")
