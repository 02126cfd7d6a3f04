"""A GGUF file holds what the model is, and llama.cpp computes the same from it."""

import ctypes
import errno
import json
import sys
from itertools import islice
from types import ModuleType

import numpy as np
import pytest
import torch

import groundup
from groundup.errors import ExportError, UsageError
from groundup.interop import gguf
from groundup.interop.export import export
from groundup.interop.gguf_tokenizer import vocabulary
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.tokenizers.hf_json import FileTokenizer

PATTERN_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def of_another_program(texts, pattern=None, **model):
    """A byte-level BPE that cuts a text by `pattern` first, or into single digits if that is "digits"."""
    import tokenizers
    from tokenizers import models, pre_tokenizers, trainers

    engine = tokenizers.Tokenizer(models.BPE())
    before = pre_tokenizers.Digits(individual_digits=True)
    if pattern != "digits":
        before = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    by_gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "digits")
    engine.pre_tokenizer = pre_tokenizers.Sequence([before, by_gpt2])
    engine.decoder = tokenizers.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|endoftext|>", "<|im_end|>"]
    engine.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    contents = json.loads(engine.to_str())
    contents["model"] |= model
    return FileTokenizer(json.dumps(contents), "<|endoftext|>")


TOKENIZERS = {
    "byte": lambda texts: ByteTokenizer(),
    "char": CharTokenizer.train,
    "char of ASCII": lambda texts: CharTokenizer.train([char for text in texts for char in text if char.isascii()]),
    "gpt2": lambda texts: GPT2Tokenizer(),
    **{f"bpe:{n}": lambda texts, n=n: BPETokenizer.train(texts * 3, n) for n in (257, 258, 300, 4096)},
    "bpe with pad": lambda texts: BPETokenizer.train(texts, 500, special_tokens=["<|pad|>", "<|im_end|>"]),
    "llama 3's": lambda texts: of_another_program(texts, PATTERN_LLAMA3),
    "llama 3's, whole words first": lambda texts: of_another_program(texts, PATTERN_LLAMA3, ignore_merges=True),
    "qwen 2's": lambda texts: of_another_program(texts, PATTERN_LLAMA3.replace("{1,3}", "")),
    "single digits": lambda texts: of_another_program(texts, "digits"),
}


@pytest.fixture
def llama_cpp():
    found = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")
    found.llama_log_set(gguf._silence(found), None)
    return found


@pytest.fixture
def opened(llama_cpp):
    """Open a file in llama.cpp."""
    models = []

    def load(path, **options):
        cache = dict.fromkeys(("type_k", "type_v"), llama_cpp.GGML_TYPE_F32)
        models.append(llama_cpp.Llama(str(path), verbose=False, **cache, **options))
        return models[-1]

    yield load
    for model in models:
        model.close()


