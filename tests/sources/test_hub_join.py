"""Rows become documents: lines joined to articles, and consecutive sentences."""

import pytest

from groundup.sources.catalog import ARTICLES, CORPORA
from groundup.sources.hub import is_hub_name, join_rows, parse_spec


def rows(texts):
    return lambda skip: (("file", i, text) for i, text in enumerate(texts) if i >= skip)


def texts_of(documents):
    return ["".join(document.chunks()) for document in documents]


LINES = [
    "", " = First = \n", "", " one \n", " = = Part = = \n", "", " two \n", "", "",
    " = Second = \n", "", " = 5 = \n", " three \n", "", " = Third , = fourth = \n", "",
]  # fmt: skip


def test_an_article_begins_with_a_title_between_empty_lines():
    found = texts_of(join_rows(ARTICLES, rows(LINES), 0))
    assert found == [
        "\n = First = \n\n one \n = = Part = = \n\n two \n\n\n",
        " = Second = \n\n = 5 = \n three \n\n",  # the 5 is not a title: text follows at once
        " = Third , = fourth = \n\n",
    ]
    assert "".join(found) == "".join(line or "\n" for line in LINES)


@pytest.mark.parametrize("joined", [1, 2, 3, 16, 100, ARTICLES])
def test_skipping_is_exact_for_every_way_of_joining(joined):
    complete = [(d.offset, *d.chunks()) for d in join_rows(joined, rows(LINES), 0)]
    for skip in range(len(complete) + 2):
        assert [(d.offset, *d.chunks()) for d in join_rows(joined, rows(LINES), skip)] == complete[skip:]


def test_runs_of_rows_are_lines_of_a_document():
    assert texts_of(join_rows(2, rows(["a", "b", "", "d", "e"]), 0)) == ["a\nb", "\nd", "e"]


def test_a_row_without_text_is_a_document_without_chunks():
    assert [list(d.chunks()) for d in join_rows(1, rows(["a", "", "b"]), 0)] == [["a"], [], ["b"]]


def test_a_document_can_be_read_again():
    [document] = join_rows(1, rows(["a"]), 0)
    assert list(document.chunks()) == list(document.chunks()) == ["a"]


def test_real_wikitext_has_its_sixty_articles(shared_data):
    path = shared_data / "wikitext2-raw" / "wiki.valid.raw"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    as_on_the_hub = [line if line.strip() else "" for line in lines]
    articles = texts_of(join_rows(ARTICLES, rows(as_on_the_hub), 0))
    assert len(articles) == 60  # published: arXiv:1609.07843, table 1
    assert articles[0].startswith("\n = Homarus gammarus = \n")
    assert "".join(articles) == "".join(line or "\n" for line in as_on_the_hub)


def test_every_entry_of_the_catalog_can_be_parsed():
    for name, corpus in CORPORA.items():
        assert is_hub_name(name) == (corpus.source is not None)
        if corpus.source:
            spec = parse_spec(name)
            assert spec.source == name
            assert (spec.repo, spec.files, spec.config) == tuple(
                getattr(parse_spec(corpus.source), field) for field in ("repo", "files", "config")
            )
            assert spec.rows_per_document == corpus.rows_per_document


def test_only_corpora_whose_rows_are_lines_are_joined():
    assert {name for name, corpus in CORPORA.items() if corpus.rows_per_document != 1} == {"bookcorpus", "wikitext-103"}
