"""Drafts from the text that a model was trained on."""

from functools import partial

from groundup.checkpoint.state import LoadedModel
from groundup.data.shards import Tokens
from groundup.errors import DataError
from groundup.generation.drafts import MAX_TABLE_TOKENS, NewDrafter, NGramDrafter, NGramTable
from groundup.run.evaluate_checkpoint import prepared_data

READ_PER_TOKEN = 200  # tokens of the training text, whose table takes 0.07 ms, for each that is to be generated


def training_drafter(loaded: LoadedModel, tokens: int | None = None) -> NewDrafter:
    """A drafter from the n-grams of the run's training text and of the text so far; from the latter where that is gone.

    Of a short training text or the beginning of a long one; less where only so many `tokens` are to be generated.
    """
    limit = MAX_TABLE_TOKENS if tokens is None else min(MAX_TABLE_TOKENS, READ_PER_TOKEN * tokens)
    try:
        folder, *_ = prepared_data(loaded, None)
        text = Tokens.open(folder, "train")
        table = NGramTable(text.read(0, min(limit, len(text))))
    except DataError:
        return NGramDrafter
    return partial(NGramDrafter, table=table)
