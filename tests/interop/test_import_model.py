"""Models of other programs become checkpoints that compute the same."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from foreign_models import SMALL, gpt, gpt2_vocabulary, hf_folder, llmc, logits, nanogpt, plain

import groundup
from groundup.checkpoint.files import verify
from groundup.config.model import ModelConfig
from groundup.config.presets import GPT1_PARTS, MODERN_PARTS, NANOCHAT_PARTS
from groundup.interop.import_checks import find_tokenizer
from groundup.interop.import_model import import_model
from groundup.tokenizers.byte_char import CharTokenizer


def loaded(out):
    verify(out)
    return groundup.load(out, device="cpu")


def check(found, model):
    after = loaded(found.out)
    torch.testing.assert_close(logits(after.model), logits(model), atol=1e-5, rtol=0)
    assert after.config.model == found.model
    assert {tensor.dtype for tensor in after.model.state_dict().values()} == {torch.float32}


def test_a_folder_of_transformers(tmp_path, byte_tokenizer):
    model = gpt()
    found = import_model(hf_folder(tmp_path / "hf", model), tmp_path / "out", tokenizer=byte_tokenizer)
    check(found, model)
    assert (found.kind, found.parameters) == ("GPT2LMHeadModel of transformers", 3_944)
    assert groundup.generate(tmp_path / "out", "a", max_tokens=3, device="cpu")[0].startswith("a")
    metadata = json.loads((tmp_path / "out" / "progress.json").read_text())
    assert metadata["step"] == 0
    assert metadata["origin"]["kind"] == found.kind


@pytest.mark.parametrize(
    "parts", [GPT1_PARTS, NANOCHAT_PARTS, MODERN_PARTS, MODERN_PARTS | {"tie_embeddings": True, "n_inner": 24}]
)
def test_other_architectures(tmp_path, byte_tokenizer, parts):
    model = gpt(ModelConfig(**{**SMALL.model_dump(), **parts}))
    check(import_model(hf_folder(tmp_path / "hf", model), tmp_path / "out", tokenizer=byte_tokenizer), model)


def test_the_same_model_in_parts_and_as_a_pickle(tmp_path, byte_tokenizer):
    from safetensors.torch import load_file, save_file

    model = gpt()
    folder = hf_folder(tmp_path / "hf", model)
    complete = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(complete, folder / "pytorch_model.bin")
    check(import_model(folder, tmp_path / "pickled", tokenizer=byte_tokenizer), model)
    names = sorted(complete)
    halves = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, some in halves.items():
        save_file({name: complete[name].clone() for name in some}, folder / file)
    index = {"weight_map": {name: file for file, some in halves.items() for name in some}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check(import_model(folder, tmp_path / "parts", tokenizer=byte_tokenizer), model)


def test_tiny_random_gpt2_with_its_own_tokenizer(tmp_path, shared_data):
    found = import_model(shared_data / "tiny-random-gpt2", tmp_path / "out")
    assert (found.tokenizer.name, found.tokenizer.n_vocab, found.model.vocab) == ("json", 1000, 1000)
    import numpy as np

    golden = np.load(shared_data / "tiny-random-gpt2" / "golden_hf_logits.npz")
    ids, wanted = (torch.from_numpy(golden[key]) for key in ("input_ids", "logits"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(found.out).model(ids), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("bias", [True, False])
def test_nanogpt(tmp_path, byte_tokenizer, bias):
    model = gpt(SMALL.model_copy(update={"activation": "gelu", "bias": bias}))
    found = import_model(nanogpt(tmp_path / "ckpt.pt", model), tmp_path / "out", tokenizer=byte_tokenizer)
    check(found, model)
    assert "exact" in found.notes[0]


def test_a_file_of_an_old_torch(tmp_path, byte_tokenizer):
    model = gpt(SMALL.model_copy(update={"activation": "gelu"}))
    weights = torch.load(nanogpt(tmp_path / "ckpt.pt", model), weights_only=True)
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    check(import_model(tmp_path / "old.pt", tmp_path / "out", tokenizer=byte_tokenizer), model)


def test_a_nanogpt_checkpoint_with_other_key_names(tmp_path, shared_data):
    CharTokenizer("".join(chr(97 + i) for i in range(31))).save(tmp_path / "char")
    source = shared_data / "nanogpt-checkpoint" / "ckpt.pt"
    weights = torch.load(source, weights_only=True, map_location="cpu")["model"]
    after = loaded(import_model(source, tmp_path / "out", tokenizer=str(tmp_path / "char")).out)
    assert torch.equal(after.model.ln_f.weight, weights["transformer.ln_f.gamma"])
    assert torch.equal(after.model.wte.weight[:32], weights["lm_head.weight"])


@pytest.mark.parametrize("version", [3, 5])
def test_llmc(tmp_path, byte_tokenizer, version):
    model = gpt()
    if version == 5:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.bfloat16())
    check(
        import_model(llmc(tmp_path / "m.bin", model, version=version), tmp_path / "out", tokenizer=byte_tokenizer),
        model,
    )


def build_nanogpt(path, model, **values):
    """`config` is an instance of a class GPTConfig of the script that ran, as `__main__`."""
    import __main__

    class GPTConfig:
        pass

    GPTConfig.__module__, GPTConfig.__qualname__ = "__main__", "GPTConfig"
    config = GPTConfig()
    sizes = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size")
    vars(config).update({key: getattr(model.config, key) for key in sizes} | values)
    __main__.GPTConfig = GPTConfig
    try:
        torch.save({"model": plain(model), "config": config, "step": 5, "val_loss": 3.2}, path)
    finally:
        del __main__.GPTConfig
    return path


def test_build_nanogpt(tmp_path, byte_tokenizer):
    model = gpt()
    found = import_model(build_nanogpt(tmp_path / "m.pt", model), tmp_path / "out", tokenizer=byte_tokenizer)
    check(found, model)
    assert found.kind == "build-nanogpt checkpoint"


def test_padding_rows_are_left_out(tmp_path):
    """nanoGPT's 50,304 rows under GPT-2's 50,257 ids."""
    model = gpt(ModelConfig(n_layer=1, n_head=1, n_embd=4, block_size=16, vocab_size=50_304, activation="gelu"))
    found = import_model(nanogpt(tmp_path / "ckpt.pt", model), tmp_path / "out")
    after = loaded(found.out)
    assert (found.tokenizer.name, found.model.vocab) == ("gpt2", 50_257)
    torch.testing.assert_close(logits(after.model), logits(model)[..., :50_257], atol=1e-5, rtol=0)
    assert not after.model.wte.weight[50_257:].any()
    assert "47 of its 50,304 rows" in found.notes[-1]


def test_a_character_model_gains_an_end_of_text_token(tmp_path):
    model = gpt(SMALL.model_copy(update={"vocab_size": 64, "activation": "gelu"}))  # without padding rows left
    CharTokenizer("".join(chr(48 + i) for i in range(64))).save(tmp_path / "char")
    found = import_model(nanogpt(tmp_path / "ckpt.pt", model), tmp_path / "out", tokenizer=str(tmp_path / "char"))
    after = loaded(found.out)
    assert found.model.vocab == 65
    assert "end of a text, id 64" in found.notes[-1]
    assert "may end by chance" in found.notes[-1]
    torch.testing.assert_close(logits(after.model)[..., :64], logits(model), atol=1e-5, rtol=0)


def test_an_untied_head_is_kept_despite_the_settings(tmp_path, byte_tokenizer):
    from safetensors.torch import load_file, save_file

    model = gpt(SMALL.model_copy(update={"tie_embeddings": False}))
    folder = hf_folder(tmp_path / "hf", model, tie_word_embeddings=True)
    found = import_model(folder, tmp_path / "out", tokenizer=byte_tokenizer)
    assert not found.model.tie_embeddings
    check(found, model)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["transformer.wte.weight"].double()  # the same values in another precision
    save_file(weights, folder / "model.safetensors")
    assert import_model(folder, tmp_path / "tied", tokenizer=byte_tokenizer).model.tie_embeddings


def test_gpt2s_vocabulary_with_another_split_pattern_is_another_tokenizer(tmp_path, monkeypatch):
    from groundup.interop import import_checks
    from groundup.tokenizers.gpt2 import gpt2_merges

    monkeypatch.setattr(import_checks, "read_tokenizer_file", lambda file: SimpleNamespace(name="json"))
    merges = [" ".join(merge) for merge in gpt2_merges()]
    cut = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    end, ids = {"id": 1, "content": "<|endoftext|>", "special": True}, {"a": 0}
    monkeypatch.setattr(import_checks, "_gpt2_ids", lambda: ids | {"<|endoftext|>": 1})  # few; another test covers all
    model = {"type": "BPE", "vocab": ids, "merges": merges}
    plain = {"normalizer": None, "pre_tokenizer": cut, "model": model, "added_tokens": [end]}
    for changes, name in (
        ({}, "gpt2"),
        ({"model": model | {"merges": [merge.split(" ") for merge in merges]}}, "gpt2"),
        ({"model": model | {"merges": merges[1:]}}, "json"),
        ({"pre_tokenizer": cut | {"add_prefix_space": True}}, "json"),
        ({"pre_tokenizer": cut | {"use_regex": False}}, "json"),
        ({"pre_tokenizer": None}, "json"),
        ({"normalizer": {"type": "Lowercase"}}, "json"),
    ):
        (tmp_path / "tokenizer.json").write_text(json.dumps(plain | changes))
        assert find_tokenizer(None, tmp_path, 50_257, "x").name == name, changes.keys()


def test_gpt2s_vocabulary_is_known_by_its_ids(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(gpt2_vocabulary()))
    assert find_tokenizer(None, tmp_path, 50_257, "x").name == "gpt2"
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<pad>": 50_257}))
    with pytest.raises(groundup.UsageError, match="brings no tokenizer along"):
        find_tokenizer(None, tmp_path, 50_258, "x")


def test_gpt1s_files_make_its_tokenizer(tmp_path, shared_data):
    shutil.copy(shared_data / "gpt1-vocab" / "encoder_bpe_40000.json", tmp_path / "vocab.json")
    shutil.copy(shared_data / "gpt1-vocab" / "vocab_40000.bpe", tmp_path / "merges.txt")
    assert find_tokenizer(None, tmp_path, 40_478, "x").name == "gpt1"


def test_a_model_of_the_hub_and_then_without_the_network(tmp_path, byte_tokenizer, hub, monkeypatch):
    from huggingface_hub import constants

    model = gpt()
    folder = hf_folder(tmp_path / "hf", model)
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"flax_model.msgpack": b"large"}
    hub.put("some/model", files)
    found = import_model("hf:some/model", tmp_path / "out", tokenizer=byte_tokenizer)
    check(found, model)
    assert found.commit == hub.commit("some/model")
    assert not hub.sent["flax_model.msgpack"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    n_requests = len(hub.log)
    again = import_model("hf:some/model", tmp_path / "again", tokenizer=byte_tokenizer)
    assert again.commit == found.commit
    assert len(hub.log) == n_requests
    with pytest.raises(groundup.UsageError, match=r"hf:some/other: .*HF_HUB_OFFLINE is set; unset it, or download it"):
        import_model("hf:some/other", tmp_path / "other")


def test_a_model_that_the_hub_does_not_have(tmp_path, hub):
    with pytest.raises(groundup.UsageError, match="hf:some/model: there is no model some/model \\(HTTP 404\\)"):
        import_model("hf:some/model", tmp_path / "out")
    hub.put("some/data", {"README.md": b""})
    with pytest.raises(groundup.UsageError, match=r"holds no config\.json"):
        import_model("hf:some/data", tmp_path / "out")


def test_the_command_reports_what_it_imported(tmp_path, byte_tokenizer, capsys):
    from groundup.cli import run

    source = str(hf_folder(tmp_path / "hf", gpt()))
    assert run(["import", source, "--out", str(tmp_path / "a"), "--tokenizer", byte_tokenizer]) == 0
    out = capsys.readouterr().out
    assert "3,944 parameters" in out
    assert f"next: groundup train --init-from {tmp_path / 'a'}" in out
    assert run(["import", source, "--out", str(tmp_path / "b"), "--tokenizer", byte_tokenizer, "--json"]) == 0
    result = SimpleNamespace(**json.loads(capsys.readouterr().out))
    assert (result.parameters, result.tokenizer["n_vocab"], result.commit) == (3_944, 257, None)


@pytest.mark.parametrize(("block_size", "options"), [(128, []), (4096, []), (8192, ["8192"]), (1000, ["4000"])])
def test_the_next_command_has_steps_of_complete_sequences(block_size, options):
    from groundup.cli.import_ import _batch

    assert _batch(block_size) == ["--train.batch_tokens", *options][: 2 * len(options)]
