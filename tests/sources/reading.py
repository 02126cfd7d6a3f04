"""Helper that calls a reader of documents."""

import io
from collections import Counter

from groundup.sources.documents.options import ReadOptions


def read_with(reader, data, name="x", **options):
    """The documents that a reader finds in bytes, and what it counted; read twice, which must make no difference."""
    results = []
    for _ in range(2):
        found = Counter()
        texts = list(reader(io.BytesIO(data), name, ReadOptions(**options), found))
        results.append(([text for text in texts if text.strip()], dict(found)))
    assert results[0] == results[1]
    return results[0]
