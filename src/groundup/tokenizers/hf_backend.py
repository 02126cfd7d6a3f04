"""Base class of tokenizers that run on the `tokenizers` library."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.base import Ids, Tokenizer, raise_surrogate_error


class HFTokenizer(Tokenizer):
    """A tokenizer with the ids of a `tokenizers` engine, without ids added before or after the text."""

    def __init__(self, engine: tokenizers.Tokenizer, pieces: Sequence[bytes], end_of_text: int) -> None:
        super().__init__(pieces, end_of_text)
        engine.encode_special_tokens = True  # text that spells a special token is plain text
        self._engine = engine

    @override
    def encode(self, text: str) -> Ids:
        return encode_with(self._engine, text)


def encode_with(engine: tokenizers.Tokenizer, text: str) -> Ids:
    """The ids of `text`, shape (T,). Raises TokenizerError where it is not Unicode, or the engine cannot express it."""
    try:
        text.encode("utf-8")  # the library's own message would be about a type error
    except UnicodeEncodeError as error:
        raise_surrogate_error(error)
    with library_errors("this tokenizer cannot express the text"):
        # The fast form of encoding, which keeps no offsets, exists for batches only.
        [encoded] = engine.encode_batch_fast([text], add_special_tokens=False)
    return np.array(encoded.ids, dtype=np.uint32)


@contextmanager
def library_errors(problem: str) -> Iterator[None]:
    """Turn any exception of the library into a TokenizerError that begins with `problem`."""
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:  # the library raises no narrower class
        raise TokenizerError(f"{problem} ({_one_line(error)}); use another tokenizer") from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the library's Rust code; it cannot be imported
            raise
        raise TokenizerError(f"{problem} ({_one_line(error)}); use another tokenizer") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