def fields(export_gguf, path):
    return {key: field.contents() for key, field in export_gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("kind", ["tied", "untied", "no bias"])
def test_a_gguf_holds_the_same_tensors(kind, checkpoint, tmp_path, export_gguf):
    folder = checkpoint(**{"tied": {}, "untied": {"tie_embeddings": False}, "no bias": {"bias": False}}[kind])
    done = export(folder, tmp_path / "m.gguf", to="gguf", license="mit")
    reader = export_gguf.GGUFReader(tmp_path / "m.gguf")
    found = {tensor.name: tensor.data for tensor in reader.tensors}
    ours = groundup.load(folder).model.state_dict()
    assert (found["token_embd.weight"] == ours["wte.weight"][:257].numpy()).all()
    assert (found["blk.1.attn_qkv.weight"] == ours["h.1.attn.c_attn.weight"].numpy()).all()
    assert ("output.weight" in found) == (kind == "untied")
    assert len(found) == 2 + 2 * 12 + 2 + (kind == "untied")  # llama.cpp wants every bias
    assert bool(found["blk.0.attn_qkv.bias"].any()) == (kind != "no bias")
    written = fields(export_gguf, tmp_path / "m.gguf")
    assert written["general.architecture"] == "gpt2"
    assert written["tokenizer.ggml.eos_token_id"] == 256
    assert written["tokenizer.ggml.token_type"] == [1] * 256 + [5]  # normal tokens, and one that no text spells
    assert written["general.license"] == "mit"
    assert done.bytes == (tmp_path / "m.gguf").stat().st_size
    assert done.difference is None or done.difference <= 1e-2


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize(
    ("width", "odd"),
    [
        (32, ["blk.*.ffn_down.weight (172)"]),
        (48, ["token_embd.weight (48)", "blk.*.attn_qkv.weight (48)", "blk.*.ffn_down.weight (172)"]),
        (72, ["token_embd.weight (72)", "blk.*.ffn_up.weight (72)"]),
        (100, ["token_embd.weight (100)", "blk.*.attn_output.weight (100)"]),
    ],
)
def test_rows_that_blocks_do_not_divide_are_f16(dtype, width, odd, checkpoint, tmp_path, export_gguf):
    tokenizer = BPETokenizer.train(["abc"], 257)
    folder = checkpoint(tokenizer=tokenizer, n_embd=width, n_inner=172)
    done = export(folder, tmp_path / "m.gguf", to="gguf", dtype=dtype)
    reader = export_gguf.GGUFReader(tmp_path / "m.gguf")
    for tensor in reader.tensors:
        matrix = len(tensor.shape) > 1 and tensor.name != "position_embd.weight"
        packed = dtype.upper() if dtype != "q8_0" or tensor.shape[0] % 32 == 0 else "F16"
        assert tensor.tensor_type.name == (packed if matrix else "F32"), tensor.name
    end = max(tensor.data_offset + tensor.n_bytes for tensor in reader.tensors)
    assert (tmp_path / "m.gguf").stat().st_size == -(-end // reader.alignment) * reader.alignment
    notes = [note for note in done.notes if "f16 and not q8_0, whose blocks of 32 do not divide the rows" in note]
    assert len(notes) == (dtype == "q8_0")
    assert all(name in note for note in notes for name in odd)
    assert done.difference is None or done.difference <= gguf.DTYPES[dtype].bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "gguf", "dtype": "q4_k"}, "dtype q4_k: --to gguf writes f32 or f16 or bf16 or q8_0"),
        ({"to": "hf", "dtype": "f16"}, "dtype f16: --to hf writes f32"),
    ],
)
def test_other_dtypes_are_refused(options, message, gpt2_checkpoint, tmp_path):
    with pytest.raises(UsageError, match=message):
        export(gpt2_checkpoint, tmp_path / "m.gguf", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_weight_that_f16_cannot_hold_is_refused(gpt2_checkpoint, export_gguf, tmp_path):
    loaded = groundup.load(gpt2_checkpoint)
    tensors = {name: p.detach() for name, p in loaded.model.named_parameters()}
    tensors["h.0.mlp.c_fc.weight"][0, 0] = 70_000.0
    for dtype in ("f16", "q8_0"):  # whose blocks do not divide this width
        with pytest.raises(UsageError, match=r"c_fc\.weight: holds a weight beyond 65,504, .* take --dtype bf16"):
            gguf.write(tmp_path / "m", loaded.config.model, tensors, loaded.tokenizer, name="m", dtype=dtype)
    gguf.write(tmp_path / "m", loaded.config.model, tensors, loaded.tokenizer, name="m", dtype="bf16")


def test_a_gguf_whose_bits_differ_is_refused(gpt2_checkpoint, tmp_path, monkeypatch, export_gguf):
    true = export_gguf.GGUFWriter.add_tensor

    def wrong(self, name, data, **options):
        true(self, name, data + 1e-6, **options)

    monkeypatch.setattr(export_gguf.GGUFWriter, "add_tensor", wrong)
    with pytest.raises(ExportError, match=r"\(F32\) is not what was written"):
        export(gpt2_checkpoint, tmp_path / "m.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_gguf(gpt2_checkpoint, tmp_path, monkeypatch, export_gguf):
    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_gguf.GGUFWriter, "write_tensors_to_file", refuse)
    with pytest.raises(UsageError, match=r"cannot be written \(No space left.*\); give another"):
        export(gpt2_checkpoint, tmp_path / "out", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_file_has_its_name_only_after_it_was_opened_again(gpt2_checkpoint, tmp_path, monkeypatch, export_gguf):
    """So SIGKILL at any moment before leaves nothing under that name."""
    seen = []

    def look(*_):
        seen.append([file.name for file in tmp_path.iterdir() if not file.name.startswith(".")])

    true = export_gguf.GGUFWriter.write_tensors_to_file
    monkeypatch.setattr(
        export_gguf.GGUFWriter, "write_tensors_to_file", lambda *a, **o: (look(), true(*a, **o), look())
    )
    monkeypatch.setattr(gguf, "check", look)
    export(gpt2_checkpoint, tmp_path / "m.gguf", to="gguf")
    assert seen == [[], [], []]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.Modelfile", "m.gguf"]


def test_a_gguf_that_was_cut_short_is_refused(gpt2_checkpoint, tmp_path, monkeypatch, export_gguf):
    true = gguf.write

    def cut(path, *args, **options):
        notes = true(path, *args, **options)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 64)
        return notes

    monkeypatch.setattr(gguf, "write", cut)
    with pytest.raises(ExportError, match="gguf cannot open the export"):
        export(gpt2_checkpoint, tmp_path / "m.gguf", to="gguf", dtype="q8_0")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_llama_cpp_gets_one_sentence(gpt2_checkpoint, tmp_path, monkeypatch, export_gguf):
    def fail(*_, **__):
        raise ValueError("Failed to load model")

    silent = {"llama_log_set": lambda *_: None, "llama_log_callback": lambda heard: heard, "GGML_TYPE_F32": 0}
    module = ModuleType("llama_cpp")
    vars(module).update(__version__="0", Llama=fail, **silent)
    monkeypatch.setitem(sys.modules, "llama_cpp", module)
    with pytest.raises(ExportError, match=r"llama\.cpp .* cannot open the export \(ValueError: Failed"):
        export(gpt2_checkpoint, tmp_path / "m.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_without_the_gguf_library_the_extra_is_named(gpt2_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match=r"pip install .*\[gguf\]'"):
        export(gpt2_checkpoint, tmp_path / "m.gguf", to="gguf")


def test_the_modelfile_continues_text_and_is_replaced_only_as_it_was_written(gpt2_checkpoint, tmp_path, export_gguf):
    out = tmp_path / "my book.gguf"
    done = export(gpt2_checkpoint, out, to="gguf", name="Me/Book", license="MIT")
    path = tmp_path / "my book.Modelfile"
    assert f"ollama create me/book -f '{path}'" in done.notes[0]
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines == [
        "FROM ./my book.gguf",
        'TEMPLATE """{{ .Prompt }}"""',
        "PARAMETER num_ctx 12",
        "PARAMETER temperature 0.8",
        "PARAMETER top_k 0",
        "PARAMETER top_p 1",
        "PARAMETER repeat_penalty 1",
        "LICENSE mit",
    ]
    export(gpt2_checkpoint, out, to="gguf", overwrite=True)
    assert "LICENSE" not in path.read_text()
    path.write_text(path.read_text().replace("0.8", "0.5"))
    before = out.read_bytes()
    with pytest.raises(UsageError, match=r"my book\.Modelfile: is there already, and is no such export"):
        export(gpt2_checkpoint, out, to="gguf", overwrite=True)
    assert out.read_bytes() == before
    assert "0.5" in path.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"my book.gguf", "my book.Modelfile"}


def test_a_name_that_would_be_a_line_of_the_modelfile_is_refused(gpt2_checkpoint, tmp_path):
    with pytest.raises(UsageError, match=r"'x\\nSYSTEM y\.gguf': a Modelfile cannot name such a file"):
        export(gpt2_checkpoint, tmp_path / "x\nSYSTEM y.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "Unigram"}, "works this way"),
        ({"byte_fallback": True}, "works this way"),
        ({"normalizer": {"type": "NFC"}}, "changes a text first"),
        ({"end_of_word_suffix": "</w>"}, "marks the ends of words"),
        ({"ignore_merges": True}, "cuts a text into words as its pre-tokenizer does"),
        ({"pre_tokenizer": {"type": "Whitespace"}}, "cuts a text into words as its pre-tokenizer does"),
        ({"added_tokens": [{"id": 9, "content": "[X]", "special": False, "lstrip": True}]}, "the space around them"),
        ({"unk_token": "x", "vocab": {"x": 0}}, "has an id for unknown text"),
    ],
)
def test_a_tokenizer_that_llama_cpp_lacks_is_refused(change, reason, monkeypatch):
    from groundup.interop import hf_tokenizer

    contents = hf_tokenizer.contents(BPETokenizer.train(["the cat the cat"], 260))
    part = contents if change.keys() & contents.keys() else contents["model"]
    part |= change
    monkeypatch.setattr(hf_tokenizer, "contents", lambda tokenizer: contents)
    with pytest.raises(UsageError, match=rf"llama\.cpp has none that .*{reason}.*; .* export it with --to hf"):
        vocabulary(ByteTokenizer())


