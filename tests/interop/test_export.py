"""Exports compute what the model computes; a model that would not is refused, and no file is left."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

import groundup
from groundup.checkpoint import state
from groundup.errors import CheckpointError, ExportError, UsageError
from groundup.interop import hf
from groundup.interop.export import TARGETS, export
from groundup.interop.output import GGUF_FILE, HF_FILES, HF_FOLDER, SPACE_FOLDER, check_output, new_output
from groundup.interop.parity import batch, identical, relative
from groundup.tokenizers.byte_char import CharTokenizer


def theirs(folder: Path) -> torch.nn.Module:
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    return transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()


@torch.no_grad()
def difference(checkpoint: Path, folder: Path) -> float:
    ours = groundup.load(checkpoint).model
    ids = batch(ours.config)
    return relative(ours(ids), theirs(folder)(ids).logits)


@pytest.mark.parametrize("preset", ["gpt1", "gpt2", "nanochat", "modern"])
@pytest.mark.parametrize("average", [False, True])
def test_transformers_computes_the_same_logits(preset, average, checkpoint, tmp_path):
    folder = checkpoint(preset, average=average)
    done = export(folder, tmp_path / "out")
    assert done.difference <= hf.BOUND
    assert done.checked_by.startswith("transformers")
    assert difference(folder, tmp_path / "out") <= hf.BOUND
    assert {path.name for path in (tmp_path / "out").iterdir()} == HF_FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_difference_is_found_and_nothing_is_left(gpt2_checkpoint, tmp_path, monkeypatch):
    true = hf.to_hf

    def wrong(config, tensors):
        found = true(config, tensors)
        return {name: tensor + 1e-3 if name.endswith("ln_f.bias") else tensor for name, tensor in found.items()}

    monkeypatch.setattr(hf, "to_hf", wrong)
    with pytest.raises(ExportError, match="computes other logits"):
        export(gpt2_checkpoint, tmp_path / "deep" / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_weights_file_has_the_expected_names_and_shapes(gpt2_checkpoint, tmp_path):
    from safetensors import safe_open

    export(gpt2_checkpoint, tmp_path / "out")
    with safe_open(tmp_path / "out" / hf.MODEL, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert "lm_head.weight" not in set(file.keys())  # tied
        assert file.get_tensor("transformer.wte.weight").shape[0] == 257  # not padded to 320
    config = json.loads((tmp_path / "out" / hf.CONFIG).read_text())
    assert (config["model_type"], config["eos_token_id"]) == ("gpt2", 256)


def test_a_missing_transformers_is_reported(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = export(gpt2_checkpoint, tmp_path / "out")
    assert done.checked_by is None
    assert "[hf]" in done.notes[0]
    assert (tmp_path / "out" / hf.MODEL).exists()


def test_only_an_export_of_the_same_kind_is_replaced_and_only_on_request(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = tmp_path / "out"
    export(gpt2_checkpoint, out, license="mit")
    with pytest.raises(UsageError, match="is there already"):
        export(gpt2_checkpoint, out)
    assert "license: mit" in (out / hf.CARD).read_text()
    export(gpt2_checkpoint, out, overwrite=True)
    assert "license: mit" not in (out / hf.CARD).read_text()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"holds thesis\.tex"):
        export(gpt2_checkpoint, out, overwrite=True)
    assert (out / "thesis.tex").exists()
    with pytest.raises(UsageError, match="is a folder"):
        export(gpt2_checkpoint, out, to="gguf", overwrite=True)
    (out / "thesis.tex").unlink()
    (out / hf.CARD).write_text("---\ntags:\n- other\n---\n# Another program's folder of the same files\n- groundup\n")
    with pytest.raises(UsageError, match="no such export"):
        export(gpt2_checkpoint, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("to", "name", "content"),
    [
        ("gguf", "thesis.docx", b"PK\x03\x04"),
        ("gguf", "config.yaml", b"model:"),
        ("hf", "notes/README.md", b"# Mine, with\n- groundup\n"),
    ],
)
def test_a_folder_that_is_not_an_export_is_not_replaced(to, name, content, gpt2_checkpoint, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(UsageError, match="no such export"):
        export(gpt2_checkpoint, path if to == "gguf" else path.parent, to=to, overwrite=True)
    assert path.read_bytes() == content


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize(
    ("kind", "name"), [(GGUF_FILE, ""), (HF_FOLDER, "README.md"), (SPACE_FOLDER, "groundup-1.0-py3-none-any.whl")]
)
def test_a_pipe_in_an_earlier_export_is_not_read(kind, name, tmp_path):
    out = tmp_path / "out"
    for file in sorted(HF_FILES) if kind is HF_FOLDER else [name]:
        (out / file).parent.mkdir(exist_ok=True)
        os.mkfifo(out / file) if file == name else (out / file).touch()
    with pytest.raises(UsageError, match=r"out: (cannot be written|is there already)"):
        check_output(out, kind, overwrite=True)


def test_a_killed_or_interrupted_export_deletes_nothing(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    out = tmp_path / "out"
    export(gpt2_checkpoint, out, license="mit")

    def stop(self, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            export(gpt2_checkpoint, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    out.rename(tmp_path / ".out.previous")  # SIGKILL between the two renames
    (tmp_path / ".out.999999999.partial").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        export(gpt2_checkpoint, out)
    assert "license: mit" in (out / hf.CARD).read_text()
    export(gpt2_checkpoint, out, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_concurrent_exports_to_one_path_use_separate_partials(tmp_path):
    kind = TARGETS["hf"].kind
    other = tmp_path / f".out.{os.getppid()}.partial"
    other.mkdir()

    def race():
        with new_output(tmp_path / "out", kind) as hidden:
            assert str(os.getpid()) in hidden.name  # of no running process
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / hf.CARD).write_text("the other was faster")

    with pytest.raises(UsageError, match="no such export"):
        race()
    assert {path.name for path in tmp_path.iterdir()} == {"out", other.name}


@pytest.mark.parametrize(("name", "message"), [("n" * 300, "File name too long"), ("a\0b", "null byte")])
def test_paths_that_the_system_rejects_get_one_sentence(name, message, gpt2_checkpoint, tmp_path):
    with pytest.raises(UsageError, match=f"cannot be written .*{message}"):
        export(gpt2_checkpoint, f"{tmp_path}/{name}")


@pytest.mark.parametrize("full", [OSError(errno.ENOSPC, "No space left on device"), "safetensors"])
def test_a_full_disk_leaves_the_previous_export(full, gpt2_checkpoint, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    monkeypatch.setitem(sys.modules, "transformers", None)
    export(gpt2_checkpoint, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def refuse(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise SafetensorError("IoError: No space left on device") if full == "safetensors" else full

    monkeypatch.setattr(hf, "save_file", refuse)
    with pytest.raises(UsageError, match="No space left on device"):
        export(gpt2_checkpoint, tmp_path / "out", overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_previous_export_is_restored_when_the_rename_fails(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    export(gpt2_checkpoint, tmp_path / "out", license="mit")

    def refuse(self, target):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(UsageError, match="Input/output error"):
        export(gpt2_checkpoint, tmp_path / "out", overwrite=True)
    assert "license: mit" in (tmp_path / "out" / hf.CARD).read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_path_below_a_file_is_refused(gpt2_checkpoint, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="cannot be written"):
        export(gpt2_checkpoint, tmp_path / "file" / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "onnx"}, "there is no such format; known: hf, gguf, space"),
        ({"to": "nanogpt"}, "to 'nanogpt': there is no such format; known: hf, gguf, space"),
        ({"to": "hff"}, "did you mean hf"),
        ({"name": "../x"}, "must be letters"),
        ({"license": "all rights: mine"}, "no identifier"),
    ],
)
def test_bad_options_get_one_sentence(options, message, gpt2_checkpoint, tmp_path):
    with pytest.raises(UsageError, match=message):
        export(gpt2_checkpoint, tmp_path / "out", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "preset", "changes", "message"),
    [
        ("hf", "gpt2", {"logit_softcap": 15.0}, r"model\.logit_softcap must be null, not 15\.0"),
        ("gguf", "gpt2", {"logit_softcap": 15.0}, r"no architecture .* model\.logit_softcap must be null, not 15\.0"),
        (
            "gguf",
            "gpt1",
            {},
            "llama.cpp does not compute models of the openai-gpt shape, only gpt2 and qwen3; export it",
        ),
        ("gguf", "nanochat", {}, "llama.cpp does not compute models of the nanochat shape"),
        ("gguf", "gpt2", {"activation": "gelu"}, r"model\.activation gelu: llama\.cpp's gpt2 has gelu_tanh; export"),
    ],
)
def test_a_model_that_the_format_cannot_hold_is_refused(to, preset, changes, message, checkpoint, tmp_path):
    folder = checkpoint(preset, **changes)
    with pytest.raises(UsageError, match=message):
        export(folder, tmp_path / "out", to=to)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_checkpoint_is_refused(gpt2_checkpoint, tmp_path):
    copy = tmp_path / "step-00000010"
    shutil.copytree(gpt2_checkpoint, copy)
    bytes_ = bytearray((copy / "model.safetensors").read_bytes())
    bytes_[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes_)
    with pytest.raises(CheckpointError, match="damaged"):
        export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite_are_refused(gpt2_checkpoint, tmp_path, monkeypatch):
    true = groundup.checkpoint.state.load

    def poisoned(*args, **options):
        loaded = true(*args, **options)
        loaded.model.wte.weight.data[3, 3] = float("nan")
        return loaded

    monkeypatch.setattr(groundup.checkpoint.state, "load", poisoned)
    for to in TARGETS:
        with pytest.raises(UsageError, match=r"wte\.weight holds numbers that are not finite; export another"):
            export(gpt2_checkpoint, tmp_path / "out", to=to)
    assert list(tmp_path.iterdir()) == []


def test_a_config_two_levels_up_is_not_a_run(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    place = tmp_path / "project" / "models" / "mine"
    shutil.copytree(gpt2_checkpoint, place)
    (tmp_path / "project" / "config.yaml").write_text("of: another program")
    (tmp_path / "project" / "environment.json").write_text('{"versions": {"torch": "0.1"}}')
    export(place, tmp_path / "out")
    card = (tmp_path / "out" / hf.CARD).read_text()
    assert "# mine" in card
    assert "| torch | 0.1 |" not in card


def test_an_environment_without_versions_is_accepted(tmp_path):
    from groundup.interop.model_card import _read_versions

    (tmp_path / "environment.json").write_text('{"python": "3.11", "versions": [1]}')
    assert _read_versions(tmp_path) == {"python": "3.11"}
    (tmp_path / "environment.json").write_text("[" * 100_000)
    assert _read_versions(tmp_path) == {}


def test_nothing_from_a_file_is_code_in_the_card(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    run, evil = tmp_path / "run", "<script>alert(1)</script>|\x1b]52;c;aGk=\x07\n# title\x9b\u202e[a](javascript:b)`c`"
    shutil.copytree(gpt2_checkpoint, run / "checkpoints" / "step-00000010")
    (run / "config.yaml").write_text("")
    (run / "environment.json").write_text(json.dumps({"python": evil, "versions": {evil: "1", "torch": evil * 1000}}))
    tasks = {"event": "eval", "step": 10, "tasks": {evil: {"n": 1, evil: 0.5}}}
    odd = [{"event": "eval", "step": 10, "tasks": made} for made in ([1], {"a": 1}, {"b": {"acc": "high", "n": []}})]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in (tasks, *odd)))
    export(run / "checkpoints" / "step-00000010", tmp_path / "out", name="toy")
    card = (tmp_path / "out" / hf.CARD).read_text()
    assert card.count("alert(1)") >= 4
    assert len(card) < 10_000
    assert not set("<>\x1b\x07\x9b\u202e") & set(card)
    assert [line for line in card.splitlines() if line.startswith("# ")] == ["# toy"]
    assert "[a]" not in card
    assert "`c`" not in card


def test_the_card_of_a_char_model_says_that_other_characters_are_errors(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    export(checkpoint(tokenizer=CharTokenizer.train(["abc"])), tmp_path / "out")
    assert "a character that its training text lacks is an error" in (tmp_path / "out" / hf.CARD).read_text()


def test_the_card_holds_what_the_run_recorded(prepared, checkpoint, tmp_path, monkeypatch):
    from groundup.config.schema import to_yaml

    monkeypatch.setitem(sys.modules, "transformers", None)
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    made = checkpoint()
    config = state.load_config(made).model_copy(update={"data": str(prepared)})
    shutil.copytree(made, run / "checkpoints" / made.name)
    (run / "config.yaml").write_text(to_yaml(config))
    losses = {"train_loss": 2.5, "val_loss": 2.75, "bits_per_byte": 3.97}
    (run / "log.jsonl").write_text(json.dumps({"event": "eval", "step": 10, **losses}) + "\n")
    (run / "environment.json").write_text(json.dumps({"command": "/home/me/secret", "versions": {"torch": "2.13"}}))
    monkeypatch.setattr(state, "load_config", lambda folder: config)
    export(run, tmp_path / "out", license="CC-BY-4.0", name="a-book")
    card = (tmp_path / "out" / hf.CARD).read_text()
    for message in (
        "license: cc-by-4.0",
        "# a-book",
        "`text.txt`",
        "2.7500",
        "3.9700",
        "| steps | 10 |",
        "| torch | 2.13 |",
    ):
        assert message in card
    assert "/home/me" not in card
    assert str(tmp_path) not in card


def test_code_in_a_name_is_not_copied_into_the_card(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = tmp_path / 'a`b";evil()#'
    shutil.copytree(gpt2_checkpoint, folder)
    export(folder, tmp_path / "out")
    assert 'folder = "a-b-evil"' in (tmp_path / "out" / hf.CARD).read_text()


def test_a_card_states_a_missing_licence_or_run(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    export(gpt2_checkpoint, tmp_path / "out")
    card = (tmp_path / "out" / hf.CARD).read_text()
    assert "No licence was given" in card
    assert "license:" not in card
    assert "No validation loss" in card
    assert "was not available" in card


@pytest.mark.parametrize("error", [ValueError("does not recognize\nthis"), OSError("no file named x"), KeyError("a")])
def test_a_failing_reader_gets_one_sentence(error, gpt2_checkpoint, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ExportError, match=r"transformers .* cannot open the export \(.*--upgrade") as caught:
        export(gpt2_checkpoint, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("preset", ["gpt1", "gpt2", "nanochat", "modern"])
def test_a_padded_batch_computes_the_same_as_single_texts(preset, checkpoint, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    export(checkpoint(preset), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    model, options = theirs(tmp_path / "out"), {"max_new_tokens": 3, "do_sample": False}
    one = model.generate(**tokenizer("ab", return_tensors="pt"), **options)[0, 2:]
    both = model.generate(
        **tokenizer(["ab", "abcdef"], return_tensors="pt", padding=True, padding_side="left"), **options
    )
    assert both[0, 6 : 6 + len(one)].tolist() == one.tolist()
    pad_ids = [json.loads((tmp_path / "out" / name).read_text())["pad_token_id"] for name in (hf.CONFIG, hf.GENERATION)]
    assert pad_ids == [None, 256]


@pytest.mark.parametrize("preset", ["gpt2", "modern"])
def test_each_row_of_a_batch_is_continued_as_it_is_alone(preset, checkpoint, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    export(checkpoint(preset, block_size=96), tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", local_files_only=True)
    model, options = theirs(tmp_path / "out"), {"max_new_tokens": 40, "do_sample": False}
    texts = ["a", "nine tale", "forty letters: " + "x" * 25]
    rows = model.generate(**tokenizer(texts, return_tensors="pt", padding=True), **options)[:, 40:]
    for text, row in zip(texts, rows.tolist(), strict=True):
        alone = model.generate(**tokenizer(text, return_tensors="pt"), **options)[0, len(text) :].tolist()
        assert row[: len(alone)] == alone
        assert len(alone) == 40 or alone[-1] == 256


@pytest.mark.parametrize("found", [{}, {"a": torch.ones(2), "b": torch.ones(1)}, {"a": torch.zeros(2)}])
def test_a_missing_unknown_or_changed_tensor_is_named(found):
    with pytest.raises(ExportError, match=r"f: (a|b) is not what was written"):
        identical("f", {"a": torch.ones(2)}, found)


def test_logits_that_are_nan_or_of_another_shape_differ_without_bound():
    assert relative(torch.ones(2), torch.full((2,), torch.nan)) == float("inf")
    assert relative(torch.ones(2), torch.ones(3)) == float("inf")


def test_the_card_lists_tasks_and_the_origin_of_the_weights(gpt2_checkpoint, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(gpt2_checkpoint, run / "checkpoints" / "step-00000010")
    shutil.copy(gpt2_checkpoint / "config.json", run / "config.yaml")  # exists; nothing reads it here
    records = [
        {"event": "eval", "step": 10, "val_loss": 3.5, "tasks": {"piqa": {"n": 7, "acc": 0.5, "acc_stderr": 0.1}}},
        {"event": "evaluate", "step": 10, "results": {"loss": {"loss": 3.5}, "hellaswag": {"n": 40, "acc_norm": 0.25}}},
        {"event": "evaluate", "step": 9, "results": {"arc_easy": {"n": 1, "acc": 1.0}}},
    ]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    groundup.export(run / "checkpoints" / "step-00000010", tmp_path / "hf", name="toy")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "| piqa, acc | 0.5000 ± 0.1000, 7 questions |" in card
    assert "| hellaswag, acc_norm | 0.2500, 40 questions |" in card
    assert "arc_easy" not in card, "another checkpoint's"
    assert "trained from scratch" in card
    groundup.import_model(tmp_path / "hf", tmp_path / "imported")
    groundup.export(tmp_path / "imported", tmp_path / "again")
    card = (tmp_path / "again" / "README.md").read_text()  # of a context, 12, that does not divide the usual batch
    assert "initialized with the weights of a GPT2LMHeadModel of transformers" in card
    assert "learning rate" not in card, "it was not trained here"
    assert "not trained further" in card
    assert str(tmp_path) not in card
