"""Models that cannot be imported get one sentence; nothing is written, and no code in a file is run."""

import json
import os
import pickle
import re
import shutil
import zipfile
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from foreign_models import SMALL, gpt, hf_folder, llmc, nanogpt

import groundup
from groundup.errors import GroundupError
from groundup.interop.hf_architectures import FAMILIES
from groundup.interop.import_checks import find_tokenizer
from groundup.interop.import_model import import_model
from groundup.tokenizers.byte_char import CharTokenizer


@pytest.fixture
def refused(tmp_path, byte_tokenizer):
    def check(source, message, *, tokenizer=byte_tokenizer, **options):
        with pytest.raises(GroundupError, match=message) as caught:
            import_model(source, tmp_path / "out", tokenizer=tokenizer, **options)
        assert caught.value.exit_status == 2
        assert not re.search("[\n\x1b\ud800]", str(caught.value))
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]

    return check


def test_a_missing_or_unreadable_source(tmp_path, refused):
    refused(tmp_path / "none", "none: there is no such file or folder; give hf:OWNER/NAME")
    refused(tmp_path, r"there is no config\.json here")
    (tmp_path / "text.txt").write_text("Once upon a time")
    refused(tmp_path / "text.txt", "nothing that groundup can read")
    refused(tmp_path / "text.txt", "--revision main: is for models of the hub", revision="main")


def test_settings_and_weights_that_disagree(tmp_path, refused):
    refused(hf_folder(tmp_path / "a", gpt(), n_embd=16), "257 x 8 in the weights, and 257 x 16")
    refused(hf_folder(tmp_path / "b", gpt(), n_layer=3), r"h\.2\.ln_1\.weight: missing from the weights")
    refused(hf_folder(tmp_path / "c", gpt(), n_layer=1), r"h\.1\..*: the weights have it")
    refused(hf_folder(tmp_path / "d", gpt(), n_positions=8), r"wpe\.weight: 16 x 8 in the weights, and 8 x 8 by config")
    refused(hf_folder(tmp_path / "e", gpt(), n_layer=10**9), "missing from the weights")
    refused(nanogpt(tmp_path / "ckpt.pt", gpt(), n_layer=10**9), "holds 2 blocks, and its settings say 1000000000")
    refused(nanogpt(tmp_path / "ckpt.pt", gpt(), n_embd="8; rm"), "its settings describe no model")


def test_damaged_folders(tmp_path, refused):
    folder = hf_folder(tmp_path / "hf", gpt())
    weights = folder / "model.safetensors"
    complete = weights.read_bytes()
    weights.write_bytes(complete[:-100])
    refused(folder, r"model\.safetensors: cut short or damaged")
    weights.unlink()
    refused(folder, r"there are no weights with its config\.json")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    refused(folder, r"'\.\./\.\./secret\.safetensors' is no name of a file of weights")
    index.write_text(json.dumps({"weight_map": {"a": "part.safetensors"}}))
    refused(folder, r"part\.safetensors: missing; get it as well")
    (folder / "config.json").write_text("{")
    refused(folder, r"config\.json: damaged")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    refused(folder, "model_type 'llama': not an architecture that groundup computes")


def test_a_header_that_does_not_fit_is_refused_before_any_tensor_is_read(tmp_path, refused, monkeypatch):
    read = []
    monkeypatch.setattr("groundup.interop.hf.load_file", read.append)
    refused(hf_folder(tmp_path / "a", gpt(), n_embd=10**6, n_head=1), "257 x 8 in the weights, and 257 x 1000000")
    refused(hf_folder(tmp_path / "b", gpt(), vocab_size=10**9), "257 x 8 in the weights, and 1000000000 x 8")
    folder = hf_folder(tmp_path / "c", gpt())
    weights = folder / "model.safetensors"
    complete = weights.read_bytes()
    for header in (b'{"a": ' * 10**5, b"[]", b'{"a": 5}', b'{"a": {"dtype": "F32", "shape": [-1]}}'):
        weights.write_bytes(len(header).to_bytes(8, "little") + header)
        refused(folder, r"model\.safetensors: cut short or damaged")
    weights.write_bytes((99 << 20).to_bytes(8, "little") + complete[8:])
    refused(folder, "its header is larger than 16,777,216 bytes")
    assert read == []


