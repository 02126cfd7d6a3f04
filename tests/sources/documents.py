"""Helper that reads sources."""

from groundup.sources.corpus import open_sources


def read(*sources, **options):
    """(source, offset, text) of each document; every corpus is read twice, which must make no difference."""
    with open_sources(sources, **options) as corpus:
        first, second = ([(d.source, d.offset, "".join(d.chunks())) for d in corpus] for _ in range(2))
    assert first == second
    return first
