"""A server of a small random model, shared by the tests of this folder."""

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from liveserver import Live, random_model, serving

from groundup.checkpoint.state import LoadedModel
from groundup.tokenizers.byte_char import ByteTokenizer


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Operations of tiny models on one thread: on a busy machine, two would wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def byte_model() -> LoadedModel:
    return random_model(ByteTokenizer())


@pytest.fixture(scope="session")
def live(byte_model) -> Iterator[Live]:
    """A server of one random byte model, called `bytes`."""
    with serving({"bytes": byte_model}) as live:
        yield live
