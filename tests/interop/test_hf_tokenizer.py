"""Exported tokenizers encode and decode in transformers as in groundup."""

import json

import pytest

from groundup.errors import ExportError
from groundup.interop import hf_tokenizer
from groundup.interop.hf_tokenizer import SAMPLES, check, contents, pad_token, write
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.byte_char import ByteTokenizer, CharTokenizer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.gpt2 import GPT2Tokenizer
from groundup.tokenizers.hf_json import FileTokenizer


def of_another_program(texts):
    """File with a normalizer, a template that adds tokens around a text, and an end token in its vocabulary."""
    import tokenizers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    engine = tokenizers.Tokenizer(models.BPE())
    engine.normalizer = normalizers.NFC()
    engine.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    engine.train_from_iterator(texts, trainer)
    engine.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    engine.enable_truncation(4)
    return FileTokenizer(engine.to_str(), "</s>")


MAKERS = {
    "byte": lambda text, _: ByteTokenizer(),
    "char": lambda text, _: CharTokenizer.train([text]),
    "gpt2": lambda text, _: GPT2Tokenizer(),
    "bpe": lambda text, _: BPETokenizer.train([text], 500, special_tokens=["<|pad|>"]),
    "gpt1": lambda text, data: GPT1Tokenizer.read(data("shared_data") / "gpt1-vocab"),
    "json": lambda text, _: of_another_program([text]),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_transformers_gives_the_same_ids_and_the_same_text_back(kind, sentences, tmp_path, request):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    text = sentences(20) + "".join(SAMPLES) + " trailing  "
    tokenizer = MAKERS[kind](text, request.getfixturevalue)
    write(tokenizer, tmp_path, block_size=1 << 20)
    check(tokenizer, tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    ids = tokenizer.encode(text).tolist()
    assert theirs(text)["input_ids"] == ids
    assert theirs.decode(ids) == tokenizer.decode(ids)
    assert (len(theirs), theirs.eos_token_id) == (tokenizer.n_vocab, tokenizer.end_of_text)


@pytest.mark.parametrize("kind", MAKERS)
def test_500_awkward_texts_get_the_same_ids_and_come_back(kind, awkward_texts, tmp_path, request):
    """Among them the name of the end of a text, typed, which is plain text."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    tokenizer = MAKERS[kind]("".join(awkward_texts), request.getfixturevalue)
    write(tokenizer, tmp_path, block_size=8)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in awkward_texts:
        ids = tokenizer.encode(text).tolist()
        assert theirs(text)["input_ids"] == ids, repr(text)
        if kind not in ("gpt1", "json"):  # which change a text
            assert theirs.decode(ids) == text
        assert tokenizer.end_of_text not in ids


def test_a_batch_of_prompts_is_padded_where_generation_does_not_begin(tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    write(ByteTokenizer(), tmp_path, block_size=8)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    rows = theirs(["abc", "d"], padding=True)
    assert [row[-1] for row in rows["input_ids"]] == [ord("c"), ord("d")]
    assert rows["attention_mask"] == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(
    ("special", "pad"), [(["<|pad|>", "<|endoftext|>"], ("<|pad|>", 0)), ([], ("<|endoftext|>", 0))]
)
def test_a_tokenizer_with_a_pad_token_pads_with_it(special, pad, sentences, tmp_path):
    transformers = pytest.importorskip("transformers", reason="needs the extra `hf`")
    tokenizer = BPETokenizer.train([sentences(5)], 300, special_tokens=special)
    write(tokenizer, tmp_path, block_size=8)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert (theirs.pad_token, theirs.pad_token_id) == pad_token(tokenizer) == pad
    assert theirs(["the cat", "a"], padding=True)["input_ids"][1][0] == pad[1]
    assert theirs.eos_token_id == tokenizer.end_of_text == len(special[1:])


def test_an_unknown_character_is_an_error_in_the_exported_tokenizer(tmp_path):
    import tokenizers

    write(CharTokenizer("abc"), tmp_path, block_size=8)
    engine = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Exception, match="UNK"):
        engine.encode("abd")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda made: made["model"]["merges"].clear(), "other ids"),
        (lambda made: made.update(decoder=None), "another text"),
        (lambda made: made.update(post_processor=None, normalizer={"type": "Lowercase"}), "other ids"),
    ],
)
def test_a_tokenizer_file_that_encodes_or_decodes_differently_is_found(damage, message, tmp_path, monkeypatch):
    tokenizer = BPETokenizer.train(SAMPLES, 400)

    def damaged(tokenizer):
        made = contents(tokenizer)
        damage(made)
        return made

    monkeypatch.setattr(hf_tokenizer, "contents", damaged)
    write(tokenizer, tmp_path, block_size=8)
    with pytest.raises(ExportError, match=message):
        check(tokenizer, tmp_path)


def test_the_tokenizer_files_contain_no_paths(tmp_path):
    write(ByteTokenizer(), tmp_path, block_size=8)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 8
    assert {path.name for path in tmp_path.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
