"""Survey of a text: counts of bytes, characters and documents."""

from hypothesis import given
from hypothesis import strategies as st

from groundup.sources.survey import survey
from groundup.sources.text import Document


def documents(texts: list[str]) -> list[Document]:
    return [Document("test", 0, lambda text=text: iter([text[:3], text[3:]])) for text in texts]


@given(st.lists(st.text(st.characters(codec="utf-8")), max_size=5))
def test_it_counts_bytes_characters_and_documents(texts):
    found = survey(documents(texts))
    full = "".join(texts)
    assert (found.bytes, found.characters, found.distinct) == (len(full.encode()), len(full), len(set(full)))
    assert (found.documents, found.complete) == (len(texts), True)


def test_only_the_beginning_of_a_long_text_is_surveyed():
    found = survey(documents(["abcdef"] * 100), max_bytes=60)
    assert not found.complete
    assert 60 <= found.bytes < 70
    assert found.size.startswith("more than 60 bytes in 10 documents")


def test_bytes_per_character_distinguishes_scripts():
    ratios = [survey(documents([t])).bytes_per_character for t in ("plain", "Ελλάδα", "你好世界", "😀😀")]
    assert ratios == [1, 2, 3, 4]