def test_gpt1s_tokenizer_is_refused_before_anything_is_written(checkpoint, shared_data, tmp_path, export_gguf):
    folder = checkpoint(tokenizer=GPT1Tokenizer.read(shared_data / "gpt1-vocab"))
    with pytest.raises(UsageError, match=r"tokenizer gpt1: llama\.cpp has none that changes a text first"):
        export(folder, tmp_path / "m.gguf", to="gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_character_is_merged_from_its_bytes_without_ids_for_the_parts():
    vocab = vocabulary(CharTokenizer("aé각"))
    assert vocab.tokens == ["a", "Ã©", "ê°ģ", "<|endoftext|> "]
    assert vocab.merges == ["Ã ©", "ê °", "ê° ģ"]


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_llama_cpp_gives_500_awkward_texts_the_same_ids_and_back(
    kind, awkward_texts, checkpoint, tmp_path, opened, llama_cpp, export_gguf
):
    tokenizer = TOKENIZERS[kind](awkward_texts)
    export(checkpoint(tokenizer=tokenizer), tmp_path / "m.gguf", to="gguf")
    vocab = opened(tmp_path / "m.gguf", vocab_only=True)._model
    assert vocab.token_eos() == tokenizer.end_of_text
    assert llama_cpp.llama_vocab_is_eog(vocab.vocab, tokenizer.end_of_text)
    for text in awkward_texts:
        text = "".join(char for char in text if kind != "char of ASCII" or char.isascii())
        ids = tokenizer.encode(text).tolist()
        assert vocab.tokenize(text.encode(), False, True) == ids, repr(text)  # as servers do, special tokens too
        assert b"".join(piece(llama_cpp, vocab.vocab, id_) for id_ in ids).decode() == text
        if "llama 3" not in kind:  # for which llama.cpp leaves out spaces before punctuation marks, here only
            assert detokenized(llama_cpp, vocab.vocab, ids) == text
    assert piece(llama_cpp, vocab.vocab, tokenizer.end_of_text) == b""


def piece(llama_cpp, vocab, id_):
    buffer = ctypes.create_string_buffer(4096)
    n = llama_cpp.llama_token_to_piece(vocab, id_, buffer, 4096, 0, True)
    return buffer.raw[:n]


def detokenized(llama_cpp, vocab, ids):
    buffer, array = ctypes.create_string_buffer(1 << 16), (llama_cpp.llama_token * len(ids))(*ids)
    n = llama_cpp.llama_detokenize(vocab, array, len(ids), buffer, 1 << 16, False, False)
    return buffer.raw[:n].decode()


SHAPES = {
    "gpt2": ("gpt2", {}),
    "gpt2, untied": ("gpt2", {"tie_embeddings": False, "bias": False}),
    "qwen3": ("modern", {"rotary_base": 500.0}),
    "qwen3, tied": ("modern", {"tie_embeddings": True, "n_inner": 172}),
}


@pytest.mark.parametrize("kind", SHAPES)
def test_llama_cpp_writes_the_same_200_tokens(kind, checkpoint, tmp_path, opened, export_gguf):
    preset, changes = SHAPES[kind]
    folder = checkpoint(preset, n_embd=64, n_head=4, block_size=256, **changes)
    done = export(folder, tmp_path / "m.gguf", to="gguf")
    assert done.checked_by.startswith("llama.cpp")
    assert done.difference <= 1e-2
    loaded = groundup.load(folder)
    prompt = loaded.tokenizer.encode("Once upon a time").tolist()
    llama = opened(tmp_path / "m.gguf", n_ctx=256)
    written = list(islice(llama.generate(prompt, temp=0.0, repeat_penalty=1.0), 200))
    with torch.no_grad():  # after each token the model's most likely one is the next that llama.cpp wrote
        logits = loaded.model(torch.tensor([prompt + written]))[0, len(prompt) - 1 : -1]
    best, chosen = logits.max(dim=-1).values, logits[torch.arange(200), written]
    assert (best - chosen).max() <= 1e-4 * logits.abs().max(), "rounding decides only between equal logits"
    assert len(set(written)) > 1


def mean_loss(llama, rows):
    losses = []
    for row in rows.tolist():
        llama.reset()
        llama.eval(row)
        logits = torch.tensor(llama.scores[: len(row) - 1])
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:])))
    return torch.stack(losses).mean().item()


