"""Catalog of the corpora known by name: source, licence, size.

No figure here is a guess. Each row says where its figures come from; a figure that is not published, and cannot be
computed from published ones, is None and shown as `?`.
"""

from dataclasses import dataclass

TOKENS_PER_SECOND = 3_000_000  # measured: 48 MB of novels with --tokenizer gpt2 take 3.4 s on two cores
DOWNLOAD_BYTES_PER_SECOND = 12_500_000  # assumed: a connection of 100 Mbit/s

ARTICLES = "articles"

# Bytes per GPT-2 token, measured with our tokenizer, for the extrapolations below.
_WIKITEXT = 4.59  # WikiText-2, validation
_NOVELS = 4.11  # lower-cased novels
_STORIES = 4.06  # a part of TinyStories' validation
_WEB = 4.40  # OpenWebText: its published bytes over its published tokens


@dataclass(frozen=True)
class CatalogEntry:
    """One corpus: its source, how its rows become documents, and its size."""

    description: str
    licence: str
    source: str | None = None  # on the hub, in the grammar of `groundup.sources.hub`; None: read by `sources/corpus.py`
    rows_per_document: int | str = 1  # or ARTICLES: from one ` = Title = ` to the next
    size: int | None = None  # bytes to download
    documents: int | None = None
    tokens: int | None = None  # with --tokenizer gpt2
    approximate: tuple[str, ...] = ()  # the figures among these that are rounded or extrapolated
    bytes_per_token: float = 4.3  # of its text with --tokenizer gpt2, about
    basis: str = "?"  # where the figures come from

    @property
    def text_bytes(self) -> int | None:
        """About how many bytes of text it holds; None where its tokens are unknown."""
        return None if self.tokens is None else round(self.tokens * self.bytes_per_token)

    @property
    def seconds(self) -> float | None:
        """Time to download it and then prepare it with --tokenizer gpt2. None if either figure is missing."""
        if self.size is None or self.tokens is None:
            return None
        return self.size / DOWNLOAD_BYTES_PER_SECOND + self.tokens / TOKENS_PER_SECOND


# fmt: off
CORPORA = {
    "python-docs": CatalogEntry(
        "the documentation that came with your Python; no download", "PSF-2.0",
        size=0, documents=9_671, tokens=620_293,
        basis="measured with Python 3.11; other versions differ",
    ),
    "shakespeare": CatalogEntry(
        "Tiny Shakespeare, the classic first corpus; comes with groundup, no download", "public domain",
        size=0, documents=1, tokens=338_025, bytes_per_token=3.3,
        basis="measured",
    ),
    "openwebtext-10k": CatalogEntry(
        "the first 10,000 documents of OpenWebText, to try things out", "not stated (OpenWebText: CC0-1.0)",
        # The data set itself is a program, which is not run; this is the hub's own copy of what it yields.
        "hf:stas/openwebtext-10k/plain_text/train/*.parquet@refs/convert/parquet",
        size=30_300_000, documents=10_000,
        tokens=round((49_670_861 - 4 * 10_000) / _WEB),  # the card counts 4 bytes a row for its length
        approximate=("size", "tokens"),
        basis="published: its card and file list; tokens extrapolated from OpenWebText's bytes per token",
    ),
    "openwebtext": CatalogEntry(
        "web pages that Reddit linked to: the open copy of GPT-2's training data",
        "CC0-1.0 (the packaging; the pages belong to their authors)", "hf:Skylion007/openwebtext",
        size=23_904_633_797, documents=8_013_769, tokens=9_035_582_198 + 4_434_897,
        basis="published: documents and tokens by nanoGPT, size by the card of a parquet copy (dvruette/openwebtext)",
    ),
    "fineweb-edu-10bt": CatalogEntry(
        "educational web pages, a sample of about 10 billion tokens", "ODC-By-1.0",
        "hf:HuggingFaceFW/fineweb-edu:sample-10BT",
        documents=9_670_000, tokens=10_000_000_000, approximate=("documents", "tokens"),
        basis="published, rounded: its card, and the viewer of mikasenghaas/fineweb-edu-10bt-tokenized",
    ),
    "bookcorpus": CatalogEntry(
        "the sentences of about 11,000 novels by unpublished authors, lower-cased: GPT-1's training data", "unknown",
        "hf:bookcorpus/bookcorpus/plain_text/train/*.parquet@refs/convert/parquet",
        # Its rows are sentences, in order, and nothing says where a book ends. Each end that we invent teaches a
        # model that stories stop at random, so there are few of them.
        rows_per_document=4096, documents=-(-74_004_228 // 4096),
        tokens=round((4_853_859_824 - 3 * 74_004_228) / _NOVELS),  # a row's length out, its line end in
        approximate=("tokens",),
        basis="published: sentences and bytes by its card; tokens extrapolated from novels made lower-case",
    ),
    "tinystories": CatalogEntry(
        "short stories in a small child's words, written by GPT-3.5 and GPT-4", "CDLA-Sharing-1.0",
        "hf:roneneldan/TinyStories",
        size=991_000_000, documents=2_120_000, tokens=round(1_920_000_000 / _STORIES),
        approximate=("size", "documents", "tokens"),
        basis="published, rounded: its file list and the hub's viewer; tokens extrapolated from its validation part",
    ),
    "wikitext-103": CatalogEntry(
        "good and featured articles of the English Wikipedia", "CC-BY-SA-3.0 and GFDL",
        "hf:Salesforce/wikitext:wikitext-103-raw-v1", rows_per_document=ARTICLES,
        size=314_000_000, documents=28_475, tokens=round((546_500_949 - 4 * 1_801_350) / _WIKITEXT),
        approximate=("size", "tokens"),
        basis="published: its card, file list and paper (arXiv:1609.07843); tokens extrapolated from WikiText-2's",
    ),
}
# fmt: on
