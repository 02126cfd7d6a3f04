"""Text to token ids and back.

base           the base class
registry       tokenizers by name, by path, from a folder
byte_char      bytes and characters
gpt1, gpt2     OpenAI's tokenizers
bpe            trained on the user's text
hf_json        any `tokenizer.json` of another program
"""

from groundup.tokenizers.base import Ids, Tokenizer, TokenizerTrainer
from groundup.tokenizers.registry import choose_tokenizer, load_tokenizer

__all__ = ["Ids", "Tokenizer", "TokenizerTrainer", "choose_tokenizer", "load_tokenizer"]