def test_parts_of_other_shapes_than_those_next_to_them(tmp_path, refused):
    from safetensors.torch import load_file, save_file

    config = SMALL.model_copy(update=dict(FAMILIES["nanochat"].fixed) | {"activation": "relu2"})
    folder = hf_folder(tmp_path / "hf", gpt(config))
    weights = load_file(folder / "model.safetensors")
    name = "model.layers.0.self_attn.k_proj.weight"
    for shape in ((8, 9), (8,), (9, 8)):
        save_file(weights | {name: torch.ones(shape)}, folder / "model.safetensors")
        refused(folder, rf"{name}: {' x '.join(map(str, shape))} in the weights, and 8 x 8")
    (folder / "model.safetensors").unlink()
    torch.save(weights | {name: torch.ones(8, 9)}, folder / "pytorch_model.bin")
    refused(folder, rf"{name}: 8 x 9 in the weights, and 8 x 8")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"])
def test_a_pipe_or_device_instead_of_a_file(tmp_path, refused, name):
    folder = hf_folder(tmp_path / "hf", gpt())
    (folder / name).unlink(missing_ok=True)
    if name.endswith("index.json"):
        (folder / "model.safetensors").unlink()
    os.mkfifo(folder / name)
    message = {"config.json": r"config\.json: damaged \(not a regular file\)", "tokenizer.json": "brings no tokenizer"}
    refused(folder, message.get(name, "there are no weights"), tokenizer=None)
    refused(folder / name, "cannot be read .not a regular file.; give hf:OWNER/NAME")
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    refused(folder, message.get(name, "there are no weights"), tokenizer=None)


