"""Text to token ids and back.

tokenizer      what a tokenizer is, and how to get one
simple         bytes and characters
gpt1, gpt2     OpenAI's own
bpe            trained on one's own text
json_file      of another program: any `tokenizer.json`
"""

from groundup.tokenizers.base import Ids
from groundup.tokenizers.registry import Tokenizer, TokenizerTrainer, choose_tokenizer, load_tokenizer

__all__ = ["Ids", "Tokenizer", "TokenizerTrainer", "choose_tokenizer", "load_tokenizer"]