@pytest.mark.long
def test_weights_in_eight_bits_of_ten_million_parameters_lose_little(prepared, tmp_path, opened, export_gguf):
    from groundup.model.size import parameters

    shape = {"n_layer": 6, "n_head": 6, "n_embd": 384, "block_size": 128}
    train = {"max_steps": 60, "batch_tokens": 512, "device": "cpu"}
    settings = {"model": shape, "train": train, "schedule": {"warmup_steps": 5}}
    groundup.train(prepared, tmp_path / "run", preset="gpt2-mini", overrides=settings, progress=False)
    loaded = groundup.load(tmp_path / "run")
    assert parameters(loaded.config.model) >= 10e6
    val = torch.from_numpy(np.fromfile(prepared / "val-00000.bin", "<u2", 16 * 128).astype(np.int64)).view(16, 128)
    sizes, losses = {}, {}
    for dtype in gguf.DTYPES:
        done = export(tmp_path / "run", tmp_path / f"{dtype}.gguf", to="gguf", dtype=dtype)
        sizes[dtype] = done.bytes
        losses[dtype] = mean_loss(opened(done.out, n_ctx=128, logits_all=True), val)
    assert sizes["q8_0"] <= 0.30 * sizes["f32"]
    assert losses["f32"] < 3.5, "it has learnt something"
    assert losses["q8_0"] <= losses["f32"] + 0.005
    assert losses["f16"] <= losses["f32"] + 0.001
    exact, bf16, int8 = (
        groundup.evaluate(tmp_path / "run", quantize=kind, device="cpu", progress=False).loss
        for kind in ("none", "bf16", "int8")
    )
    assert int8 <= exact + 0.005
    assert bf16 <= exact + 0.001
