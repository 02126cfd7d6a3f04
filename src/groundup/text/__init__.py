"""Text to token ids and back: bytes, characters, GPT-2's own BPE, and a BPE trained on one's own text."""

from groundup.text.pieces import Ids
from groundup.text.tokenizer import Learner, Tokenizer, choose_tokenizer, load_tokenizer

__all__ = ["Ids", "Learner", "Tokenizer", "choose_tokenizer", "load_tokenizer"]
