"""What the tokenizers that run on the `tokenizers` library share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids, PieceTokenizer, refuse_surrogate


class LibraryTokenizer(PieceTokenizer):
    """A tokenizer whose ids are those of a `tokenizers` engine, without anything added before or after the text."""

    def __init__(self, engine: tokenizers.Tokenizer, pieces: Sequence[bytes], end_of_text: int) -> None:
        super().__init__(pieces, end_of_text)
        engine.encode_special_tokens = True  # text that spells out a special token is only text
        self._engine = engine

    def encode(self, text: str) -> Ids:
        """The ids that `tokenizers` gives `text`."""
        return encode_with(self._engine, text)


def encode_with(engine: tokenizers.Tokenizer, text: str) -> Ids:
    """The ids of `text`, shape (T,). Raises TokenizerError where it is not Unicode, or the engine cannot express it."""
    try:
        text.encode("utf-8")  # only to refuse what is not Unicode: the library would speak of a type error
    except UnicodeEncodeError as error:
        refuse_surrogate(error)
    with library_errors("this tokenizer cannot express the text"):
        # The fast form of encoding, which keeps no offsets, exists for batches only.
        [encoded] = engine.encode_batch_fast([text], add_special_tokens=False)
    return np.array(encoded.ids, dtype=np.uint32)


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn whatever the library raises inside the block into a TokenizerError that begins with `what`."""
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:  # the library knows no narrower class
        raise TokenizerError(f"{what} ({_one_line(error)}); use another tokenizer") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the library's Rust; it has no name to import
            raise
        raise TokenizerError(f"{what} ({_one_line(error)}); use another tokenizer") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
