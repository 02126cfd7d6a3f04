"""A small tokenizer.json that would take memory or time is refused; what published ones ask for is accepted."""

import base64
import json
import struct

import pytest

from groundup.errors import TokenizerError
from groundup.tokenizers import hf_json
from groundup.tokenizers.bpe import BPETokenizer
from groundup.tokenizers.gpt1 import GPT1Tokenizer
from groundup.tokenizers.hf_json import FileTokenizer
from groundup.tokenizers.hf_limits import TYPES, check_limits
from tokenizers import decoders, normalizers, pre_tokenizers

LETTER = {"type": "BPE", "vocab": {"a": 0, "b": 1, "</s>": 2}, "merges": []}


def small(**parts):
    return json.dumps({"version": "1.0", "added_tokens": [], "model": LETTER, **parts})


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(*replacements):
    trie = struct.pack("<I", 8) + bytes(8)
    return {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(trie + b"\0".join(replacements) + b"\0").decode(),
    }


DOUBLED = {"type": "Sequence", "normalizers": [replace({"String": "a"}, "aa")] * 40}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


SPLIT = split("(")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"normalizer": DOUBLED}, "its normalizer makes a text more than 128 times as long"),
        ({"normalizer": {"type": "Sequence", "normalizers": [DOUBLED]}}, "more than 128 times"),
        ({"normalizer": replace({"String": ""}, "a" * 200)}, "more than 128 times"),
        ({"normalizer": replace({"Regex": "b*"}, "a" * 200)}, "more than 128 times"),
        ({"normalizer": replace({"Regex": "b+"}, "a" * 200)}, "more than 128 times"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "ByteLevel"}] * 30}}, "more than 128 times"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}] * 30}}, "more than 128 times"),
        ({"decoder": {"type": "Sequence", "decoders": DOUBLED["normalizers"]}}, "its decoder makes a text more than"),
        ({"normalizer": charsmap(b"x" * 200)}, "more than 128 times"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1001}}, "too many steps"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 65}}, "more than 64 bytes before each text"),
        ({"normalizer": replace({"Regex": "b(?=a)|(?=b)"}, "a" * 200)}, "more than 128 times"),
        ({"normalizer": replace({"Regex": r"a\K"}, "a" * 200)}, "more than 128 times"),
        (
            {"normalizer": {"type": "Sequence", "normalizers": [replace({"Regex": "b*"}, "b")] * 8}},
            "more than 128 times",
        ),
        ({"pre_tokenizer": SPLIT}, "not a tokenizer that can be used"),
        ({"normalizer": replace({"Regex": "("}, "")}, "not a tokenizer that can be used"),
        (
            {
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split("a" * 3000)] * 2},
                "normalizer": replace({"Regex": "a" * 3000}, ""),
            },
            "its regular expressions have more than 8,192 characters",
        ),
        ({"pre_tokenizer": {key: SPLIT[key] for key in SPLIT if key != "type"}}, "not a tokenizer that can be used"),
        ({"normalizer": {"type": "Evil"}}, "its normalizer has an unknown type 'Evil'"),
        ({"normalizer": 5}, "not a tokenizer that can be used"),
        ({"normalizer": charsmap()["precompiled_charsmap"]}, "not a tokenizer that can be used"),
        ({"model": LETTER | {"continuing_subword_prefix": "a" * 65}}, "its continuing_subword_prefix has more than 64"),
        ({"model": LETTER | {"max_input_chars_per_word": 10**9}}, "its max_input_chars_per_word is above 1000"),
        ({"model": LETTER | {"vocab": {"a" * 70_000: 0, "</s>": 1}}}, "a piece of more than 65,536 characters"),
        ({"added_tokens": [{"content": "a" * (1 << 20) + "b", "id": 3}]}, "more than 1,048,576 characters"),
    ],
)
def test_a_file_that_takes_memory_or_time_is_one_sentence(parts, message):
    with pytest.raises(TokenizerError, match=message):
        FileTokenizer(small(**parts), "</s>")


def test_the_same_limits_hold_for_a_tokenizer_that_a_folder_calls_groundups_own():
    contents = json.loads(BPETokenizer.train(["a b"], 300)._files["tokenizer.json"])
    with pytest.raises(TokenizerError, match="more than 128 times"):
        BPETokenizer(json.dumps(contents | {"normalizer": DOUBLED}))


def test_a_file_has_a_largest_number_of_values(monkeypatch):
    monkeypatch.setattr(hf_json, "MAX_COMMAS", 5)
    with pytest.raises(TokenizerError, match="more than 5 values"):
        FileTokenizer(small(), "</s>")


