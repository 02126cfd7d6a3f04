"""Whether a model's samples are copied from the text that it was trained on."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from groundup.checkpoint.state import LoadedModel
from groundup.data.openings import Opening, openings
from groundup.data.shards import Manifest, Tokens
from groundup.evaluation.baselines import split_text
from groundup.evaluation.memorization import Memorization, overlap
from groundup.generation.completion import complete, prompt_text
from groundup.generation.sampling import Sampling
from groundup.run.evaluate_checkpoint import COMPARED_BYTES, PathLike, prepared_data

MAX_SEARCHED_BYTES = 100_000_000  # of training text, from its end
SAMPLES, SAMPLE_TOKENS = 3, 120


class Sample(NamedTuple):
    """A beginning, and the text that the model continues it with."""

    prompt: str
    text: str


def memorization(loaded: LoadedModel, data: PathLike | None = None) -> Memorization:
    """Overlap with the training text of samples that continue held-out text. Raises DataError."""
    folder, manifest, _ = prepared_data(loaded, data)
    samples = continued(loaded, held_out_openings(loaded, folder, manifest))
    return find_overlap(loaded, [sample.text for sample in samples], folder)


def find_overlap(loaded: LoadedModel, samples: Sequence[str], data: PathLike | None = None) -> Memorization:
    """Overlap of `samples`, prompts not included, with the text of the model's own data, or of `data`.

    Raises DataError where that is missing or another text.
    """
    folder, manifest, _ = prepared_data(loaded, data)
    held_out = split_text(folder, "val", loaded.tokenizer, COMPARED_BYTES) if manifest.splits["val"].tokens else b""
    train = split_text(folder, "train", loaded.tokenizer, MAX_SEARCHED_BYTES)
    return overlap([sample.encode() for sample in samples], train, held_out)


def held_out_openings(loaded: LoadedModel, data: Path, manifest: Manifest) -> list[Opening]:
    """`SAMPLES` openings of held-out text, empty ones where that is short or missing."""
    has_text = manifest.splits["val"].tokens > 1
    found = openings(manifest, Tokens.open(data, "val"), loaded.tokenizer, SAMPLES) if has_text else []
    return found + [Opening("", "")] * (SAMPLES - len(found))


def continued(loaded: LoadedModel, beginnings: Sequence[Opening]) -> list[Sample]:
    """A sample of each opening."""
    found = []
    for seed, opening in enumerate(beginnings):
        text = complete(loaded, opening.prompt, Sampling(0.8, top_k=200, seed=seed), max_tokens=SAMPLE_TOKENS)[0]
        prompt = prompt_text(loaded.tokenizer, opening.prompt)
        found.append(Sample(prompt, text[len(prompt) :]))
    return found