def test_json_files_have_a_largest_size_and_depth(tmp_path, refused):
    folder = hf_folder(tmp_path / "hf", gpt())
    (folder / "config.json").write_text('{"model_type": ' + "[" * 100_000)
    refused(folder, r"config\.json: damaged \(nested too deeply")
    (folder / "config.json").write_text(" " * (16 << 20) + "{}")
    refused(folder, r"config\.json: damaged \(larger than 16,777,216 bytes")
    folder = hf_folder(tmp_path / "many", gpt())
    (folder / "model.safetensors").unlink()
    listed = {str(i): f"{i}.safetensors" for i in range(1001)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    refused(folder, "lists 1,001 files, and a model has at most 1000")


def test_quantised_weights(tmp_path, refused):
    from safetensors.torch import load_file, save_file

    folder = hf_folder(tmp_path / "hf", gpt())
    weights = load_file(folder / "model.safetensors")
    save_file({n: t.to(torch.int8) for n, t in weights.items()}, folder / "model.safetensors")
    refused(folder, "quantised weights cannot be read")


def test_tokenizers_that_do_not_fit(tmp_path, refused):
    folder = hf_folder(tmp_path / "hf", gpt())
    refused(folder, "brings no tokenizer along for its 257 ids; name its tokenizer with --tokenizer", tokenizer=None)
    refused(folder, r"the model has 257 ids, and the tokenizer \(gpt2\) 50,257", tokenizer="gpt2")
    refused(folder, "char: is learnt from a text", tokenizer="char")
    CharTokenizer("abc").save(tmp_path / "char")
    refused(folder, r"the tokenizer \(char\) 4", tokenizer=str(tmp_path / "char"))
    larger = gpt(SMALL.model_copy(update={"vocab_size": 256}))
    refused(hf_folder(tmp_path / "b", larger), r"the model has 256 ids, and the tokenizer \(byte\) 257")


def test_groundups_own_runs_and_checkpoints_are_refused(tmp_path, refused, byte_tokenizer):
    import_model(hf_folder(tmp_path / "hf", gpt()), tmp_path / "ours", tokenizer=byte_tokenizer)
    refused(tmp_path / "ours", "already a groundup checkpoint; use it as it is")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text("")
    refused(tmp_path / "run", "already a groundup run; use it as it is")


def test_a_foreign_folder_may_hold_files_of_groundups_names(tmp_path, byte_tokenizer):
    source = hf_folder(tmp_path / "hf", gpt())
    for name in ("config.yaml", "SHA256SUMS"):
        (source / name).write_text("0  model.safetensors")
    import_model(source, tmp_path / "out", tokenizer=byte_tokenizer)


def test_existing_output_is_replaced_only_on_request(tmp_path, byte_tokenizer):
    source, out = hf_folder(tmp_path / "hf", gpt()), tmp_path / "out"
    out.mkdir()  # empty: accepted
    import_model(source, out, tokenizer=byte_tokenizer)
    with pytest.raises(groundup.UsageError, match="replace it with --overwrite"):
        import_model(source, out, tokenizer=byte_tokenizer)
    import_model(source, out, tokenizer=byte_tokenizer, overwrite=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(groundup.UsageError, match="already holds files, and no checkpoint"):
        import_model(source, tmp_path / "mine", tokenizer=byte_tokenizer, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("sums", ["x", "0  thesis.txt", "0  config.json\n0  thesis.txt\n"])
def test_checksums_alone_are_not_a_checkpoint(tmp_path, byte_tokenizer, sums):
    source, iso = hf_folder(tmp_path / "hf", gpt()), tmp_path / "iso"
    iso.mkdir()
    (iso / "SHA256SUMS").write_text(sums)
    (iso / "config.json").write_text("{}")
    (iso / "thesis.txt").write_text("years of work")
    with pytest.raises(groundup.UsageError, match="already holds files, and no checkpoint"):
        import_model(source, iso, tokenizer=byte_tokenizer, overwrite=True)
    assert (iso / "thesis.txt").exists()


def test_a_users_file_in_a_checkpoint_is_kept(tmp_path, byte_tokenizer, monkeypatch):
    source, out = hf_folder(tmp_path / "hf", gpt()), tmp_path / "out"
    import_model(source, out, tokenizer=byte_tokenizer)

    def write_meanwhile(spec, *rest):
        (out / "notes" / "thesis.txt").parent.mkdir()
        (out / "notes" / "thesis.txt").write_text("years of work")
        return find_tokenizer(spec, *rest)

    monkeypatch.setattr("groundup.interop.import_model.find_tokenizer", write_meanwhile)
    for _ in range(2):  # written during the import, and before
        with pytest.raises(groundup.UsageError, match=r"holds .notes/thesis\.txt., which is of no checkpoint"):
            import_model(source, out, tokenizer=byte_tokenizer, overwrite=True)
        assert (out / "notes" / "thesis.txt").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_symbolic_link_is_kept(tmp_path, byte_tokenizer):
    source, out = hf_folder(tmp_path / "hf", gpt()), tmp_path / "out"
    out.symlink_to(tmp_path / "far" / "away", target_is_directory=True)
    for overwrite in (False, True):
        import_model(source, out, tokenizer=byte_tokenizer, overwrite=overwrite)
        assert out.is_symlink()
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["away"]


def test_names_that_the_system_rejects(tmp_path, byte_tokenizer):
    source = hf_folder(tmp_path / "hf", gpt())
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    for name in ("a" * 300, "a\0b", "a" * 250, "circle"):
        with pytest.raises(GroundupError, match="choose another") as caught:
            import_model(source, tmp_path / name, tokenizer=byte_tokenizer)
        assert "\0" not in str(caught.value)
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(groundup.UsageError, match=r"cannot be looked at .*; give hf:OWNER"):
            import_model(name, tmp_path / "out")


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_with_code_is_not_run(tmp_path, refused):
    mark = tmp_path / "mark"
    torch.save({"model": {"a": torch.ones(1)}, "model_args": Evil(mark)}, tmp_path / "evil.pt")
    refused(tmp_path / "evil.pt", r"evil\.pt: asks for .*open, not only for tensors.*groundup runs no code")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Evil(mark), protocol=2))
    refused(tmp_path / "old.pt", r"old\.pt: asks for .*open, not only for tensors")
    assert not mark.exists()


def test_a_torchscript_program_is_refused_with_the_remedy_and_without_a_warning(tmp_path, refused, recwarn):
    torch.save({"a": torch.ones(1)}, tmp_path / "script.pt")
    with zipfile.ZipFile(tmp_path / "script.pt", "a") as archive:
        archive.writestr("script/constants.pkl", b"")
    refused(
        tmp_path / "script.pt", r"script\.pt: is a TorchScript program; groundup runs no code.*save its weights alone"
    )
    assert not recwarn.list


def forged(path, module, name, argument=None):
    """A torch file whose `config` unpickles to `module.name(argument)`, or without argument to an empty instance."""
    torch.save({"model": {"a": torch.ones(1)}, "config": "PLACE"}, path)
    with zipfile.ZipFile(path) as archive:
        contents = {entry: archive.read(entry) for entry in archive.namelist()}
    text = b"X" + (5).to_bytes(4, "little") + b"PLACE"
    call = f"c{module}\n{name}\n".encode()
    call += b")\x81" if argument is None else b"X" + len(argument).to_bytes(4, "little") + argument.encode() + b"\x85R"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, body in contents.items():
            assert not entry.endswith("data.pkl") or text in body
            archive.writestr(entry, body.replace(text, call) if entry.endswith("data.pkl") else body)
    return path


@pytest.mark.parametrize(
    ("module", "name"), [("__main__", "GPTConfig"), ("os", "GPTConfig"), ("os.system", "GPTConfig")]
)
def test_code_named_gptconfig_is_not_run(tmp_path, refused, module, name):
    mark = tmp_path / "mark"
    path = forged(tmp_path / "evil.pt", module, name, f"touch {mark}")
    refused(path, r"evil\.pt")
    assert not mark.exists()


def test_code_next_to_a_real_gptconfig_is_refused(tmp_path, refused):
    mark = tmp_path / "mark"
    path = forged(tmp_path / "evil.pt", "os", "system", f"touch {mark}")
    refused(path, r"asks for os\.system, not only for tensors")
    assert not mark.exists()


HEADER = (torch.serialization.MAGIC_NUMBER, 1001, {"little_endian": True})  # of torch's older format
EMPTY = pickle.dumps({}, protocol=2)
DOUBLED = b"]" + b"q\0" + b"".join(b"](h%ch%ceq%c" % (i, i, i + 1) for i in range(60))  # a list of two lists of two …
NESTED = b"K\1\x85" + b"q\0" + b"".join(b"h%ch%c\x86q%c" % (i, i, i + 1) for i in range(60))  # the same of tuples
STORAGE = b"X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu\x8a\5\0\0\0\0\2Ntq\1Q"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"c__builtin__\nbytearray\n\x8a\x05\0\xbc\xa0\x65\x01\x85R", r"asks for __builtin__\.bytearray, not only for"),
        (b"cbuiltins\nbytearray\n\x8a\x05\0\xbc\xa0\x65\x01\x85R", r"asks for builtins\.bytearray, not only for"),
        (b"ctorch\nTensor\n\x8a\x05\0\xbc\xa0\x65\x01\x85R", r"asks for torch\.Tensor, not only for"),
        (b"}" + NESTED + b"K\1s", "asks for a tuple of more than 65,536 values"),
        (DOUBLED + b")R", "asks for a call of a plain value"),
        (b"}\x8a\x09" + b"\xff" * 8 + b"\1K\1s", "asks for a whole number of more than 64 bits"),
        (b"(" + STORAGE, r"its tensors need 34,359,738,368 bytes, and it has"),
        (b"K\1Q", "asks for an object that is no storage"),
        (b"ccollections\nOrderedDict\n)R}X\5\0\0\0itemsK\1sb", "an OrderedDict with other attributes"),
        (b"c__main__\nGPTConfig\n)RK\1b", "holds a PickledSettings, not the dict"),
        (b"}K\1b", "asks for an object with a state of its own"),
        (b"}q\xff\x88h\x07", "cut short"),
    ],
    ids=[
        "__builtin__",
        "bytearray",
        "Tensor",
        "tuples",
        "call",
        "integer",
        "size",
        "storage",
        "attribute",
        "class",
        "state",
        "memo",
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_small_pickle_that_takes_memory_or_time(tmp_path, refused, body, message, zipped):
    path, contents = tmp_path / "bomb.pt", b"\x80\2" + body + b"."
    if zipped:
        torch.save({}, tmp_path / "plain.pt")
        with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(path, "w") as new:
            for name in old.namelist():
                new.writestr(name, contents if name.endswith("data.pkl") else old.read(name))
    else:
        path.write_bytes(b"".join(pickle.dumps(value, protocol=2) for value in HEADER) + contents + EMPTY)
    refused(path, message)


@pytest.mark.parametrize("zipped", [True, False])
def test_many_tensors_of_the_same_numbers(tmp_path, refused, zipped):
    shared = torch.ones(10_000)
    found = {"model": {str(i): shared.view(10, -1) for i in range(50)}}
    torch.save(found, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "m.pt", "shared by many")


def test_settings_of_a_checkpoint_that_hold_themselves_many_times(tmp_path, refused):
    nested = []
    for _ in range(60):
        nested = [nested, nested]
    refused(nanogpt(tmp_path / "ckpt.pt", gpt(), n_embd=nested), "its settings describe no model")


def test_a_pickle_larger_than_any_model_needs(tmp_path, refused, monkeypatch):
    monkeypatch.setattr("groundup.interop.torch_pickle.MAX_PICKLE_BYTES", 300)
    for zipped in (True, False):
        torch.save({"a": ["0123456789" * 40]}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
        refused(tmp_path / "m.pt", "larger than 300 bytes" if zipped else "cut short")


def test_older_files_of_torch_are_read(tmp_path, byte_tokenizer):
    found = torch.load(nanogpt(tmp_path / "new.pt", gpt()), weights_only=True)
    found["model"] = OrderedDict(found["model"])
    found["model"]._metadata = OrderedDict(version=1)
    found["config"] = {"dtype": torch.float16, "betas": (0.9, 0.95), "big": 2**40, "none": [None, True, "a"]}
    for zipped in (True, False):
        torch.save(found, tmp_path / "old.pt", _use_new_zipfile_serialization=zipped)
        out = tmp_path / f"out-{zipped}"
        import_model(tmp_path / "old.pt", out, tokenizer=byte_tokenizer)
    assert (tmp_path / "out-True/model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()


def test_pickles_that_are_not_checkpoints(tmp_path, refused):
    torch.save([1, 2], tmp_path / "list.pt")
    refused(tmp_path / "list.pt", "holds a list, not the dict of a checkpoint")
    torch.save({"weights": [torch.ones(2)]}, tmp_path / "dict.pt")
    refused(tmp_path / "dict.pt", r"no checkpoint of nanoGPT, nor of build-nanogpt \(it holds weights\)")
    torch.save({"transformer.wte.weight": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    refused(
        tmp_path / "pytorch_model.bin", r"weights without the settings of a model; give their folder with config\.json"
    )
    complete = nanogpt(tmp_path / "ckpt.pt", gpt()).read_bytes()
    (tmp_path / "cut.pt").write_bytes(complete[: len(complete) // 2])
    refused(tmp_path / "cut.pt", r"cut\.pt: .*cut short")


def test_a_gptconfig_that_was_never_set_up(tmp_path, refused):
    refused(forged(tmp_path / "m.pt", "__main__", "GPTConfig"), "its settings name no n_layer")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.ones(1).expand(10**12), "a tensor whose numbers are not all in the file"),
        (torch.ones(1).expand(2, 3), "a tensor whose numbers are not all in the file"),
        (torch.eye(2).to_sparse(), r"asks for torch\._utils\._rebuild_sparse_tensor"),
        (torch.empty(2, device="meta"), r"asks for torch\._utils\._rebuild_meta_tensor_no_storage"),
    ],
    ids=["expanded far", "expanded", "sparse", "meta"],
)
def test_tensors_without_all_their_data(tmp_path, refused, bad, message):
    folder = hf_folder(tmp_path / "hf", gpt())
    (folder / "model.safetensors").unlink()
    torch.save({"transformer.wte.weight": bad}, folder / "pytorch_model.bin")
    refused(folder, message)
    found = torch.load(nanogpt(tmp_path / "ckpt.pt", gpt()), weights_only=True)
    for zipped in (True, False):
        torch.save(
            found | {"optimizer": {"state": [({0: bad},)]}}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped
        )
        refused(tmp_path / "m.pt", message)


def test_an_archive_that_is_compressed(tmp_path, refused):
    complete = nanogpt(tmp_path / "ckpt.pt", gpt())
    with zipfile.ZipFile(complete) as old, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    refused(tmp_path / "bomb.pt", r"bomb\.pt: \S+data\.pkl in it is compressed")


@pytest.mark.parametrize("activation", [["gelu"], {}, None])
def test_invalid_activations(tmp_path, refused, activation):
    refused(hf_folder(tmp_path / "hf", gpt(), activation_function=activation), "activation_function .*: groundup's")


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000])
def test_an_invalid_vocabulary(tmp_path, refused, text):
    folder = hf_folder(tmp_path / "hf", gpt())
    (folder / "vocab.json").write_text(text)
    refused(folder, "brings no tokenizer along", tokenizer=None)


def test_weights_that_are_nan(tmp_path, refused):
    model = gpt()
    with torch.no_grad():
        model.h[1].ln_1.weight[3] = float("nan")
    refused(hf_folder(tmp_path / "hf", model), r"h\.1\.ln_1\.weight holds nan or infinite numbers")


EVIL = "evil\x1b[2Jx\nsecond line\ud800.safetensors"


def test_names_reach_a_terminal_as_plain_text(tmp_path, refused):
    from safetensors.torch import load_file, save_file

    name = EVIL.replace("\ud800", "")
    folder = hf_folder(tmp_path / "hf", gpt())
    weights = load_file(folder / "model.safetensors")
    for tensor, message in ((torch.ones(2), "the weights have it"), (torch.ones(2).int(), "quantised")):
        save_file(weights | {name: tensor}, folder / "model.safetensors")
        refused(folder, r"evil\\x1b\[2Jx\\nsecond.*" + message)
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    for bad in (EVIL, "a\0.bin", "a" * 300 + ".bin"):
        index.write_text(json.dumps({"weight_map": {"a": bad}}))
        refused(folder, "is no name of a file of weights")
    torch.save({EVIL: 1}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", r"it holds evil\\x1b")
    found = torch.load(nanogpt(tmp_path / "ckpt.pt", gpt()), weights_only=True)
    torch.save(found | {"model": found["model"] | {EVIL: torch.ones(1)}}, tmp_path / "m.pt")
    refused(tmp_path / "m.pt", r"evil\\x1b.* has no place")
    refused(nanogpt(tmp_path / "n.pt", gpt(), n_head=EVIL), "its settings describe no model")
    torch.save({3: torch.ones(1)}, folder / "pytorch_model.bin")
    index.unlink()
    refused(folder, "holds no tensors by name")


def test_invalid_llmc_files(tmp_path, refused):
    path = llmc(tmp_path / "m.bin", gpt())
    complete = path.read_bytes()
    for bad, message in (
        (b"", "has 0 bytes, and a header alone 1,024"),
        (complete[:4], "has 4 bytes, and a header alone 1,024"),
        (b"\x01" * 2000, re.escape("begins with 16843009, not 20240326")),
        (complete[:4] + b"\x07\0\0\0" + complete[8:], "version 7 of llm.c's format"),
        (complete[:-4], "but its header asks for"),
        (complete + b"\0", "but its header asks for"),
        (complete[:16] + b"\xff" * 4 + complete[20:], "its settings describe no model"),
        (complete[:28] + b"\1\0\0\0" + complete[32:], "pads 257 ids to 1 rows, which is fewer"),
    ):
        path.write_bytes(bad)
        refused(path, message)


@pytest.mark.parametrize("hidden", [".out.previous", ".out.former", ".out.deleted"])
def test_what_an_import_killed_while_replacing_it_left_is_put_back_or_tidied(hidden, tmp_path, byte_tokenizer):
    """`.former` and `.deleted` are of earlier versions."""
    source, out = nanogpt(tmp_path / "ckpt.pt", gpt()), tmp_path / "out"
    import_model(source, out, tokenizer=byte_tokenizer)
    out.rename(tmp_path / hidden)
    with pytest.raises(groundup.UsageError, match="replace it with --overwrite"):
        import_model(source, out, tokenizer=byte_tokenizer)
    assert groundup.load(out).config.model.n_layer == 2
    out.rename(tmp_path / hidden)
    if hidden == ".out.deleted":
        (tmp_path / hidden / "model.safetensors").unlink()  # it was being deleted
    import_model(source, out, tokenizer=byte_tokenizer, overwrite=True)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out"]


@pytest.mark.parametrize("step", range(4))
def test_an_import_killed_at_any_moment_leaves_the_old_or_the_new(step, tmp_path, byte_tokenizer, monkeypatch):
    source, out, calls = nanogpt(tmp_path / "ckpt.pt", gpt()), tmp_path / "out", []
    import_model(source, out, tokenizer=byte_tokenizer)

    class Killed(BaseException):
        pass

    def dying(original):
        def call(*args, **kwargs):
            calls.append(original)
            if len(calls) > step:
                raise Killed
            return original(*args, **kwargs)

        return call

    for owner, name in ((Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (Path, "unlink"), (Path, "rmdir")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))
    with suppress(Killed):
        import_model(source, out, tokenizer=byte_tokenizer, overwrite=True)
    monkeypatch.undo()
    with pytest.raises(groundup.UsageError, match="replace it with --overwrite"):
        import_model(source, out, tokenizer=byte_tokenizer)
    assert groundup.load(out).config.model.n_layer == 2
