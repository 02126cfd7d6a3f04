"""Drafts from the text that a model was trained on."""

from functools import cache
from typing import Literal

from groundup.checkpoint.state import LoadedModel
from groundup.data.shards import Tokens
from groundup.errors import DataError
from groundup.generation.drafts import MAX_TABLE_TOKENS, NewDrafter, NGramDrafter, NGramTable, NoDrafts
from groundup.run.evaluate_checkpoint import prepared_data

Speculation = Literal["auto", "on", "off"]
READ_PER_TOKEN = 200  # tokens of the training text, whose table takes 0.07 ms, for each that is to be generated


def drafter_of(loaded: LoadedModel, speculation: Speculation = "auto", tokens: int | None = None) -> NewDrafter:
    """By `--speculation`: none, or n-grams of the text so far and, where it is there, of the run's training text.

    Of a long training text its beginning; less of it where only so many `tokens` are to be generated. It is read for
    the first drafter, as sampled text may have none. None on a GPU, where a step over several tokens takes longer than
    the CUDA graph of one.
    """
    if speculation == "off" or loaded.device.type != "cpu":
        return NoDrafts
    limit = MAX_TABLE_TOKENS if tokens is None else min(MAX_TABLE_TOKENS, READ_PER_TOKEN * max(tokens, 0))

    @cache
    def table() -> NGramTable | None:
        try:
            folder, *_ = prepared_data(loaded, None)
            text = Tokens.open(folder, "train")
            return NGramTable(text.read(0, min(limit, len(text))))
        except DataError:
            return None

    return lambda ids: NGramDrafter(ids, table())
