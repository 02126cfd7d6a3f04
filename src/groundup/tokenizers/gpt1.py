"""GPT-1's tokenizer, from OpenAI's two files: an encoder (piece -> id) and 40,000 merges in order of rank.

A text is first normalised as BERT does it, which is what `transformers`' `openai-gpt` does: lower case, no accents, no
control characters, words and punctuation marks apart, any white space as one gap. `</w>` marks the end of a word. So
decoding gives the normalised text, each word with a space after it, and U+FFFD where a character is unknown. (OpenAI's
own code also repaired odd characters with `ftfy` and cut words with `spacy`; ids may differ there.)

Of its 40,478 ids the last, `\\n</w>`, ends a document here. OpenAI's code encoded line breaks to it; the normalisation
leaves none, so no text encodes to it, and a trained GPT-1 knows it as the end of a line or paragraph.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from typing_extensions import override

import tokenizers
from groundup.errors import TokenizerError
from groundup.tokenizers.gpt2 import merge_pairs
from groundup.tokenizers.hf_backend import HFTokenizer, library_errors
from groundup.utils.extras import install_command
from groundup.utils.hub_errors import HubRepo, explain_hub_error
from groundup.utils.reading import parse_json, read_text
from tokenizers import models, normalizers, pre_tokenizers

ENCODER, MERGES = "encoder_bpe_40000.json", "vocab_40000.bpe"  # OpenAI's names
HUB_ENCODER, HUB_MERGES = "vocab.json", "merges.txt"  # of the same files on the hub
HUB_REPOSITORY = "openai-community/openai-gpt"
SHA256 = "4d977d745e027348785cbbdf97a206c6247f6489a51382b3a972dfd0233313f3"  # of the files' contents

WORD_END = "</w>"
LINE_BREAK = "\n" + WORD_END
UNKNOWN = "<unk>"


class GPT1Tokenizer(HFTokenizer):
    """GPT-1's BPE, given as the texts of its two files; the module's docstring says how it changes a text.

    Raises TokenizerError where these are not such a vocabulary.
    """

    name = "gpt1"

    def __init__(self, encoder: str, merges: str) -> None:
        with library_errors("not a vocabulary of GPT-1"):
            vocabulary: dict[str, int] = parse_json(encoder)
            spelling = {id_: piece for piece, id_ in vocabulary.items()}
            spellings = [spelling[id_] for id_ in range(len(vocabulary))]
            end_of_text, self.unknown = vocabulary[LINE_BREAK], vocabulary[UNKNOWN]
            pairs = merge_pairs(merges)
            engine = tokenizers.Tokenizer(
                models.BPE(vocab=vocabulary, merges=pairs, unk_token=UNKNOWN, end_of_word_suffix=WORD_END)
            )
        engine.normalizer = normalizers.BertNormalizer(lowercase=True)
        engine.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        texts = {LINE_BREAK: "\n", UNKNOWN: "\N{REPLACEMENT CHARACTER}"}
        texts |= {p: p.removesuffix(WORD_END) + " " * p.endswith(WORD_END) for p in spellings if p not in texts}
        pieces = [texts[piece].encode() for piece in spellings]
        super().__init__(engine, pieces, end_of_text, {ENCODER: encoder, MERGES: merges})
        canonical = json.dumps([spellings, pairs], separators=(",", ":"))
        self._sha256 = hashlib.sha256(canonical.encode("ascii")).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> "GPT1Tokenizer":
        """The tokenizer of a folder with OpenAI's two files, or with the same under the hub's names.

        Raises TokenizerError where a file is missing or damaged.
        """
        for names in ((ENCODER, MERGES), (HUB_ENCODER, HUB_MERGES)):
            if all((folder / name).is_file() for name in names):
                return cls._from_files(*(folder / name for name in names))
        raise TokenizerError(
            f"{folder}: not a folder with GPT-1's vocabulary; it must hold {ENCODER} and {MERGES}, "
            f"or {HUB_ENCODER} and {HUB_MERGES}"
        )

    @classmethod
    def download(cls) -> "GPT1Tokenizer":
        """The tokenizer from the hub or its cache folder; TokenizerError if it is not what OpenAI published.

        `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN` apply.
        """
        tokenizer = cls._from_files(_from_hub(HUB_ENCODER), _from_hub(HUB_MERGES))
        if tokenizer._sha256 != SHA256:
            raise TokenizerError(
                f"gpt1: the files of {HUB_REPOSITORY} on the hub are not the vocabulary that OpenAI published; "
                f"give a folder that holds {ENCODER} and {MERGES}: gpt1:FOLDER"
            )
        return tokenizer

    @classmethod
    def _from_files(cls, encoder: Path, merges: Path) -> "GPT1Tokenizer":
        try:
            return cls(read_text(encoder), read_text(merges))
        except (OSError, ValueError, TokenizerError) as error:
            raise TokenizerError(f"{encoder.parent}: cannot be read as GPT-1's vocabulary ({error})") from None

    @override
    def definition(self) -> Mapping[str, str]:
        return {"vocabulary_sha256": self._sha256}


def _from_hub(name: str) -> Path:
    remedy = f"or give a folder that holds {ENCODER} and {MERGES}: gpt1:FOLDER"
    try:
        import huggingface_hub
    except ImportError:
        raise TokenizerError(
            f"gpt1: downloading it needs huggingface_hub; install it with {install_command('data')}, {remedy}"
        ) from None
    try:
        return Path(huggingface_hub.hf_hub_download(HUB_REPOSITORY, name))
    except Exception as error:  # of the hub, its transport, or the disk: a dozen unrelated classes
        failure = explain_hub_error(error, HubRepo("gpt1", HUB_REPOSITORY))
        raise TokenizerError(
            f"gpt1: {name} of {HUB_REPOSITORY} cannot be downloaded ({failure.reason}); {failure.remedy}, {remedy}"
        ) from None