def test_decoded_pieces_have_a_largest_total(monkeypatch):
    monkeypatch.setattr(hf_json, "MAX_FILE_BYTES", 150)
    with pytest.raises(TokenizerError, match="its vocab decodes to more than 150 bytes"):
        FileTokenizer(small(decoder=replace({"String": "a"}, "a" * 100) | {"type": "Replace"}), "</s>")


def test_usual_chains_of_steps_are_accepted():
    llama = [{"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")]
    letters = [replace({"String": letter}, letter.upper()) for letter in "cdefghij" * 60]
    for steps in (llama, letters):
        made = FileTokenizer(small(normalizer={"type": "Sequence", "normalizers": steps}), "</s>")
        assert made.encode("ab").tolist() == [0, 1]
    t5 = [charsmap(b"x" * 33), replace({"Regex": " {2,}"}, "▁")]
    check_limits(json.loads(small(normalizer={"type": "Sequence", "normalizers": t5})), ["a"])


@pytest.mark.parametrize(
    "regex",
    [
        r"\p{L}+(?:['’]\p{L}+)*|[^\s\p{L}]+|\s+", r"[\w.+-]+@[\w-]+\.[\w.-]+|\w+|\s+", r"\"(?:[^\"\\]|\\.)*\"|\w+|.",
        r"(?:\p{L}+ ?){1,4}|\s+", r"[\s\S]{1,1024}", r"\X", r"(?<word>\w+)|\s+", r"(?:\d{1,3}\.){3}\d{1,3}|a",
        r"\s?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+", r"(?:\r?\n)+(?!\r?\n)", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    ],
)  # fmt: skip
def test_any_regular_expression_of_the_library_may_split_a_text(regex):
    assert FileTokenizer(small(pre_tokenizer=split(regex)), "</s>").encode("aabba").tolist() == [0, 0, 1, 1, 0]


def test_a_match_on_which_the_library_gives_up_is_one_sentence():
    made = FileTokenizer(small(pre_tokenizer=split("(a|aa)+b")), "</s>")
    with pytest.raises(TokenizerError, match=r"cannot express the text .*retry-limit"):
        made.encode("a" * 100)


def test_replacing_what_a_regular_expression_finds_takes_as_much_away_as_it_must_match():
    cleaned = [replace({"Regex": regex}, content) for regex, content in ((r"\s+", " "), ("[“”]", '"'), ("c+", "d"))]
    check_limits(json.loads(small(normalizer={"type": "Sequence", "normalizers": cleaned * 20})), ["a"])


def test_every_step_of_the_library_is_known_by_its_name():
    made = {
        "normalizer": [
            normalizers.BertNormalizer(), normalizers.ByteLevel(), normalizers.Lowercase(), normalizers.NFC(),
            normalizers.NFD(), normalizers.NFKC(), normalizers.NFKD(), normalizers.Nmt(), normalizers.Prepend("a"),
            normalizers.Replace("a", "b"), normalizers.Strip(), normalizers.StripAccents(),
        ],
        "pre_tokenizer": [
            pre_tokenizers.BertPreTokenizer(), pre_tokenizers.ByteLevel(), pre_tokenizers.CharDelimiterSplit("a"),
            pre_tokenizers.Digits(), pre_tokenizers.FixedLength(5), pre_tokenizers.Metaspace(),
            pre_tokenizers.Punctuation(), pre_tokenizers.Split("a", "isolated"), pre_tokenizers.UnicodeScripts(),
            pre_tokenizers.Whitespace(), pre_tokenizers.WhitespaceSplit(),
        ],
        "decoder": [
            decoders.BPEDecoder(), decoders.ByteFallback(), decoders.ByteLevel(), decoders.CTC(), decoders.Fuse(),
            decoders.Metaspace(), decoders.Replace("a", "b"), decoders.Strip(" ", 1, 0), decoders.WordPiece(),
        ],
    }  # fmt: skip
    for part, steps in made.items():
        names = {json.loads(step.__getstate__())["type"] for step in steps}
        assert TYPES[part] - names <= {"Sequence", "Precompiled"}
        assert names <= TYPES[part]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("[" * 100_000, "nested"), ("{}" + " " * (17 << 20), "larger than 16,777,216 bytes"), ("{", "")],
)
def test_vocabularies_of_gpt1_are_bounded_json(tmp_path, text, reason):
    (tmp_path / "vocab.json").write_text(text)
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(TokenizerError, match=f"cannot be read as GPT-1's vocabulary .*{reason}"):
        GPT1Tokenizer.read(tmp_path)
