"""What the tests of import and export share."""

import pytest

from groundup.text.simple import ByteTokenizer


@pytest.fixture
def byte_tokenizer(tmp_path) -> str:
    ByteTokenizer().save(tmp_path / "byte")
    return str(tmp_path / "byte")
