"""Lines of held-out text at which samples begin."""

import pytest

from groundup.data.openings import MAX_CHARACTERS, MIN_CHARACTERS, openings
from groundup.data.shards import Manifest, Tokens
from groundup.preprocess.pipeline import prepare
from groundup.tokenizers.registry import load_tokenizer

PLAY = "".join(f"\nSPEAKER{i % 7}:\nThe {i}th line, and here\nit goes on for a while.\n" for i in range(900))
PROSE = " ".join(f"Sentence number {i} is not a long one, as sentences of books go." for i in range(2000))
WORDS = " ".join(f"word{i}" for i in range(9000))


@pytest.fixture
def opened(tmp_path):
    """Function that prepares texts, and returns their openings and the held-out text."""

    def make(*texts: str, tokenizer: str = "char", n: int = 3):
        for i, text in enumerate(texts):
            (tmp_path / f"{i:03}.txt").write_text(text, encoding="utf-8")
        prepare([tmp_path / "*.txt"], tmp_path / "data", tokenizer=tokenizer)
        model = load_tokenizer(tmp_path / "data" / "tokenizer")
        val = Tokens.open(tmp_path / "data", "val")
        found = openings(Manifest.load(tmp_path / "data"), val, model, n)
        return found, model.decode(val.read(0, len(val)))

    return make


@pytest.mark.parametrize("tokenizer", ["char", "byte", "bpe:300"])
@pytest.mark.parametrize(
    ("text", "start"), [(PLAY, r"\n\n"), (PROSE, ". "), (WORDS, " ")], ids=["paragraphs", "sentences", "words"]
)
def test_each_begins_where_something_begins_and_is_held_out(opened, text, start, tokenizer):
    found, held_out = opened(text, tokenizer=tokenizer)
    assert len(found) == 3
    for prompt, continuation in found:
        assert MIN_CHARACTERS <= len(prompt) <= MAX_CHARACTERS
        assert held_out.count(prompt + continuation) == 1
        before, after = held_out.split(prompt + continuation)[0], continuation[0]
        assert before.endswith(start.replace(r"\n", "\n"))
        assert after.isspace() or text is PROSE, "ends with a word"
        assert len(continuation) > 200


def test_a_short_line_takes_the_next_one_with_it(opened):
    found, _ = opened(PLAY)
    for prompt, continuation in found:
        assert prompt.startswith("SPEAKER")
        assert prompt.endswith("line, and here")
        assert continuation.startswith("\nit goes on")


def test_of_many_documents_they_are_beginnings_and_end_with_the_document(opened):
    texts = [f"Document {i} begins so. " + f"It says {i} again. " * 30 for i in range(300)]
    found, _ = opened(*texts, n=5)
    assert len(found) == 5
    for prompt, continuation in found:
        assert prompt + continuation in texts


def test_of_few_documents_no_end_of_one_is_taken_for_a_beginning(opened):
    found, held_out = opened(*[f"{'abcde' * 1000} {i}" + " the end is here." * 30 for i in range(9)], n=7)
    assert found
    assert all(prompt.startswith("the end is") or prompt[0].isdigit() for prompt, _ in found), found
    assert held_out


def test_texts_without_spaces_or_of_one_word_are_no_obstacle(opened):
    found, held_out = opened("天地玄黄宇宙洪荒日月盈昃辰宿列张" * 900)
    assert found
    assert all(0 < len(prompt) <= MAX_CHARACTERS and prompt in held_out for prompt, _ in found)


def test_where_nothing_is_held_out_there_is_none(tmp_path):
    (tmp_path / "a.txt").write_text("some text " * 50)
    manifest = prepare([tmp_path / "a.txt"], tmp_path / "data", tokenizer="byte", val_fraction=0)
    val = Tokens.open(tmp_path / "data", "val")
    assert openings(manifest, val, load_tokenizer(tmp_path / "data" / "tokenizer"), 3) == []
